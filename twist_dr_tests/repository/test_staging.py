"""Promise 8: a killed maker leaves nothing that lists as a backup, and the next run clears what was left."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from twist_dr.errors import BackupNotFound, StagingFull
from twist_dr.repository.staging import StagingArea
from twist_dr_tests.helpers import next_line, python, runs, wait_until
from twist_dr_tests.storage.conftest import mounted_tmpfs

FIRST, SECOND = "20260101T020000Z-full-0001", "20260102T020000Z-full-0002"

MAKE = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from twist_dr.repository.staging import StagingArea\n"
    "area = StagingArea(Path(sys.argv[1]))\n"
    "with area.making(sys.argv[2]) as folder:\n"
    "    (folder / 'database.dump.zst.enc').write_bytes(bytes(1000))\n"
    "    print('working')\n"
    "    time.sleep(100)\n"
)
USE = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from twist_dr.repository.staging import StagingArea\n"
    "with StagingArea(Path(sys.argv[1])).using(sys.argv[2]) as folder:\n"
    "    print('using')\n"
    "    time.sleep(100)\n"
)


@pytest.fixture
def area(tmp_path: Path) -> StagingArea:
    return StagingArea(tmp_path / "staging" / "erp")


def make(area: StagingArea, backup_id: str) -> None:
    with area.making(backup_id) as folder:
        (folder / "database.dump.zst.enc").write_bytes(bytes(1000))
        area.seal(folder, b"{}")


def test_a_backup_is_there_once_its_manifest_is(area: StagingArea) -> None:
    with area.making(FIRST) as folder:
        (folder / "database.dump.zst.enc").write_bytes(bytes(1000))
        assert area.sealed() == []
        area.seal(folder, b"{}")
        assert area.sealed() == [FIRST]
    make(area, SECOND)
    assert area.sealed() == [FIRST, SECOND]
    with area.using(FIRST) as folder:
        assert (folder / "manifest.json").read_bytes() == b"{}"


def test_nobody_else_may_look_into_the_staging_folder(area: StagingArea) -> None:
    old_umask = os.umask(0)
    try:
        make(area, FIRST)
    finally:
        os.umask(old_umask)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (area.root, *area.root.rglob("*"))}
    assert {modes[name] for name in ("erp", FIRST)} == {0o700}
    assert {modes[name] for name in ("manifest.json", ".lock")} == {0o600}


def test_nothing_of_a_failed_backup_remains(area: StagingArea) -> None:
    with pytest.raises(ZeroDivisionError), area.making(FIRST) as folder:
        (folder / "database.dump.zst.enc").write_bytes(bytes(1000))
        raise ZeroDivisionError
    assert list(area.root.iterdir()) == []


def test_what_a_killed_run_left_is_no_backup_and_the_next_run_clears_it(area: StagingArea) -> None:
    with python(MAKE, area.root, FIRST) as maker:
        assert next_line(maker) == "working"
        os.kill(maker.pid, signal.SIGKILL)
        maker.wait()
    assert area.sealed() == []
    with pytest.raises(BackupNotFound, match=FIRST), area.using(FIRST):
        pass
    assert area.clear_incomplete() == [FIRST]
    assert list(area.root.iterdir()) == []


def test_a_run_killed_while_it_wrote_the_manifest_left_no_backup(area: StagingArea) -> None:
    folder = area.folder(FIRST)
    folder.mkdir(parents=True)
    (folder / ".manifest.json.new").write_bytes(b"{")
    assert area.sealed() == []
    assert area.clear_incomplete() == [FIRST]


def test_a_backup_being_made_is_left_alone(area: StagingArea) -> None:
    make(area, SECOND)
    with python(MAKE, area.root, FIRST) as maker:
        assert next_line(maker) == "working"
        assert area.clear_incomplete() == []
        assert not area.remove(FIRST)
        assert (area.folder(FIRST) / "database.dump.zst.enc").exists()
        assert runs(maker.pid)
    assert area.sealed() == [SECOND]


def test_a_backup_in_use_is_not_removed_until_its_last_user_ends(area: StagingArea) -> None:
    make(area, FIRST)
    with python(USE, area.root, FIRST) as one, python(USE, area.root, FIRST) as two:
        assert (next_line(one), next_line(two)) == ("using", "using")
        assert not area.remove(FIRST)
        os.kill(one.pid, signal.SIGKILL)
        one.wait()
        assert not area.remove(FIRST)
        assert area.sealed() == [FIRST]
        os.kill(two.pid, signal.SIGKILL)
        two.wait()
    assert area.remove(FIRST)
    assert list(area.root.iterdir()) == []


def test_a_backup_that_went_while_someone_waited_for_it_is_said_as_gone(area: StagingArea) -> None:
    code = USE.replace("print('using')", "print('got it')")
    code = code.replace("with Staging", "print('waiting')\nwith Staging")
    with python(MAKE, area.root, FIRST) as maker:
        assert next_line(maker) == "working"
        with python(code, area.root, FIRST) as waiter:
            assert next_line(waiter) == "waiting"
            locks = Path("/proc/locks")
            wait_until(lambda: "->" in locks.read_text() and str(waiter.pid) in locks.read_text(), "the waiter to wait")
            os.kill(maker.pid, signal.SIGINT)
            said, _ = waiter.communicate(timeout=20)
            assert "BackupNotFound" in said
            assert "got it" not in said


def test_an_unknown_backup_is_said(area: StagingArea) -> None:
    with pytest.raises(BackupNotFound, match=SECOND), area.using(SECOND):
        pass


def test_other_things_in_the_folder_are_neither_listed_nor_removed(area: StagingArea) -> None:
    (area.root / "lost+found").mkdir(parents=True)
    (area.root / "notes.txt").write_text("mine")
    assert area.sealed() == []
    assert area.clear_incomplete() == []
    assert (area.root / "notes.txt").exists()
    assert (area.root / "lost+found").exists()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[StagingArea]:
    with mounted_tmpfs(tmp_path / "disk", "size=1m") as disk:
        yield StagingArea(disk / "staging" / "erp")


def test_a_disk_too_small_is_said_before_anything_begins(full_disk: StagingArea) -> None:
    full_disk.need(1000)
    with pytest.raises(StagingFull, match=r"needs about 5\.0 MB .* 1\.0 MB are free"):
        full_disk.need(5_000_000)


def test_a_disk_that_is_full_when_the_manifest_is_written_is_said_and_leaves_nothing(full_disk: StagingArea) -> None:
    with pytest.raises(StagingFull, match="full"), full_disk.making(FIRST) as folder:
        (folder / "database.dump").write_bytes(bytes((1 << 20) - 8192))
        full_disk.seal(folder, bytes(100_000))
    assert list(full_disk.root.iterdir()) == []
