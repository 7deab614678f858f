"""Recovery brings back exactly what was committed by then: a load keeps a record of its own outside, and every row is counted against it."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from twist_dr.backup.tools_proof import verification_plan
from twist_dr.errors import DatabaseUnreachable, IsolationMissing
from twist_dr.postgres import confinement, databases
from twist_dr.postgres.cluster import Cluster
from twist_dr.postgres.lsn import format_lsn, parse_lsn
from twist_dr.postgres.server_user import is_server_user
from twist_dr.postgres.unprivileged import reachable_tools, unprivileged
from twist_dr.recovery.planning import RecoveryRequest
from twist_dr.repository.repository import Repository
from twist_dr.repository.sources import OneCopy
from twist_dr.restore.to_time import Recovery, RecoveryOrder
from twist_dr.settings.building import build_targets
from twist_dr.system.processes import run
from twist_dr.system.progress import Lines, Report
from twist_dr.verify.proof import record_verification
from twist_dr.verify.rehearsal import rehearse
from twist_dr_tests.conftest import TOOLS, make_site
from twist_dr_tests.helpers import postmaster_of
from twist_dr_tests.orchestrator.jobs.test_odd_names import odd_site
from twist_dr_tests.postgres.test_names import TABLES, make
from twist_dr_tests.recorded import RecordedLoad, Written, recovered_numbers, resident, wait_until_archived
from twist_dr_tests.servers import PostgresServer, standby_of
from twist_dr_tests.site import Outcome, Site

SETTINGS = {
    "fsync": "off",
    # So that the load's record has the server's own time of each commit.
    "track_commit_timestamp": "on",
    "wal_keep_size": "64MB",
}


@dataclass
class Recorded:
    """A site whose WAL is archived, and all rows that its load wrote."""

    site: Site
    server: PostgresServer
    written: list[Written]


def _settings(major: int) -> dict[str, str]:
    return {**SETTINGS, **({"summarize_wal": "on"} if major >= 17 else {})}


@pytest.fixture(scope="module", params=sorted(TOOLS, reverse=True), ids=lambda major: f"pg{major}")
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    """A recorded site on each server version found."""
    yield from _record(request.param, tmp_path_factory.mktemp(f"recorded{request.param}"), rows=60)


def _record(major: int, folder: Path, rows: int, *, odd: bool = False) -> Iterator[Recorded]:
    """A load of some seconds between and after two base backups, all of it archived; the second is incremental where that can be."""
    with PostgresServer(TOOLS[major], folder / "server", settings=_settings(major)) as server:
        (folder / "site").mkdir()
        site = (odd_site if odd else make_site)(server, folder / "site")
        if odd:
            make(Cluster(site.database_url), TABLES)
        site.set(wal={"follow_seconds": 0.2}, base={"checksums": True})
        with resident(site, "wal", "receive"), resident(site, "wal", "ship", "--follow"):
            with RecordedLoad(site.database_url, seconds=0.02) as load:
                load.wait_for(10)
                site.job("backup_base").expect(0)
                load.wait_for(len(load.written) + rows)
                site.query("SELECT pg_create_restore_point('before_import')")
                site.job("backup_base").expect(0)
                load.wait_for(len(load.written) + rows)
            last = load.written[-1]
            wait_until_archived(site, last.lsn, at=last.committed_at + timedelta(milliseconds=1))
        yield Recorded(site, server, load.written)


def rows_by(written: list[Written], at: datetime) -> list[int]:
    return [row.number for row in written if row.committed_at <= at]


@pytest.mark.promise(10)
def test_times_lsns_and_transactions_give_exactly_the_rows_of_the_record(recorded: Recorded, open_folder: Path) -> None:
    """The instants that matter; ``make prove`` has twenty random ones a round."""
    site, written = recorded.site, recorded.written
    # Before the first base backup nothing can be recovered: it ended after the rows that were there then.
    first, middle, last = first_after_base(site, written), len(written) // 2, len(written) - 2
    just_before = written[last + 1].committed_at - timedelta(microseconds=1)
    for row, to in (
        (written[first], written[first].committed_at.isoformat()),
        (written[middle], f"lsn:{format_lsn(written[middle].lsn)}"),
        (written[middle + 1], f"xid:{written[middle + 1].xid}"),
        (written[last], just_before.isoformat()),
    ):
        expected = [each.number for each in written if each.number <= row.number]
        assert recovered_numbers(site, to, open_folder) == expected, f"to {to}"


def test_the_latest_state_is_the_last_row_that_was_acknowledged(recorded: Recorded, open_folder: Path) -> None:
    assert recovered_numbers(recorded.site, "latest", open_folder) == [row.number for row in recorded.written]


def test_a_moment_after_the_last_commit_that_is_known_to_be_archived_is_the_latest_state(
    recorded: Recorded, open_folder: Path
) -> None:
    at = recorded.written[-1].committed_at + timedelta(milliseconds=1)
    assert recovered_numbers(recorded.site, at.isoformat(), open_folder) == [row.number for row in recorded.written]


def first_after_base(site: Site, written: list[Written]) -> int:
    (oldest, *_) = sorted(site.catalog().backups(application="erp", kind="base"), key=lambda row: row.started_at)
    manifest = site.catalog().backup("erp", oldest.backup_id)
    assert manifest is not None and manifest.manifest.base is not None
    stopped_at = manifest.manifest.base.stopped_at
    return next(place for place, row in enumerate(written) if row.committed_at > stopped_at)


@pytest.mark.parametrize("major", sorted(TOOLS, reverse=True), ids=lambda major: f"pg{major}")
def test_a_promotion_and_a_kill_9_of_the_new_primary_lose_nothing_that_was_acknowledged_before_the_last_second(
    major: int, tmp_path: Path, open_folder: Path
) -> None:
    primary = PostgresServer(TOOLS[major], tmp_path / "server", settings=_settings(major))
    standby = None
    try:
        (tmp_path / "site").mkdir()
        site = make_site(primary, tmp_path / "site")
        site.set(wal={"follow_seconds": 0.2})
        with resident(site, "wal", "receive"), resident(site, "wal", "ship", "--follow"):
            with RecordedLoad(site.database_url, seconds=0.02) as before:
                before.wait_for(5)
                site.job("backup_base").expect(0)
                standby = standby_of(primary, tmp_path / "standby", settings=_settings(major))
                before.wait_for(len(before.written) + 40)
            wait_until_archived(site, before.written[-1].lsn)
            _wait_for_replay(standby, before.written[-1].lsn)
        primary.crash()
        with standby.cluster().connect() as connection:
            connection.execute("SELECT pg_promote()")
        name = str(Cluster(site.database_url).parameters["dbname"])
        site.database_url = standby.url(name)
        with resident(site, "wal", "receive"), resident(site, "wal", "ship", "--follow"):
            first = before.written[-1].number + 1
            with RecordedLoad(site.database_url, seconds=0.02, first=first) as after:
                after.wait_for(60)
                wait_until_archived(site, after.written[30].lsn, timeline=2)
                # The open segment's head is replaced again and again between the plan and the fetching.
                row = after.written[25]
                expected = [each.number for each in (*before.written, *after.written) if each.number <= row.number]
                assert recovered_numbers(site, f"xid:{row.xid}", open_folder) == expected
                standby.crash()
        # What had come to the spool is shipped although nobody answers any more.
        site.cli("wal", "ship")
        written = [*before.written, *after.written]
        numbers = recovered_numbers(site, "latest", open_folder)
        assert numbers == list(range(1, len(numbers) + 1)), "a row in the middle is missing"
        lost = [row for row in written if row.number > numbers[-1]]
        assert not lost or written[-1].acknowledged - lost[0].acknowledged < 1.0, (
            f"{len(lost)} acknowledged rows are lost"
        )
        for row in (before.written[-15], after.written[20]):
            expected = [each.number for each in written if each.number <= row.number]
            assert recovered_numbers(site, f"lsn:{format_lsn(row.lsn)}", open_folder) == expected
            assert recovered_numbers(site, row.committed_at.isoformat(), open_folder) == expected
    finally:
        primary.close()
        if standby is not None:
            standby.close()


def _wait_for_replay(standby: PostgresServer, lsn: int) -> None:
    deadline = time.monotonic() + 30
    with standby.cluster().connect() as connection:
        while True:
            [[replayed]] = connection.execute("SELECT pg_last_wal_replay_lsn()::text").fetchall()
            if parse_lsn(replayed) >= lsn:
                return
            assert time.monotonic() < deadline, f"the standby stays at {replayed}"
            time.sleep(0.05)


# -- the job, as its user launches it ----------------------------------------------------------------------------------


def _recover(site: Site, **config: object) -> Outcome:
    return site.job("restore_to_time", {"restore_to_time": {"config": config}} if config else None)


@pytest.fixture(scope="module")
def newest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    """A recorded site for the job, on the newest server, with the nastiest names."""
    yield from _record(max(TOOLS), tmp_path_factory.mktemp("job"), rows=40, odd=True)


def test_launched_as_it_is_it_plans_the_latest_state_and_changes_nothing(newest: Recorded) -> None:
    before = newest.site.databases()
    outcome = _recover(newest.site).expect(0)
    assert re.search("^recovery point +latest$", outcome.text, re.MULTILINE) and re.search(
        "^would be lost +nothing in the archive was committed after it$", outcome.text, re.MULTILINE
    )
    assert "nothing was changed. Set mode to sandbox, replace or cluster" in outcome.text
    assert newest.site.databases() == before


@pytest.mark.parametrize(
    ("to", "sentence"),
    [
        ("2026-01-31T12:00:00", "zone"),
        ("2001-01-31T12:00:00+00:00", "can be recovered"),
        ("2999-01-31T12:00:00+00:00", "future"),
        ("lsn:FFFF/0", "can be recovered"),
        ("xid:4000000000", "can be recovered"),
        ("name:before_importt", "before_import"),
        ("yesterday", "latest, 2026-01-31T12:00:00"),
    ],
)
def test_what_cannot_be_recovered_is_refused_with_what_can_be_instead(newest: Recorded, to: str, sentence: str) -> None:
    outcome = _recover(newest.site, to=to).expect(1)
    assert sentence in outcome.text


def test_a_recovery_that_changes_something_needs_a_reason_and_the_name_typed(newest: Recorded) -> None:
    assert "write it in reason" in _recover(newest.site, mode="replace").expect(1).text
    assert "typed in confirm" in _recover(newest.site, mode="replace", reason="test", confirm="shop").expect(1).text
    assert "needs a folder" in _recover(newest.site, mode="cluster", reason="test").expect(1).text


@pytest.mark.usefixtures("as_commands")
def test_a_sandbox_is_a_server_of_its_own_that_can_be_removed(newest: Recorded) -> None:
    site, row = newest.site, newest.written[-10]
    outcome = _recover(site, to=f"xid:{row.xid}", mode="sandbox", reason="to look").expect(0)
    port = int(outcome.text.split("a server of its own on 127.0.0.1:")[1].split(",")[0])
    beside = re.sub(r":\d+/", f":{port}/", site.database_url)
    with Cluster(beside).connect() as connection:
        assert connection.execute("SELECT max(number) FROM numbered").fetchall() == [(row.number,)]
        assert connection.execute("SHOW archive_mode").fetchall() == [("off",)]
        # It is a server like any other: it can be written to.
        connection.execute("INSERT INTO numbered VALUES (0)")
        # But it gets at nothing of ours: its user owns nothing else, it has no file but its own, and none of our environment.
        (data,) = connection.execute("SHOW data_directory").fetchone() or ("",)
        process = postmaster_of(Path(data))
        assert is_server_user(os.stat(f"/proc/{process}").st_uid)
        for path in (site.keyring_path, "/etc/shadow", "/etc/hostname", "/proc/self/environ"):
            with pytest.raises(psycopg.Error, match="No such file"):
                connection.execute("SELECT pg_read_file(%s)", [str(path)])
        with pytest.raises(psycopg.Error, match="failed"):
            connection.execute("COPY (SELECT 1) TO PROGRAM 'env'")
    variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    assert not [each for each in variables if each.startswith((b"SITE_", b"HOME=", b"DAGSTER", b"TWIST"))]
    (name,) = [line.split()[0] for line in site.cli("sandboxes").expect(0).text.splitlines()[1:]]
    # While settings lead the application to it, it is not ended.
    for action in ("stop", "remove"):
        refused = site.cli("sandboxes", action, name, SITE_DATABASE_URL=beside).expect(1)
        assert "lives on the sandbox" in refused.text
    # The same when a person starts it again.
    site.cli("sandboxes", "stop", name).expect(0)
    site.cli("sandboxes", "start", name).expect(0)
    with Cluster(beside).connect() as connection, pytest.raises(psycopg.Error, match="No such file"):
        connection.execute("SELECT pg_read_file(%s)", [str(site.keyring_path)])
    site.cli("sandboxes", "remove", name).expect(0)
    with pytest.raises(DatabaseUnreachable):
        Cluster(beside).connect()
    assert "no sandboxes" in site.cli("sandboxes").expect(0).text
    assert site.query("SELECT max(number) FROM numbered") == [(newest.written[-1].number,)]


def test_replace_makes_the_database_of_then_live_and_undo_brings_back_the_one_of_now(newest: Recorded) -> None:
    site, row = newest.site, newest.written[-20]
    to = row.committed_at.isoformat()
    outcome = _recover(
        site, to=to, mode="replace", reason="wrong import", confirm="erp", pre_restore_backup=False
    ).expect(0)
    assert f"the recovery to {to} is live; locked out for" in outcome.text
    assert site.query("SELECT max(number) FROM numbered") == [(row.number,)]
    odd = [sql.Identifier("public", name) for name in TABLES]
    counted = sql.SQL("SELECT ") + sql.SQL(", ").join(sql.SQL("(SELECT count(*) FROM {})").format(name) for name in odd)
    with Cluster(site.database_url).connect() as connection:
        assert connection.execute(counted).fetchall() == [tuple(range(1, 2 * len(TABLES), 2))]
    logged = site.cli("restores", "latest").expect(0).text
    assert "-base-" in logged and f"aimed at {to}" in logged
    site.undo().expect(0)
    assert site.query("SELECT max(number) FROM numbered") == [(newest.written[-1].number,)]


def test_a_cluster_made_ready_is_started_by_pg_ctl_and_has_every_row(newest: Recorded, open_folder: Path) -> None:
    folder = open_folder / "recovered"
    outcome = _recover(newest.site, mode="cluster", reason="the server is gone", folder=str(folder)).expect(0)
    assert f"the cluster lies ready in {folder / 'data'}" in outcome.text
    tools, (user, group) = TOOLS[max(TOOLS)], unprivileged()
    reachable = reachable_tools(tools, open_folder, user)
    # The base's own configuration counts again; archiving is off until somebody decides where to.
    run(
        [reachable.program("pg_ctl"), "start", f"--pgdata={folder / 'data'}", "--wait", f"--log={folder / 'server.log'}",
         f"--options=-c listen_addresses='' -c unix_socket_directories={folder} -p 5477"],
        user=user, group=group, folder=folder / "data",
    )  # fmt: skip
    try:
        parameters = Cluster(newest.site.database_url).parameters
        url = f"postgresql://{parameters['user']}:{parameters['password']}@/{quote(str(parameters['dbname']), safe='')}?host={folder}&port=5477"
        with Cluster(url).connect() as connection:
            assert connection.execute("SELECT count(*) FROM numbered").fetchall() == [(len(newest.written),)]
            assert connection.execute("SHOW archive_mode").fetchall() == [("off",)]
            assert connection.execute("SHOW restore_command").fetchall() == [("",)]
    finally:
        run(
            [reachable.program("pg_ctl"), "stop", f"--pgdata={folder / 'data'}", "--mode=fast"],
            user=user,
            group=group,
            folder=folder,
        )


def test_a_machine_that_keeps_a_server_away_from_nothing_says_so_in_the_plan_and_before_it_begins(
    newest: Recorded, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confinement, "way", lambda: "nothing")
    app = newest.site.app()
    plan = Recovery(app, RecoveryOrder(RecoveryRequest()), list(app.repositories().values())).run()
    assert any("would refuse to do it" in line and "isolation: where-possible" in line for line in plan.warnings)
    order = RecoveryOrder(RecoveryRequest(), "cluster", "the server is gone", open_folder / "cluster")
    with pytest.raises(IsolationMissing):
        Recovery(app, order, []).run()


def test_a_base_backup_is_verified_by_a_recovery_whose_rows_are_those_of_its_restore_point(newest: Recorded) -> None:
    outcome = newest.site.verify(backup="latest-base").expect(0)
    assert "-base-" in outcome.text and "verified in" in outcome.text
    (row, *_) = newest.site.catalog().backups(application="erp", kind="base")
    assert row.last_verification is not None and row.last_verification.verified and row.last_verification.rows > 0
    assert row.last_verification.proved == "content"


def test_a_base_backup_that_counted_no_rows_is_recovered_and_not_called_verified(newest: Recorded) -> None:
    site = newest.site
    row = site.catalog().latest("erp", kind="base")
    assert row is not None and row.manifest.base is not None
    unknown = row.manifest.base.model_copy(update={"restore_point": None, "restore_point_lsn": None})
    manifest = row.manifest.model_copy(update={"base": unknown, "tables": {}})
    report = Report(Lines(print, print))
    repository = Repository(build_targets(site.settings())["office"], "erp")
    result = rehearse(
        verification_plan(site.settings(), site.app().cluster), OneCopy(manifest, repository, site.keyring), report
    )
    assert not result.verified and not result.differences and "the backup counted none" in result.unproven
    before = site.catalog().verifications(row.backup_id)
    record_verification(site.app(), result, newest.written[-1].committed_at)
    assert site.catalog().verifications(row.backup_id) == before, "nothing was proven, for better or worse"


def test_wal_status_tells_from_which_second_to_which_each_target_recovers(newest: Recorded) -> None:
    outcome = newest.site.cli("wal", "status", "--json")
    document = json.loads(outcome.text)
    for target in document["targets"]:
        (only,) = target["ranges"]
        assert only["from"] < newest.written[-1].committed_at.isoformat() <= only["until"]
        assert target["gaps"] == []


@pytest.fixture
def end_removed(newest: Recorded, tmp_path: Path) -> Iterator[Site]:
    """The last two whole segments of every target, and the open one, are somewhere else for a while."""
    moved: dict[Path, Path] = {}
    for name in newest.site.settings().enabled_targets:
        files = sorted((newest.site.folder / "targets" / name / "erp" / "wal").rglob("0*.enc"))
        whole = [path for path in files if ".partial." not in path.name]
        for path in [*whole[-2:], *(path for path in files if ".partial." in path.name)]:
            moved[path] = tmp_path / f"{name}-{path.name}"
            path.rename(moved[path])
    yield newest.site
    for path, kept in moved.items():
        kept.rename(path)


@pytest.mark.promise(10)
def test_latest_is_refused_when_archived_wal_has_vanished_and_what_is_there_can_be_had_in_words(
    end_removed: Site,
) -> None:
    site = end_removed
    refused = _recover(site).expect(1).text
    assert "Archived write-ahead log has vanished: by" in refused
    (words,) = set(re.findall(r"accept_loss: (lsn:[0-9A-F]+/[0-9A-F]+)", refused))
    accepted = _recover(site, accept_loss=words).expect(0).text
    assert re.search("would be lost +Archived write-ahead log has vanished", accepted) and " s of it" in accepted
    status = site.cli("wal", "status").expect(1).text
    assert "office: Archived write-ahead log has vanished: what was shipped there reached" in status
    # The next round of shipping finds it, too: from then on the status says it, and no recovery point counts on that log.
    assert "lacks WAL from" in site.job("ship_wal").expect(1).text
    assert "lacks WAL from" in site.cli("status").expect(2).text


def test_a_database_that_was_dropped_is_made_anew_as_of_the_moment_before(newest: Recorded) -> None:
    site, row = newest.site, newest.written[-10]
    with newest.server.cluster().connect() as connection:
        databases.drop(connection, str(Cluster(site.database_url).parameters["dbname"]))
    outcome = _recover(site, to=row.committed_at.isoformat(), mode="replace", reason="dropped", confirm="erp").expect(0)
    assert "so nothing is backed up first" in outcome.text
    assert site.query("SELECT max(number) FROM numbered") == [(row.number,)]
