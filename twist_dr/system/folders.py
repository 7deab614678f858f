"""Folders with all that is in them, and never what a link leads to: made for one user alone, removed whatever their modes, and measured."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from twist_dr.errors import RestoreError
from twist_dr.system.mounts import mounts_within

#: How a folder is opened that must be one itself, and no link to one.
FOLDER_ITSELF = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def fsync_folder(folder: Path) -> None:
    """Make names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Remove a folder and all in it, read-only folders too; links are removed, not followed. Nothing there is no error.

    Raises ``RestoreError``, before anything was removed, when another file system is mounted in it; and when removing fails.
    """
    if mounts := [] if path.is_symlink() else mounts_within(path):
        raise RestoreError(
            f"{path} was not removed, as another file system is mounted there ({mounts[0]})",
            remedy="unmount it, then run again",
        )
    try:
        with suppress(FileNotFoundError):
            if stat.S_ISDIR(path.lstat().st_mode):
                _remove_folder(str(path), None)
            else:
                path.unlink()
    # The last one: folders in folders, a thousand deep.
    except (OSError, RecursionError) as error:
        raise RestoreError(
            f"{path} could not be removed whole ({error})", remedy="fix that and run again, or remove it by hand"
        ) from error


def make_ours_alone(path: Path) -> bool:
    """Make a folder with mode 0700 where it is not there yet; whether it is one, this user's, and closed to all others: who made it before us may be another.

    Raises ``OSError``.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077


def tree_bytes(path: Path) -> int | None:
    """What a folder with all in it takes on its disk; a file with several names once. None where that cannot be told."""
    total, known, waiting = 0, set[tuple[int, int]](), [path]
    try:
        while waiting:
            with suppress(FileNotFoundError), os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):  # of a server that runs files come and go
                        found = entry.stat(follow_symlinks=False)
                        if found.st_nlink == 1 or (found.st_dev, found.st_ino) not in known:
                            total += found.st_blocks * 512  # stat(2)
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(Path(entry.path))
                        else:
                            known.add((found.st_dev, found.st_ino))
    except OSError:
        return None
    return total


def _remove_folder(name: str, parent: int | None) -> None:
    """Remove the folder ``name`` of an open folder. Another process may remove the same at the same time."""
    with suppress(FileNotFoundError):
        descriptor = _opened_to_empty(name, parent)
        try:
            with os.scandir(descriptor) as entries:
                found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
            for each, is_folder in found:
                if is_folder:
                    _remove_folder(each, descriptor)
                else:
                    with suppress(FileNotFoundError):
                        os.unlink(each, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        os.rmdir(name, dir_fd=parent)


def _opened_to_empty(name: str, parent: int | None) -> int:
    """Open a folder so that its entries can be removed, whatever its mode, and never what a link leads to."""
    try:
        descriptor = os.open(name, FOLDER_ITSELF, dir_fd=parent)
    except PermissionError:
        # O_PATH needs no right to read it; by /proc the mode of just this folder is changed, and not of one in its place.
        held = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{held}", 0o700)
        finally:
            os.close(held)
        descriptor = os.open(name, FOLDER_ITSELF, dir_fd=parent)
    try:
        if os.fstat(descriptor).st_mode & 0o700 != 0o700:
            os.fchmod(descriptor, 0o700)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
