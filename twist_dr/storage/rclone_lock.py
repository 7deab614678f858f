"""The lock under which objects are moved to their names on a place, or sent under one: of all processes of this machine that use it."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from twist_dr.errors import TargetUnavailable
from twist_dr.storage.machine import Machine
from twist_dr.system.lock import try_lock

_AGAIN_SECONDS = 0.01
#: Whoever holds it looks and moves: seconds, or minutes of retries where a provider is throttled. Or he sends the same object, for so long as that takes.
_PATIENCE_SECONDS = 600.0


def place_name(place: Hashable) -> str:
    """The beginning of the names of files of this machine that are about that place."""
    return hashlib.sha256(repr(place).encode()).hexdigest()[:32]


class PlaceLock:
    """No I/O when it is made. A context manager at a time for each thread: ``with lock.held():``."""

    def __init__(self, machine: Machine, place: Hashable, target: str) -> None:
        self._machine, self._target = machine, target
        self._name = f"{place_name(place)}.lock"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Raises ``TargetUnavailable`` when somebody has it for minutes."""
        path = self._machine.private_folder() / self._name
        end = time.monotonic() + _PATIENCE_SECONDS
        while (descriptor := _try(path)) is None:
            if time.monotonic() > end:
                raise TargetUnavailable(
                    "another process of this machine has been storing an object there for minutes",
                    remedy="see what keeps it, then run again",
                    target=self._target,
                )
            time.sleep(_AGAIN_SECONDS)
        try:
            yield
        finally:
            # While it is held: whoever opened it meanwhile sees that it is no more the one of that name.
            path.unlink(missing_ok=True)
            os.close(descriptor)


def _try(path: Path) -> int | None:
    """The file of that name, open and locked; None while somebody else has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with suppress(FileNotFoundError):
        if try_lock(descriptor) and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    os.close(descriptor)
    return None
