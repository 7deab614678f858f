"""The switch itself: one step forward, one step back, and never a state between."""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import psycopg
import pytest

from twist_dr.errors import CutoverFailed, RestoreError, RestoreRefused, RestoreUndone
from twist_dr.postgres import databases
from twist_dr.postgres.cluster import Cluster, query
from twist_dr.restore import cutover as cutover_module
from twist_dr.restore import settle as settle_module
from twist_dr.restore.cutover import Cutover, Surroundings
from twist_dr.restore.exchange import identity
from twist_dr.restore.hooks import Health, Maintenance
from twist_dr.restore.journal import DatabaseSwitch, FileJournals, Journal, Journals, new_restore_id
from twist_dr.restore.media import plan_folders
from twist_dr.restore.settle import check_health, interrupted, kept, plan_undo, remove_kept, settle_interrupted
from twist_dr.restore.undo import undo_restore
from twist_dr.system.events import Event, Planned
from twist_dr.system.progress import Lines, Report
from twist_dr_tests.servers import PostgresServer


class Scene:
    """A live database and media folder, and others that shall take their place. ``serves`` tells which is live."""

    def __init__(self, server: PostgresServer, folder: Path) -> None:
        self.server = server
        self.name = f"scene_{secrets.token_hex(3)}"
        self.incoming = f"{self.name}_incoming"
        for name, word in ((self.name, "live"), (self.incoming, "restored")):
            cluster = server.create_database(name)
            with cluster.connect() as connection:
                connection.execute(f"CREATE TABLE word AS SELECT '{word}'::text AS word")
        self.media = folder / "media"
        self.media.mkdir()
        (self.media / "word").write_text("live")
        self.flag = folder / "maintenance"
        self.around = Surroundings(
            cluster=server.cluster(self.name),
            journals=FileJournals(folder / "journals"),
            maintenance=Maintenance(file=self.flag),
            grace_seconds=1,
        )

    @property
    def cluster(self) -> Cluster:
        return self.around.cluster

    def journal(self) -> Journal:
        """A restore at the end of phase one."""
        now = datetime.now(timezone.utc)
        with databases.connect_for_maintenance(self.cluster) as connection:
            names = DatabaseSwitch(
                live=self.name,
                live_oid=databases.find_oid(connection, self.name),
                incoming=self.incoming,
                incoming_oid=databases.find_oid(connection, self.incoming),
                kept=databases.free_name(connection, self.name, "replaced", now),
            )
        (folder,) = plan_folders({"media": self.media}, f"{now:%Y%m%dt%H%M%S%f}")
        folder.incoming.mkdir()
        (folder.incoming / "word").write_text("restored")
        folder.incoming_identity = identity(folder.incoming)
        journal = Journal(
            restore_id=new_restore_id("restore", now), kind="restore", application="scene", began_at=now,
            backup_id="b", database=names, folders=[folder],
        )  # fmt: skip
        self.around.journals.save(journal)
        return journal

    def serves(self) -> str:
        """What is live, when database and media agree and people are let in."""
        with self.cluster.connect() as connection:
            word = str(query(connection, "SELECT word FROM word")[0][0])
        assert (self.media / "word").read_text() == word
        assert not self.flag.exists()
        return word

    def databases(self) -> list[str]:
        with self.server.cluster().connect() as connection:
            rows = query(
                connection, "SELECT datname FROM pg_database WHERE starts_with(datname, %(name)s)", {"name": self.name}
            )
        return sorted(name.removeprefix(self.name) for (name,) in rows)


@pytest.fixture
def scene(newest_server: PostgresServer, tmp_path: Path) -> Scene:
    return Scene(newest_server, tmp_path)


@pytest.fixture
def any_scene(server: PostgresServer, tmp_path: Path) -> Scene:
    return Scene(server, tmp_path)


@pytest.mark.promise(3)
def test_a_cutover_switches_database_and_media_and_keeps_what_it_replaced(any_scene: Scene) -> None:
    scene = any_scene
    journal = scene.journal()
    Cutover(journal, scene.around, Report()).run()
    assert scene.serves() == "restored"
    (found,) = kept(scene.around)
    assert found.journal.restore_id == journal.restore_id
    assert found.database is not None and found.database.startswith(f"{scene.name}_replaced_")
    assert (found.folders[0] / "word").read_text() == "live"
    assert journal.seconds_locked_out is not None and journal.seconds_locked_out > 0
    with pytest.raises(Exception, match="not currently accepting"):
        scene.server.cluster(found.database).connect()


@pytest.mark.promise(3)
def test_an_undo_puts_back_what_was_replaced_and_another_undo_takes_that_back(any_scene: Scene) -> None:
    scene = any_scene
    Cutover(scene.journal(), scene.around, Report()).run()
    record = undo_restore("latest", scene.around, Report(), reason="it was the wrong one")
    assert scene.serves() == "live"
    assert record.seconds_locked_out is not None and record.kind == "undo"
    assert len(list(kept(scene.around))) == 1
    undo_restore("latest", scene.around, Report(), reason="it was the right one")
    assert scene.serves() == "restored"
    assert len(scene.databases()) == 2


def test_an_undo_that_is_not_confirmed_says_what_it_would_put_back_and_changes_nothing(scene: Scene) -> None:
    journal, told = scene.journal(), list[Event]()
    Cutover(journal, scene.around, Report()).run()
    with pytest.raises(
        RestoreRefused, match=f"would put back the database {scene.name}_replaced_.* type the application's name"
    ):
        undo_restore("latest", scene.around, Report(told.append), reason="", confirmed=False)
    assert Planned({"restore": journal.restore_id}) in told
    assert scene.serves() == "restored"


def test_nothing_kept_is_said(scene: Scene) -> None:
    with pytest.raises(RestoreError, match="nothing kept of any restore"):
        undo_restore("latest", scene.around, Report(), reason="why not")


def test_sessions_are_ended_and_come_back_to_the_restored_database(any_scene: Scene) -> None:
    scene = any_scene
    ended = []

    def client() -> None:
        connection = psycopg.connect(scene.cluster.url, autocommit=True)
        with suppress(psycopg.OperationalError):
            while True:
                connection.execute("SELECT 1")
                time.sleep(0.001)
        ended.append(time.monotonic())

    clients = [threading.Thread(target=client, daemon=True) for _ in range(5)]
    for each in clients:
        each.start()
    time.sleep(0.2)
    Cutover(scene.journal(), scene.around, Report()).run()
    for each in clients:
        each.join(10)
    assert len(ended) == 5
    assert scene.serves() == "restored"


def test_a_transaction_gets_its_grace_time_and_is_ended_after_it(scene: Scene) -> None:
    warnings: list[str] = []
    with psycopg.connect(scene.cluster.url, application_name="month-end") as slow:
        slow.execute("INSERT INTO word VALUES ('uncommitted')")
        begun = time.monotonic()
        Cutover(scene.journal(), scene.around, Report(Lines(warning=warnings.append))).run()
        assert 1 <= time.monotonic() - begun < 5
        with pytest.raises(psycopg.OperationalError):
            slow.execute("SELECT 1")
        slow.close()
    assert scene.serves() == "restored"
    assert "month-end" in warnings[0]


def test_a_transaction_that_ends_in_its_grace_time_is_not_cut(scene: Scene) -> None:
    scene.around = replace(scene.around, grace_seconds=20)
    slow = psycopg.connect(scene.cluster.url)
    slow.execute("CREATE TABLE saved AS SELECT 1")

    def commit() -> None:
        time.sleep(0.5)
        slow.commit()

    thread = threading.Thread(target=commit)
    thread.start()
    journal = scene.journal()
    Cutover(journal, scene.around, Report()).run()
    thread.join()
    undo_restore("latest", scene.around, Report(), reason="look")
    with scene.cluster.connect() as connection:
        assert query(connection, "SELECT count(*) FROM saved")[0][0] == 1


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("BEGIN; CREATE TABLE p (x int); PREPARE TRANSACTION 'month-end'", "prepared transaction month-end"),
        ("SELECT pg_create_logical_replication_slot('reporting', 'test_decoding')", "logical replication slot reporting"),
        (
            "CREATE SUBSCRIPTION feed CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false)",
            "subscription feed",
        ),
    ],
)  # fmt: skip
def test_what_a_rename_would_break_refuses_the_cutover(tmp_path: Path, statement: str, named: str) -> None:
    from twist_dr_tests.conftest import TOOLS

    settings = {"fsync": "off", "max_prepared_transactions": "5", "wal_level": "logical"}
    with PostgresServer(TOOLS[max(TOOLS)], tmp_path / "server", settings=settings) as server:
        scene = Scene(server, tmp_path)
        with scene.cluster.connect() as connection:
            for part in statement.split("; "):
                connection.execute(part.encode())
        journal = scene.journal()
        with pytest.raises(CutoverFailed, match=named):
            Cutover(journal, scene.around, Report()).run()
        assert scene.serves() == "live"


def test_a_failing_media_exchange_takes_the_renames_back(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = scene.journal()
    real = journal.folders[0].incoming
    real.rename(real.with_name("gone"))
    with pytest.raises(CutoverFailed):
        Cutover(journal, scene.around, Report()).run()
    assert scene.serves() == "live"
    assert scene.databases() == [""]
    assert scene.around.journals.load(journal.restore_id).phase == "reverted"


def test_a_maintenance_command_that_fails_leaves_everything_as_it_was(scene: Scene) -> None:
    scene.around = replace(
        scene.around, maintenance=Maintenance(file=scene.flag, command_on=["false"], command_off=["true"])
    )
    with pytest.raises(CutoverFailed, match="Maintenance mode could not be switched on"):
        Cutover(scene.journal(), scene.around, Report()).run()
    assert scene.serves() == "live"


def test_a_flag_in_the_database_is_set_before_and_cleared_in_the_one_that_is_live_after(scene: Scene) -> None:
    for name in (scene.name, scene.incoming):
        with scene.server.cluster(name).connect() as connection:
            connection.execute("CREATE TABLE flag AS SELECT false AS down")
    scene.around = replace(
        scene.around,
        maintenance=Maintenance(sql_on="UPDATE flag SET down = true", sql_off="UPDATE flag SET down = false"),
    )
    Cutover(scene.journal(), scene.around, Report()).run()
    undo_restore("latest", scene.around, Report(), reason="look")
    with scene.cluster.connect() as connection:
        assert query(connection, "SELECT down FROM flag") == [(False,)]


@pytest.mark.promise(3)
def test_an_application_that_is_not_healthy_after_the_cutover_gets_its_old_state_back_at_once(scene: Scene) -> None:
    probe = ["sh", "-c", f"grep -q live {scene.media}/word"]
    scene.around = replace(scene.around, health=Health(command=probe, timeout_seconds=0.3))
    journal = scene.journal()
    Cutover(journal, scene.around, Report()).run()
    with pytest.raises(RestoreUndone, match=r"what was live before is live again.*healthy again"):
        check_health(journal, scene.around, Report())
    assert scene.serves() == "live"
    (found,) = kept(scene.around)
    assert (found.folders[0] / "word").read_text() == "restored"


def test_what_is_kept_can_be_removed(scene: Scene) -> None:
    Cutover(scene.journal(), scene.around, Report()).run()
    (found,) = kept(scene.around)
    remove_kept(found.journal, scene.around)
    assert list(kept(scene.around)) == []
    assert scene.serves() == "restored" and scene.databases() == [""]
    assert not found.folders[0].exists()


@pytest.mark.parametrize("way", ["settings", "link", "below"])
def test_kept_media_to_which_the_application_was_led_are_not_removed(scene: Scene, tmp_path: Path, way: str) -> None:
    Cutover(scene.journal(), scene.around, Report()).run()
    (found,) = kept(scene.around)
    (old,) = found.folders
    uploads = tmp_path / "uploads"
    if way == "link":
        uploads.symlink_to(old)
    live = {"settings": old, "link": uploads, "below": old / "later"}[way]
    live.mkdir(exist_ok=True)
    led = replace(scene.around, media=(scene.media, live))
    with pytest.raises(RestoreRefused, match=rf"is live \({live}\), so it is not removed"):
        remove_kept(found.journal, led)
    assert (old / "word").read_text() == "live" and len(list(kept(led))) == 1 and len(scene.databases()) == 2
    remove_kept(found.journal, scene.around)
    assert not old.exists()


def test_a_sandbox_whose_media_the_application_serves_is_not_removed(scene: Scene, tmp_path: Path) -> None:
    now, sandbox = datetime.now(timezone.utc), tmp_path / "sandboxes" / "r"
    (sandbox / "uploads").mkdir(parents=True)
    journal = Journal(
        restore_id=new_restore_id("restore", now), kind="restore", application="scene", began_at=now, phase="left",
        sandbox=sandbox,
    )  # fmt: skip
    with pytest.raises(RestoreRefused, match="is live"):
        remove_kept(journal, replace(scene.around, media=(sandbox / "uploads",)))
    assert (sandbox / "uploads").is_dir() and journal.leaves
    remove_kept(journal, scene.around)
    assert not sandbox.exists()


def test_what_is_half_removed_is_removed_though_a_new_live_folder_has_its_number(scene: Scene) -> None:
    """File systems give the number of a deleted folder to a new one."""
    Cutover(scene.journal(), scene.around, Report()).run()
    (found,) = kept(scene.around)
    (folder,) = found.journal.folders
    shutil.rmtree(folder.kept)
    live = identity(folder.live)
    assert live is not None
    folder.live_identity, found.journal.removal_began_at = live, datetime.now(timezone.utc)
    remove_kept(found.journal, scene.around)
    assert scene.serves() == "restored" and found.journal.removed_at is not None


def test_what_somebody_dropped_by_hand_is_not_offered(scene: Scene) -> None:
    Cutover(scene.journal(), scene.around, Report()).run()
    (found,) = kept(scene.around)
    with scene.server.cluster().connect() as connection:
        databases.drop(connection, found.database or "")
    assert list(kept(scene.around)) == []
    with pytest.raises(RestoreError):
        plan_undo("latest", scene.around, "")


class _Killed(BaseException):
    pass


@pytest.mark.promise(3)
@pytest.mark.parametrize("undoing", [False, True], ids=["restore", "undo"])
@pytest.mark.parametrize("at", range(1, 12))
def test_cut_short_at_any_step_one_command_finishes_or_reverts(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, at: int, undoing: bool
) -> None:
    """As after SIGKILL: nothing of ours runs any more after the step, no clean-up either."""
    if undoing:
        Cutover(scene.journal(), scene.around, Report()).run()
        journal = plan_undo("latest", scene.around, "")
        scene.around.journals.save(journal)
        old, new = "restored", "live"
    else:
        journal, old, new = scene.journal(), "live", "restored"
    steps = 0

    def counted(call):  # type: ignore[no-untyped-def]
        def step(*arguments, **options):  # type: ignore[no-untyped-def]
            nonlocal steps
            result = call(*arguments, **options)
            steps += 1
            if steps == at:
                raise _Killed
            return result

        return step

    cut = Cutover(journal, scene.around, Report())
    with monkeypatch.context() as patched:
        for owner, name in (
            (Journals, "save"), (Maintenance, "on"), (databases, "close"), (databases, "end_sessions"), (databases, "wait_until_idle"),
            (cutover_module, "exchange"), (databases, "switch"), (Maintenance, "off"), (Path, "rename"),
        ):  # fmt: skip
            patched.setattr(owner, name, counted(getattr(owner, name)))
        # What a killed process does not do any more.
        patched.setattr(Cutover, "revert", lambda self, why=None: (_ for _ in ()).throw(_Killed()))
        with suppress(_Killed):
            cut.run()
    settled = settle_interrupted(scene.around, Report())
    assert scene.serves() in (old, new)
    if any("finished" in line for line in settled):
        assert scene.serves() == new
    elif settled:
        assert scene.serves() == old
    assert settle_interrupted(scene.around, Report()) == []
    # Nothing is left over, and nothing that may still be wanted is gone.
    if scene.serves() == "restored" or undoing:
        assert len(scene.databases()) == 2
        assert len(list(kept(scene.around))) == 1
    else:
        assert scene.databases() == [""]


@pytest.mark.promise(3)
def test_killed_before_its_health_check_the_next_command_makes_it(scene: Scene) -> None:
    probe = ["sh", "-c", f"grep -q live {scene.media}/word"]
    scene.around = replace(scene.around, health=Health(command=probe, timeout_seconds=0.3))
    Cutover(scene.journal(), scene.around, Report()).run()
    assert [journal.phase for journal in interrupted(scene.around)] == ["done"]
    with pytest.raises(RestoreUndone, match="what was live before is live again"):
        settle_interrupted(scene.around, Report())
    assert scene.serves() == "live"
    assert interrupted(scene.around) == [] and settle_interrupted(scene.around, Report()) == []


def test_killed_right_after_the_way_back_the_next_command_does_not_take_that_back(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.around = replace(scene.around, health=Health(command=["false"], timeout_seconds=0.1))
    journal = scene.journal()
    Cutover(journal, scene.around, Report()).run()

    def killed(*arguments: object) -> None:
        raise _Killed

    with monkeypatch.context() as patched:
        patched.setattr(settle_module, "_health_asked", killed)
        with pytest.raises(_Killed):
            check_health(journal, scene.around, Report())
    settle_interrupted(scene.around, Report())
    assert scene.serves() == "live"
    assert interrupted(scene.around) == []
