"""A backup that has become old moves to another target: it is stored there, checked, and only then deleted here by ``deletion.py``."""

from __future__ import annotations

from twist_dr.backup.storing import StoredCopy, pass_on
from twist_dr.errors import BackupError, CopyFailed, EncryptionError, StorageError
from twist_dr.repository.first_good import CORRUPT
from twist_dr.repository.repository import Repository
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
    except CORRUPT as error:
        row = app.catalog.copy(backup_id, name)
        if error.target in (None, name) and row is not None:
            app.catalog.record_copy(backup_id, name, state="corrupt", form=row.form, error=error)
        raise CopyFailed(
            f"{backup_id} stays, as it could not be moved to {to}: {error.clause}", remedy=error.remedy
        ) from error


def lacks(app: Application, name: str, backup_id: str) -> str | None:
    """Why a backup does not count as held by a target, half a sentence; None when its manifest is genuine and all that it names is there."""
    repository = app.repositories()[name]
    try:
        repository.held(repository.manifest(backup_id, app.keyring))
    except (BackupError, EncryptionError, StorageError) as error:
        return f"{name} does not hold all of it: {error.clause}"
    return None
