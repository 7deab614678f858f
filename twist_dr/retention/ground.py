"""What a storage target really holds of an application, as retention needs to know it.

One listing instead of a request per backup; and a look at the object itself wherever a listing may lie (a new object that is not
listed yet): that something is not there counts only when the target says so of that very object.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

from twist_dr.backup.base.summary import BaseSummary, PlannedBase
from twist_dr.errors import BackupError, EncryptionError, StorageError, TwistDRError
from twist_dr.repository.artifact_names import is_stored_name
from twist_dr.repository.keys import Keyring
from twist_dr.repository.kinds import bases_of
from twist_dr.repository.manifest import MANIFEST_NAME, is_backup_id
from twist_dr.repository.repository import Repository
from twist_dr.retention.model import ClusterWal, WalBase
from twist_dr.retention.tombstones import has_genuine_tombstone, tombstone_folder
from twist_dr.storage.base import StoredObject, Stranger
from twist_dr.wal.history import Ancestor
from twist_dr.wal.holdings import Holdings
from twist_dr.wal.objects import WalArchive

#: Enough to see what somebody did.
_MOST_STRANGERS = 20
_TOMBSTONE = ".json"


@dataclass
class BackupFolder:
    """What lies below a backup's id and is ours by its name: how many objects of how many bytes, the newest by the target's clock.

    ``sealed``: a manifest is there. ``classes``: the storage classes of all else; ``archived``: some of it must be restored in the store first, and ``readable``
    objects of it need not.
    """

    backup_id: str
    newest: datetime
    objects: int = 0
    size: int = 0
    sealed: bool = False
    classes: set[str | None] = field(default_factory=set)
    archived: bool = False
    readable: int = 0

    @property
    def storage_class(self) -> str | None:
        """The one that all artifacts are in."""
        return next(iter(self.classes)) if len(self.classes) == 1 else None

    @property
    def asleep(self) -> bool:
        """Whether no artifact can be read before it was restored in the store."""
        return self.archived and not self.readable

    def note_class(self, storage_class: str, *, archived: bool) -> None:
        """All artifacts are in that class now."""
        self.classes, self.archived, self.readable = {storage_class}, archived, 0

    def add(self, stored: StoredObject) -> None:
        self.objects += 1
        self.size += stored.size
        self.newest = max(self.newest, stored.modified)
        if stored.key.endswith(f"/{MANIFEST_NAME}"):
            self.sealed = True
        else:
            self.classes.add(stored.storage_class)
            self.archived = self.archived or stored.archived
            self.readable += not stored.archived


@dataclass
class Survey:
    """A target as it was found. ``tombstones`` are ids of those that are authentic, ``forged`` of the others.

    ``foreign``: keys of what lies among backups and has no name of ours. ``stored_bytes`` is everything that was listed, WAL left out.
    """

    target: str
    folders: dict[str, BackupFolder] = field(default_factory=dict)
    tombstones: set[str] = field(default_factory=set)
    forged: set[str] = field(default_factory=set)
    foreign: list[str] = field(default_factory=list)
    stored_bytes: int = 0

    @property
    def sealed(self) -> list[str]:
        """Ids of the backups, oldest first."""
        return sorted(folder.backup_id for folder in self.folders.values() if folder.sealed)


def survey(repository: Repository, keyring: Keyring, expected: Collection[str] = ()) -> Survey:
    """List a target. ``expected`` are ids that should be there: those that were not listed are asked for. Raises storage errors."""
    ground = Survey(repository.target.name)
    below = f"{repository.application}/backups/"
    for stored in repository.target.list(below.rstrip("/")):
        ground.stored_bytes += stored.size
        backup_id, _, name = stored.key.removeprefix(below).partition("/")
        if is_backup_id(backup_id) and is_stored_name(name):
            if backup_id not in ground.folders:
                ground.folders[backup_id] = BackupFolder(backup_id, stored.modified)
            ground.folders[backup_id].add(stored)
        else:
            ground.foreign.append(stored.key)
    for stored in repository.target.list(tombstone_folder(repository.application)):
        ground.stored_bytes += stored.size
        name = stored.key.rpartition("/")[2].removesuffix(_TOMBSTONE)
        if is_backup_id(name):
            genuine = has_genuine_tombstone(repository, name, keyring)
            (ground.tombstones if genuine else ground.forged).add(name)
    for backup_id in {*expected, *ground.folders}:
        folder = ground.folders.get(backup_id)
        if folder is None or not folder.sealed:
            _look_again(ground, backup_id, repository)
    return ground


def _look_again(ground: Survey, backup_id: str, repository: Repository) -> None:
    manifest = repository.target.stat(repository.key(backup_id, MANIFEST_NAME))
    if manifest is not None:
        ground.folders.setdefault(backup_id, BackupFolder(backup_id, manifest.modified)).add(manifest)


def strangers(repository: Repository, prefix: str | None = None) -> list[Stranger]:
    """What others put among an application's objects, or below ``prefix``; the first of them. Raises storage errors."""
    found = repository.target.strangers(prefix or repository.application)
    return list(islice((each for each in found if each is not None), _MOST_STRANGERS))


# -- base backups and their WAL ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bases:
    """The base backups on a target, by id; and why others cannot be read."""

    known: Mapping[str, BaseSummary]
    unreadable: Mapping[str, str]


def read_bases(repository: Repository, backup_ids: Iterable[str], keyring: Keyring) -> Bases:
    """Read those of the ids that are base backups, one at a time. Raises storage errors."""
    known, unreadable = {}, {}
    for backup_id in bases_of(backup_ids):
        try:
            known[backup_id] = BaseSummary.of(repository.manifest(backup_id, keyring))
        except (BackupError, EncryptionError) as error:
            unreadable[backup_id] = str(error)
    return Bases(known, unreadable)


def survey_wal(
    archive: WalArchive, bases: Iterable[PlannedBase], good: Collection[str], keyring: Keyring
) -> list[ClusterWal]:
    """The archived WAL of a target, by cluster, with the ``bases`` that lie there or are about to; ``good``: ids of those to rely on.

    A cluster whose segments' size nobody knows is left out, so nothing of it goes. Raises storage errors.
    """
    of_cluster: dict[str, list[PlannedBase]] = {}
    for base in bases:
        if base.base is not None and base.postgres is not None and base.postgres.system_identifier is not None:
            of_cluster.setdefault(base.postgres.system_identifier, []).append(base)
    found = []
    for identifier in sorted({*archive.clusters(), *of_cluster}):
        mine = of_cluster.get(identifier, [])
        size = _segment_size(archive, identifier, mine, keyring)
        if size is not None:
            holdings = archive.holdings(identifier, size)
            own = tuple(WalBase.of(base, base.backup_id in good) for base in mine)
            found.append(ClusterWal(holdings, own, _ancestors(archive, holdings, own, keyring)))
    return found


def _segment_size(archive: WalArchive, identifier: str, bases: list[PlannedBase], keyring: Keyring) -> int | None:
    for base in bases:
        if base.base is not None:
            return base.base.wal_segment_size
    try:
        return archive.segment_size(identifier, keyring)
    except StorageError:
        raise
    except TwistDRError:
        return None


def _ancestors(
    archive: WalArchive, holdings: Holdings, bases: tuple[WalBase, ...], keyring: Keyring
) -> dict[int, list[Ancestor]]:
    """A timeline whose history cannot be read is left out: then the planning keeps all."""
    found = {}
    for timeline in {*holdings.timelines, *(base.timeline for base in bases)} - {1}:
        try:
            found[timeline] = archive.history(holdings.system_identifier, timeline, keyring)
        except TwistDRError:
            continue
    return found
