"""The base backups that the storage targets hold: they are the truth, the catalog is an index."""

from __future__ import annotations

from collections.abc import Sequence

from twist_dr.engine.keys import Keyring
from twist_dr.engine.manifest import Manifest
from twist_dr.engine.progress import Report
from twist_dr.engine.repository import Repository
from twist_dr.errors import BackupError, BackupNotFound, EncryptionError, StorageError


def find_bases(repositories: Sequence[Repository], keyring: Keyring, report: Report) -> list[Manifest]:
    """Every base backup of which the whole chain is on some target, oldest end first. What cannot be read is said and left out."""
    found: dict[str, Manifest] = {}
    for repository in repositories:
        try:
            ids = [backup_id for backup_id in repository.backup_ids() if "-base-" in backup_id]
        except StorageError as error:
            report.warning(f"passed over {repository.target.name}: {error}")
            continue
        for backup_id in ids:
            if backup_id in found:
                continue
            try:
                found[backup_id] = repository.manifest(backup_id, keyring)
            except BackupNotFound:  # never finished
                continue
            except (StorageError, BackupError, EncryptionError) as error:
                report.warning(f"{repository.target.name}: {backup_id} is left out: {error}")
    whole = [manifest for manifest in found.values() if manifest.base and set(manifest.base.chain) <= set(found)]
    return sorted(whole, key=_end)


def by_cluster(bases: Sequence[Manifest]) -> dict[str, list[Manifest]]:
    """The bases by system identifier, the cluster that was backed up last first: no recovery leads from one to the other."""
    groups: dict[str, list[Manifest]] = {}
    for manifest in sorted(bases, key=_end, reverse=True):
        assert manifest.postgres is not None
        groups.setdefault(str(manifest.postgres.system_identifier), []).insert(0, manifest)
    return groups


def _end(manifest: Manifest) -> tuple[object, str]:
    assert manifest.base is not None
    return manifest.base.stopped_at, manifest.backup_id
