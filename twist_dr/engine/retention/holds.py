"""Holds as they lie on a storage target, beside the backups that they keep: they outlive the catalog.

    <application>/holds/<backup_id>/<when it was placed>-<four bytes>.json

The target is the truth: what lies here forbids deletion, whatever a catalog says, and what cannot be read does so for ever.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

from twist_dr.engine.manifest import is_backup_id
from twist_dr.engine.patience import bounded
from twist_dr.engine.repository import Repository
from twist_dr.engine.retention.ground import listed
from twist_dr.engine.retention.model import Hold
from twist_dr.engine.scratch_folder import ScratchFolder
from twist_dr.errors import ObjectMissing, StorageError
from twist_dr.storage.base import Digest, StoredObject

T = TypeVar("T")

FORMAT = 1
#: What folders are called in which a hold is written.
SCRATCH = "hold-"
#: A reason that a person wrote is shorter.
_MOST_BYTES = 1 << 20


def holds_folder(application: str) -> str:
    """Where holds lie on a target."""
    return f"{application}/holds"


@dataclass(frozen=True)
class HoldNote:
    """One hold on a target. ``readable``: False for one that forbids deletion because nobody can tell what it says."""

    hold: Hold
    placed_at: datetime
    readable: bool = True

    def document(self) -> bytes:
        hold = self.hold
        values = {
            "format_version": FORMAT,
            "backup_id": hold.backup_id,
            "who": hold.who,
            "reason": hold.reason,
            "placed_at": self.placed_at.isoformat(),
            "until": None if hold.until is None else hold.until.isoformat(),
        }
        return json.dumps(values, sort_keys=True, ensure_ascii=False).encode()


class HoldNotes:
    """The holds of one application on one target. Objects are written once, so each is read once."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._read: dict[str, HoldNote] = {}

    @property
    def target(self) -> str:
        """The target's name."""
        return self._repository.target.name

    def all(self) -> list[HoldNote]:
        """What holds now, those that have run out too, oldest first of each backup. Raises storage errors."""
        found: dict[str, HoldNote] = {}
        for stored in self._listed(holds_folder(self._repository.application)):
            try:
                found[stored.key] = self._read.get(stored.key) or self._note(stored)
            except ObjectMissing:  # released since it was listed
                continue
        self._read = {key: note for key, note in found.items() if note.readable}
        return list(found.values())

    @property
    def stored_bytes(self) -> int:
        """What all of them take. Raises storage errors."""
        return sum(stored.size for stored in self._listed(holds_folder(self._repository.application)))

    def place(self, note: HoldNote, scratch: Path) -> None:
        """Write a hold; ``scratch`` is a folder of ours. Raises storage errors."""
        document = note.document()
        digest = Digest(len(document), hashlib.sha256(document).hexdigest())
        placed = note.placed_at.astimezone(timezone.utc)
        key = f"{self._folder(note.hold.backup_id)}/{placed:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}.json"
        with ScratchFolder(scratch, SCRATCH) as folder:
            path = folder / "hold.json"
            path.touch(0o600)
            path.write_bytes(document)
            self._patiently(lambda: self._repository.target.put(path, key, digest))

    def remove(self, backup_id: str) -> int:
        """Remove all holds of a backup; returns how many there were. Raises storage errors."""
        keys = [stored.key for stored in self._listed(self._folder(backup_id))]
        for key in keys:
            self._delete(key)
        return len(keys)

    def _delete(self, key: str) -> None:
        self._patiently(lambda: self._repository.target.delete(key))

    def _folder(self, backup_id: str) -> str:
        return f"{holds_folder(self._repository.application)}/{backup_id}"

    def _listed(self, prefix: str) -> list[StoredObject]:
        below = f"{holds_folder(self._repository.application)}/"
        return [
            each
            for each in listed(self._repository, prefix)
            if is_backup_id(each.key.removeprefix(below).partition("/")[0])
        ]

    def _note(self, stored: StoredObject) -> HoldNote:
        def read() -> bytes:
            with self._repository.target.open(stored.key) as stream:
                return stream.read(_MOST_BYTES)

        backup_id = stored.key.removeprefix(f"{holds_folder(self._repository.application)}/").partition("/")[0]
        try:
            return _parsed(self._patiently(read), backup_id)
        except ObjectMissing:
            raise
        except (StorageError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
            reason = f"its hold on {self.target} cannot be read ({stored.key}); look at it, then run: twist-dr release {backup_id}"
            return HoldNote(Hold(backup_id, "somebody", reason), stored.modified, readable=False)

    def _patiently(self, call: Callable[[], T]) -> T:
        patience = self._repository.patience
        return call() if patience is None else bounded(call, patience, self.target)


def _parsed(data: bytes, backup_id: str) -> HoldNote:
    """Raises all that JSON and the calendar can, such as ``OverflowError``, for what is no hold of this backup."""
    values = json.loads(data)
    if values["format_version"] != FORMAT or values["backup_id"] != backup_id:
        raise ValueError
    until = None if values["until"] is None else _moment(values["until"])
    return HoldNote(Hold(backup_id, str(values["who"]), str(values["reason"]), until), _moment(values["placed_at"]))


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError
    return moment.astimezone(timezone.utc)
