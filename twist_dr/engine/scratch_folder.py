"""Folders for a purpose that ends: each bears a lock, so that what a killed process left is told from what is in use."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from twist_dr.engine.lock import try_lock

_LOCK = ".lock"


class ScratchFolder:
    """A new folder, mode 0700, below an existing ``base``. It is ours until :meth:`remove`, or until we die."""

    def __init__(self, base: Path, prefix: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
        # Opened in Python, so children do not inherit it: the lock ends with us, whatever they do.
        self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try_lock(self._lock)

    def remove(self) -> None:
        """Remove it with all that is in it. Safe to call twice."""
        # The lock goes last: killed in the middle, what is left is still known for what it is.
        for entry in self.path.iterdir() if self.path.is_dir() else ():
            if entry.name != _LOCK:
                shutil.rmtree(entry, ignore_errors=True)
                with suppress(OSError):
                    entry.unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *error: object) -> None:
        self.remove()


@contextmanager
def _unused(folder: Path) -> Iterator[bool]:
    """Whether nobody holds the folder's lock; if so, we do while the block runs."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR)
    try:
        yield try_lock(descriptor)
    finally:
        os.close(descriptor)


def left_over(base: Path, prefix: str) -> Iterator[Path]:
    """Folders of that prefix whose maker is gone, each locked while the caller removes it."""
    for folder in sorted(base.glob(f"{prefix}*")):
        # Another process may clear at the same time.
        with suppress(FileNotFoundError), _unused(folder) as unused:
            if unused:
                yield folder
