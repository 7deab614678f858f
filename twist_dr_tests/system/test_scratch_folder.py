"""What a killed process left is found by what it is, and clearing it can itself be killed at any point."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from twist_dr.repository.staging import StagingArea
from twist_dr.system.scratch_folder import ScratchFolder, clear_left_over
from twist_dr_tests.helpers import killed_at

BACKUP = "20260101T020000Z-full-0000"


def left_by_a_dead_process(base: Path, prefix: str = "server-") -> Path:
    """A folder whose maker was killed, with files and folders in it."""

    def make() -> None:
        made = ScratchFolder(base, prefix).path
        fill(made)
        os.kill(os.getpid(), 9)

    before = set(base.iterdir())
    child = os.fork()
    if child == 0:
        make()
    os.waitpid(child, 0)
    (folder,) = set(base.iterdir()) - before
    return folder


def fill(folder: Path) -> None:
    (folder / "data" / "base").mkdir(parents=True)
    (folder / "data" / "base" / "1").write_bytes(b"rows")
    (folder / "data" / "closed").mkdir(mode=0o500)
    (folder / "zzz").write_bytes(b"after the lock by every order")
    (folder / "link").symlink_to("/etc")


def test_a_clearing_that_is_killed_at_any_point_is_finished_by_the_next(tmp_path: Path) -> None:
    step, killed = 0, True
    while killed:
        step += 1
        left_by_a_dead_process(tmp_path)
        killed = killed_at(step, lambda: clear_left_over(tmp_path, "server-"))
        assert clear_left_over(tmp_path, "server-") == int(killed)
        assert list(tmp_path.iterdir()) == [], f"killed at step {step}"
    assert step > 7


def test_an_owner_that_is_killed_while_it_removes_its_folder_leaves_nothing_that_stays(tmp_path: Path) -> None:
    def use() -> None:
        with ScratchFolder(tmp_path, "fetched-") as folder:
            fill(folder)

    step, killed = 0, True
    while killed:
        step += 1
        killed = killed_at(step, use)
        clear_left_over(tmp_path, "fetched-")
        assert list(tmp_path.iterdir()) == [], f"killed at step {step}"


def test_a_folder_of_ours_without_its_lock_is_cleared_and_nothing_that_only_looks_like_one(tmp_path: Path) -> None:
    (left_by_a_dead_process(tmp_path) / ".lock").unlink()
    others = tmp_path / "server-of-mine", tmp_path / "server-ABCDEFGH", tmp_path / "server-elsewher"
    for each in others[:2]:
        fill(each)
    others[2].symlink_to(others[0])
    with ScratchFolder(tmp_path, "server-") as used:
        fill(used)
        assert clear_left_over(tmp_path, "server-") == 1
        assert set(tmp_path.iterdir()) == {*others, used}
        assert (used / "data" / "base" / "1").read_bytes() == b"rows"
    assert set(tmp_path.iterdir()) == set(others)
    assert (others[0] / "zzz").exists()


@pytest.mark.parametrize("moment", ["made", "locking"])
def test_a_folder_that_is_cleared_while_it_is_made_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Between a folder and its lock it looks like one that a dead process left."""
    real_make, real_open, cleared = tempfile.mkdtemp, os.open, []

    def make(*arguments: object, **options: object) -> str:
        path = real_make(*arguments, **options)  # type: ignore[call-overload]
        if moment == "made" and not cleared:
            cleared.append(clear_left_over(tmp_path, "server-"))
        return str(path)

    def opened(path: object, *arguments: object, **options: object) -> int:
        descriptor = real_open(path, *arguments, **options)  # type: ignore[arg-type]
        if moment == "locking" and not cleared and str(path).endswith(".lock"):
            cleared.append(0)
            cleared[0] = clear_left_over(tmp_path, "server-")
        return descriptor

    monkeypatch.setattr(tempfile, "mkdtemp", make)
    monkeypatch.setattr(os, "open", opened)
    folder = ScratchFolder(tmp_path, "server-")
    assert cleared == [1]
    assert list(tmp_path.iterdir()) == [folder.path]
    assert clear_left_over(tmp_path, "server-") == 0
    folder.remove()
    folder.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_removed_is_told_once_all_else_is_gone_and_is_not_forgotten(tmp_path: Path) -> None:
    from twist_dr.errors import RestoreError

    bad, good = left_by_a_dead_process(tmp_path), left_by_a_dead_process(tmp_path)
    mounted = bad / "data"

    def mounts(path: Path) -> list[Path]:
        return [mounted] if path == mounted else []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twist_dr.system.folders.mounts_within", mounts)
        with pytest.raises(RestoreError, match=f"{mounted} was not removed"):
            clear_left_over(tmp_path, "server-")
    assert mounted.exists() and not good.exists()
    assert clear_left_over(tmp_path, "server-") == 1
    assert not bad.exists()


def test_staging_that_is_killed_while_it_removes_a_backup_is_cleared_by_the_next(tmp_path: Path) -> None:
    area = StagingArea(tmp_path / "erp")
    step, killed = 0, True
    while killed:
        step += 1
        with area.making(BACKUP) as folder:
            for name in ("database.dump.enc", "media.tar.enc"):
                (folder / name).write_bytes(b"x")
            area.seal(folder, b"{}")
        killed = killed_at(step, lambda: area.remove(BACKUP))
        if not area.sealed():
            assert area.clear_incomplete() == [BACKUP] * killed
        else:
            assert step == 1 and area.remove(BACKUP)
        assert list(area.root.iterdir()) == [], f"killed at step {step}"
