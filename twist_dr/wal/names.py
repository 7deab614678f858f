"""Names and numbers of the write-ahead log.

An LSN is a number of bytes since the cluster began, ``0/3000000`` for people. A segment is a stretch of it of a size that
initdb chose (16 MB unless told otherwise, 1 MB to 1 GB): its name is timeline, then the number of the segment, which is
written as two groups of eight hexadecimal digits whose meaning depends on the size
(https://www.postgresql.org/docs/current/wal-internals.html, xlog_internal.h).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

#: What an archive command, basic_archive or pg_receivewal may put into a folder.
WalFileKind = Literal["segment", "history", "backup", "partial"]

SEGMENT_NAME = re.compile(r"[0-9A-F]{24}")
_HISTORY = re.compile(r"[0-9A-F]{8}\.history")
_BACKUP = re.compile(r"[0-9A-F]{24}\.[0-9A-F]{8}\.backup")
_PARTIAL = re.compile(r"[0-9A-F]{24}\.partial")

SMALLEST_SEGMENT = 1 << 20
LARGEST_SEGMENT = 1 << 30


def kind_of(name: str) -> WalFileKind | None:
    """What a file is by its name, or ``None`` when it is none of PostgreSQL's."""
    if SEGMENT_NAME.fullmatch(name):
        return "segment"
    if _HISTORY.fullmatch(name):
        return "history"
    if _PARTIAL.fullmatch(name):
        return "partial"
    return "backup" if _BACKUP.fullmatch(name) else None


def is_segment_size(size: int) -> bool:
    """Whether a cluster can have segments of so many bytes: a power of two from 1 MB to 1 GB."""
    return SMALLEST_SEGMENT <= size <= LARGEST_SEGMENT and size & (size - 1) == 0


@dataclass(frozen=True, order=True)
class Segment:
    """One segment: ``number`` counts from the cluster's beginning, ``size`` in bytes."""

    timeline: int
    number: int
    size: int

    @classmethod
    def named(cls, name: str, size: int) -> Segment:
        """The segment of a file's name (24 digits). Raises ``ValueError``."""
        if not SEGMENT_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a WAL segment")
        per_group = (1 << 32) // size
        high, low = int(name[8:16], 16), int(name[16:24], 16)
        if low >= per_group:
            raise ValueError(f"{name!r} is not the name of a WAL segment of {size} bytes")
        return cls(int(name[:8], 16), high * per_group + low, size)

    @classmethod
    def holding(cls, timeline: int, lsn: int, size: int) -> Segment:
        """The segment that the byte at ``lsn`` is in."""
        return cls(timeline, lsn // size, size)

    @property
    def name(self) -> str:
        per_group = (1 << 32) // self.size
        return f"{self.timeline:08X}{self.number // per_group:08X}{self.number % per_group:08X}"

    @property
    def start(self) -> int:
        """The LSN of its first byte."""
        return self.number * self.size

    @property
    def end(self) -> int:
        """The LSN after its last byte."""
        return self.start + self.size

    @property
    def next(self) -> Segment:
        return Segment(self.timeline, self.number + 1, self.size)

    def until(self, lsn: int) -> Iterator[Segment]:
        """This one and those that follow, as far as they begin before an LSN."""
        segment = self
        while segment.start < lsn:
            yield segment
            segment = segment.next


def timeline_of(name: str) -> int:
    """The timeline that the name of any of the four kinds of file begins with."""
    return int(name[:8], 16)


def history_name(timeline: int) -> str:
    return f"{timeline:08X}.history"
