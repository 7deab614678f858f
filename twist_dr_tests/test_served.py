"""The served ERP, its writing client and its judge do what tests of a restore lean on."""

import math
import shutil
import time
from collections.abc import Iterator
from types import SimpleNamespace

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from twist_dr.restore.exchange import exchange
from twist_dr_tests.erp import fixtures
from twist_dr_tests.served import (
    Boundary,
    Expected,
    History,
    ServedErp,
    ServedState,
    Write,
    WritingClient,
    ask,
    newer_code,
    older_code,
    state_of,
    which,
)
from twist_dr_tests.site import Site


@pytest.fixture
def erp(site: Site) -> Iterator[ServedErp]:
    with ServedErp(site.database_url, site.media, site.folder) as erp:
        yield erp


@pytest.fixture
def client(erp: ServedErp) -> Iterator[WritingClient]:
    with WritingClient(erp.url) as client:
        client.wait_for(10)
        yield client


def execute(erp: ServedErp, *statements: str | sql.Composed) -> None:
    """As a superuser, from outside the application's database."""
    with psycopg.connect(make_conninfo(erp.database_url, dbname="postgres"), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def database(erp: ServedErp, suffix: str = "") -> str:
    return f"{conninfo_to_dict(erp.database_url)['dbname']}{suffix}"


def end_sessions(erp: ServedErp) -> None:
    execute(
        erp, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database(erp)}' AND pid <> pg_backend_pid()"
    )  # fmt: skip


def copy_state(erp: ServedErp, client: WritingClient) -> None:
    """What a restore of a backup would put beside the live system, made by copying."""
    client.pause()
    end_sessions(erp)
    execute(erp, f'CREATE DATABASE "{database(erp, "_copy")}" TEMPLATE "{database(erp)}"')
    shutil.copytree(erp.media, erp.media.with_name("media_copy"))
    client.resume()


def switch(erp: ServedErp, *, media: bool = True, database_too: bool = True) -> None:
    """A cutover by hand: live and copy change places, all of it or, for a mixture, a part."""
    live, copy, aside = database(erp), database(erp, "_copy"), database(erp, "_aside")
    execute(erp, f'ALTER DATABASE "{live}" ALLOW_CONNECTIONS false')
    end_sessions(erp)
    if database_too:
        for old, new in ((live, aside), (copy, live), (aside, copy)):
            execute(erp, f'ALTER DATABASE "{old}" RENAME TO "{new}"')
    if media:
        exchange(erp.media, erp.media.with_name("media_copy"), aside=erp.media.with_name("media_aside"))
    for name in (live, copy):
        execute(erp, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


def switch_between_writes(erp: ServedErp, client: WritingClient) -> None:
    """By hand it takes long enough for an upload to leave its file on one side and its row on the other."""
    client.pause()
    switch(erp)
    client.resume()


def change(erp: ServedErp, *statements: str) -> None:
    """As a superuser, in the application's database."""
    with psycopg.connect(erp.database_url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


# -- server and client ------------------------------------------------------------------------------------------------


def test_what_was_acknowledged_is_in_the_database_and_served(erp: ServedErp, client: WritingClient) -> None:
    assert erp.health()[0] == 200
    client.wait_for(60)
    client.pause()
    written = {write.marker for write in client.acknowledged()}
    state = erp.state()
    assert len(written) >= 70 and client.refusals() == []
    assert state.markers == written
    assert state.flaws == ()
    files = {write.marker for write in client.acknowledged() if write.kind == "attachment"}
    assert state.files == files and len(files) >= 10
    with psycopg.connect(erp.database_url) as connection:
        numbers = {number for (number,) in connection.execute("SELECT number FROM billing_invoice")}
        users = connection.execute(
            "SELECT usename, count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND backend_type = 'client backend' GROUP BY 1"
        ).fetchall()
    assert {write.number for write in client.acknowledged() if write.kind == "invoice"} <= numbers
    assert users == [("erp_web", 4)], "each worker keeps its connection, as the ordinary role"


def test_a_file_is_taken_for_the_own_company_only(erp: ServedErp) -> None:
    def keep(query: str, company: int | None) -> int:
        return ask(erp.url, "POST", f"/attachments?{query}", b"content", company=company).status

    before = erp.state()
    assert keep("name=note.txt", None) == 403
    assert [keep(query, 1) for query in ("", "name=..", "name=note.txt&invoice=x")] == [400, 400, 400]
    assert keep("name=note.txt&invoice=2", 1) == 400  # of another company
    assert erp.state().files == before.files
    kept = ask(erp.url, "POST", "/attachments?name=../note.txt&invoice=1", b"content", company=1).json()
    assert (erp.media / kept["file"]).read_bytes() == b"content"
    assert ask(erp.url, "GET", f"/attachments/{kept['id']}", company=1).content == b"content"
    assert ask(erp.url, "GET", f"/attachments/{kept['id']}", company=2).status == 404
    assert ask(erp.url, "GET", "/lines?text=x").status == 403


def test_nothing_is_written_while_the_client_pauses(erp: ServedErp, client: WritingClient) -> None:
    client.pause()
    before = client.writes()
    time.sleep(0.1)
    assert client.writes() == before
    client.resume()
    client.wait_for(5)


def test_maintenance_is_seen_as_503_and_measured_as_a_gap(erp: ServedErp, client: WritingClient) -> None:
    begun = time.monotonic()
    erp.flag.touch()
    time.sleep(0.3)
    erp.flag.unlink()
    locked_out = time.monotonic() - begun
    client.wait_for(5)
    assert {write.status for write in client.refusals()} == {503}
    assert 0.25 < client.longest_gap() < locked_out + 1


def test_ended_connections_cost_few_requests(erp: ServedErp, client: WritingClient) -> None:
    end_sessions(erp)
    client.wait_for(30)
    assert len(client.refusals()) <= 4, client.tail()  # one for each worker at most
    end_sessions(erp)
    client.wait_for(30)
    assert len(client.refusals()) <= 8, client.tail()


def test_a_server_that_is_gone_is_an_error_and_not_a_refusal_of_the_data(erp: ServedErp, client: WritingClient) -> None:
    history = History(client)
    base = erp.state()
    erp.restart()
    client.wait_for(20)
    assert {write.error for write in client.refusals()} & {"ConnectionRefusedError", "ConnectionResetError"}
    assert client.longest_gap() > 0.05
    assert which(erp.state(), {"all": history.expect(base, "start")}) == "all"


def test_a_failed_start_shows_the_servers_log(site: Site) -> None:
    broken = older_code(site.folder / "broken")
    (broken / "erp_site" / "urls.py").write_text("import no_such_module\n")
    (broken / "erp_site" / "wsgi.py").write_text("import no_such_module\n")
    with pytest.raises(AssertionError, match=r"did not start(.|\n)*no_such_module"):
        ServedErp(site.database_url, site.media, site.folder, code=broken)


# -- which state is served --------------------------------------------------------------------------------------------


class Story:
    """A backup, then writes and other changes."""

    def __init__(self, erp: ServedErp, client: WritingClient) -> None:
        self.erp, self.client, self.history = erp, client, History(client)
        with self.history.during("backup"):
            copy_state(erp, client)
        self.then = erp.state()
        client.wait_for(20)
        change(erp, "UPDATE billing_customer SET notes = 'changed' WHERE id = 1")
        (erp.media / "company-1" / "new.txt").write_text("new")
        self.now = erp.state()

    def states(self, *later: str) -> dict[str, Expected]:
        return {
            "then": self.history.expect(self.then, "start", *later),
            "now": self.history.expect(self.now, "start", "backup", *later),
        }


@pytest.fixture
def story(erp: ServedErp, client: WritingClient) -> Story:
    return Story(erp, client)


def test_restored_and_undone_are_told_apart_while_the_client_writes(story: Story) -> None:
    erp, client, history = story.erp, story.client, story.history
    assert which(erp.state(), story.states()) == "now"
    with history.during("restore"):
        client.wait_for(10)
        switch_between_writes(erp, client)
        client.wait_for(10)
    client.wait_for(10)
    restored = erp.state()
    assert which(restored, story.states("restore")) == "then"
    kept = state_of(
        None, erp.database_url.replace(database(erp), database(erp, "_copy")), erp.media.with_name("media_copy")
    )
    assert history.lost(restored, kept) == []
    assert history.lost(restored) and history.lost(kept)

    with history.during("undo"):
        client.wait_for(10)
        switch_between_writes(erp, client)
        client.wait_for(10)
    client.wait_for(10)
    assert which(erp.state(), {
        "restored": history.expect(story.then, "start", "restore", "undo"),
        "undone": history.expect(story.now, "start", "backup", "undo"),
    }) == "undone"  # fmt: skip


def test_a_cutover_that_did_not_happen_keeps_all_writes_during_it(story: Story) -> None:
    with story.history.during("restore"):
        story.client.wait_for(10)
    assert which(story.erp.state(), story.states("restore")) == "now"
    story.client.pause()
    (one,) = [write for write in story.client.acknowledged() if write.kind == "attachment"][-1:]
    change(story.erp, f"DELETE FROM attachments_attachment WHERE id = {one.identifier}")
    with pytest.raises(AssertionError, match=f"1 writes are missing in the database: {one.marker}"):
        which(story.erp.state(), story.states("restore"))


@pytest.mark.parametrize(
    ("media", "database_too", "complaint"),
    [(True, False, "the file of attachment .* is missing"), (False, True, "should not be in the media")],
    ids=["media alone", "database alone"],
)
def test_half_a_cutover_is_neither_state(story: Story, media: bool, database_too: bool, complaint: str) -> None:
    with story.history.during("restore"):
        switch(story.erp, media=media, database_too=database_too)
    story.client.wait_for(5)
    with pytest.raises(AssertionError, match=complaint):
        which(story.erp.state(), story.states("restore"))


ONE_CHANGE = {
    "UPDATE billing_customer SET notes = '' WHERE id = 2": "table billing_customer",
    "DELETE FROM outbox_outboxmessage WHERE id = 1": "table outbox_outboxmessage",
    "DROP TABLE django_session": "table django_session: not there",
    "UPDATE companies_company SET last_invoice_number = last_invoice_number - 1": "a company's counter",
    "DELETE FROM ledger_ledgerentry WHERE id = (SELECT max(id) FROM ledger_ledgerentry)": "does not balance",
    "DELETE FROM audit_auditevent WHERE occurred_at = (SELECT max(occurred_at) FROM audit_auditevent)": "the audit trail",
    "UPDATE billing_invoiceline SET description = 'written-by-nobody' WHERE id = (SELECT max(id) FROM billing_invoiceline)": "nobody wrote",
    "INSERT INTO billing_invoiceline (company_id, invoice_id, position, description, quantity, unit_price) "
    "SELECT company_id, invoice_id, 2, description, 0, 0 FROM billing_invoiceline ORDER BY id DESC LIMIT 1": "written twice",
}


def test_one_changed_row_is_neither_state(story: Story) -> None:
    story.client.pause()
    end_sessions(story.erp)
    changed = story.erp.database_url.replace(database(story.erp), database(story.erp, "_changed"))
    for statement, complaint in ONE_CHANGE.items():
        copy = database(story.erp, "_changed")
        execute(
            story.erp, f'DROP DATABASE IF EXISTS "{copy}"', f'CREATE DATABASE "{copy}" TEMPLATE "{database(story.erp)}"'
        )
        assert which(state_of(None, changed, story.erp.media), story.states()) == "now"
        with psycopg.connect(changed) as connection:
            connection.execute(statement)
        with pytest.raises(AssertionError, match=complaint):
            which(state_of(None, changed, story.erp.media), story.states())


def test_a_server_on_the_replaced_database_is_found_out(story: Story) -> None:
    story.client.pause()
    other = story.erp.database_url.replace(database(story.erp), database(story.erp, "_copy"))
    # The server answers from the one, what is looked at is another with less or more.
    with (
        pytest.raises(AssertionError, match="in the database, and not served"),
        ServedErp(other, story.erp.media, story.erp.log.parent) as stale,
    ):
        state_of(stale.url, story.erp.database_url, story.erp.media)
    with pytest.raises(AssertionError, match="served, and not in the database"):
        state_of(story.erp.url, other, story.erp.media)


def test_states_without_a_difference_are_no_answer(erp: ServedErp, client: WritingClient) -> None:
    history = History(client)
    client.pause()
    with history.during("backup"):
        pass
    base = erp.state()
    with pytest.raises(AssertionError, match="cannot be told apart"):
        which(base, {"one": history.expect(base, "start"), "other": history.expect(base, "start", "backup")})


# -- writes at a boundary, told by their times ------------------------------------------------------------------------


def write(marker: str, begun: float, ended: float, status: int | None = 201) -> Write:
    return Write(marker, "invoice", 1, begun, ended if status else math.inf, status=status)


def judged(*present: str, log: list[Write], holding: tuple[str, ...]) -> list[str]:
    """What speaks against a state after a backup at 10 to 20 and a cutover at 30 to 40, when these markers are served at 50."""
    history = History(SimpleNamespace(writes=lambda: log))  # type: ignore[arg-type]
    history.boundaries = [Boundary("backup", 10, 20), Boundary("restore", 30, 40)]
    served = ServedState(50, 51, frozenset(present), frozenset(), {}, {}, frozenset(), ())
    return history.expect(served, *holding).differences(served)


RESTORED = ("start", "restore")
LOG = [
    write("a", 1, 2), write("b", 11, 12), write("c", 13, 14), write("d", 21, 22), write("e", 31, 32),
    write("f", 33, 34), write("g", 41, 42),
]  # fmt: skip


@pytest.mark.parametrize("present", ["ag", "abg", "abcg", "abcfg", "abcefg", "agf"])
def test_a_boundary_may_lie_anywhere_in_its_time(present: str) -> None:
    assert judged(*present, log=LOG, holding=RESTORED) == []


@pytest.mark.parametrize(
    ("present", "complaint"),
    [
        ("abcf", "missing in the database: g"),
        ("bcfg", "missing in the database: a"),
        ("abcdg", "should not be in the database: d"),
        ("acg", "no instant of backup divides"),
        ("abceg", "no instant of restore divides"),
        ("abcfgx", "nobody wrote"),
    ],
)
def test_what_no_boundary_explains_is_a_difference(present: str, complaint: str) -> None:
    (found,) = judged(*present, log=LOG, holding=RESTORED)
    assert complaint in found


def test_writes_during_a_boundary_that_divides_nothing_are_all_there() -> None:
    everything = ("start", "backup", "restore")
    assert judged(*"abcdefg", log=LOG, holding=everything) == []
    assert "missing in the database: e" in judged(*"abcdfg", log=LOG, holding=everything)[0]


def test_what_was_not_acknowledged_may_be_there_or_not_where_it_could_be() -> None:
    for status in (None, 500, 503):
        for begun in (3.0, 29.0, 35.0, 45.0):
            log = [*LOG, write("x", begun, begun + 2, status)]
            assert judged(*"abcgx", log=log, holding=RESTORED) == []
            assert judged(*"abcg", log=log, holding=RESTORED) == []
    # After the last epoch that is held, nothing begins to be there.
    log = [*LOG, write("x", 45, 47, 500)]
    assert "should not be" in judged(*"abx", log=log, holding=("start",))[-1]


def test_what_was_refused_is_over_and_what_was_never_answered_may_come_later() -> None:
    assert judged(*"abcgx", log=[*LOG, write("x", 23, 24, None)], holding=RESTORED) == []
    (found,) = judged(*"abcgx", log=[*LOG, write("x", 23, 24, 500)], holding=RESTORED)
    assert "should not be in the database: x" in found


def test_a_write_acknowledged_after_the_reading_is_not_asked_for() -> None:
    assert judged(*"abcg", log=[*LOG, write("x", 49, 50.5), write("y", 52, 53)], holding=RESTORED) == []


# -- other releases ---------------------------------------------------------------------------------------------------


def test_newer_code_is_unfit_until_its_migration_ran(erp: ServedErp, client: WritingClient, site: Site) -> None:
    before = erp.state()
    newer = newer_code(site.folder / "newer")
    client.pause()
    erp.restart(newer)
    status, health = erp.health()
    assert (status, health["version"], health["pending"]) == (503, "1.5.0", ["billing.0005_credit_limit"])
    assert ask(erp.url, "POST", "/invoices", b"{}", company=1).status == 500
    fixtures.manage(erp.database_url, erp.media, "migrate", code=newer)
    assert erp.health()[0] == 200
    client.resume()
    client.wait_for(10)
    history = History(client)
    after = erp.state()
    assert which(after, {"migrated": history.expect(before, "start")}) == "migrated", (
        "a column that is null changes nothing"
    )
    assert after.migrations - before.migrations == {"billing.0005_credit_limit"}

    erp.restart()
    status, health = erp.health()
    assert (status, health["version"], health["unknown"]) == (503, "1.4.1", ["billing.0005_credit_limit"])


def test_older_code_is_unfit_until_the_migration_is_taken_back(
    erp: ServedErp, client: WritingClient, site: Site
) -> None:
    older = older_code(site.folder / "older")
    erp.restart(older)
    status, health = erp.health()
    assert (status, health["version"], health["unknown"]) == (503, "1.4.0", ["billing.0004_currency"])
    fixtures.manage(erp.database_url, erp.media, "migrate", "billing", "0003")
    assert erp.health()[0] == 200
    client.wait_for(10)
