"""Reading one copy as its target holds it, and naming every object of it that is bad or gone."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass

from twist_dr.errors import (
    BackupNotFound,
    EncryptionError,
    ManifestForeign,
    ManifestInvalid,
    ManifestTooNew,
    ObjectCorrupt,
    ObjectMissing,
    StorageError,
    TargetUnavailable,
)
from twist_dr.repository.keys import Keyring
from twist_dr.repository.manifest import MANIFEST_NAME, Artifact, ArtifactForm, Manifest
from twist_dr.repository.repository import Repository, form_named
from twist_dr.storage.base import OnBytes


@dataclass(frozen=True)
class Damage:
    """An object of a copy that is not what was recorded. ``artifact`` is None for the manifest; ``missing``: it is not there at all."""

    name: str
    artifact: Artifact | None
    stored: ArtifactForm | None
    missing: bool
    why: str


@dataclass(frozen=True)
class CopyRead:
    """What a copy was found to be. ``sealed``: its genuine manifest, wherever it was taken from. ``size``: bytes that it has as stored when good."""

    backup_id: str
    target: str
    manifest: Manifest
    sealed: bytes
    size: int
    damages: tuple[Damage, ...]

    @property
    def good(self) -> bool:
        return not self.damages

    @property
    def gone(self) -> bool:
        """Whether all that is wrong is that something is not there: as with a copy that is being deleted."""
        return bool(self.damages) and all(damage.missing for damage in self.damages)

    @property
    def told(self) -> str:
        """All that is wrong, on one line."""
        return " ".join(damage.why for damage in self.damages)


def read_copy(
    repository: Repository,
    backup_id: str,
    form_name: str,
    keyring: Keyring,
    progress: OnBytes,
    elsewhere: Callable[[], tuple[Manifest, bytes] | None],
) -> CopyRead:
    """Authenticate the manifest and hold every artifact, as stored, against it. All that is wrong is found, not the first of it.

    ``form_name``: the form in which the target should hold it. ``elsewhere`` gives the genuine manifest from another place, asked only when the
    target's own is not. Raises ``TargetUnavailable`` and ``TargetRefused`` when the target cannot be read, the errors of a keyring that lacks the
    key, and ``BackupNotFound`` when there is no genuine manifest anywhere.
    """
    damages: list[Damage] = []
    try:
        sealed = repository.manifest_bytes(backup_id)
        manifest = repository.opened(sealed, backup_id, keyring)
    except (BackupNotFound, ManifestInvalid, ManifestForeign, ManifestTooNew, EncryptionError, StorageError) as error:
        if isinstance(error, StorageError) and not _is_bad_sector(error, repository):
            raise
        found = elsewhere()
        if found is None:
            raise
        manifest, sealed = found
        missing = isinstance(error, BackupNotFound)
        why = f"{repository.target.name}: {backup_id}/{MANIFEST_NAME}: missing." if missing else str(error)
        damages.append(Damage(MANIFEST_NAME, None, None, missing, why))
    size = len(sealed)
    listed = _sizes(repository, backup_id)
    for artifact in manifest.artifacts:
        stored = _expected(artifact, form_name, listed)
        size += stored.size
        damage = _look(repository, manifest, artifact, stored, listed, progress)
        if damage is not None:
            damages.append(damage)
    return CopyRead(backup_id, repository.target.name, manifest, sealed, size, tuple(damages))


def _sizes(repository: Repository, backup_id: str) -> dict[str, int]:
    prefix = repository.key(backup_id, "")
    return {each.key.removeprefix(prefix): each.size for each in repository.target.list(prefix.rstrip("/"))}


def _expected(artifact: Artifact, form_name: str, listed: dict[str, int]) -> ArtifactForm:
    """The form that should be there: the target's; where only another one is, that."""
    form = form_named(form_name)
    wanted = artifact.in_form(form) if form is not None else None
    if wanted is not None and wanted.name in listed:
        return wanted
    there = next((stored for stored in artifact.stored.values() if stored.name in listed), None)
    return there or wanted or next(iter(artifact.stored.values()))


def _look(
    repository: Repository,
    manifest: Manifest,
    artifact: Artifact,
    stored: ArtifactForm,
    listed: dict[str, int],
    progress: OnBytes,
) -> Damage | None:
    target, key = repository.target, repository.key(manifest.backup_id, stored.name)
    what = f"{target.name}: {manifest.backup_id}/{stored.name}"
    # Asked of the object itself: a listing may be old.
    there = target.stat(key) if listed.get(stored.name, stored.size) != stored.size else None
    if there is not None and there.size != stored.size:
        why = f"{what}: {there.size} bytes where {stored.size} were recorded."
        return Damage(stored.name, artifact, stored, False, why)
    try:
        # Also when it was not listed: some stores list late what they hold.
        target.check(key, stored.digest, progress)
    except ObjectMissing:
        return Damage(stored.name, artifact, stored, True, f"{what}: missing.")
    except ObjectCorrupt:
        return Damage(stored.name, artifact, stored, False, f"{what}: other bytes than were recorded.")
    except TargetUnavailable as error:
        if not _is_bad_sector(error, repository):
            raise
        return Damage(stored.name, artifact, stored, False, f"{what}: the disk cannot read it any more.")
    return None


def _is_bad_sector(error: StorageError, repository: Repository) -> bool:
    """Whether the disk is there and fails in this one place."""
    if not (isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EIO):
        return False
    try:
        repository.target.children(f"{repository.application}/backups")
    except StorageError:
        return False
    return True
