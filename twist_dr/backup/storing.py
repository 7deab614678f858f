"""Putting a staged backup on a storage target."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from twist_dr.errors import CopyFailed, ObjectExists, StorageError
from twist_dr.repository.keys import Keyring
from twist_dr.repository.manifest import MANIFEST_NAME, Manifest
from twist_dr.repository.repository import Repository
from twist_dr.repository.staging import StagingArea
from twist_dr.repository.streams import Form, write_new
from twist_dr.storage.base import Digest, OnBytes, StorageTarget
from twist_dr.storage.chunks import counted, hashed, read_chunks
from twist_dr.system.progress import Report

#: Nothing came for so long: it was left by a killed run, and nobody went on with it.
_UNFINISHED_AFTER = timedelta(days=2)

#: Called with a target's repository when a backup's artifacts are there and its manifest is not yet.
BeforeSealed = Callable[[Repository], None]


@dataclass(frozen=True)
class StoredCopy:
    """What a target holds now. ``bytes`` as stored, manifest included; ``seconds`` it took to store and check them."""

    target: str
    form: Form
    bytes: int
    seconds: float


def store_copy(
    manifest: Manifest,
    folder: Path,
    repository: Repository,
    form: Form,
    report: Report,
    *,
    held_before: bool = False,
    before_sealed: BeforeSealed | None = None,
) -> StoredCopy:
    """Store and check every artifact, then the manifest. What is there already and right is not sent again.

    ``folder`` holds the sealed backup. ``held_before``: the target is known to hold backups, so one that lists none is
    an empty mount point or was wiped, and is refused. ``before_sealed`` is called when all artifacts are there, and raises when the
    target lacks what the backup needs beside them. Raises storage errors, ``Cancelled``, and what that raises; then no manifest is there,
    and the next attempt goes on from what was stored.
    """
    begun = time.monotonic()
    target = repository.target
    made = [artifact.in_form(form) for artifact in manifest.artifacts]
    stored = [each for each in made if each is not None and (folder / each.name).exists()]
    if len(stored) < len(made):
        raise CopyFailed(
            f"{target.name} keeps backups as {form.name}, and {manifest.backup_id} was not made in that form",
            remedy="make a new backup",
        )
    if held_before:
        # Asked before the target may make its folder: an absent disk must not become a new, empty target.
        repository.need_backups()
    target.prepare()
    _sweep(target, report)
    total = manifest.stored_bytes(form)
    with report.part(f"copy to {target.name}", total) as advance:
        for each in stored:
            _put(repository, manifest.backup_id, folder / each.name, each.digest, advance, report)
        if before_sealed is not None:
            before_sealed(repository)
        sealed = (folder / MANIFEST_NAME).read_bytes()
        digest = Digest(len(sealed), hashlib.sha256(sealed).hexdigest())
        _put(repository, manifest.backup_id, folder / MANIFEST_NAME, digest, advance, report)
    return StoredCopy(target.name, form, total + digest.size, round(time.monotonic() - begun, 3))


def _sweep(target: StorageTarget, report: Report) -> None:
    """Remove what killed runs left unfinished. Not being allowed to look for it is no reason not to store a backup."""
    try:
        swept = target.sweep(_UNFINISHED_AFTER)
    except StorageError as error:
        report.warning(f"unfinished uploads of earlier days could not be removed: {error}")
    else:
        if swept:
            report.info(f"{target.name}: removed {swept} unfinished uploads of earlier days")


def _put(repository: Repository, backup_id: str, path: Path, digest: Digest, progress: OnBytes, report: Report) -> None:
    key = repository.key(backup_id, path.name)
    try:
        repository.target.put(path, key, digest, progress)
    except ObjectExists:
        # Nobody else writes under this id, so other bytes there are ours gone bad: the copy is repaired.
        report.warning(
            f"{repository.target.name}: {backup_id}/{path.name} was there with other bytes; it is stored anew"
        )
        repository.target.delete(key)
        repository.target.put(path, key, digest, progress)


def pass_on(
    manifest: Manifest, sealed: bytes, source: Repository, to: Repository, scratch: Path, report: Report
) -> StoredCopy:
    """Store a backup on one target as another holds it, artifact by artifact, its manifest last. ``scratch``: a folder with space for the largest.

    What is there already and right is not sent again. Raises storage errors, ``ArtifactInvalid`` when ``source`` gives other bytes than were
    recorded, ``StagingFull`` and ``Cancelled``; then no manifest is there, and the next attempt goes on from what was stored.
    """
    begun = time.monotonic()
    held = source.readable(manifest)
    to.target.prepare()
    total = sum(stored.size for _, stored in held.values())
    with report.part(f"{source.target.name} to {to.target.name}", total) as advance:

        def put(path: Path, digest: Digest) -> None:
            _put(to, manifest.backup_id, path, digest, advance, report)
            path.unlink()

        for _, stored in held.values():
            path, what = scratch / stored.name, f"{manifest.backup_id}/{stored.name}"
            with source.target.open(source.key(manifest.backup_id, stored.name)) as stream:
                write_new(path, source.named(hashed(read_chunks(stream), stored.digest, what)), durable=False)
            put(path, stored.digest)
        write_new(scratch / MANIFEST_NAME, [sealed], durable=False)
        put(scratch / MANIFEST_NAME, Digest(len(sealed), hashlib.sha256(sealed).hexdigest()))
    # Of artifacts that are always encrypted no form tells how the target keeps the others.
    form = min(form for form, _ in held.values())
    return StoredCopy(to.target.name, form, total + len(sealed), round(time.monotonic() - begun, 3))


def bring_back(
    manifest: Manifest, repository: Repository, staging: StagingArea, keyring: Keyring, report: Report
) -> None:
    """Put a backup that a target holds into staging again, as it is stored there, so that it can be copied on.

    Raises storage errors, ``ArtifactInvalid``, ``StagingFull`` and ``Cancelled``.
    """
    held = repository.readable(manifest)
    total = sum(stored.size for _, stored in held.values())
    staging.clear_incomplete()
    staging.need(total)
    sealed = repository.manifest_bytes(manifest.backup_id)
    # The bytes that are sealed are those that were authenticated, though the target was asked twice.
    repository.opened(sealed, manifest.backup_id, keyring)
    with staging.making(manifest.backup_id) as folder, report.part(f"from {repository.target.name}", total) as advance:
        for _, stored in held.values():
            with repository.target.open(repository.key(manifest.backup_id, stored.name)) as stream:
                read = counted(read_chunks(stream), advance)
                what = f"{manifest.backup_id}/{stored.name}"
                write_new(folder / stored.name, repository.named(hashed(read, stored.digest, what)))
        staging.seal(folder, sealed)
