"""A plan becomes a running server that holds exactly what was planned, or an error that says what is missing."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from twist_dr.errors import RecoveryFailed, StagingFull
from twist_dr.postgres.lsn import format_lsn
from twist_dr.recovery import fetcher
from twist_dr.recovery.plan import RecoveryPlan
from twist_dr.recovery.planning import PlannedRecovery
from twist_dr.recovery.recover import clear_recovery_leftovers, recover
from twist_dr.system.progress import Report
from twist_dr.wal.partial_segment import PartialSegment
from twist_dr_tests.helpers import KEYRING
from twist_dr_tests.primaries import MB
from twist_dr_tests.recovery.world import PlainArchives, World, archives_of, rows


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "PAUSES", (0.05,))


def failure(world: World, plan: RecoveryPlan, archives: PlainArchives, folder: Path) -> str:
    """The message with which a recovery fails; nothing of it may be left."""
    attempt = recover(PlannedRecovery(plan, archives, world.tools, KEYRING, Report()), [world.base], folder)
    with pytest.raises(RecoveryFailed) as caught, attempt:
        pytest.fail("it was promoted")
    assert not list(folder.glob("recovery-*"))
    assert not processes_in(folder)
    return str(caught.value)


def processes_in(folder: Path) -> list[int]:
    """Processes whose command line names a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(folder) in command:
                found.append(int(entry.name))
    return found


def test_a_recovered_server_has_exactly_the_planned_rows_and_can_be_written_to(world: World, open_folder: Path) -> None:
    for point in (world.early, world.late):
        archives = archives_of(world.primary)
        with recover(
            PlannedRecovery(world.plan(point), archives, world.tools, KEYRING, Report()), [world.base], open_folder
        ) as recovered:
            assert rows(recovered.cluster()) == point.rows
            assert recovered.timeline == 2 and not recovered.warnings
            with recovered.cluster().connect() as connection:
                connection.execute("INSERT INTO log (filling) VALUES ('new')")
                assert connection.execute("SHOW archive_mode").fetchone() == ("off",)
                assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
                # As the primary had it: its own configuration files are not used.
                assert connection.execute("SHOW lc_monetary").fetchone() == ("C.UTF-8",)
        assert not list(open_folder.glob("recovery-*"))


def test_a_recovered_server_that_shall_last_is_checked_and_durable(world: World, open_folder: Path) -> None:
    planned = PlannedRecovery(world.plan(), archives_of(world.primary), world.tools, KEYRING, Report())
    with recover(planned, [world.base], open_folder, durable=True, amcheck=True) as recovered:
        assert recovered.complaints == [] and rows(recovered.cluster()) == world.late.rows
        with recovered.cluster().connect() as connection:
            assert connection.execute("SHOW fsync").fetchone() == ("on",)


def damaged(world: World, folder: Path, how: str) -> tuple[PlainArchives, str]:
    """An archive in which a segment in the middle is not what it was, and that segment's name."""
    archives = world.copied_archive(folder)
    segment = world.plan().segments[len(world.plan().segments) // 2]
    path = archives.folder / segment.name
    if how == "deleted":
        path.unlink()
    elif how == "truncated":
        os.truncate(path, MB // 2)
    elif how == "zeros":
        path.write_bytes(bytes(MB))
    elif how == "another's bytes":
        path.write_bytes((archives.folder / segment.next.name).read_bytes())
    return archives, segment.name


@pytest.mark.parametrize("how", ["deleted", "truncated", "zeros", "another's bytes"])
def test_a_segment_that_is_not_good_anywhere_ends_the_recovery_and_is_named(
    world: World, open_folder: Path, how: str
) -> None:
    archives, name = damaged(world, open_folder, how)
    said = failure(world, world.plan(), archives, open_folder)
    assert name in said


def test_storage_that_goes_away_in_the_middle_never_gives_a_server_with_fewer_rows(
    world: World, open_folder: Path
) -> None:
    archives = world.copied_archive(open_folder)
    archives.gone_after = 5
    said = failure(world, world.plan(), archives, open_folder)
    assert "No storage target gives" in said


def test_a_plan_whose_last_segments_are_not_listed_fails_and_says_where_replay_ended(
    world: World, open_folder: Path
) -> None:
    plan = world.plan()
    shorter = replace(plan, segments=plan.segments[:-3])
    said = failure(world, shorter, archives_of(world.primary), open_folder)
    assert format_lsn(plan.end_lsn) in said


def test_a_server_that_ends_elsewhere_than_planned_is_not_promoted(world: World, open_folder: Path) -> None:
    plan = replace(world.plan(world.early), end_lsn=world.late.lsn)
    said = failure(world, plan, archives_of(world.primary), open_folder)
    assert f"from there to {format_lsn(world.late.lsn)} is missing" in said
    plan = replace(world.plan(world.early), noted_at=world.late.last)
    assert world.late.last.isoformat() in failure(world, plan, archives_of(world.primary), open_folder)


def test_the_partial_of_the_log_is_replayed_as_far_as_it_was_written(world: World, open_folder: Path) -> None:
    plan = world.plan()
    archives = world.copied_archive(open_folder)
    last = next(segment for segment in plan.segments if segment.start <= plan.end_lsn - 1 < segment.end)
    path = archives.folder / last.name
    # A partial segment ends in the middle: what was written after our point is not there.
    size = -(-(plan.end_lsn - last.start) // 8192) * 8192
    path.with_name(f"{last.name}.partial").write_bytes(path.read_bytes()[:size])
    segments = tuple(segment for segment in plan.segments if segment < last)
    partial = replace(plan, segments=segments, partial=PartialSegment(last, size, None))
    with recover(
        PlannedRecovery(partial, archives, world.tools, KEYRING, Report()), [world.base], open_folder
    ) as recovered:
        assert rows(recovered.cluster()) == world.late.rows


def test_too_little_space_is_said_before_anything_is_fetched(
    newest_world: World, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=MB))
    world, archives = newest_world, archives_of(newest_world.primary)
    attempt = recover(
        PlannedRecovery(world.plan(), archives, world.tools, KEYRING, Report()), [world.base], open_folder
    )
    with pytest.raises(StagingFull, match="are free"), attempt:
        pass
    assert not list(open_folder.glob("recovery-*"))


_KILLED = """
import pickle, sys
from pathlib import Path
from twist_dr.postgres.cluster import Cluster
from twist_dr.system.progress import Report
from twist_dr.recovery.planning import PlannedRecovery
from twist_dr.recovery.recover import recover
plan, bases, archives, keyring, tools, folder = pickle.loads(Path(sys.argv[1]).read_bytes())
print("begun", flush=True)
with recover(PlannedRecovery(plan, archives, tools, keyring, Report()), bases, folder) as recovered:
    print("recovered", flush=True)
"""


def test_a_recovery_that_is_killed_leaves_nothing_running_and_the_next_clears_it(
    world: World, open_folder: Path
) -> None:
    archives = archives_of(world.primary)
    archives.delay = 0.3
    state = open_folder / "state"
    state.write_bytes(pickle.dumps((world.plan(), [world.base], archives, KEYRING, world.tools, open_folder)))
    with subprocess.Popen([sys.executable, "-c", _KILLED, str(state)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"begun\n"
        deadline = time.monotonic() + 30
        while not any(open_folder.glob("recovery-*/data/pg_wal/0*")):
            assert time.monotonic() < deadline, "nothing is replayed"
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while processes_in(open_folder):
        assert time.monotonic() < deadline, "something runs on"
        time.sleep(0.05)
    assert list(open_folder.glob("recovery-*"))
    assert clear_recovery_leftovers(open_folder) == 1
    assert not list(open_folder.glob("recovery-*"))
