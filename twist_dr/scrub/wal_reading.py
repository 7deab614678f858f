"""Reading the archive of write-ahead log again, and repairing what went bad there.

Archived objects have no manifest that would name their hash: each is authenticated by its encryption, and every page is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from twist_dr.backup.base.summary import PlannedBase
from twist_dr.errors import (
    ArtifactInvalid,
    AuthenticationFailed,
    ObjectCorrupt,
    ObjectMissing,
    TwistDRError,
    WalInvalid,
    WalMissing,
    about,
)
from twist_dr.postgres.lsn import parse_lsn
from twist_dr.repository.compression import SUFFIXES
from twist_dr.repository.first_good import first_good, told_by_all
from twist_dr.repository.keys import Keyring
from twist_dr.repository.streams import Form, write_new
from twist_dr.retention.model import ClusterWal
from twist_dr.retention.wal_plan import plan_wal
from twist_dr.scrub.repair import put_anew
from twist_dr.scrub.rotation import KeyedObject
from twist_dr.storage.base import Digest, OnBytes
from twist_dr.wal.history import joined_history, parse_history
from twist_dr.wal.names import Segment, history_name, kind_of, timeline_of
from twist_dr.wal.objects import HISTORY_FORM, Holdings, WalArchive, associated_data
from twist_dr.wal.packing import pack
from twist_dr.wal.pages import PageCheck, read_first_page

#: The object itself is bad; others of the same target may be good.
BAD = (ArtifactInvalid, AuthenticationFailed, ObjectCorrupt, WalInvalid)

#: The shortest ending is last: the others end with it.
_FORMS = [Form(compression, True) for compression in sorted(SUFFIXES, key=lambda each: -len(SUFFIXES[each]))]


@dataclass(frozen=True)
class WalObject(KeyedObject):
    """A whole segment or a timeline's history on a target. ``name`` as PostgreSQL knows it."""

    system_identifier: str
    name: str
    form: Form

    @property
    def is_history(self) -> bool:
        return kind_of(self.name) == "history"

    def places(self) -> list[str]:
        """Where it may lie on other targets, which pack it in another way."""
        folder = self.key.rpartition("/")[0]
        return [f"{folder}/{self.name}{form.suffix}" for form in _FORMS]


def wal_objects(archive: WalArchive) -> list[WalObject]:
    """All that a target has of an application's WAL, in the order of the keys. Partial segments are left out: they are replaced every few seconds."""
    found = (_named(each.key, each.size) for each in archive.target.list(f"{archive.application}/wal"))
    return [each for each in found if each is not None]


def _named(key: str, size: int) -> WalObject | None:
    parts = key.split("/")
    form = next((form for form in _FORMS if parts[-1].endswith(form.suffix)), None)
    if len(parts) < 4 or form is None:
        return None
    name = parts[-1].removesuffix(form.suffix)
    return WalObject(key, size, parts[2], name, form) if kind_of(name) in ("segment", "history") else None


def missing_wal(archive: WalArchive, bases: Sequence[PlannedBase], form: Form) -> dict[WalObject, str]:
    """Segments that base backups need and their target has not got, each with a sentence. ``form``: how the target keeps bytes."""
    found: dict[WalObject, str] = {}
    listed: dict[tuple[str, int], Holdings] = {}
    for manifest in bases:
        base, facts = manifest.base, manifest.postgres
        if base is None or facts is None or facts.system_identifier is None:
            continue
        cluster = facts.system_identifier, base.wal_segment_size
        held = listed[cluster] if cluster in listed else listed.setdefault(cluster, archive.holdings(*cluster))
        until = parse_lsn(base.last_lsn)
        segment = Segment.holding(base.timeline, parse_lsn(base.start_lsn), base.wal_segment_size)
        while segment.start < until:
            partials = (partial for partial in held.partials if partial.segment == segment)
            if segment not in held.segments and not any(partial.end >= until for partial in partials):
                key = archive.key(facts.system_identifier, segment.timeline, segment.name, form)
                missing = WalObject(key, 0, facts.system_identifier, segment.name, form.confidential)
                # Asked of the target itself: a listing may be old.
                if not is_there(archive, missing):
                    what = (
                        f"{archive.target.name}: {key}: missing, and {manifest.backup_id} is worth nothing without it."
                    )
                    found.setdefault(missing, what)
            segment = segment.next
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
                lost.segments.setdefault(segment, stored)
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
    name = archive.target.name
    return {
        each: f"{name}: {each.key}: missing, so that no recovery from {name} alone leads past it."
        for each in objects
        if not is_there(archive, each)
    }


def is_there(archive: WalArchive, each: WalObject) -> bool:
    """Whether a target has an object, however packed. Raises storage errors."""
    return any(archive.has(place) for place in each.places())


def read_wal(archive: WalArchive, each: WalObject, key: str, keyring: Keyring, to: Path | None = None) -> None:
    """Read one object, every byte authenticated and every page looked at; with ``to``, its plain bytes into a new file.

    ``key``: where it lies on this target. Raises the errors of ``BAD`` and storage errors.
    """
    with about(archive.target.name):
        if each.is_history:
            data = joined_history(archive.read(each.system_identifier, key, keyring), key)
            parse_history(data, timeline_of(each.name), key)
            if to is not None:
                write_new(to, [data], durable=False)
            return
        pages = _Pages(each, key)
        chunks = (pages.looked_at(chunk) for chunk in archive.read(each.system_identifier, key, keyring))
        if to is not None:
            write_new(to, chunks, durable=False)
        else:
            for _ in chunks:
                pass
        pages.finish()


class _Pages:
    """Looks at the pages of one segment, whose size its own first page tells."""

    def __init__(self, each: WalObject, what: str) -> None:
        self._object = each
        self._what = what
        self._check: PageCheck | None = None

    def looked_at(self, chunk: bytes) -> bytes:
        if self._check is None and chunk:
            first = read_first_page(chunk, self._what)
            try:
                segment = Segment.named(self._object.name, first.segment_size)
            except ValueError:
                raise WalInvalid(f"{self._what}: its cluster has segments of {first.segment_size} bytes.") from None
            self._check = PageCheck(segment, self._object.system_identifier, self._what)
        if self._check is not None:
            self._check.update(chunk)
        return chunk

    def finish(self) -> None:
        if self._check is None:
            raise WalInvalid(f"{self._what}: it holds nothing.")
        self._check.finish()


@dataclass(frozen=True)
class PackedWal:
    """Good bytes of an object, packed as its target packs them. ``source``: the target that gave them."""

    path: Path
    digest: Digest
    source: str


def fetch_good_wal(
    each: WalObject, archives: Sequence[WalArchive], keyring: Keyring, folder: Path, progress: dict[str, OnBytes]
) -> PackedWal:
    """Take an object from the first other target that has it good, and pack it for its place. Raises ``WalMissing`` when none has."""
    plain, packed, failed = folder / "plain", folder / "packed", []

    def read(archive: WalArchive) -> None:
        key = next((key for key in each.places() if archive.has(key)), None)
        if key is None:
            raise ObjectMissing("it has not got it.")
        read_wal(archive, each, key, keyring, plain)
        progress[archive.target.name](plain.stat().st_size)

    def pass_over(archive: WalArchive, error: TwistDRError) -> None:
        plain.unlink(missing_ok=True)
        failed.append(error)

    found = first_good(archives, read, pass_over)
    if found is None:
        told = told_by_all(failed) or "There is no other storage target."
        raise WalMissing(f"No other storage target has a good {each.name}. {told}")
    archive, _ = found
    data = associated_data(archive.application, each.system_identifier, each.name)
    digest = pack(plain, packed, each.form, keyring.primary, data)
    plain.unlink()
    return PackedWal(packed, digest, archive.target.name)


def store_good_wal(
    each: WalObject, good: PackedWal, archive: WalArchive, keyring: Keyring, progress: OnBytes, *, missing: bool = False
) -> None:
    """Put good bytes in the place of bad ones, unless the object has gone meanwhile, and read them again; ``missing``: where none are.

    Raises storage errors.
    """
    if not missing and not archive.has(each.key):
        raise ObjectMissing(f"{each.key} was deleted meanwhile.", target=archive.target.name)
    put_anew(archive.target, good.path, each.key, good.digest, progress)
    read_wal(archive, each, each.key, keyring)
