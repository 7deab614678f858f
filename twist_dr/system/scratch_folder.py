"""Folders for a purpose that ends: each bears a lock, so that what a killed process left is told from what is in use.

Whoever holds the lock owns the folder, its maker or who clears it. The lock file is the last thing in a folder that goes; a
folder of our naming without one is one that was cleared nearly to the end, or just begun, and whoever comes first locks it anew.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from twist_dr.errors import RestoreError
from twist_dr.system.folders import remove_tree
from twist_dr.system.lock import try_lock

LOCK = ".lock"
#: What tempfile.mkdtemp puts behind a prefix: nothing else in a base is taken for ours.
_RANDOM = "[a-z0-9_]{8}"


class ScratchFolder:
    """A new folder, mode 0700, below an existing ``base``. It is ours until :meth:`remove`, or until we die."""

    def __init__(self, base: Path, prefix: str) -> None:
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
            # Opened in Python, so children do not inherit it: the lock ends with us, whatever they do.
            if (lock := _own(self.path)) is not None:
                break  # else somebody who clears was faster, and removes it
        self._lock = lock

    def remove(self) -> None:
        """Remove it with all that is in it. Safe to call twice. What cannot be removed is left to the next clearing, which tells it."""
        if self._lock >= 0:
            with suppress(RestoreError):
                _remove(self.path)
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *error: object) -> None:
        self.remove()


def clear_left_over(base: Path, prefix: str, before: Callable[[Path], None] = lambda folder: None) -> int:
    """Remove the folders of that prefix whose maker is gone; returns how many. ``base`` must be ours, or there is nothing to clear.

    ``before`` is told of each, to end or remove what belongs to it elsewhere. Raises ``RestoreError`` when one cannot be removed,
    after all the others were.
    """
    ours = re.compile(re.escape(prefix) + _RANDOM)
    try:
        folders = sorted(entry.name for entry in os.scandir(base) if ours.fullmatch(entry.name))
    except FileNotFoundError:
        return 0
    count, failed = 0, None
    for name in folders:
        try:
            count += clear_if_left_over(base / name, before)
        except RestoreError as error:
            failed = error
    if failed is not None:
        raise failed
    return count


def clear_if_left_over(folder: Path, before: Callable[[Path], None] = lambda folder: None) -> bool:
    """Remove one folder unless it is in use, or none. Returns whether it was. Restartable at any point. Raises ``RestoreError``."""
    try:
        with _owned(folder) as ours:
            if ours:
                before(folder)
                _remove(folder)
            return ours
    except OSError as error:
        raise RestoreError(
            f"{folder}, which a killed run left, could not be removed ({error})",
            remedy="fix that, or remove it by hand",
        ) from error


def _remove(folder: Path) -> None:
    """The lock goes last: killed in the middle, what is left is still known for what it is, and in nobody's use."""
    with suppress(FileNotFoundError):
        for name in os.listdir(folder):
            if name != LOCK:
                remove_tree(folder / name)
    remove_tree(folder)


def _own(folder: Path) -> int | None:
    """Lock a folder, and give the lock's descriptor; None when another process has it, when it is gone, or is no folder."""
    if folder.is_symlink() or not folder.is_dir():
        return None
    path = folder / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        return None
    with suppress(FileNotFoundError):
        # Its last owner may have removed the file after we opened it, and then our lock is on nothing.
        if try_lock(descriptor) and os.path.samestat(os.fstat(descriptor), os.lstat(path)):
            return descriptor
    os.close(descriptor)
    return None


@contextmanager
def _owned(folder: Path) -> Iterator[bool]:
    """Whether nobody holds the folder's lock; if so, we do while the block runs."""
    descriptor = _own(folder)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)
