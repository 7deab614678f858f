"""What restores replaced goes when its time is over, and not when only a clock says so: with it goes the way back."""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from twist_dr.errors import RestoreRefused
from twist_dr.postgres import databases
from twist_dr.restore.cutover import Surroundings
from twist_dr.restore.exchange import identity
from twist_dr.restore.hooks import Health, Maintenance
from twist_dr.restore.journal import DatabaseSwitch, FolderSwitch, Journal
from twist_dr.restore.plan import surroundings
from twist_dr.restore.settle import kept as kept_now
from twist_dr.restore.settle import plan_undo
from twist_dr.retention.replaced import Replaced
from twist_dr.system.progress import Lines, Report
from twist_dr_tests.catalog.test_restores import restore
from twist_dr_tests.helpers import killed_at
from twist_dr_tests.retention_site import NOW, RetentionSite
from twist_dr_tests.servers import PostgresServer

DUE = NOW + timedelta(days=2)
YEARS_LATER = NOW + timedelta(days=730)


class Scene:
    """Backups of three nights, and media folders that restores replaced, kept for another day."""

    def __init__(self, folder: Path, server: PostgresServer) -> None:
        self.server = server
        self.site = RetentionSite(folder, {"office": {"max_age": "7 days"}})
        for days in (3, 2, 1):
            self.site.backup(days, verified=True)
        self.around: Surroundings = replace(surroundings(self.site.site.settings()), cluster=server.cluster())

    def kept(self, name: str, database: DatabaseSwitch | None = None) -> Path:
        """A media folder that a restore replaced."""
        live, kept = self.site.folder / "media", self.site.folder / f".media.replaced-{name}"
        kept.mkdir()
        (kept / "only-copy.txt").write_text("x")
        folder = FolderSwitch(
            name="media", live=live, live_identity=identity(kept), incoming=live.with_name("incoming"),
            incoming_identity=identity(live), kept=kept, aside=live.with_name("aside"),
        )  # fmt: skip
        self.around.journals.save(
            Journal(
                restore_id=f"20261120T00000{name}Z-restore-3f9a",
                kind="restore",
                application="erp",
                began_at=NOW + timedelta(seconds=int(name)),
                phase="done",
                database=database,
                folders=[folder],
                keep_until=NOW + timedelta(days=1),
            )
        )
        return kept

    def replaced(self, now: datetime, allow_clock: bool = False) -> Replaced:
        said = self.site.said.append
        app = self.site.app(report=Report(Lines(said, said)))
        return Replaced(self.around, app, now, allow_clock=allow_clock)

    def audited(self) -> list[tuple[str, str, str]]:
        lines = [line for line in self.site.catalog.audit("erp") if line.action == "delete replaced"]
        return [(line.who, line.subject, line.result) for line in lines]


@pytest.fixture
def scene(newest_server: PostgresServer, tmp_path: Path) -> Scene:
    return Scene(tmp_path, newest_server)


@pytest.mark.promise(3)
def test_with_a_clock_set_forward_what_a_restore_replaced_stays_until_somebody_allows_it(scene: Scene) -> None:
    kept = scene.kept("1")
    shown = scene.replaced(YEARS_LATER).show()
    assert "**Not carried out:**" in shown.table() and shown.problems == []
    outcome = scene.replaced(YEARS_LATER).remove()
    assert kept.exists() and outcome.removed == 0 and scene.audited() == []
    (told,) = outcome.problems
    assert "if the clock was set forward" in told and "allow_clock: true" in told
    assert scene.replaced(YEARS_LATER, allow_clock=True).remove().removed == 1 and not kept.exists()


def test_what_is_removed_when_its_time_is_over_is_in_the_audit_log(scene: Scene) -> None:
    kept = scene.kept("1")
    assert scene.replaced(NOW).remove().removed == 0 and kept.exists()
    outcome = scene.replaced(DUE).remove()
    assert (outcome.problems, outcome.removed, kept.exists()) == ([], 1, False)
    assert scene.audited() == [("tester@host", "20261120T000001Z-restore-3f9a", "done")]


@pytest.mark.promise(3)
def test_while_the_catalog_cannot_say_whether_the_clock_is_right_nothing_is_removed(scene: Scene) -> None:
    kept = scene.kept("1")
    path = scene.site.folder / "work" / "catalog.db"
    path.write_bytes(b"no database " * 1000)
    outcome = scene.replaced(YEARS_LATER).remove()
    assert kept.exists() and outcome.removed == 0 and "catalog" in outcome.problems[0]


def test_one_that_cannot_be_removed_is_told_and_stops_no_other(scene: Scene) -> None:
    name = f"replaced_{secrets.token_hex(3)}"
    scene.server.create_database(name)
    with scene.server.cluster().connect() as connection:
        connection.execute(f"ALTER DATABASE {name} IS_TEMPLATE true")  # such a one cannot be dropped
        oid = databases.find_oid(connection, name)
    first = scene.kept("1", DatabaseSwitch(live="erp", live_oid=oid, incoming="erp_restore", kept=name))
    second = scene.kept("2")
    outcome = scene.replaced(DUE).remove()
    assert first.exists() and not second.exists() and outcome.removed == 1
    assert name in outcome.problems[0] and len(outcome.problems) == 1
    assert sorted(result.partition(":")[0] for _, _, result in scene.audited()) == ["done", "incomplete"]
    with scene.server.cluster().connect() as connection:
        connection.execute(f"ALTER DATABASE {name} IS_TEMPLATE false")
    assert scene.replaced(DUE).remove().problems == [] and not first.exists()


def test_a_server_that_is_down_is_a_problem_and_no_error(scene: Scene) -> None:
    """What calls this goes on with the storage targets."""
    kept = scene.kept("1")
    scene.around = surroundings(scene.site.site.settings())  # of a server that is not there
    for outcome in (scene.replaced(NOW).show(), scene.replaced(DUE).remove()):
        assert outcome.removed == 0 and kept.exists()
        (told,) = outcome.problems
        assert told.startswith("What restores replaced: ")


def test_restored_configuration_goes_when_its_time_is_over_also_where_its_restore_was_killed(scene: Scene) -> None:
    base = scene.site.site.settings().work_dir / "restored-configuration"
    with_journal = base / "erp" / "20261120T000001Z-restore-3f9a"
    killed = base / "erp" / f"{NOW - timedelta(days=6):%Y%m%dT%H%M%SZ}-restore-0000"
    of_an_earlier_version = base / f"{NOW - timedelta(days=8):%Y%m%dT%H%M%SZ}-restore-0000"
    somebodys = base / "notes"
    for folder in (with_journal, killed, of_an_earlier_version, somebodys):
        folder.mkdir(parents=True)
        (folder / "a").mkdir()
        (folder / "site.conf").write_text("SECRET_KEY=x")
    scene.kept("1")  # for another day, and the configuration with it

    def there() -> list[Path]:
        return [folder for folder in (with_journal, killed, of_an_earlier_version) if folder.exists()]

    shown = scene.replaced(NOW).show()
    assert [str(folder) in shown.table() for folder in (with_journal, killed, of_an_earlier_version)] == [True] * 3
    step = 0
    while killed_at(step := step + 1, lambda: scene.replaced(NOW).remove()) and of_an_earlier_version.exists():
        pass
    assert scene.replaced(NOW).remove().problems == []
    assert there() == [with_journal, killed]
    assert scene.replaced(NOW + timedelta(days=1, seconds=1)).remove().removed == 3
    assert there() == [] and somebodys.exists()
    assert ("tester@host", with_journal.name, "done") in scene.audited()


# -- before its time --------------------------------------------------------------------------------------------------

ID = "20261120T000001Z-restore-3f9a"


def replaced_database(scene: Scene) -> DatabaseSwitch:
    """A database that a restore replaced: its journal's part."""
    name = f"replaced_{secrets.token_hex(3)}"
    scene.server.create_database(name)
    with scene.server.cluster().connect() as connection:
        oid = databases.find_oid(connection, name)
    return DatabaseSwitch(live="erp", live_oid=oid, incoming="erp_restore", kept=name)


def exists(scene: Scene, name: str) -> bool:
    with scene.server.cluster().connect() as connection:
        return databases.find_oid(connection, name) is not None


def test_what_one_restore_replaced_can_be_removed_early_and_cannot_be_undone_then(scene: Scene) -> None:
    database = replaced_database(scene)
    first, second = scene.kept("1", database), scene.kept("2")
    with pytest.raises(RestoreRefused, match=f"This would remove database {database.kept}, .*{first}.*type the app"):
        scene.replaced(NOW).drop(ID, confirmed=False)
    assert exists(scene, database.kept) and first.exists() and scene.audited() == []
    # Whatever the clock says: a person does.
    assert scene.replaced(YEARS_LATER).drop(ID, confirmed=True) == [f"database {database.kept}, {first}"]
    assert not exists(scene, database.kept) and not first.exists() and second.exists()
    assert scene.audited() == [("tester@host", ID, "done")]
    with pytest.raises(RestoreRefused, match=f"What {ID} replaced was removed on .* cannot be undone any more"):
        plan_undo(ID, scene.around, "")
    with pytest.raises(RestoreRefused, match=f"Nothing is kept of {ID}; see what is kept with: twist-dr list"):
        scene.replaced(NOW).drop(ID, confirmed=True)


def test_of_what_was_removed_nothing_is_kept_where_a_restore_had_replaced_nothing_either(scene: Scene) -> None:
    """A database that was gone was made anew: the server could not tell that its undo was given up."""
    scene.kept("1", DatabaseSwitch(live="erp", live_oid=None, incoming="erp_restore", kept="none"))
    (journal,) = scene.around.journals.all()
    scene.around.journals.save(journal.model_copy(update={"folders": []}))
    assert [each.restore_id for each in kept_now(scene.around)] == [ID]
    scene.around.journals.save(journal.model_copy(update={"folders": [], "removal_began_at": NOW, "removed_at": NOW}))
    assert list(kept_now(scene.around)) == []


def test_undoing_the_latest_restore_never_means_an_older_one_whose_database_is_still_there(scene: Scene) -> None:
    scene.kept("1")
    scene.kept("2")
    scene.replaced(NOW).drop(ID.replace("01Z", "02Z"), confirmed=True)
    with pytest.raises(RestoreRefused, match=f"000002Z-restore-3f9a replaced was removed on .*, and kept is {ID}"):
        plan_undo("latest", scene.around, "")


def test_what_somebody_looks_at_or_the_application_lives_on_is_not_removed(scene: Scene) -> None:
    database = replaced_database(scene)
    kept = scene.kept("1", database)
    with scene.server.cluster().connect(database.kept), pytest.raises(RestoreRefused, match=r"is in use .process"):
        scene.replaced(NOW).drop(ID, confirmed=True)
    # Somebody leads the application to it: neither on demand nor when its time is over.
    scene.around = replace(scene.around, cluster=scene.server.cluster(database.kept))
    with pytest.raises(RestoreRefused, match=f"left is live .the database {database.kept}.*elsewhere first"):
        scene.replaced(NOW).drop(ID, confirmed=True)
    assert "is live" in scene.replaced(DUE).remove().problems[0]
    scene.around = replace(scene.around, cluster=scene.server.cluster())
    live = scene.site.folder / "media"
    live.rename(live.with_name("elsewhere"))
    live.symlink_to(kept)
    with pytest.raises(RestoreRefused, match=f"left is live .{live}"):
        scene.replaced(NOW).drop(ID, confirmed=True)
    assert exists(scene, database.kept) and kept.exists()
    (journal,) = scene.around.journals.all()
    assert journal.keeps, "it can be put back still"


def test_while_another_restore_is_unsettled_nothing_is_removed_early(scene: Scene) -> None:
    kept = scene.kept("1")
    undo = Journal(
        restore_id="20261121T000000Z-undo-0000", kind="undo", application="erp", began_at=NOW, phase="switching"
    )
    scene.around.journals.save(undo)
    with pytest.raises(RestoreRefused, match=f"{undo.restore_id} may need .* finish or revert it first: twist-dr sett"):
        scene.replaced(NOW).drop(ID, confirmed=True)
    assert kept.exists()


@pytest.mark.promise(3)
def test_what_an_unsettled_restore_may_be_undone_with_stays_though_its_time_is_over(scene: Scene) -> None:
    kept = scene.kept("1")
    (journal,) = scene.around.journals.all()
    scene.around.journals.save(journal.model_copy(update={"health_due": True}))
    around, nowhere = scene.around, scene.site.folder / "missing" / "flag"
    # The application is not healthy, and what was live before cannot be put back now.
    scene.around = replace(
        around, health=Health(command=["false"], timeout_seconds=0.1), maintenance=Maintenance(file=nowhere)
    )
    outcome = scene.replaced(DUE).remove()
    assert kept.exists() and outcome.removed == 0 and "| keep |" in outcome.table()
    assert "could not be put back" in outcome.problems[0]
    scene.around = around
    assert scene.replaced(DUE).remove().problems == []


def test_a_removal_that_was_cut_short_is_finished_when_it_is_asked_for_again(scene: Scene) -> None:
    kept = scene.kept("1")
    step = 0
    while killed_at(step := step + 1, lambda: scene.replaced(NOW).drop(ID, confirmed=True)) and kept.exists():
        pass
    if not any(journal.removed_at for journal in scene.around.journals.all()):
        assert scene.replaced(NOW).drop(ID, confirmed=True) == ["what an earlier removal had left"]
    assert not kept.exists() and scene.audited()[-1] == ("tester@host", ID, "done")


def test_the_list_and_the_command_say_sizes_names_and_what_is_gone(scene: Scene) -> None:
    database, site = replaced_database(scene), scene.site.site
    kept = scene.kept("1", database)
    site.database_url = scene.server.url()
    (row,) = json.loads(site.cli("list", "--replaced", "--json").expect(0).text)
    assert row["database_bytes"] > 1_000_000 and 0 < row["files_bytes"] < 1_000_000
    (_, line) = site.cli("list", "--replaced").expect(0).text.splitlines()
    assert "MB  database" in line
    assert "type the application's name in confirm" in site.cli("drop-replaced", ID).expect(1).text
    text = site.cli("drop-replaced", ID, "--confirm", "erp").expect(0).text
    assert text == f"removed database {database.kept}, {kept}; {ID} cannot be undone any more\n"


# -- sandboxes --------------------------------------------------------------------------------------------------------


def sandbox(scene: Scene) -> Journal:
    """What a restore with mode sandbox leaves: a database beside the live one, and media."""
    switch, folder = replaced_database(scene), scene.site.site.settings().work_dir / "sandboxes" / ID
    (folder / "media").mkdir(parents=True)
    (folder / "media" / "a").write_text("x")
    journal = Journal(
        restore_id=ID, kind="restore", application="erp", began_at=datetime.now(timezone.utc) - timedelta(hours=3), phase="left", backup_id="b",
        database=switch.model_copy(update={"live_oid": 1, "incoming": switch.kept, "incoming_oid": switch.live_oid, "kept": "none"}),
        sandbox=folder,
    )  # fmt: skip
    scene.around.journals.save(journal)
    return journal


def test_a_database_beside_the_live_one_is_listed_and_removed_as_a_server_is(scene: Scene) -> None:
    site, journal = scene.site.site, sandbox(scene)
    site.database_url = scene.server.url()
    assert journal.database is not None and journal.sandbox is not None
    name = journal.database.incoming
    scene.site.catalog.record_restore(restore(restore_id=ID, who="eva@desk"))
    (line,) = json.loads(site.cli("sandboxes", "--json").expect(0).text)
    assert (line["id"], line["kind"], line["who"]) == (ID, "database", "eva@desk") and line["bytes"] > 1_000_000
    assert f"database {name}" in line["what"] and f"dbname={name}" in line["reach"]
    text = site.cli("sandboxes").expect(0).text
    assert " 3 h 0" in text and "eva@desk" in text
    assert "neither stopped nor started" in site.cli("sandboxes", "stop", ID).expect(1).text
    site.cli("sandboxes", "remove", ID).expect(0)
    assert not exists(scene, name) and not journal.sandbox.exists()
    assert "no sandboxes" in site.cli("sandboxes").expect(0).text
    assert scene.site.catalog.audit("erp")[-1].action == "remove sandbox"
    assert "There is no sandbox" in site.cli("sandboxes", "remove", ID).expect(1).text


def test_a_sandbox_that_is_in_use_or_live_is_not_removed(scene: Scene) -> None:
    site, journal = scene.site.site, sandbox(scene)
    site.database_url = scene.server.url()
    assert journal.database is not None and journal.sandbox is not None
    with scene.server.cluster().connect(journal.database.incoming):
        assert "is in use (process" in site.cli("sandboxes", "remove", ID).expect(1).text
    site.set(media={"attachments": str(journal.sandbox / "media")})
    assert f"is live ({journal.sandbox / 'media'})" in site.cli("sandboxes", "remove", ID).expect(1).text
    assert exists(scene, journal.database.incoming) and (journal.sandbox / "media" / "a").exists()


def test_a_database_of_that_name_that_is_another_one_is_neither_listed_nor_removed(scene: Scene) -> None:
    site, journal = scene.site.site, sandbox(scene)
    site.database_url = scene.server.url()
    assert journal.database is not None
    name = journal.database.incoming
    with scene.server.cluster().connect() as connection:
        connection.execute(f"DROP DATABASE {name}")
    scene.server.create_database(name)
    (line,) = json.loads(site.cli("sandboxes", "--json").expect(0).text)
    assert name not in line["what"]
    site.cli("sandboxes", "remove", ID).expect(0)
    assert exists(scene, name)


def test_a_server_that_is_down_hides_no_sandbox_of_its_own_and_is_said(scene: Scene) -> None:
    sandbox(scene)
    text = scene.site.site.cli("sandboxes").expect(0).text
    assert "warning: databases beside the live one are not listed" in text
