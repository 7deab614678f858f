"""Is a file the segment that its name says? What every page of WAL says of itself is looked at.

A page of 8 KiB (``wal_block_size``) begins with magic (the version of the format), flags, timeline and its own address;
the first page of a segment says the cluster's identity and the segment's size too (``xlog_internal.h``:
``XLogPageHeaderData``, ``XLogLongPageHeaderData``). Right-size files of zeros, and other segments' bytes, are promoted by
PostgreSQL as the end of the log: nothing but this look tells.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from twist_dr.errors import WalInvalid
from twist_dr.postgres.lsn import format_lsn
from twist_dr.wal.names import Segment, is_segment_size

#: Major version by the magic number of its WAL pages (XLOG_PAGE_MAGIC in its xlog_internal.h).
MAJORS = {0xD106: 13, 0xD10D: 14, 0xD110: 15, 0xD113: 16, 0xD116: 17, 0xD118: 18}

# Written in the byte order of the server; ours, unless the two are of different kinds, is the only one that fits.
_PAGE = struct.Struct(f"{'<' if sys.byteorder == 'little' else '>'}HHIQI")
_LONG = struct.Struct(f"{'<' if sys.byteorder == 'little' else '>'}HHIQI4xQII")
_LONG_HEADER_FLAG = 0x0002

_ZEROS_OF_A_RECORD = 24

#: The first page header of a segment, bytes.
LONG_HEADER = _LONG.size


@dataclass(frozen=True)
class FirstPage:
    """What the beginning of a segment says. ``major`` is None for a magic number that this version does not know."""

    magic: int
    timeline: int
    address: int
    system_identifier: str
    segment_size: int
    page_size: int

    @property
    def major(self) -> int | None:
        return MAJORS.get(self.magic)


def read_first_page(data: bytes, what: str) -> FirstPage:
    """Read the long header at the beginning of a segment. Raises ``WalInvalid``, naming ``what``."""
    if len(data) < LONG_HEADER:
        raise _invalid(what, f"it holds {len(data)} bytes")
    magic, flags, timeline, address, _, identifier, segment_size, page_size = _LONG.unpack_from(data)
    if not flags & _LONG_HEADER_FLAG or magic >> 8 != 0xD1:
        raise _invalid(what, "it does not begin with the header of a WAL segment")
    if not is_segment_size(segment_size) or page_size < 1024 or page_size & (page_size - 1):
        raise _invalid(what, f"its header says segments of {segment_size} and pages of {page_size} bytes")
    return FirstPage(magic, timeline, address, str(identifier), segment_size, page_size)


class PageCheck:
    """Looks at every page of one segment as its bytes come by, in chunks of any size.

    ``whole``: the bytes are a whole segment; a partial segment, which ends where the server had come to, may be shorter. Zeros are taken
    for the unwritten rest (after a switch, or in a file made in advance): nothing but zeros may come after them.
    """

    def __init__(self, segment: Segment, system_identifier: str, what: str, *, whole: bool = True) -> None:
        self._segment = segment
        self._identifier = system_identifier
        self._what = what
        self._whole = whole
        self._pending = b""
        self._offset = 0
        self._first: FirstPage | None = None
        self._timeline = 0
        self._ended = False
        self.size = 0

    def update(self, chunk: bytes) -> None:
        """Look at more bytes. Raises ``WalInvalid``."""
        self.size += len(chunk)
        data = self._pending + chunk if self._pending else chunk
        if self._first is None:
            if len(data) < LONG_HEADER:
                self._pending = data
                return
            self._first = self._look_at_first(data)
        page = self._first.page_size
        # Only the headers are read: the offset of the next page's in ``data``.
        at = -self._offset % page
        end = len(data) - _PAGE.size
        while at <= end:
            self._look_at_page(data, at)
            at += page
        # What is left over begins at a page's header that was cut, or after the last one that was seen.
        keep = len(data) - at if at < len(data) else 0
        self._pending = data[len(data) - keep :] if keep else b""
        self._offset += len(data) - keep

    def looked_at(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The same chunks, each looked at, and the end at the end."""
        for chunk in chunks:
            self.update(chunk)
            yield chunk
        self.finish()

    def finish(self) -> FirstPage:
        """The end of the file. Raises ``WalInvalid`` unless it was a segment's."""
        if self._first is None:
            raise _invalid(self._what, f"it holds {self.size} bytes")
        if self.size > self._segment.size or (self._whole and self.size != self._segment.size):
            raise _invalid(self._what, f"it holds {self.size} bytes where a segment has {self._segment.size}")
        return self._first

    def _look_at_first(self, data: bytes) -> FirstPage:
        first = read_first_page(data, self._what)
        if first.system_identifier != self._identifier:
            raise _invalid(
                self._what,
                f"it belongs to the cluster {first.system_identifier} and not to {self._identifier}",
            )
        if first.segment_size != self._segment.size:
            raise _invalid(self._what, f"its cluster has segments of {first.segment_size} bytes")
        return first

    def _look_at_page(self, data: bytes, at: int) -> None:
        assert self._first is not None
        magic, _, timeline, address, _ = _PAGE.unpack_from(data, at)
        expected = self._segment.start + self._offset + at
        if magic == 0 and address == 0 and expected != self._segment.start:
            self._ended = True
            return
        if self._ended or magic != self._first.magic or address != expected:
            raise _invalid(
                self._what,
                f"the page at {format_lsn(expected)} says that it is {format_lsn(address)}, magic {magic:04X}",
            )
        # A segment in which a timeline begins has its parent's pages before, never after.
        if not self._timeline <= timeline <= self._segment.timeline:
            raise _invalid(self._what, f"the page at {format_lsn(expected)} is of timeline {timeline}")
        self._timeline = timeline


def reaches(page: bytes, segment: Segment, offset: int) -> bool:
    """Whether ``page``, the header at ``offset`` of a segment's file, is of that place: it was written, and so was all before."""
    if len(page) < _PAGE.size:
        return False
    magic, _, _, address, _ = _PAGE.unpack_from(page)
    return bool(magic >> 8 == 0xD1 and address == segment.start + offset)


def _invalid(what: str, why: str) -> WalInvalid:
    return WalInvalid(f"{what} is not the WAL that its name says: {why}", remedy="take it from another storage target")


def pages_written(data: bytes, segment: Segment) -> int:
    """Bytes at the beginning of ``data`` that are pages of this segment; what an earlier use of the file left behind is not.

    Zeros at the end of the last page do not count, except for a few that may be the end of a record. 0 when not even the first
    page is of this segment.
    """
    try:
        first = read_first_page(data, segment.name)
    except WalInvalid:
        return 0
    if first.address != segment.start:
        return 0
    end = 0
    for at in range(0, len(data) - _PAGE.size + 1, first.page_size):
        magic, _, _, address, _ = _PAGE.unpack_from(data, at)
        if magic != first.magic or address != segment.start + at:
            break
        end = at + first.page_size
    whole = data[:end].rstrip(b"\0")
    # Records begin at multiples of 8. A commit may end with zeros: 16 for an origin of replication that was never set, up to 7
    # of padding. Too many zeros do no harm; a commit that lacks its last bytes would be none.
    return min(end, -(-len(whole) // 8) * 8 + _ZEROS_OF_A_RECORD)
