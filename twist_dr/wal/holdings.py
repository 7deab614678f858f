"""What an archive of write-ahead log holds, as its target lists it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from twist_dr.repository.streams import Form
from twist_dr.wal.names import Segment
from twist_dr.wal.partial_segment import PartialSegment


@dataclass(frozen=True)
class Stored:
    """An object as its target lists it. ``size`` in bytes as stored; ``modified`` by the target's clock."""

    key: str
    size: int
    modified: datetime


@dataclass(frozen=True)
class ArchivedObject:
    """An object with whole segments, or a history. ``name``: without the ending of its form."""

    key: str
    size: int
    system_identifier: str
    name: str
    form: Form


@dataclass
class Holdings:
    """What a target has of one cluster's WAL. ``histories`` are timelines whose history file is there.

    An object may hold several segments, and a segment may lie in several objects: ``segments`` names one, ``again`` the others.
    """

    system_identifier: str
    segment_size: int
    segments: dict[Segment, Stored] = field(default_factory=dict)
    partials: dict[PartialSegment, Stored] = field(default_factory=dict)
    histories: set[int] = field(default_factory=set)
    again: list[tuple[Segment, Stored]] = field(default_factory=list)

    def add(self, segment: Segment, stored: Stored) -> None:
        """One more object that holds a whole segment."""
        if segment in self.segments:
            self.again.append((segment, stored))
        else:
            self.segments[segment] = stored

    def whole(self) -> Iterator[tuple[Segment, Stored]]:
        """Every whole segment with every object that holds it."""
        yield from self.segments.items()
        yield from self.again

    def covering(self, segment: Segment, until: int) -> Stored | None:
        """An object with all of a segment that lies before the LSN ``until``: with the last one, the shortest partial segment will do, too."""
        if segment in self.segments or segment.end <= until:
            return self.segments.get(segment)
        partials = (each for each in self.partials if each.segment == segment and each.end >= until)
        shortest = min(partials, key=lambda each: each.end, default=None)
        return None if shortest is None else self.partials[shortest]

    def objects(self) -> Iterator[tuple[Segment, Stored]]:
        """The same, and partial segments, each with its segment."""
        yield from self.whole()
        yield from ((partial.segment, stored) for partial, stored in self.partials.items())

    @property
    def stored_bytes(self) -> int:
        """Bytes of all segments and partial segments as stored."""
        return sum({stored.key: stored.size for _, stored in self.objects()}.values())

    @property
    def timelines(self) -> list[int]:
        found = {segment.timeline for segment in self.segments} | {
            partial.segment.timeline for partial in self.partials
        }
        return sorted(found | self.histories)
