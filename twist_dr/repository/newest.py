"""The newest genuine backup of a kind: a folder with the name of a backup is one only when its manifest is authentic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from twist_dr.errors import BackupNotFound, StorageError, TwistDRError
from twist_dr.repository.first_good import NO_MANIFEST, first_good
from twist_dr.repository.keys import Keyring
from twist_dr.repository.labels import is_meant
from twist_dr.repository.manifest import Kind, Label, Manifest, kind_of
from twist_dr.repository.repository import Repository
from twist_dr.system.progress import Report


@dataclass
class Newest:
    """What a look at some targets found of one kind, newest first, until something usable came.

    ``chosen``: the newest that is usable; None without any. ``genuine``: by id, all that were authenticated on the way, ``chosen`` among
    them. ``set_aside``: ids of those of them that are genuine and are not meant, by their label. ``bad``: by id and target, why a manifest is not one of ours, or cannot be told from one. ``away``: by target, why it could not be
    asked; what it holds is not known.
    """

    chosen: Manifest | None = None
    genuine: dict[str, Manifest] = field(default_factory=dict)
    set_aside: list[str] = field(default_factory=list)
    bad: dict[str, dict[str, TwistDRError]] = field(default_factory=dict)
    away: dict[str, StorageError] = field(default_factory=dict)

    @property
    def unauthentic(self) -> list[str]:
        """Ids of which no target that answers has an authentic manifest, newest first."""
        return [backup_id for backup_id in self.bad if backup_id not in self.genuine]


def with_database(manifest: Manifest) -> bool:
    """Whether a full backup has the database in it: one of some parts only proves nothing for the rest."""
    return "database" in manifest.parts


def anything(manifest: Manifest) -> bool:
    return True


def find_newest(
    repositories: Sequence[Repository],
    keyring: Keyring,
    kind: Kind,
    report: Report,
    *,
    usable: Callable[[Manifest], bool] = anything,
    label: Label | None = None,
) -> Newest:
    """The newest usable backup of a kind on any of the targets; without a usable one, the newest genuine one. ``label`` as in :func:`is_meant`.

    Whoever can write to a target can put any id and any manifest there: what is not authentic is passed over and said, and so is a target
    that does not answer.
    """
    found = Newest()
    places: dict[str, list[Repository]] = {}
    for repository in repositories:
        try:
            for backup_id in repository.backup_ids():
                if kind_of(backup_id) == kind:
                    places.setdefault(backup_id, []).append(repository)
        except StorageError as error:
            _note_away(found, repository, error, report)
    for backup_id in sorted(places, reverse=True):
        manifest = _authentic(backup_id, places[backup_id], keyring, found, report)
        if manifest is None:
            continue
        found.genuine[backup_id] = manifest
        if not is_meant(manifest.label, label):
            found.set_aside.append(backup_id)
        elif usable(manifest):
            found.chosen = manifest
            return found
    found.chosen = next((each for each in found.genuine.values() if each.backup_id not in found.set_aside), None)
    return found


def _authentic(
    backup_id: str, repositories: Sequence[Repository], keyring: Keyring, found: Newest, report: Report
) -> Manifest | None:
    """The manifest from the first target that has an authentic one."""

    def pass_over(repository: Repository, error: TwistDRError) -> None:
        if isinstance(error, StorageError):
            _note_away(found, repository, error, report)
        elif not isinstance(error, BackupNotFound):  # which was never finished, or was deleted just now
            found.bad.setdefault(backup_id, {})[repository.target.name] = error
            report.warning(f"passed over {repository.target.name}: {error.clause}")

    first = first_good(
        repositories, lambda repository: repository.manifest(backup_id, keyring), pass_over, errors=NO_MANIFEST
    )
    return first and first[1]


def _note_away(found: Newest, repository: Repository, error: StorageError, report: Report) -> None:
    found.away[repository.target.name] = error
    report.warning(f"passed over {repository.target.name}: {error.clause}")
