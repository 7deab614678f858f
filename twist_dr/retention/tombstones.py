"""Tombstones: that a deletion was begun, beside the backups that they speak of.

    <application>/tombstones/<backup_id>.json

One that bears no MAC of ours deletes nothing, and is in nobody's way.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime

from twist_dr.errors import ObjectMissing
from twist_dr.repository.keys import Key, Keyring
from twist_dr.repository.repository import Repository
from twist_dr.repository.sealing import is_genuine, seal
from twist_dr.system.documents import NOTE, DocumentInvalid, read_mapping

FORMAT = 1
_KIND = "tombstone"


def tombstone_folder(application: str) -> str:
    """Where tombstones lie on a target."""
    return f"{application}/tombstones"


def tombstone_key(application: str, backup_id: str) -> str:
    """Where that of a backup lies."""
    return f"{tombstone_folder(application)}/{backup_id}.json"


@dataclass(frozen=True)
class Tombstone:
    """Who deletes a backup, why, when, and in which run."""

    backup_id: str
    who: str
    why: str
    at: datetime
    run: str | None = None

    def document(self, application: str, key: Key) -> bytes:
        """What is stored."""
        values = {**asdict(self), "at": self.at.isoformat(), "application": application, "format_version": FORMAT}
        return seal(values, key, _KIND)


def has_genuine_tombstone(repository: Repository, backup_id: str, keyring: Keyring) -> bool:
    """Whether we began to delete that backup there: its tombstone is there, and it is of our making. Raises storage errors."""
    try:
        document = read_mapping(repository.document(tombstone_key(repository.application, backup_id), NOTE.size), NOTE)
    except (ObjectMissing, DocumentInvalid):
        return False
    return (document.get("application"), document.get("backup_id")) == (
        repository.application,
        backup_id,
    ) and is_genuine(document, keyring, _KIND)


def is_being_deleted(repository: Repository, backup_id: str, keyring: Keyring) -> bool:
    """Whether a cleanup has begun to delete a backup that is none any more. Raises storage errors."""
    return has_genuine_tombstone(repository, backup_id, keyring) and not repository.has_manifest(backup_id)
