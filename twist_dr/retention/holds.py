"""Holds as they lie on a storage target, beside the backups that they keep: they outlive the catalog.

    <application>/holds/<backup_id>/<when it was placed>-<four bytes>.json

The target is the truth: what lies here forbids deletion, whatever a catalog says. What cannot be read, or is not authentic, does so for
ever: whoever can write to a target may have changed until when, and who placed it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from twist_dr.errors import ObjectMissing, StorageError, TargetRefused
from twist_dr.redaction import one_line
from twist_dr.repository.keys import Key, Keyring
from twist_dr.repository.manifest import is_backup_id
from twist_dr.repository.repository import Repository
from twist_dr.repository.sealing import is_genuine, seal
from twist_dr.retention.ground import Survey, strangers
from twist_dr.retention.model import Hold
from twist_dr.storage.base import Digest, StoredObject, Stranger, told_of
from twist_dr.system.documents import NOTE, read_mapping
from twist_dr.system.scratch_folder import ScratchFolder
from twist_dr.system.words import counted, few

T = TypeVar("T")

FORMAT = 1
_KIND = "hold"
#: What folders are called in which a hold is written.
SCRATCH = "hold-"


def holds_folder(application: str) -> str:
    """Where holds lie on a target."""
    return f"{application}/holds"


@dataclass(frozen=True)
class HoldNote:
    """One hold on a target, as it says. ``doubt``: why that is not believed, half a sentence; empty for one of our making."""

    hold: Hold
    placed_at: datetime
    doubt: str = ""

    @property
    def binding(self) -> Hold:
        """What it forbids: in doubt, deletion for ever."""
        if not self.doubt:
            return self.hold
        told = f"{self.hold.reason} ({self.doubt})" if self.hold.reason else self.doubt
        return replace(self.hold, reason=told, until=None)

    def document(self, application: str, key: Key) -> bytes:
        """What is stored."""
        hold = self.hold
        values = {
            "format_version": FORMAT,
            "application": application,
            "backup_id": hold.backup_id,
            "who": hold.who,
            "reason": hold.reason,
            "placed_at": self.placed_at.isoformat(),
            "until": None if hold.until is None else hold.until.isoformat(),
        }
        return seal(values, key, _KIND)


class HoldNotes:
    """The holds of one application on one target. Objects are written once, so each is read once."""

    def __init__(self, repository: Repository, keyring: Keyring) -> None:
        self._repository = repository
        self._keyring = keyring
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
        self._read = {key: note for key, note in found.items() if not note.doubt}
        return [*found.values(), *self._led_away()]

    def _led_away(self) -> Iterator[HoldNote]:
        """Whoever puts a link or a pipe in the place of a hold does not end it."""
        folder = holds_folder(self._repository.application)
        for stranger in strangers(self._repository, folder):
            backup_id = stranger.path.removeprefix(f"{folder}/").partition("/")[0]
            if is_backup_id(backup_id):
                told = f"its hold on {self.target} cannot be read: {stranger}; look at that, and remove it"
                yield HoldNote(Hold(backup_id, "somebody", ""), datetime.now(timezone.utc), told)
            elif folder.startswith(stranger.path):
                raise TargetRefused(
                    f"{stranger}, so nobody can tell what is held there", remedy="move it away", target=self.target
                )

    @property
    def stored_bytes(self) -> int:
        """What all of them take. Raises storage errors."""
        return sum(stored.size for stored in self._listed(holds_folder(self._repository.application)))

    def place(self, note: HoldNote, scratch: Path) -> None:
        """Write a hold; ``scratch`` is a folder of ours. Raises storage errors."""
        document = note.document(self._repository.application, self._keyring.primary)
        digest = Digest(len(document), hashlib.sha256(document).hexdigest())
        placed = note.placed_at.astimezone(timezone.utc)
        key = f"{self._folder(note.hold.backup_id)}/{placed:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}.json"
        with ScratchFolder(scratch, SCRATCH) as folder:
            path = folder / "hold.json"
            path.touch(0o600)
            path.write_bytes(document)
            self._repository.target.put(path, key, digest)

    def remove(self, backup_id: str) -> int:
        """Remove all holds of a backup; returns how many there were. Raises storage errors."""
        keys = [stored.key for stored in self._listed(self._folder(backup_id))]
        for key in keys:
            self._delete(key)
        return len(keys)

    def _delete(self, key: str) -> None:
        self._repository.target.delete(key)

    def _folder(self, backup_id: str) -> str:
        return f"{holds_folder(self._repository.application)}/{backup_id}"

    def _listed(self, prefix: str) -> list[StoredObject]:
        below = f"{holds_folder(self._repository.application)}/"
        return [
            each
            for each in self._repository.target.list(prefix)
            if is_backup_id(each.key.removeprefix(below).partition("/")[0])
        ]

    def _note(self, stored: StoredObject) -> HoldNote:
        backup_id = stored.key.removeprefix(f"{holds_folder(self._repository.application)}/").partition("/")[0]
        try:
            values = read_mapping(self._repository.document(stored.key, NOTE.size), NOTE)
            note = _parsed(values, backup_id)
        except ObjectMissing:
            raise
        except (StorageError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
            unknown = HoldNote(Hold(backup_id, "somebody", ""), stored.modified)
            return self._doubted(unknown, stored.key, "cannot be read")
        if values.get("application") == self._repository.application and is_genuine(values, self._keyring, _KIND):
            return note
        return self._doubted(note, stored.key, "is not authentic, and holds for ever whatever it says")

    def _doubted(self, note: HoldNote, key: str, why: str) -> HoldNote:
        remedy = f"look at it, then run: twist-dr release {note.hold.backup_id}"
        return replace(note, doubt=f"its hold on {self.target} {why} ({key}); {remedy}")


def _parsed(values: Any, backup_id: str) -> HoldNote:
    """Raises all that the calendar can, such as ``OverflowError``, for what is no hold of this backup."""
    if values["format_version"] != FORMAT or values["backup_id"] != backup_id:
        raise ValueError
    until = None if values["until"] is None else _moment(values["until"])
    who, reason = one_line(str(values["who"])), one_line(str(values["reason"]))
    return HoldNote(Hold(backup_id, who, reason, until), _moment(values["placed_at"]))


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError
    return moment.astimezone(timezone.utc)


def suspicious(
    name: str, lying: Sequence[Stranger], ground: Survey, notes: HoldNotes, placed: Collection[Hold]
) -> Iterator[str]:
    """What lies there and is not of our making, in sentences: it makes nothing disappear, and people are told. ``placed``: the holds that the catalog has. Raises storage errors."""
    if lying:
        yield f"{name}: {told_of(lying)}; it is left alone."
    if ground.forged:
        yield (
            f"{name}: {counted(len(ground.forged), 'tombstone')} that we did not write, or that an earlier version wrote, for "
            f"{few(sorted(ground.forged))}: nothing is deleted because of that, and a cleanup removes it."
        )
    if ground.foreign:
        yield f"{name}: {few(ground.foreign)} among the backups is none of ours by its name; it is left alone."
    for note in notes.all():
        if note.doubt and note.hold not in placed:
            yield f"{name}: {note.hold.backup_id}: {note.doubt}"
