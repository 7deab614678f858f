"""A backup that has become old moves to another target: it is stored there, checked, and only then deleted here by ``deletion.py``. Or to another class of its store."""

from __future__ import annotations

from dataclasses import dataclass

from twist_dr.backup.storing import StoredCopy, pass_on
from twist_dr.catalog.notes import ArchivedCopies, archived_copies
from twist_dr.errors import BackupError, CopyFailed, EncryptionError, ObjectArchived, StorageError, TwistDRError
from twist_dr.repository.first_good import CORRUPT
from twist_dr.repository.repository import Repository
from twist_dr.retention.ground import Survey
from twist_dr.settings import Application
from twist_dr.system.scratch_folder import ScratchFolder
from twist_dr.system.space import need_space

#: What folders are called in which artifacts lie on their way.
SCRATCH = "move-"


def move(app: Application, source: Repository, backup_id: str, to: str) -> StoredCopy:
    """Store a backup that ``source`` holds on the target ``to``; from ``source`` nothing is deleted.

    Raises ``CopyFailed`` and other errors of backups and keys when it is this backup's own fault (the catalog then knows of a bad copy), storage
    errors of either target, ``StagingFull`` and ``Cancelled``.
    """
    name, destination = source.target.name, app.repositories()[to]
    try:
        manifest, sealed = source.sealed(backup_id, app.keyring)
        held = source.held(manifest)
        if app.settings.storage_targets[to].encrypt and not all(form.encrypted for form, _ in held.values()):
            raise CopyFailed(
                f"{backup_id} stays, as it is stored unencrypted, and {to} keeps everything encrypted",
                remedy=f"let the retention of {name} end it, or set encrypt: false for {to}",
            )
        largest = max(stored.size for _, stored in held.values())
        need_space(
            app.settings.work_dir,
            largest,
            f"The move of {backup_id}",
            "free space there or set work_dir to a larger disk",
        )
        with ScratchFolder(app.settings.work_dir, SCRATCH) as folder:
            return pass_on(manifest, sealed, source, destination, folder, app.report)
    except (*CORRUPT, ObjectArchived) as error:
        _note_bad(app, backup_id, name, error)
        raise CopyFailed(
            f"{backup_id} stays, as it could not be moved to {to}: {error.clause}", remedy=error.remedy
        ) from error


@dataclass(frozen=True)
class Reclassed:
    """How many bytes are in another storage class now, and whether they must be restored in the store before they can be read."""

    size: int
    archived: bool


def reclass(app: Application, repository: Repository, backup_id: str, storage_class: str) -> Reclassed:
    """Have the artifacts of a backup kept in another class of the same store; its manifest stays where it is read at once.

    Raises as :func:`move`.
    """
    manifest = repository.manifest(backup_id, app.keyring)
    try:
        held = [stored for _, stored in repository.held(manifest).values()]
        total = sum(stored.size for stored in held)
        with app.report.part(f"{backup_id} to {storage_class}", total) as advance:
            for stored in held:
                repository.target.change_class(
                    repository.key(backup_id, stored.name), stored.digest, storage_class, advance
                )
    except CORRUPT as error:
        _note_bad(app, backup_id, repository.target.name, error)
        raise CopyFailed(f"{backup_id} stays in its storage class: {error.clause}", remedy=error.remedy) from error
    there = [repository.target.stat(repository.key(backup_id, stored.name)) for stored in held]
    return Reclassed(total, any(each is not None and each.archived for each in there))


def note_archived(app: Application, name: str, ground: Survey) -> None:
    """Have the catalog know which copies on a target must be restored in the store before they can be read: no scrub reads these."""
    copies = {
        each.backup_id: each.storage_class or "several classes" for each in ground.folders.values() if each.archived
    }
    if copies != archived_copies(app.catalog, app.name, name):
        app.catalog.leave_note(app.name, ArchivedCopies(copies=copies), name)


def _note_bad(app: Application, backup_id: str, name: str, error: TwistDRError) -> None:
    row = app.catalog.copy(backup_id, name)
    if isinstance(error, CORRUPT) and error.target in (None, name) and row is not None:
        app.catalog.record_copy(backup_id, name, state="corrupt", form=row.form, error=error)


def lacks(app: Application, name: str, backup_id: str) -> str | None:
    """Why a backup does not count as held by a target, half a sentence; None when its manifest is genuine and all that it names is there."""
    repository = app.repositories()[name]
    try:
        repository.held(repository.manifest(backup_id, app.keyring))
    except (BackupError, EncryptionError, StorageError) as error:
        return f"{name} does not hold all of it: {error.clause}"
    return None
