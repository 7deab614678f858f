"""One changing operation at a time per application, and who reads which backup while no lock keeps cleanup away: verifications, rehearsals, downloads.

A lock is the kernel's (flock(2)): it ends with its holder, however that ends. Scripts run beside the daemon, so what
the orchestrator knows of its own runs is not enough.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

from twist_dr.errors import Busy
from twist_dr.system.documents import NOTE, DocumentInvalid, read_file, read_mapping

_TRY_AGAIN_SECONDS = 0.05
#: How long one waits while a backup's fate is being decided: one tombstone, one look, one deletion of a manifest.
_DECIDED_SECONDS = 120.0


def try_lock(descriptor: int) -> bool:
    """Take an exclusive lock on an open file if nobody has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Locks(Protocol):
    """The locks of one application. Each ends with its holder, however that ends.

    On one machine they are files; where several serve one application, something that all of them see.
    """

    def hold(
        self, operation: str, *, scope: str = "", patience: float = 0.0, waiting: Callable[[str], None] = ...
    ) -> AbstractContextManager[None]:
        """Raises ``Busy`` at once, naming the holder, when another operation has it.

        ``scope``: a lock of its own for what may go on beside everything else (``wal``). ``patience``: seconds to go on trying;
        ``waiting`` is told once what is waited for.
        """

    def deciding(self, what: str) -> AbstractContextManager[None]:
        """The lock under which a backup's fate is sealed: whoever holds it knows that no deletion is between its last look and its deed.

        Raises ``Busy`` when somebody has it for minutes.
        """

    def in_use(self, backup_ids: Sequence[str], what: str) -> AbstractContextManager[None]:
        """These backups are not deleted while the block runs. ``what``: half a sentence, such as ``a verification reads it``.

        One whose manifest is gone when the block begins was deleted before: look again inside.
        """

    def used_now(self) -> dict[str, str]:
        """Ids of the backups that somebody reads now, with what he does.

        Raises ``Busy`` when it cannot be told of somebody what he reads.
        """


class FileLocks:
    """:class:`Locks` among the processes of this machine: files in a folder, which is made when it is first needed."""

    def __init__(self, folder: Path, application: str) -> None:
        self._folder = folder
        self._application = application

    @contextmanager
    def hold(
        self,
        operation: str,
        *,
        scope: str = "",
        patience: float = 0.0,
        waiting: Callable[[str], None] = lambda line: None,
    ) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._folder / (f"{self._application}.{scope}.lock" if scope else f"{self._application}.lock")
        # Through a link of whom the folder belongs to, root would write its note over any file.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
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
                    f"{operation} of {self._application} cannot start while {_holder(path)} is going on",
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

    def deciding(self, what: str) -> AbstractContextManager[None]:
        return self.hold(what, scope="deletion", patience=_DECIDED_SECONDS)

    @contextmanager
    def in_use(self, backup_ids: Sequence[str], what: str) -> Iterator[None]:
        # Each reader has a file, which it holds by the kernel's lock.
        place = self._uses
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = place / f"{uuid.uuid4().hex}.json"
        begun = path.with_suffix(".new")
        descriptor = os.open(begun, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            try_lock(descriptor)
            os.write(descriptor, json.dumps({"backups": list(backup_ids), "what": what}).encode())
            with self.deciding("Reading a backup"):
                # Complete and locked before it has its name: nobody takes it for what a killed process left.
                begun.rename(path)
            yield
        finally:
            for each in (begun, path):
                each.unlink(missing_ok=True)
            os.close(descriptor)

    def used_now(self) -> dict[str, str]:
        # Files of those who died are removed.
        found: dict[str, str] = {}
        for path in sorted(self._uses.glob("*.json")):
            with suppress(FileNotFoundError):
                descriptor = os.open(path, os.O_RDWR)
                try:
                    if try_lock(descriptor):
                        path.unlink()
                        continue
                    found |= _noted(path)
                finally:
                    os.close(descriptor)
        return found

    @property
    def _uses(self) -> Path:
        return self._folder / f"{self._application}.uses"


def _holder(path: Path) -> str:
    try:
        note = read_mapping(read_file(path, NOTE.size), NOTE)
        return f"{note['operation']} (process {note['process']} on {note['host']}, since {note['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another operation"


def _noted(path: Path) -> dict[str, str]:
    try:
        note = read_mapping(read_file(path, NOTE.size), NOTE)
        return {str(backup_id): str(note["what"]) for backup_id in list(note["backups"])}
    except (DocumentInvalid, LookupError, TypeError):
        raise Busy(
            f"Somebody reads backups, and {path}, which should say which, is damaged",
            remedy="wait until he has ended, then run again",
        ) from None
