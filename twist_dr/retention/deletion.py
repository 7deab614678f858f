"""The one place that deletes: copies of backups, what killed copies left, archived WAL.

A copy goes in steps, so that whenever this is killed the target holds either a backup, whole, or an incomplete one that says what it is:

    1. <application>/tombstones/<backup_id>.json is written: who, why, when
    2. everything is looked at once more: is it still the one to go?
    3. its manifest goes: from here on it is no backup, and the target lists none
    4. all else goes, and at last the tombstone

Whoever finds a tombstone beside a manifest has found a backup; beside none, a deletion to finish.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from twist_dr.errors import (
    BackupError,
    BackupNotFound,
    EncryptionError,
    ObjectExists,
    StorageError,
    TargetRefused,
    clause_of,
)
from twist_dr.repository.artifact_names import is_stored_name
from twist_dr.repository.keys import Keyring
from twist_dr.repository.manifest import MANIFEST_NAME, Manifest
from twist_dr.repository.repository import Repository
from twist_dr.retention.tombstones import Tombstone, has_genuine_tombstone, tombstone_key
from twist_dr.storage.base import Digest
from twist_dr.system.scratch_folder import ScratchFolder
from twist_dr.wal.holdings import Stored
from twist_dr.wal.objects import WalArchive

#: What folders are called in which a tombstone is written; those of killed processes are for the caller to clear.
SCRATCH = "tombstone-"

#: ``kept``: something spoke against it. ``untrusted``: its manifest cannot be read or is not genuine, so it stays until a person sees to it.
#: ``refused``: the target did; the backup is as it was. ``incomplete``: no backup any more, but not all is gone.
Fate = Literal["deleted", "kept", "untrusted", "refused", "incomplete"]

#: Why a backup must stay after all, half a sentence; None when nothing speaks for it.
Still = Callable[[Manifest], str | None]
#: The same of what has no manifest.
Asked = Callable[[], str | None]


def _nothing() -> None:
    """Nothing speaks for what is left."""


@dataclass(frozen=True)
class Deleted:
    """What became of a backup. ``reason`` is half a sentence, of an error the whole one. ``freed``: bytes as stored."""

    backup_id: str
    fate: Fate
    reason: str = ""
    freed: int = 0


class _Untrusted(Exception):
    """Its words: why a manifest is no ground to delete anything upon."""


class Deletion:
    """Deletes from one target. ``scratch`` is a folder of ours; ``guard`` the lock under which a backup's fate is sealed."""

    def __init__(
        self,
        repository: Repository,
        keyring: Keyring,
        scratch: Path,
        guard: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._repository = repository
        self._target = repository.target
        self._keyring = keyring
        self._scratch = scratch
        self._guard = guard

    # -- backups -------------------------------------------------------------------------------------------------------

    def delete(self, tombstone: Tombstone, still: Still, gone: Callable[[int], None]) -> Deleted:
        """Delete a backup unless ``still``, asked at the last moment with its authenticated manifest, says why not.

        ``gone`` is called with its bytes once its manifest is deleted; what it raises leaves the rest to the next time, as a kill does.
        ``still`` may raise a ``BackupError``, which then leaves the backup as it was. Raises ``TargetUnavailable``, and ``TargetRefused`` where
        not even a tombstone can be written.
        """
        backup_id = tombstone.backup_id
        with self._guard():
            self._bury(tombstone)
            try:
                reason, keys = self._last_look(backup_id, still)
                if reason is None:
                    self._target.delete(self._manifest_key(backup_id))
                    if self._target.stat(self._manifest_key(backup_id)) is not None:
                        raise TargetRefused(
                            f"{self._manifest_key(backup_id)} is there still after it was deleted",
                            remedy="look at that storage target, then run cleanup again",
                            target=self._target.name,
                        )
            except (TargetRefused, _Untrusted) as error:
                self.spare(backup_id)
                return Deleted(
                    backup_id, "refused" if isinstance(error, TargetRefused) else "untrusted", clause_of(error)
                )
            except BackupError:
                self.spare(backup_id)
                raise
            if reason is not None:
                self.spare(backup_id)
                return Deleted(backup_id, "kept", reason)
        gone(sum(keys.values()))
        return self._clear(backup_id, keys)

    def finish(self, backup_id: str, gone: Callable[[int], None], still: Asked = _nothing) -> Deleted:
        """Finish the deletion of a backup that has a tombstone and no manifest any more, unless ``still`` says why not.

        Raises storage errors, and what ``gone`` and ``still`` raise.
        """
        if (reason := self._why_kept(backup_id, still)) is not None:
            self.spare(backup_id)
            return Deleted(backup_id, "kept", reason)
        keys = self._keys(backup_id)
        gone(sum(keys.values()))
        return self._clear(backup_id, keys, still)

    def spare(self, backup_id: str) -> None:
        """Remove the tombstone of a backup that stays. One that the target does not give up does no harm."""
        with suppress(StorageError):
            self._target.delete(self._tombstone_key(backup_id))

    def remove_incomplete(self, backup_id: str, still: Asked = _nothing) -> Deleted:
        """Delete what lies below an id that has no manifest, which is asked of the target itself once more, and of ``still`` before each object."""
        if (reason := self._why_kept(backup_id, still)) is not None:
            return Deleted(backup_id, "kept", reason)
        return self._clear(backup_id, self._keys(backup_id), still)

    def _why_kept(self, backup_id: str, still: Asked) -> str | None:
        with self._guard():
            if self._target.stat(self._manifest_key(backup_id)) is not None:
                return "its manifest is there"
            return still()

    def locked_until(self, backup_id: str) -> datetime | None:
        """Until when the store keeps a backup's manifest from being deleted."""
        return self._target.locked_until(self._manifest_key(backup_id))

    def _bury(self, tombstone: Tombstone) -> None:
        document = tombstone.document(self._repository.application, self._keyring.primary)
        digest = Digest(len(document), hashlib.sha256(document).hexdigest())
        with ScratchFolder(self._scratch, SCRATCH) as folder:
            path = folder / "tombstone.json"
            path.touch(0o600)
            path.write_bytes(document)
            key = self._tombstone_key(tombstone.backup_id)
            try:
                self._target.put(path, key, digest)
            except ObjectExists:
                # One of ours was written by a run that was cut short: it tells why this began. One of others tells nothing.
                if not has_genuine_tombstone(self._repository, tombstone.backup_id, self._keyring):
                    self._target.delete(key)
                    self._target.put(path, key, digest)

    def _last_look(self, backup_id: str, still: Still) -> tuple[str | None, dict[str, int]]:
        """Why it must stay, and all that lies below its id."""
        try:
            manifest = self._repository.manifest(backup_id, self._keyring)
        except BackupNotFound:
            return "its manifest is not there any more", {}
        except (BackupError, EncryptionError) as error:
            raise _Untrusted(
                f"{backup_id} stays, as its manifest cannot be trusted and nothing is deleted in doubt: {error}"
            ) from error
        if (reason := still(manifest)) is not None:
            return reason, {}
        keys = self._keys(backup_id)
        for artifact in manifest.artifacts:  # a listing may lack what the manifest names
            for form in artifact.stored.values():
                keys.setdefault(self._repository.key(backup_id, form.name), 0)
        # All of it: a backup of which only a part can go would be no backup, and take its space all the same.
        until = max((end for key in keys if (end := self._target.locked_until(key)) is not None), default=None)
        if until is not None:
            return f"locked by the store (Object Lock) until {until:%Y-%m-%d %H:%M} UTC", {}
        return None, keys

    def _keys(self, backup_id: str) -> dict[str, int]:
        """Every object below an id that a backup can have, with its bytes. What others put there is not ours to delete."""
        below = self._repository.key(backup_id, "")
        return {
            each.key: each.size
            for each in self._repository.target.list(below.rstrip("/"))
            if is_stored_name(each.key.removeprefix(below))
        }

    def _clear(self, backup_id: str, keys: dict[str, int], still: Asked = _nothing) -> Deleted:
        """Delete all but a manifest, then the tombstone if nothing is left, or ``still`` says why the rest stays. ``keys`` with their bytes."""
        manifest, refused, freed = self._manifest_key(backup_id), "", 0
        for key in {**keys, **self._keys(backup_id)}:
            if key == manifest:  # gone already, whatever a listing says; a new one is a new backup
                freed += keys.get(key, 0)
                continue
            # Who copies anew takes no lock of ours, and what he has put here just now must not go.
            if (reason := still()) is not None:
                self.spare(backup_id)
                return Deleted(backup_id, "kept", reason, freed)
            try:
                self._target.delete(key)
                freed += keys.get(key, 0)
            except TargetRefused as error:
                refused = refused or error.clause
        if refused:
            return Deleted(backup_id, "incomplete", refused, freed)
        if left := [key for key in self._keys(backup_id) if key != manifest and self._target.stat(key) is not None]:
            told = f"{left[0]} is there still after it was deleted; the next cleanup tries again."
            return Deleted(backup_id, "incomplete", told, freed)
        self.spare(backup_id)
        return Deleted(backup_id, "deleted", freed=freed)

    def _manifest_key(self, backup_id: str) -> str:
        return self._repository.key(backup_id, MANIFEST_NAME)

    def _tombstone_key(self, backup_id: str) -> str:
        return tombstone_key(self._repository.application, backup_id)


# -- write-ahead log ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WalDeleted:
    """How many objects of how many bytes went. ``locked``: what the store's Object Lock kept, half a sentence. ``refused``: the error's sentence."""

    objects: int
    freed: int
    locked: str = ""
    refused: str = ""


def delete_wal(archive: WalArchive, objects: Iterable[Stored]) -> WalDeleted:
    """Delete archived WAL in the order given, the oldest first: wherever this is cut short, what is left has no new hole.

    What ships WAL goes on meanwhile: it adds at the other end, and looks at nothing that is older than what it adds. Raises
    ``TargetUnavailable``.
    """
    count = freed = 0
    for stored in objects:
        until = archive.target.locked_until(stored.key)
        if until is not None:
            # Those behind it were stored later, and are locked longer.
            return WalDeleted(
                count, freed, locked=f"{stored.key} is locked by the store until {until:%Y-%m-%d %H:%M} UTC"
            )
        try:
            archive.remove(stored.key)
        except TargetRefused as error:
            return WalDeleted(count, freed, refused=error.clause)
        count, freed = count + 1, freed + stored.size
    return WalDeleted(count, freed)
