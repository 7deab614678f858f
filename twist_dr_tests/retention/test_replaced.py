"""What restores replaced goes when its time is over, and not when only a clock says so: with it goes the way back."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from twist_dr.postgres import databases
from twist_dr.restore.building import surroundings
from twist_dr.restore.cutover import Surroundings
from twist_dr.restore.exchange import identity
from twist_dr.restore.journal import DatabaseSwitch, FolderSwitch, Journal
from twist_dr.retention.replaced import Replaced
from twist_dr.retention.telling import Log
from twist_dr.system.progress import Lines, Report
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
        log = Log(self.site.app(), Report(Lines(said, said)))
        return Replaced(self.around, log, now, allow_clock=allow_clock)

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
