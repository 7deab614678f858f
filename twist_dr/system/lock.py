"""One changing operation at a time per application, on this machine.

The lock is the kernel's (flock(2)): it ends with its holder, however that ends. Scripts run beside the daemon, so what
the orchestrator knows of its own runs is not enough.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from twist_dr.errors import Busy
from twist_dr.system.documents import NOTE, read_file, read_mapping

_TRY_AGAIN_SECONDS = 0.05


def try_lock(descriptor: int) -> bool:
    """Take an exclusive lock on an open file if nobody has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def application_lock(
    folder: Path,
    application: str,
    operation: str,
    *,
    scope: str = "",
    patience: float = 0.0,
    waiting: Callable[[str], None] = lambda line: None,
) -> Iterator[None]:
    """Hold the application's lock. Raises ``Busy`` at once, naming the holder, when another operation has it.

    ``scope``: a lock of its own for what may go on beside everything else (``wal``). ``patience``: seconds to go on trying;
    ``waiting`` is told once what is waited for.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / (f"{application}.{scope}.lock" if scope else f"{application}.lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + patience
        told = False
        while not (held := try_lock(descriptor)) and time.monotonic() < deadline:
            if not told:
                waiting(f"{operation} waits until {_holder(path)} has ended")
                told = True
            time.sleep(_TRY_AGAIN_SECONDS)
        if not held:
            raise Busy(
                f"{operation} of {application} cannot start while {_holder(path)} is going on",
                remedy="wait until it has ended, then start it again",
            )
        note = {
            "operation": operation,
            "process": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        # A comfort for whom it keeps out: a full disk must not stop what holds the lock.
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(note).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _holder(path: Path) -> str:
    try:
        note = read_mapping(read_file(path, NOTE.size), NOTE)
        return f"{note['operation']} (process {note['process']} on {note['host']}, since {note['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another operation"
