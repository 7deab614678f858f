"""Chains of base backups: a full one, and incremental ones that each need all before them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from twist_dr.backup.base.take import BACKUP_MANIFEST, Parent
from twist_dr.errors import CopyFailed, TwistDRError
from twist_dr.repository.first_good import first_good
from twist_dr.repository.keys import Keyring
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.repository import Repository
from twist_dr.system.progress import Report


def require_chain(manifest: Manifest, repository: Repository) -> None:
    """Raise ``CopyFailed`` unless a target holds every backup that this base builds upon: without them its copy is worth nothing."""
    assert manifest.base is not None
    for backup_id in manifest.base.chain[:-1]:
        if not repository.has_manifest(backup_id):
            raise CopyFailed(
                f"{manifest.backup_id} builds upon {backup_id}, which is not there",
                remedy="take a base backup for this target with the job backup_base and type: full",
                target=repository.target.name,
            )


@contextmanager
def fetched_parent(
    backup_id: str | None, repositories: Sequence[Repository], keyring: Keyring, folder: Path, report: Report
) -> Iterator[Parent | None]:
    """A base to build upon, its ``backup_manifest`` fetched from the first target that gives it; None when none does, or none is wanted.

    It lies in ``folder`` while the block lasts: nobody else may use that meanwhile, and what a killed run left there is removed.
    Manifest and bytes are those of the target, authenticated: from wrong ones PostgreSQL would make a wrong backup.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if backup_id is None:
        yield None
        return
    folder.mkdir(mode=0o700, parents=True)
    try:
        yield _fetch(backup_id, repositories, keyring, folder / BACKUP_MANIFEST, report)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fetch(
    backup_id: str, repositories: Sequence[Repository], keyring: Keyring, path: Path, report: Report
) -> Parent | None:
    def fetch(repository: Repository) -> Parent:
        manifest = repository.manifest(backup_id, keyring)
        repository.fetch(manifest, BACKUP_MANIFEST, keyring, path, durable=False)
        return Parent(manifest, path)

    def pass_over(repository: Repository, error: TwistDRError) -> None:
        report.warning(f"{repository.target.name} cannot give the backup_manifest of {backup_id}: {error.clause}")

    # A backup is made without it: nothing that goes wrong here keeps one from being made.
    found = first_good(repositories, fetch, pass_over, errors=(TwistDRError,))
    return found and found[1]
