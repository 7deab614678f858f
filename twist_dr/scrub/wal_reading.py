"""Reading the archive of write-ahead log again, and repairing what went bad there.

Archived objects have no manifest that would name their hash: each is authenticated by its encryption, and every page is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from twist_dr.backup.base.summary import PlannedBase
from twist_dr.errors import (
    ArtifactInvalid,
    AuthenticationFailed,
    ObjectCorrupt,
    ObjectMissing,
    StorageError,
    TwistDRError,
    WalInvalid,
    WalMissing,
    about,
)
from twist_dr.postgres.lsn import parse_lsn
from twist_dr.repository.first_good import first_good, told_by_all
from twist_dr.repository.keys import Keyring
from twist_dr.repository.streams import Form, write_new
from twist_dr.retention.model import ClusterWal
from twist_dr.retention.wal_plan import plan_wal
from twist_dr.scrub.repair import put_anew
from twist_dr.scrub.rotation import KeyedObject
from twist_dr.storage.base import Digest, OnBytes, StorageTarget
from twist_dr.wal.bundles import segments_of
from twist_dr.wal.history import joined_history, parse_history
from twist_dr.wal.holdings import Holdings
from twist_dr.wal.names import Segment, history_name, kind_of, timeline_of
from twist_dr.wal.objects import HISTORY_FORM, Bundles, WalArchive, associated_data, holds_several
from twist_dr.wal.packing import pack, plain_object
from twist_dr.wal.segment_files import SegmentFiles

#: The object itself is bad; others of the same target may be good.
BAD = (ArtifactInvalid, AuthenticationFailed, ObjectCorrupt, WalInvalid)


@dataclass(frozen=True)
class WalObject(KeyedObject):
    """Whole segments or a timeline's history on a target, as one object. ``name``: without the ending of its form."""

    system_identifier: str
    name: str
    form: Form

    @property
    def is_history(self) -> bool:
        return kind_of(self.name) == "history"


def wal_objects(archive: WalArchive) -> list[WalObject]:
    """All that a target has of an application's WAL, in the order of the keys. Partial segments are left out: they are replaced every few seconds."""
    return [WalObject(each.key, each.size, each.system_identifier, each.name, each.form) for each in archive.objects()]


def missing_wal(archive: WalArchive, bases: Sequence[PlannedBase], form: Form) -> dict[WalObject, str]:
    """Segments that base backups need and their target has not got, each with a sentence. ``form``: how the target keeps bytes."""
    found: dict[WalObject, str] = {}
    listed: dict[tuple[str, int], Holdings] = {}
    bundles = Bundles()
    for manifest in bases:
        base, facts = manifest.base, manifest.postgres
        if base is None or facts is None or facts.system_identifier is None:
            continue
        cluster = facts.system_identifier, base.wal_segment_size
        held = listed[cluster] if cluster in listed else listed.setdefault(cluster, archive.holdings(*cluster))
        until = parse_lsn(base.last_lsn)
        first = Segment.holding(base.timeline, parse_lsn(base.start_lsn), base.wal_segment_size)
        for segment in first.until(until):
            partials = (partial for partial in held.partials if partial.segment == segment)
            if segment not in held.segments and not any(partial.end >= until for partial in partials):
                key = archive.key(facts.system_identifier, segment.timeline, segment.name, form)
                missing = WalObject(key, 0, facts.system_identifier, segment.name, form.confidential)
                # Asked of the target itself: a listing may be old.
                if not is_there(archive, missing, bundles):
                    what = (
                        f"{archive.target.name}: {key}: missing, and {manifest.backup_id} is worth nothing without it."
                    )
                    found.setdefault(missing, what)
    return found


@dataclass(frozen=True)
class Reached:
    """How far shipping has come on a target: whatever is before ``lsn`` was stored there."""

    system_identifier: str
    timeline: int
    lsn: int


def lost_wal(cluster: ClusterWal, others: Iterable[Holdings], reached: Reached | None) -> Holdings:
    """What others hold of a cluster and a target should: from the first that is its own, a base's start too, to where shipping has come.

    What is older it never had, or its retention has deleted it; what is newer waits in the spool. Without ``reached``, the last segment there tells.
    """
    held, size = cluster.holdings, cluster.holdings.segment_size
    lost = Holdings(held.system_identifier, size)
    starts = [Segment.holding(base.timeline, base.start_lsn, size) for base in cluster.bases]
    first = min([*held.segments, *starts], default=None)
    if reached is not None and reached.system_identifier == held.system_identifier:
        end = reached.timeline, reached.lsn
    else:
        end = max(((segment.timeline, segment.end) for segment in held.segments), default=(0, 0))
    for other in others:
        for segment, stored in other.segments.items():
            if first is not None and first <= segment and (segment.timeline, segment.end) <= end:
                # By itself, as it is put back: beside others in a bundle it may stay where alone it goes.
                lost.segments.setdefault(segment, replace(stored, key=segment.name))
        if first is not None:
            lost.histories |= {timeline for timeline in other.histories if first.timeline <= timeline <= end[0]}
    for segment in held.segments:
        lost.segments.pop(segment, None)
    lost.histories -= held.histories
    return lost


def leave_deleted(
    lost: Sequence[Holdings], clusters: Sequence[ClusterWal], window: timedelta | None, now: datetime
) -> None:
    """Take from what is lost the segments that a cleanup with this window would delete again: there, a hole is its doing. Histories always stay."""
    whole = [
        replace(each, holdings=replace(each.holdings, segments={**each.holdings.segments, **gone.segments}))
        for each, gone in zip(clusters, lost, strict=True)
    ]
    going = {stored.key for stored in plan_wal(whole, window, now).deleted}
    for gone in lost:
        gone.segments = {segment: stored for segment, stored in gone.segments.items() if stored.key not in going}


def lacking(archive: WalArchive, lost: Holdings, form: Form) -> dict[WalObject, str]:
    """The objects that a target lacks, each with a sentence; asked of the target itself, as a listing may be old."""
    identifier = lost.system_identifier
    objects = [
        WalObject(archive.history_key(identifier, timeline), 0, identifier, history_name(timeline), HISTORY_FORM)
        for timeline in sorted(lost.histories)
    ]
    for segment in sorted(lost.segments):
        key = archive.key(identifier, segment.timeline, segment.name, form)
        objects.append(WalObject(key, 0, identifier, segment.name, form.confidential))
    name, bundles = archive.target.name, Bundles()
    return {
        each: f"{name}: {each.key}: missing, so that no recovery from {name} alone leads past it."
        for each in objects
        if not is_there(archive, each, bundles)
    }


def is_there(archive: WalArchive, each: WalObject, bundles: Bundles | None = None) -> bool:
    """Whether a target has an object, however packed. ``bundles``: see :meth:`WalArchive.places`. Raises storage errors."""
    return next(archive.places(each.system_identifier, each.name, bundles), None) is not None


def read_wal(archive: WalArchive, each: WalObject, keyring: Keyring) -> None:
    """Read one object, every byte authenticated and every page looked at. Raises the errors of ``BAD`` and storage errors."""
    if each.is_history:
        _read_history(archive, each, each.key, keyring)
        return
    for _ in archive.segments(each.system_identifier, each.key, keyring):
        pass


def _read_history(archive: WalArchive, each: WalObject, key: str, keyring: Keyring) -> bytes:
    with about(archive.target.name):
        data = joined_history(archive.read(each.system_identifier, key, keyring), key)
        parse_history(data, timeline_of(each.name), key)
        return data


@dataclass(frozen=True)
class PackedWal:
    """Good bytes of an object, packed as its target packs them. ``source``: the target that gave them."""

    path: Path
    digest: Digest
    source: str


def fetch_good_wal(
    each: WalObject, archives: Sequence[WalArchive], keyring: Keyring, folder: Path, progress: dict[str, OnBytes]
) -> PackedWal:
    """Take all that an object holds from other targets that have it good, and pack it for its place.

    However those have it: each segment by itself, or in bundles of their own. Raises ``WalMissing`` when none has.
    """
    good = _Good(each, archives, keyring, progress)
    plain = {name: good.fetched(name, folder / f"plain.{name}") for name in _names(each, archives, keyring)}
    packed = folder / "packed"
    data = associated_data(archives[0].application, each.system_identifier, each.name)
    digest = pack(plain_object(plain), packed, each.form, keyring.primary, data)
    for path in plain.values():
        path.unlink()
    return PackedWal(packed, digest, ", ".join(good.sources))


def _names(each: WalObject, archives: Sequence[WalArchive], keyring: Keyring) -> list[str]:
    """What PostgreSQL calls all that an object holds: the number of segments between two names depends on their size. Raises ``WalMissing``."""
    if not holds_several(each.key):
        return [each.name]
    for archive in archives:
        with suppress(TwistDRError):
            if (size := archive.segment_size(each.system_identifier, keyring)) is not None:
                return [segment.name for segment in segments_of(each.name, size)]
    raise WalMissing(f"No other storage target has good segments of the cluster {each.system_identifier}.")


class _Good:
    """Good bytes of segments and histories from the first of other targets that has them. ``sources``: those that gave something."""

    def __init__(
        self, each: WalObject, archives: Sequence[WalArchive], keyring: Keyring, progress: Mapping[str, OnBytes]
    ) -> None:
        self.sources: list[str] = []
        self._object = each
        self._archives = archives
        self._keyring = keyring
        self._progress = progress
        self._files = SegmentFiles(keyring)
        self._bundles: dict[str, Bundles] = {}

    def fetched(self, name: str, path: Path) -> Path:
        """A segment or history of PostgreSQL's ``name`` in a new file. Raises ``WalMissing``."""
        failed: list[TwistDRError] = []

        def read(place: _Place) -> None:
            self._read(place, name, path)
            self._progress[place.target.name](path.stat().st_size)

        found = first_good(self._places(name, failed), read, lambda place, error: failed.append(error))
        if found is None:
            told = told_by_all(failed) or "There is no other storage target."
            raise WalMissing(f"No other storage target has a good {name}. {told}")
        if (source := found[0].target.name) not in self.sources:
            self.sources.append(source)
        return path

    def _places(self, name: str, failed: list[TwistDRError]) -> Iterator[_Place]:
        for archive in self._archives:
            found, bundles = False, self._bundles.setdefault(archive.target.name, {})
            try:
                for key in archive.places(self._object.system_identifier, name, bundles):
                    found = True
                    yield _Place(archive, key)
            except StorageError as error:
                failed.append(error)
            else:
                if not found:
                    failed.append(ObjectMissing("it has not got it.", target=archive.target.name))

    def _read(self, place: _Place, name: str, path: Path) -> None:
        archive, identifier = place.archive, self._object.system_identifier
        if self._object.is_history:
            data = _read_history(archive, self._object, place.key, self._keyring)
            write_new(path, [data], durable=False)
        else:
            self._files.fetch(archive, identifier, place.key, name, path, durable=False)


class _Place(NamedTuple):
    """An object of another target."""

    archive: WalArchive
    key: str

    @property
    def target(self) -> StorageTarget:
        return self.archive.target


def store_good_wal(
    each: WalObject, good: PackedWal, archive: WalArchive, keyring: Keyring, progress: OnBytes, *, missing: bool = False
) -> None:
    """Put good bytes in the place of bad ones, unless the object has gone meanwhile, and read them again; ``missing``: where none are.

    Raises storage errors.
    """
    if not missing and not archive.has(each.key):
        raise ObjectMissing(f"{each.key} was deleted meanwhile.", target=archive.target.name)
    put_anew(archive.target, good.path, each.key, good.digest, progress)
    read_wal(archive, each, keyring)
