"""A cutover that is interrupted, blocked, or loses its server: what was live is served again, or a sentence says why not."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

import psycopg
import pytest
from psycopg import sql

from twist_dr.errors import CutoverFailed, DatabaseError, RestoreError, RestoreInterrupted, StagingFull
from twist_dr.postgres import databases
from twist_dr.postgres.cluster import query
from twist_dr.restore import cutover as cutover_module
from twist_dr.restore.cutover import Cutover
from twist_dr.restore.hooks import Health, Maintenance
from twist_dr.restore.journal import FileJournals, Journal
from twist_dr.restore.settle import check_health, half_removed, kept, remove_kept, settle_interrupted
from twist_dr.restore.undo import undo_restore
from twist_dr.system.progress import Lines, Report
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.restore.test_cutover import Scene
from twist_dr_tests.servers import PostgresServer


class Stopped(BaseException):
    """What an interrupt raises in a run of the orchestrator."""


@pytest.fixture
def scene(newest_server: PostgresServer, tmp_path: Path) -> Scene:
    return Scene(newest_server, tmp_path)


@contextmanager
def interrupting() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    yield
    signal.signal(signal.SIGTERM, before)


def waits_for_a_lock(scene: Scene) -> None:
    """Return when a statement of the cutover waits for somebody's lock."""
    with scene.server.cluster().connect() as connection:
        while not query(
            connection,
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'twist-dr'",
        ):
            time.sleep(0.01)


def test_an_interrupt_while_the_server_renames_lets_people_in_again_at_once(scene: Scene) -> None:
    """The statement goes on in the server when its client is interrupted, and would hold what the way back needs."""
    blocker = psycopg.connect(scene.server.url())
    blocker.execute(f"COMMENT ON DATABASE {scene.incoming} IS 'not committed'")

    def interrupt() -> None:
        waits_for_a_lock(scene)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)
        blocker.close()

    thread = threading.Thread(target=interrupt)
    with interrupting():
        thread.start()
        begun = time.monotonic()
        with pytest.raises(Stopped):
            Cutover(scene.journal(), scene.around, Report()).run()
    thread.join()
    assert time.monotonic() - begun < 8
    assert scene.serves() == "live" and scene.databases() == [""]


def test_a_second_interrupt_does_not_leave_the_way_back_half_done(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def impatient(*arguments: object, **options: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)

    reopen = databases.reopen

    def reopened(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        reopen(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(databases, "switch", impatient)
    monkeypatch.setattr(databases, "reopen", reopened)
    journal = scene.journal()
    with interrupting(), pytest.raises(Stopped):
        Cutover(journal, scene.around, Report()).run()
    assert scene.serves() == "live" and scene.databases() == [""]
    assert scene.around.journals.load(journal.restore_id).phase == "reverted"


def test_a_lock_that_somebody_keeps_does_not_keep_the_application_out(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "_LOCK_SECONDS", 1)
    with psycopg.connect(scene.server.url()) as blocker:
        blocker.execute(f"COMMENT ON DATABASE {scene.name} IS 'not committed'")
        with pytest.raises(CutoverFailed, match="lock timeout"):
            Cutover(scene.journal(), scene.around, Report()).run()
        assert scene.serves() == "live" and scene.databases() == [""]


@pytest.mark.parametrize("lost", ["before", "after"])
def test_a_connection_lost_in_the_commit_ends_on_one_side(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """Whether it was committed is asked of the server, never guessed."""
    real = psycopg.Connection.transaction

    @contextmanager
    def transaction(connection: psycopg.Connection) -> Iterator[object]:
        with suppress(psycopg.OperationalError), real(connection) as block:
            yield block
            if lost == "before":
                connection.pgconn.finish()
        raise psycopg.OperationalError("the connection is lost")

    monkeypatch.setattr(psycopg.Connection, "transaction", transaction)
    journal = scene.journal()
    if lost == "before":
        with pytest.raises(CutoverFailed, match="the connection is lost"):
            Cutover(journal, scene.around, Report()).run()
        assert scene.serves() == "live" and scene.databases() == [""]
    else:
        Cutover(journal, scene.around, Report()).run()
        assert scene.serves() == "restored" and len(list(kept(scene.around))) == 1


def test_a_session_that_ends_while_maintenance_begins_is_a_sentence(scene: Scene) -> None:
    """An own role's idle_session_timeout, a pooler or a firewall: ours waits idle for as long as the command takes."""
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'twist-dr' AND datname = 'postgres'"
    around = replace(scene.around, maintenance=Maintenance(sql_on=ended))
    with pytest.raises(DatabaseError, match=r"The session with PostgreSQL ended .* to switch: terminating connection"):
        Cutover(scene.journal(), around, Report()).run()
    assert scene.serves() == "live" and scene.databases() == [""]


def test_a_server_that_restarts_in_the_middle_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = TOOLS[max(TOOLS)]
    server = PostgresServer(tools, tmp_path / "server", settings={"fsync": "off"}, keep=True)
    again: list[PostgresServer] = []
    try:
        scene = Scene(server, tmp_path)
        exchange = cutover_module.exchange
        seen = threading.Event()

        def restart() -> None:
            server.close()
            time.sleep(0.5)
            again.append(PostgresServer(tools, tmp_path / "server", port=server.port, settings={"fsync": "off"}))
            # A child ends with the thread that started it.
            seen.wait()

        thread = threading.Thread(target=restart, daemon=True)

        def exchanged(*arguments: object, **options: object) -> None:
            exchange(*arguments, **options)  # type: ignore[arg-type]
            thread.start()
            time.sleep(0.3)

        monkeypatch.setattr(cutover_module, "exchange", exchanged)
        with pytest.raises(CutoverFailed):
            Cutover(scene.journal(), scene.around, Report()).run()
        assert scene.serves() == "live" and scene.databases() == [""]
    finally:
        seen.set()
        for each in again or [server]:
            each.close()


def test_a_switch_is_on_the_disk_before_it_is_told_though_commits_are_not_waited_for(tmp_path: Path) -> None:
    """Killed right after "switched", a server that writes its log seconds later has the switch all the same; and so the way back."""
    slow = {"fsync": "off", "synchronous_commit": "off", "wal_writer_delay": "10s"}
    with PostgresServer(TOOLS[max(TOOLS)], tmp_path / "server", settings=slow) as server:
        scene = Scene(server, tmp_path)
        with server.cluster().connect() as connection:
            for whose in ("DATABASE postgres", "ROLE postgres", "ROLE postgres IN DATABASE postgres"):
                connection.execute(f"ALTER {whose} SET synchronous_commit = off")

        def crash(line: str) -> None:
            if line.startswith("switched"):
                server.crash()

        Cutover(scene.journal(), scene.around, Report(Lines(crash))).run()
        server.start()
        assert scene.serves() == "restored"
        assert scene.databases()[1].startswith("_replaced_")
        with psycopg.connect(scene.cluster.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE made AS SELECT 1 AS one")
        with closing(databases.connect_for_maintenance(scene.cluster)) as connection:
            databases.make_durable(connection)
        server.crash()
        server.start()
        with scene.cluster.connect() as connection:
            assert query(connection, "SELECT one FROM made") == [(1,)]
        with suppress(RestoreInterrupted):
            undo_restore("latest", scene.around, Report(Lines(crash)), reason="test")
        server.start()
        settle_interrupted(scene.around, Report())
        assert scene.serves() == "live"


def test_clients_that_come_back_in_a_storm_keep_no_cutover_from_happening(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One slips in after the last session was ended: the renames are tried again, after it was ended as well."""
    switch = databases.switch
    slipped: list[psycopg.Connection] = []

    def slipping(connection: psycopg.Connection, **options: object) -> None:
        if not slipped:
            databases.reopen(connection, scene.name)
            slipped.append(psycopg.connect(scene.cluster.url))
            databases.close(connection, scene.name)
        switch(connection, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(databases, "switch", slipping)
    Cutover(scene.journal(), scene.around, Report()).run()
    assert scene.serves() == "restored"
    slipped[0].close()


def test_a_full_disk_before_the_cutover_changes_nothing_and_leaves_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = FileJournals.save

    def full(self: FileJournals, journal: Journal) -> None:
        if journal.phase == "switching":
            raise StagingFull("The disk is full.")
        save(self, journal)

    journal = scene.journal()
    monkeypatch.setattr(FileJournals, "save", full)
    with pytest.raises(StagingFull):
        Cutover(journal, scene.around, Report()).run()
    assert scene.serves() == "live" and scene.databases() == [""]
    assert not journal.folders[0].incoming.exists()


def test_a_full_disk_after_the_switch_says_that_it_has_switched(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    save = FileJournals.save

    def full(self: FileJournals, journal: Journal) -> None:
        if journal.phase == "done":
            raise StagingFull("The disk is full.")
        save(self, journal)

    with monkeypatch.context() as patched:
        patched.setattr(FileJournals, "save", full)
        with pytest.raises(RestoreInterrupted, match=r"has switched: what it prepared is live.*The disk is full"):
            Cutover(scene.journal(), scene.around, Report()).run()
    assert scene.serves() == "restored"
    assert settle_interrupted(scene.around, Report()) != []
    assert len(list(kept(scene.around))) == 1


def test_what_cannot_be_removed_does_not_keep_the_application_down(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise psycopg.errors.InsufficientPrivilege("must be owner")

    scene.around = replace(
        scene.around, maintenance=Maintenance(file=scene.flag, command_on=["true"], sql_on="SELECT wrong")
    )
    with monkeypatch.context() as patched:
        patched.setattr(databases, "drop", refuse)
        with pytest.raises(RestoreInterrupted, match=r"SELECT wrong|wrong.*must be owner"):
            Cutover(scene.journal(), scene.around, Report()).run()
    assert scene.serves() == "live"
    settle_interrupted(scene.around, Report())
    assert scene.databases() == [""]


def test_a_database_made_anew_under_the_live_name_is_not_replaced(scene: Scene) -> None:
    journal = scene.journal()
    with scene.server.cluster().connect() as connection:
        connection.execute(f"ALTER DATABASE {scene.name} RENAME TO {scene.name}_away")
        connection.execute(f"CREATE DATABASE {scene.name}")
    with pytest.raises(CutoverFailed, match=f"database {scene.name} was renamed, dropped or made anew meanwhile"):
        Cutover(journal, scene.around, Report()).run()
    assert scene.databases() == ["", "_away"]


def test_a_media_folder_that_was_exchanged_by_hand_meanwhile_is_what_is_kept(scene: Scene) -> None:
    journal = scene.journal()
    scene.media.rename(scene.media.with_name("older"))
    scene.media.mkdir()
    (scene.media / "word").write_text("by hand")
    Cutover(journal, scene.around, Report()).run()
    assert scene.serves() == "restored"
    (found,) = kept(scene.around)
    assert (found.folders[0] / "word").read_text() == "by hand"


def test_a_media_folder_exchanged_by_hand_does_not_bar_the_way_back_from_preparing(scene: Scene) -> None:
    journal = scene.journal()
    scene.media.rename(scene.media.with_name("older"))
    scene.media.mkdir()
    Cutover(journal, scene.around, Report()).revert()
    assert scene.databases() == [""] and not journal.folders[0].incoming.exists()


def test_a_database_that_another_installation_made_under_the_same_name_is_left_alone(scene: Scene) -> None:
    journal = scene.journal()
    assert journal.database is not None
    journal.database.incoming_oid = None
    Cutover(journal, scene.around, Report()).revert()
    assert scene.databases() == ["", "_incoming"]


def test_a_database_made_just_before_a_crash_is_removed(scene: Scene) -> None:
    journal = scene.journal()
    assert journal.database is not None
    journal.database.incoming_oid = None
    scene.server.create_database(scene.incoming)
    Cutover(journal, scene.around, Report()).revert()
    assert scene.databases() == [""]


def test_an_unhealthy_application_that_cannot_be_put_back_is_said_to_be_live(scene: Scene) -> None:
    scene.around = replace(scene.around, health=Health(command=["false"], timeout_seconds=0.1))
    journal = scene.journal()
    Cutover(journal, scene.around, Report()).run()
    (found,) = kept(scene.around)
    with scene.server.cluster().connect() as connection:
        databases.drop(connection, found.database or "")
    with pytest.raises(RestoreInterrupted, match=r"is live, the application is not healthy .* could not be put back"):
        check_health(journal, scene.around, Report())
    assert scene.serves() == "restored"


def test_a_removal_that_was_cut_short_is_named_and_finished_and_never_put_back(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    Cutover(scene.journal(), scene.around, Report()).run()
    (found,) = kept(scene.around)
    from twist_dr.restore import settle

    def fail(path: Path) -> None:
        (path / "word").unlink()
        raise RestoreError("not removed whole")

    with monkeypatch.context() as patched:
        patched.setattr(settle, "remove_tree", fail)
        with pytest.raises(RestoreError, match="not removed whole"):
            settle.remove_kept(found.journal, scene.around)
    assert list(kept(scene.around)) == []
    (left,) = half_removed(scene.around)
    remove_kept(left, scene.around)
    assert not found.folders[0].exists() and half_removed(scene.around) == []
    assert scene.serves() == "restored"


def test_the_next_connection_is_let_in_though_the_server_s_side_of_a_lost_one_still_works(scene: Scene) -> None:
    from twist_dr.postgres.backend import backend, end_backend

    lost = databases.connect_for_maintenance(scene.cluster)
    side = backend(lost)
    thread = threading.Thread(target=_sleep, args=(lost,))
    thread.start()
    with closing(databases.connect_for_maintenance(scene.cluster)) as connection:
        end_backend(connection, side)
        assert query(connection, "SELECT 1 FROM pg_stat_activity WHERE pid = %(p)s", {"p": side.process}) == []
    thread.join(5)
    lost.close()


def _sleep(connection: psycopg.Connection) -> None:
    with suppress(psycopg.Error):
        connection.execute("SELECT pg_sleep(60)")


def test_an_older_restore_is_undone_after_a_newer_one_and_what_stays_is_said(scene: Scene) -> None:
    """Restore A (database), restore B (both), undo A: the media of B stay, and nobody is left to find that out."""
    first = scene.journal()
    first.folders.clear()
    (scene.media / "word").write_text("restored")
    Cutover(first, scene.around, Report()).run()
    scene.server.create_database(scene.incoming)
    with scene.server.cluster(scene.incoming).connect() as connection:
        connection.execute("CREATE TABLE word AS SELECT 'newer'::text AS word")
    second = scene.journal()
    (second.folders[0].incoming / "word").write_text("newer")
    Cutover(second, scene.around, Report()).run()
    assert scene.serves() == "newer"
    warnings: list[str] = []
    undo_restore(first.restore_id, scene.around, Report(Lines(warning=warnings.append)), reason="it was better before")
    with scene.cluster.connect() as connection:
        assert query(connection, "SELECT word FROM word") == [("live",)]
    assert warnings == [
        f"{scene.media} stays as {second.restore_id} made it; undo that first to have rows and files of one time"
    ]
    # What B had made live is kept in turn, and what A had made live is kept still: nothing is lost, nothing unnamed.
    assert {each.journal.kind for each in kept(scene.around)} == {"restore", "undo"}
    assert len(scene.databases()) == 3


@pytest.mark.parametrize("name", ["o\"dd 'näme; %", "x" * 63, "ä" * 31])
def test_odd_and_long_names_are_switched_and_undone(newest_server: PostgresServer, tmp_path: Path, name: str) -> None:
    scene = Scene(newest_server, tmp_path)
    with closing(databases.connect_for_maintenance(scene.cluster)) as connection:
        rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
        connection.execute(rename.format(sql.Identifier(scene.name), sql.Identifier(name)))
        scene.name = name
        scene.around = replace(scene.around, cluster=scene.server.cluster(name))
        Cutover(scene.journal(), scene.around, Report()).run()
        assert scene.serves() == "restored"
        undo_restore("latest", scene.around, Report(), reason="look")
        assert scene.serves() == "live"
        (found,) = kept(scene.around)
        assert found.database is not None and len(found.database.encode()) <= 63
        for left in (name, found.database):
            databases.drop(connection, left)
