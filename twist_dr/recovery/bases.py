"""The base backups that the storage targets hold: they are the truth, the catalog is an index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from twist_dr.backup.base.summary import BaseSummary, PlannedBase
from twist_dr.errors import BackupNotFound, StorageError, TwistDRError
from twist_dr.repository.first_good import NO_MANIFEST, first_good
from twist_dr.repository.keys import Keyring
from twist_dr.repository.kinds import bases_of
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.repository import Repository
from twist_dr.system.progress import Report

Base = TypeVar("Base", bound=PlannedBase)


def find_bases(repositories: Sequence[Repository], keyring: Keyring, report: Report) -> list[BaseSummary]:
    """Every base backup of which the whole chain is on some target, oldest end first. What cannot be read is said and left out.

    One manifest is held at a time, and read once from a repository, however often it is asked. For the few that a plan needs whole: :func:`manifest_of`.
    """
    found: dict[str, BaseSummary] = {}
    for repository in repositories:
        try:
            ids = bases_of(repository.backup_ids())
        except StorageError as error:
            report.warning(f"passed over {repository.target.name}: {error.clause}")
            continue
        for backup_id in ids:
            if backup_id in found:
                continue
            try:
                if backup_id not in repository.summaries:
                    repository.summaries[backup_id] = BaseSummary.of(repository.manifest(backup_id, keyring))
                found[backup_id] = repository.summaries[backup_id]
            except BackupNotFound:  # never finished
                continue
            except NO_MANIFEST as error:
                report.warning(f"{repository.target.name}: {backup_id} is left out: {error}")
    whole = [each for each in found.values() if each.base and set(each.base.chain) <= found.keys()]
    return sorted(whole, key=_end)


def manifest_of(backup_id: str, repositories: Sequence[Repository], keyring: Keyring) -> Manifest:
    """The manifest from the first target that gives it. Raises what the last one said, of those that have it if there are any."""
    failed: list[TwistDRError] = []
    found = first_good(
        repositories,
        lambda repository: repository.manifest(backup_id, keyring),
        lambda _, error: failed.append(error),
        errors=NO_MANIFEST,
    )
    if found is None:
        raise next((error for error in reversed(failed) if not isinstance(error, BackupNotFound)), failed[0])
    return found[1]


def by_cluster(bases: Sequence[Base]) -> dict[str, list[Base]]:
    """The bases by system identifier, the cluster that was backed up last first: no recovery leads from one to the other."""
    groups: dict[str, list[Base]] = {}
    for base in sorted(bases, key=_end, reverse=True):
        assert base.postgres is not None
        groups.setdefault(str(base.postgres.system_identifier), []).insert(0, base)
    return groups


def _end(base: PlannedBase) -> tuple[object, str]:
    assert base.base is not None
    return base.base.stopped_at, base.backup_id
