"""Timelines as one line of WAL: which file holds which stretch, and where what is archived begins, breaks and ends.

PostgreSQL reads the segment in which a timeline begins from the newer timeline: that file repeats what came before. When
it is not archived yet, the older timeline's file will do, up to the switch and not further.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from twist_dr.backup.base.summary import PlannedBase
from twist_dr.postgres.lsn import parse_lsn
from twist_dr.recovery.archives import Archives
from twist_dr.repository.manifest import BaseFacts
from twist_dr.wal.history import Ancestor, stretches_of
from twist_dr.wal.names import Segment
from twist_dr.wal.partial_segment import PartialSegment


@dataclass(frozen=True)
class LineageSegment:
    """The file for one segment's number. ``until``: the LSN up to which it belongs to the lineage and was written."""

    number: int
    source: Segment | PartialSegment
    until: int


@dataclass(frozen=True)
class Run:
    """Parts without a gap, from the segment of ``start`` on. ``missing``: the first segment that is not there."""

    start: int
    parts: tuple[LineageSegment, ...]
    missing: Segment

    @property
    def end(self) -> int:
        """The LSN up to which there is WAL; ``start`` when there is none."""
        return max(self.start, self.parts[-1].until) if self.parts else self.start

    @property
    def first_number(self) -> int:
        return self.parts[0].number

    def part(self, number: int) -> LineageSegment | None:
        """The part of that number, if the run has it."""
        place = number - self.parts[0].number if self.parts else -1
        return self.parts[place] if 0 <= place < len(self.parts) else None


class Lineage:
    """A timeline with its ancestors, and what the archive has of them."""

    def __init__(self, timeline: int, ancestors: Sequence[Ancestor], archives: Archives) -> None:
        self.timeline = timeline
        self.ancestors = tuple(ancestors)
        self.size = archives.segment_size
        self._segments = archives.segments
        self._archives = archives
        self._partials: dict[Segment, list[PartialSegment]] = {}
        for partial in archives.partials:  # the longest comes last
            if partial.size:
                self._partials.setdefault(partial.segment, []).append(partial)
        self.stretches = stretches_of(timeline, self.ancestors)

    def holds(self, base: BaseFacts) -> bool:
        """Whether a base backup was taken on this line, before it was left for the next timeline."""
        stop = parse_lsn(base.last_lsn)
        return any(timeline == base.timeline and (left is None or stop <= left) for timeline, _, left in self.stretches)

    def timeline_at(self, lsn: int) -> int:
        """The timeline that the byte at ``lsn`` was written on."""
        return next(timeline for timeline, begin, _ in self.stretches if begin <= lsn)

    def holds_timeline(self, timeline: int, lsn: int) -> bool:
        """Whether what ``timeline`` has at ``lsn`` is on this line."""
        return any(
            each == timeline and begin <= lsn and (left is None or lsn < left) for each, begin, left in self.stretches
        )

    def part(self, number: int) -> LineageSegment | None:
        """The file that PostgreSQL would read for a segment's number, of those that are archived."""
        for timeline, begin, left in self.stretches:
            if number < begin // self.size:
                continue
            segment = Segment(timeline, number, self.size)
            if left is not None and left <= segment.start:
                return None
            most = segment.end if left is None else min(segment.end, left)
            if segment in self._segments:
                return LineageSegment(number, segment, most)
            for partial in reversed(self._partials.get(segment, [])):
                if partial.end > begin and self._archives.is_genuine(partial):
                    return LineageSegment(number, partial, min(partial.end, most))
        return None

    def run(self, start: int) -> Run:
        """All there is from ``start`` on without a gap."""
        number, parts = start // self.size, []
        while (part := self.part(number)) is not None:
            parts.append(part)
            number += 1
            if part.until < number * self.size:
                break
        # Names at the end of a run may be anybody's; one that stands within it is held against its bytes when they are read.
        while parts and not self._archives.is_genuine(parts[-1].source):
            number = parts.pop().number
            if (instead := self.part(number)) is not None:
                parts.append(instead)
                number += 1
        missing = parts[-1].until if parts and parts[-1].until < number * self.size else max(start, number * self.size)
        timeline = next(each for each, begin, _ in self.stretches if missing // self.size >= begin // self.size)
        return Run(start, tuple(parts), Segment.holding(timeline, missing, self.size))

    def last_number(self) -> int:
        """The number of the newest segment of which there is anything authentic; -1 without any."""
        line = {timeline: left for timeline, _, left in self.stretches}
        found: list[tuple[Segment, Segment | PartialSegment]] = [(each, each) for each in self._segments]
        found += [(segment, partial) for segment, partials in self._partials.items() for partial in partials]
        for segment, source in sorted(found, key=lambda each: each[0].number, reverse=True):
            left = line.get(segment.timeline, -1)
            if (left is None or segment.start < left) and self._archives.is_genuine(source):
                return segment.number
        return -1


def facts(base: PlannedBase) -> BaseFacts:
    """What a manifest of kind ``base`` says of it."""
    assert base.base is not None
    return base.base


def stop_of(base: PlannedBase) -> int:
    """The LSN at which a base backup becomes consistent."""
    return parse_lsn(facts(base).stop_lsn)


def start_of(base: PlannedBase) -> int:
    """The LSN at which its replay begins."""
    return parse_lsn(facts(base).start_lsn)
