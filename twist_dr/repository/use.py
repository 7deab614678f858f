"""Backups that somebody reads while no lock keeps cleanup away: verifications, rehearsals, long downloads.

Each of them has a file beside the locks, which it holds by the kernel's lock: it ends with its holder, however that ends.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from twist_dr.errors import Busy
from twist_dr.system.documents import NOTE, DocumentInvalid, read_file, read_mapping
from twist_dr.system.lock import application_lock, try_lock

#: How long one waits while a backup's fate is being decided: one tombstone, one look, one deletion of a manifest.
_PATIENCE_SECONDS = 120.0


def deciding(folder: Path, application: str, what: str) -> AbstractContextManager[None]:
    """The lock under which a backup's fate is sealed: whoever holds it knows that no deletion is between its last look and its deed.

    ``folder`` is that of the locks. Raises ``Busy`` when somebody has it for minutes.
    """
    return application_lock(folder, application, what, scope="deletion", patience=_PATIENCE_SECONDS)


@contextmanager
def in_use(folder: Path, application: str, backup_ids: Sequence[str], what: str) -> Iterator[None]:
    """These backups are not deleted while the block runs. ``what``: half a sentence, such as ``a verification reads it``.

    One whose manifest is gone when the block begins was deleted before: look again inside.
    """
    place = folder / f"{application}.uses"
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = place / f"{uuid.uuid4().hex}.json"
    begun = path.with_suffix(".new")
    descriptor = os.open(begun, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        try_lock(descriptor)
        os.write(descriptor, json.dumps({"backups": list(backup_ids), "what": what}).encode())
        with deciding(folder, application, "Reading a backup"):
            # Complete and locked before it has its name: nobody takes it for what a killed process left.
            begun.rename(path)
        yield
    finally:
        for each in (begun, path):
            each.unlink(missing_ok=True)
        os.close(descriptor)


def used_now(folder: Path, application: str) -> dict[str, str]:
    """Ids of the backups that somebody reads now, with what he does. Files of those who died are removed.

    Raises ``Busy`` when it cannot be told of somebody what he reads.
    """
    found: dict[str, str] = {}
    for path in sorted((folder / f"{application}.uses").glob("*.json")):
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


def _noted(path: Path) -> dict[str, str]:
    try:
        note = read_mapping(read_file(path, NOTE.size), NOTE)
        return {str(backup_id): str(note["what"]) for backup_id in list(note["backups"])}
    except (DocumentInvalid, LookupError, TypeError):
        raise Busy(
            f"Somebody reads backups, and {path}, which should say which, is damaged",
            remedy="wait until he has ended, then run again",
        ) from None
