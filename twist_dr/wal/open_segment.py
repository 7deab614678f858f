"""The open segment, shipped as far as it was written: each time a new partial segment, and the ones before it go.

So a target is seconds behind the primary, and not a segment.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from twist_dr.errors import StagingFull, StorageError, WalInvalid
from twist_dr.system.progress import Report
from twist_dr.wal.admission import Admission
from twist_dr.wal.archived import ArchivedPosition
from twist_dr.wal.destinations import Destinations
from twist_dr.wal.names import Segment, timeline_of
from twist_dr.wal.packing import Packer, file_chunks
from twist_dr.wal.pages import PageCheck
from twist_dr.wal.partial_segment import PartialSegment
from twist_dr.wal.primary import Sample
from twist_dr.wal.reach import Reach
from twist_dr.wal.spool import Spool, SpoolFile, first_page, holds, written
from twist_dr.wal.state import ShippingState

#: Partial segments to be removed that are remembered, per target: where deleting is not allowed, they stay and do no harm.
_MOST_PARTIALS = 20


@dataclass(frozen=True)
class Round:
    """What belongs to one round of shipping. ``sample`` is what the primary said, None when it gave no answer."""

    sample: Sample | None
    state: ShippingState
    admission: Admission
    reach: Reach
    #: Targets whose turn it is; the others wait for theirs.
    due: Collection[str]


@dataclass(frozen=True)
class Offer:
    """A partial segment for the targets, and the spool's file that it is the beginning of. ``over``: nobody writes to that file any more."""

    partial: PartialSegment
    file: SpoolFile
    over: bool = False

    @property
    def identifier(self) -> str:
        return str(self.file.system_identifier)

    def plain(self) -> Iterator[bytes]:
        """The partial segment's bytes, every page looked at; of an empty one there is nothing to look at. Raises ``WalInvalid``, ``OSError``."""
        chunks = file_chunks(self.file.path, self.partial.size)
        check = PageCheck(self.partial.segment, self.identifier, str(self.file.path), whole=False)
        return check.looked_at(chunks) if self.partial.size else chunks


class OpenSegments:
    """Offers to each target what it lacks of the open segment, round after round.

    ``required``: targets that must have what is over before it leaves the spool. ``heartbeat``: how often an idle server's claim is made anew.
    """

    def __init__(
        self,
        spool: Spool,
        destinations: Destinations,
        packer: Packer,
        report: Report,
        *,
        required: Iterable[str],
        heartbeat: timedelta,
    ) -> None:
        self._spool = spool
        self._destinations = destinations
        self._packer = packer
        self._report = report
        self._required = set(required)
        self._heartbeat = heartbeat

    def ship(self, round_: Round) -> None:
        """One target's failure stops no other. Raises ``Cancelled``, ``StagingFull``, ``OSError``."""
        unfinished = [file for file in round_.admission.files if file.kind == "partial"]
        for file in unfinished:
            # The receiver may just have finished the segment: the next round ships it whole.
            with suppress(FileNotFoundError):
                if (offer := self._offer(file, round_)) is not None:
                    self._to_all(offer, round_)
        if not unfinished and round_.sample is not None:
            for name, offer in self._claims_alone(round_.reach, round_.sample):
                self._to_all(offer, round_, only=name)

    # -- what there is to offer ----------------------------------------------------------------------------------------

    def _offer(self, file: SpoolFile, round_: Round) -> Offer | None:
        """What a file has to offer; it is put aside when it is not what its name says."""
        over = self._is_over(file, round_)
        try:
            size: int | None = first_page(file.path).segment_size
        except WalInvalid:  # nothing is written yet
            size = round_.state.segment_size
        if size is None:
            return None
        try:
            segment = Segment.named(file.name.removesuffix(".partial"), size)
        except ValueError as error:
            round_.admission.refuse(file, str(error))
            return None
        partial = self._received(file, segment, round_) if not over else None
        if partial is None:
            partial = PartialSegment(segment, written(file.path, segment), None)
        if over and not partial.size and _is_written(file.path):
            round_.admission.refuse(file, "it holds another segment's bytes")
            return None
        return Offer(partial, file, over)

    def _is_over(self, file: SpoolFile, round_: Round) -> bool:
        """Whether nobody writes to it any more: it came from an archiver, or the receiver is at a later timeline or another cluster."""
        folder = file.path.parent
        beside = [timeline_of(each.name) for each in round_.admission.files if each.path.parent == folder]
        return (
            folder == self._spool.archived
            or round_.state.clusters[-1:] != [file.system_identifier]
            or timeline_of(file.name) < max(beside)
        )

    @staticmethod
    def _received(file: SpoolFile, segment: Segment, round_: Round) -> PartialSegment | None:
        """What the receiver has made durable of a segment, with what is claimed of that; None where that is not known."""
        sample = round_.sample
        if sample is None or sample.received is None or sample.system_identifier != file.system_identifier:
            return None
        held = min(max(sample.received - segment.start, 0), segment.size)
        # A slot that was made anew, or a file that is being received again, may not be that far.
        if not holds(file.path, segment, held):
            return None
        claim = round_.state.claim(sample.system_identifier, segment.timeline, segment.start + held)
        return PartialSegment(segment, held, claim)

    @staticmethod
    def _claims_alone(reach: Reach, sample: Sample) -> Iterator[tuple[str, Offer]]:
        """Where the open segment is not at hand (the server archives whole ones), each target gets what is claimed of those alone."""
        for name, position in reach.positions.items():
            if position is None or position.at is None or position.system_identifier != sample.system_identifier:
                continue
            segment = Segment.holding(position.timeline, position.lsn, sample.segment_size)
            empty = SpoolFile(Path("/dev/null"), "partial", 0, time.time(), position.system_identifier)
            yield name, Offer(PartialSegment(segment, 0, position.at), empty)

    # -- to the targets ------------------------------------------------------------------------------------------------

    def _to_all(self, offer: Offer, round_: Round, only: str | None = None) -> None:
        wanted = [name for name in self._wanting(offer, round_) if only in (None, name)]
        if wanted and not offer.over:
            # Written down first: what a killed process leaves on a target is removed by the next one.
            for name in wanted:
                key = self._destinations[name].key_of_partial(offer.identifier, offer.partial)
                round_.state.partials[name] = [*round_.state.partials.get(name, []), key][-_MOST_PARTIALS:]
            with suppress(StagingFull):
                self._spool.save_state(round_.state)
        self._destinations.each(lambda name: self._to_one(name, offer, round_), wanted)
        if offer.over and all(self._spool.is_stored(name, offer.file) for name in self._required):
            self._spool.remove(offer.file)

    def _wanting(self, offer: Offer, round_: Round) -> list[str]:
        """Targets whose turn it is that lack what is offered, and nothing that comes before it."""
        usable = [name for name in self._destinations if name in round_.due and not self._destinations.is_down(name)]
        if offer.over:
            return [name for name in usable if not self._spool.is_stored(name, offer.file)]
        # Looked at anew: a segment that was finished since the round began comes first.
        before = [
            file
            for file in self._spool.files()
            if file.kind == "segment" and file.system_identifier == offer.file.system_identifier
        ]
        return [
            name
            for name in usable
            if self._is_news(offer, round_.reach.positions[name])
            and all(self._spool.is_stored(name, file) for file in before)
        ]

    def _is_news(self, offer: Offer, position: ArchivedPosition | None) -> bool:
        partial = offer.partial
        if position is None or position.system_identifier != offer.identifier:
            return partial.size > 0
        if partial.segment.timeline != position.timeline:
            return partial.segment.timeline > position.timeline and partial.size > 0
        if partial.end != position.lsn:
            return partial.end > position.lsn
        if partial.claim is None:
            return False
        # The same bytes: only what is claimed of them is newer. An earlier claim is the right one: the server's clock was ahead, and was put right.
        stored = PartialSegment.claim_of(position.partial) if position.partial else None
        return stored is None or partial.claim < stored or partial.claim - stored >= self._heartbeat

    def _to_one(self, name: str, offer: Offer, round_: Round) -> None:
        """One target's partial segment. Partial segments are small: each target packs its own and waits for no other."""
        partial, file = offer.partial, offer.file
        if offer.over and not partial.size:
            self._spool.note_stored(name, file)
            return
        destination = self._destinations[name]
        key, form = destination.key_of_partial(offer.identifier, partial), destination.form.confidential
        with self._destinations.failures_of(name):
            try:
                with self._packer.packed(offer.identifier, partial.name, form, offer.plain) as (path, digest):
                    offered = {partial.name: (file.path, partial.size)}
                    self._destinations.store(name, offer.identifier, key, path, digest, offered)
            except WalInvalid as error:
                if offer.over:
                    round_.admission.refuse(file, error.what)
                else:
                    self._report.warning(f"the open segment was not shipped: {error}")
                return
            if offer.over:
                self._spool.note_stored(name, file)
            round_.reach.add_partial(name, offer.identifier, partial, None if offer.over else key)
            self._remove_needless(name, key, offer, round_.state)

    def _remove_needless(self, name: str, key: str, offer: Offer, state: ShippingState) -> None:
        """Remove the partial segments that the new one, under ``key``, has replaced. Where deleting is not allowed (Object Lock), they stay."""
        kept = []
        for each in state.partials.get(name, []):
            if not _replaces(offer, key, each):
                kept.append(each)
                continue
            try:
                self._destinations[name].archive.remove(each)
            except StorageError:
                kept.append(each)
        state.partials[name] = kept


def _replaces(offer: Offer, key: str, other: str) -> bool:
    """Whether the partial segment under ``key`` makes the one under ``other`` needless. One that is over is not sure to come after whole segments."""
    new, old = offer.partial, PartialSegment.under(other, offer.partial.segment.size)
    if old is None or other == key or other.rpartition("/")[0] != key.rpartition("/")[0]:
        return False
    if old.segment == new.segment:
        return old.size <= new.size
    return old.segment.number < new.segment.number and not offer.over


def _is_written(path: Path) -> bool:
    try:
        first_page(path)
    except WalInvalid:
        return False
    return True
