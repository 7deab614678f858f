"""A cutover where there is no live database: nothing is renamed away, and the way back leads to none again, killed wherever."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from twist_dr.errors import DatabaseGone, DatabaseRefused, RestoreRefused
from twist_dr.postgres import databases
from twist_dr.postgres.cluster import Cluster
from twist_dr.restore.cutover import Cutover
from twist_dr.restore.journal import Journal
from twist_dr.restore.settle import kept, plan_undo, remove_kept, settle_interrupted
from twist_dr.restore.undo import undo_restore
from twist_dr.system.progress import Report
from twist_dr_tests import killed
from twist_dr_tests.restore.test_cutover import Scene
from twist_dr_tests.servers import PostgresServer


def _dropped(server: PostgresServer, folder: Path) -> tuple[Scene, Journal]:
    """A scene at the end of phase one whose live database was gone before it."""
    folder.mkdir(exist_ok=True)
    scene = Scene(server, folder)
    journal = scene.journal()
    assert journal.database is not None
    journal.folders.clear()
    with server.cluster().connect() as connection:
        databases.drop(connection, scene.name)
    journal.database.live_oid = None
    scene.around.journals.save(journal)
    return scene, journal


def _word(scene: Scene) -> str | None:
    """What is live; None when there is no database."""
    assert not scene.flag.exists()
    try:
        with scene.cluster.connect() as connection:
            return str(connection.execute("SELECT word FROM word").fetchall()[0][0])
    except DatabaseGone:
        return None


def test_it_is_made_anew_taken_away_and_put_back(server: PostgresServer, tmp_path: Path) -> None:
    scene, journal = _dropped(server, tmp_path)
    Cutover(journal, scene.around, Report()).run()
    assert _word(scene) == "restored" and scene.databases() == [""]
    (there,) = kept(scene.around)
    assert "no database, for there was none" in str(there)
    with pytest.raises(RestoreRefused, match="the state without a database"):
        undo_restore("latest", scene.around, Report(), reason="", confirmed=False)
    record = undo_restore("latest", scene.around, Report(), reason="it was dropped for good")
    assert _word(scene) is None and record.replaced == scene_replaced(scene)
    undo_restore("latest", scene.around, Report(), reason="it was not")
    assert _word(scene) == "restored" and scene.databases() == [""]
    for each in list(kept(scene.around)):
        remove_kept(each.journal, scene.around)
    assert _word(scene) == "restored" and list(kept(scene.around)) == []


def scene_replaced(scene: Scene) -> list[str]:
    return [f"{scene.name}{name}" for name in scene.databases()]


def test_one_that_somebody_made_meanwhile_is_left_alone(newest_server: PostgresServer, tmp_path: Path) -> None:
    scene, journal = _dropped(newest_server, tmp_path)
    newest_server.create_database(scene.name)
    with pytest.raises(Exception, match="made anew meanwhile"):
        Cutover(journal, scene.around, Report()).run()
    assert scene.databases() == [""]


def _killed_at(step: int, work: Callable[[], None]) -> bool:
    """Run it in a process that is killed at a step; whether it was."""

    def run() -> None:
        killed.arm(step)
        work()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(60)
    assert process.exitcode in (0, -9)
    return process.exitcode == -9


@pytest.mark.promise(3, 8)
@pytest.mark.parametrize("way", ["there", "back"])
def test_killed_at_any_step_there_is_one_or_none_and_nothing_else(
    newest_server: PostgresServer, tmp_path: Path, way: str
) -> None:
    ends = set()
    for step in count(1, 2):  # before each; after one is before the next
        scene, journal = _dropped(newest_server, tmp_path / str(step))
        if way == "back":
            Cutover(journal, scene.around, Report()).run()
            journal = plan_undo("latest", scene.around, "test")
            scene.around.journals.save(journal)
        if not _killed_at(step, Cutover(journal, scene.around, Report()).run):
            break
        settle_interrupted(scene.around, Report())
        word = _word(scene)
        ends.add(word)
        assert word in ("restored", None)
        undone = len(scene.databases())
        assert undone == (1 if way == "back" or word else 0), (step, scene.databases())
    assert ends == {"restored", None} and step > 5


def test_nobody_is_sent_to_correct_a_password_when_the_database_is_gone(server: PostgresServer) -> None:
    with pytest.raises(DatabaseGone) as gone:
        server.cluster("was_dropped").connect()
    told = str(gone.value)
    assert "the job restore with mode replace makes it anew" in told and "twist-dr recover" in told
    assert "password" not in told
    with pytest.raises(
        DatabaseRefused, match=r"a new and empty server knows neither: name its superuser in restore\.database_url"
    ):
        Cluster(server.url("was_dropped", "nobody", "x")).connect()
