"""The archived WAL of all storage targets as one: an object is taken from the first target that gives it whole and checked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from twist_dr.errors import (
    Cancelled,
    ObjectMissing,
    StorageError,
    TwistDRError,
    WalConflict,
    WalInvalid,
    WalMissing,
    about,
)
from twist_dr.repository.first_good import CORRUPT, first_good, told_by_all
from twist_dr.repository.keys import Keyring
from twist_dr.repository.streams import write_new
from twist_dr.storage.base import StorageTarget
from twist_dr.system.progress import Report
from twist_dr.wal.history import Ancestor, parse_history
from twist_dr.wal.holdings import Holdings, Stored
from twist_dr.wal.names import Segment, history_name
from twist_dr.wal.objects import WalArchive
from twist_dr.wal.pages import PageCheck
from twist_dr.wal.partial_segment import PartialSegment
from twist_dr.wal.segment_files import SegmentFiles

T = TypeVar("T")

#: Zeros written at a time behind a partial segment.
_ZEROS = bytes(1 << 20)

#: How often a partial segment may be replaced while it is fetched.
_OVERTAKEN_AT_MOST = 20

#: The object itself is bad on that target; others of the same target may be good.
_CORRUPT = (*CORRUPT, WalInvalid)


class ArchivePlace(NamedTuple):
    """Where an object lies: the archive, and what that archive calls it."""

    archive: WalArchive
    stored: Stored

    @property
    def target(self) -> StorageTarget:
        return self.archive.target


class Archives:
    """One cluster's archived WAL on all targets. Every target is listed once, all at the same time, by the constructor.

    ``unreachable`` says by target's name why it could not be listed: what the others lack is then not known to be absent.
    ``passed_over`` says by target's name why it stopped answering later; it is asked again only after all others.
    ``corrupt`` says by target and object why an object is not used; ``used`` names the targets that gave something. ``disowned``: by target and
    object, timeline and end (LSN) that a name claims whose object is not authentic.
    Safe for several threads.
    """

    def __init__(
        self,
        archives: Sequence[WalArchive],
        keyring: Keyring,
        report: Report,
        system_identifier: str,
        segment_size: int,
    ) -> None:
        self.system_identifier = system_identifier
        self.segment_size = segment_size
        self._archives = list(archives)
        self.names = [archive.target.name for archive in archives]
        self.unreachable: dict[str, StorageError] = {}
        self.passed_over: dict[str, TwistDRError] = {}
        self.corrupt: dict[tuple[str, str], TwistDRError] = {}
        self.used: list[str] = []
        self.segments: dict[Segment, list[ArchivePlace]] = {}
        self._partials: dict[PartialSegment, list[ArchivePlace]] = {}
        self._histories: dict[int, list[WalArchive]] = {}
        self._ancestors: dict[int, list[Ancestor]] = {}
        self._keyring = keyring
        self._files = SegmentFiles(keyring)
        self._report = report
        self._lock = threading.Lock()
        #: Objects whose beginning was authenticated, and those that are none of ours: left out, with the LSN that their names end at.
        self._genuine: set[Segment | PartialSegment] = set()
        self.disowned: dict[str, tuple[int, int]] = {}
        for archive, holdings in self._listed(archives):
            for segment, stored in holdings.whole():
                self.segments.setdefault(segment, []).append(ArchivePlace(archive, stored))
            for partial, stored in holdings.partials.items():
                self._partials.setdefault(partial, []).append(ArchivePlace(archive, stored))
            for timeline in holdings.histories:
                self._histories.setdefault(timeline, []).append(archive)

    # -- what is there ---------------------------------------------------------------------------------------------

    @property
    def partials(self) -> list[PartialSegment]:
        """All partial segments, the one that ends last at the end; of those that end together, the one with the latest claim."""
        return sorted(
            self._partials,
            key=lambda partial: (
                partial.segment.timeline,
                partial.end,
                partial.claim.timestamp() if partial.claim else 0.0,
            ),
        )

    @property
    def histories(self) -> set[int]:
        """Timelines whose history file is on some target."""
        return set(self._histories)

    @property
    def timelines(self) -> list[int]:
        """All timelines of which there is anything, oldest first."""
        found = {segment.timeline for segment in self.segments} | {
            partial.segment.timeline for partial in self._partials
        }
        return sorted(found | self.histories)

    def is_genuine(self, source: Segment | PartialSegment) -> bool:
        """Whether some target has this object authentic, by its beginning: its name is part of what is authenticated.

        Anybody who can write to a target can put any name there. What is not authentic anywhere is left out from then on, and said; what
        cannot be read now counts as genuine, for nobody can tell.
        """
        if source in self._genuine:
            return True
        places = self.segments.get(source, []) if isinstance(source, Segment) else self._partials.get(source, [])
        segment, end = (source, source.end) if isinstance(source, Segment) else (source.segment, source.end)
        for archive, stored in places:
            if f"{archive.target.name}: {stored.key}" in self.disowned:  # by another of its segments
                continue
            try:
                archive.read_beginning(self.system_identifier, stored.key, self._keyring)
            except _CORRUPT as error:
                if isinstance(error, ObjectMissing) and isinstance(source, PartialSegment):
                    # Overtaken by a longer one since it was listed: see fetch_head.
                    break
                self._note(archive, stored.key, error)
                self.disowned[f"{archive.target.name}: {stored.key}"] = (segment.timeline, end)
                continue
            except StorageError:
                pass
            break
        else:
            with self._lock:
                if isinstance(source, Segment):
                    self.segments.pop(source, None)
                else:
                    self._partials.pop(source, None)
            return False
        self._genuine.add(source)
        return True

    def has_genuine(self, timeline: int) -> bool:
        """Whether anything of a timeline is authentic: its history, or what was written on it."""
        if timeline in self.histories:
            try:
                self.ancestors(timeline)
                return True
            except WalConflict:
                return True
            except (WalMissing, WalInvalid):
                if any(archive.target.name in self.passed_over for archive in self._histories[timeline]):
                    return True
        if any(self.is_genuine(each) for each in list(self.segments) if each.timeline == timeline):
            return True
        if any(self.is_genuine(each) for each in list(self._partials) if each.segment.timeline == timeline):
            return True
        for archive in self._histories.pop(timeline, []):
            key = archive.history_key(self.system_identifier, timeline)
            self.disowned[f"{archive.target.name}: {key}"] = (timeline, 0)
        return False

    def end_on(self, timeline: int) -> int:
        """The LSN up to which there is anything authentic of a timeline, whatever is missing before it; 0 without any."""
        found: list[tuple[int, Segment | PartialSegment]] = [
            (each.end, each) for each in self.segments if each.timeline == timeline
        ]
        found += [(each.end, each) for each in self._partials if each.segment.timeline == timeline]
        ordered = sorted(found, key=lambda each: each[0], reverse=True)
        return next((end for end, each in ordered if self.is_genuine(each)), 0)

    def has_wal_of(self, system_identifier: str) -> bool:
        """Whether some target has anything authentic of another cluster. What cannot be read counts as that."""
        for archive in self._archives:
            try:
                if archive.has_genuine(system_identifier, self._keyring):
                    return True
            except StorageError:
                return True
        return False

    def clusters(self) -> set[str]:
        """System identifiers of all clusters of which there is WAL on some target that answers. Asks them anew."""
        found: set[str] = set()
        for archive in self._archives:
            if archive.target.name not in self.unreachable:
                try:
                    found.update(archive.clusters())
                except StorageError as error:
                    self._note_unreachable(archive, error)
        return found

    def stored_bytes(self, segments: Iterable[Segment]) -> int:
        """Bytes of the objects that hold these segments, each counted once; segments that are not there count nothing."""
        places = (self.segments[segment][0] for segment in segments if segment in self.segments)
        return sum({(place.target.name, place.stored.key): place.stored.size for place in places}.values())

    def stored_bytes_of_partial(self, partial: PartialSegment) -> int:
        return self._partials[partial][0][1].size if partial in self._partials else 0

    def ancestors(self, timeline: int) -> list[Ancestor]:
        """The ancestors of a timeline, oldest first; none of timeline 1. Its history is read from every target that has it.

        Raises ``WalMissing`` without a good history file, ``WalConflict`` when two targets have different ones.
        """
        if timeline == 1:
            return []
        with self._lock:
            known = self._ancestors.get(timeline)
        if known is None:
            known = parse_history(self._history_bytes(timeline), timeline, history_name(timeline))
            with self._lock:
                self._ancestors[timeline] = known
        return known

    # -- fetching --------------------------------------------------------------------------------------------------

    def fetch_segment(self, segment: Segment, path: Path, *, durable: bool = True) -> None:
        """Write a segment to a new file, every page of it checked. Raises ``WalMissing`` when no target can give it.

        ``durable`` False: for a file that is looked at and removed. Also raises ``StagingFull`` and ``Cancelled``.
        """

        def fetch(place: ArchivePlace) -> None:
            archive, key = place.archive, place.stored.key
            self._files.fetch(
                archive, self.system_identifier, key, segment.name, path, durable=durable, watched=self._watched
            )

        self._attempt(segment.name, self.segments.get(segment, []), fetch)

    def fetch_partial(self, partial: PartialSegment, path: Path, *, durable: bool = True) -> None:
        """The same for a partial segment, filled up with zeros to the segment's size: PostgreSQL takes a file of no other size.

        Partial segments are replaced while the server writes on: one that is gone was overtaken by a longer one, or by the whole segment, and what it held
        is the beginning of that.
        """

        def chunks(archive: WalArchive, stored: Stored, size: int) -> Iterator[bytes]:
            yield from self._checked(archive, stored, partial, size)
            left = partial.segment.size - size
            while left:
                zeros = _ZEROS[:left]
                yield zeros
                left -= len(zeros)

        def fetch_as(size: int) -> Callable[[ArchivePlace], None]:
            return lambda place: write_new(path, chunks(*place, size), durable=durable)

        with self._lock:
            places = list(self._partials.get(partial, []))
        for _ in range(_OVERTAKEN_AT_MOST):
            try:
                self._attempt(partial.name, places, fetch_as(partial.size), silent=ObjectMissing)
                return
            except WalMissing as missing:
                overtaking = self._overtaking(partial)
                if overtaking is None:
                    raise missing
                if isinstance(overtaking, Segment):
                    self.fetch_segment(overtaking, path, durable=durable)
                    return
                partial, places = overtaking, self._partials[overtaking]
        raise WalMissing(
            f"{partial.segment.name} is written anew faster than it can be read",
            remedy="recover to a moment before, or try again",
        )

    def _overtaking(self, partial: PartialSegment) -> Segment | PartialSegment | None:
        """What has taken a partial segment's place since the targets were listed: the whole segment, or the longest partial segment of it."""
        longest: PartialSegment | None = None
        for archive, holdings in self._listed(self._archives):
            with self._lock:
                for segment, stored in holdings.whole():
                    if segment == partial.segment:
                        self.segments.setdefault(segment, []).append(ArchivePlace(archive, stored))
                for other, stored in holdings.partials.items():
                    if other.segment == partial.segment and other.size >= partial.size and other != partial:
                        self._partials.setdefault(other, []).append(ArchivePlace(archive, stored))
                        longest = max(filter(None, (longest, other)), key=lambda each: each.size)
        return partial.segment if partial.segment in self.segments else longest

    def fetch_history(self, timeline: int, path: Path) -> None:
        """Write a timeline's history file, as :meth:`ancestors` reads it, durably. Raises what it raises."""
        self.ancestors(timeline)
        write_new(path, [self._history_bytes(timeline)])

    def _checked(self, archive: WalArchive, stored: Stored, partial: PartialSegment, size: int) -> Iterator[bytes]:
        check = PageCheck(partial.segment, self.system_identifier, stored.key, whole=False)
        yield from check.looked_at(self._watched(archive.read(self.system_identifier, stored.key, self._keyring)))
        if check.size != size:
            raise WalInvalid(
                f"{stored.key} holds {check.size} bytes and not {size}",
                remedy="take it from another storage target",
            )

    def _watched(self, chunks: Iterator[T]) -> Iterator[T]:
        """The same, until it is asked to stop."""
        for chunk in chunks:
            if self._report.stop.is_set():
                raise Cancelled(
                    "Reading write-ahead log was stopped: what it had begun is removed",
                    remedy="start it again when you wish",
                )
            yield chunk

    def _history_bytes(self, timeline: int) -> bytes:
        name = history_name(timeline)
        found: dict[bytes, str] = {}
        failed = ""
        for archive in self._histories.get(timeline, []):
            key = archive.history_key(self.system_identifier, timeline)
            try:
                with about(archive.target.name):
                    data = archive.history_bytes(self.system_identifier, timeline, self._keyring)
                    parse_history(data, timeline, name)
            except (*_CORRUPT, StorageError) as error:
                self._note(archive, key, error)
                failed += f" {error}"
            else:
                found.setdefault(data, archive.target.name)
        if len(found) > 1:
            places = " and ".join(found.values())
            raise WalConflict(
                f"{name} differs between {places}: two servers wrote timeline {timeline} of one cluster. Nothing is recovered from it",
                remedy="find out which of the two went on as production, and move the other one's WAL away",
            )
        if not found:
            raise WalMissing(
                f"No storage target gives {name}, which tells where timeline {timeline} begins.{failed} {self._unasked()}".rstrip(),
                remedy="put the file (it is in pg_wal of the server) into the archive",
            )
        return next(iter(found))

    def _attempt(
        self,
        what: str,
        places: Sequence[ArchivePlace],
        work: Callable[[ArchivePlace], None],
        *,
        silent: type[Exception] | tuple[()] = (),
    ) -> None:
        """Work with the first place that will do. Work that failed must have left nothing. ``silent``: errors that are no fault of a target."""
        with self._lock:
            # What was bad for one segment of an object is so for the others.
            ordered = sorted(
                places,
                key=lambda place: (
                    place.target.name in self.passed_over or (place.target.name, place.stored.key) in self.corrupt
                ),
            )
        failed = []

        def pass_over(place: ArchivePlace, error: TwistDRError) -> None:
            failed.append(error)
            if not isinstance(error, silent):
                self._note(place.archive, place.stored.key, error)

        found = first_good(ordered, work, pass_over)
        if found is None:
            told = (f"No storage target gives {what}.", told_by_all(failed), self._unasked())
            raise WalMissing(" ".join(filter(None, told)).rstrip())
        name = found[0].target.name
        with self._lock:
            self.passed_over.pop(name, None)
            if name not in self.used:
                self.used.append(name)

    def _note(self, archive: WalArchive, key: str, error: TwistDRError) -> None:
        name = archive.target.name
        with self._lock:
            if isinstance(error, _CORRUPT):
                self.corrupt[name, key] = error
            else:
                self.passed_over[name] = error
        self._report.warning(f"passed over {name}: {error.clause}")

    def _unasked(self) -> str:
        return "".join(f"{name} could not be asked: {why.clause} " for name, why in self.unreachable.items())

    def _listed(self, archives: Sequence[WalArchive]) -> Iterator[tuple[WalArchive, Holdings]]:
        if not archives:
            return
        with ThreadPoolExecutor(len(archives), "wal listing") as pool:
            waiting = [pool.submit(each.holdings, self.system_identifier, self.segment_size) for each in archives]
        for archive, future in zip(archives, waiting, strict=True):
            try:
                yield archive, future.result()
            except StorageError as error:
                self._note_unreachable(archive, error)

    def _note_unreachable(self, archive: WalArchive, error: StorageError) -> None:
        self.unreachable[archive.target.name] = error
        self._report.warning(f"{archive.target.name} cannot be listed: {error.clause}")
