"""A tablespace that was made after the base backup: replaying that would write where it lies on the primary.

Replay of CREATE TABLESPACE links to the recorded path, takes over a folder that is there, and writes into it
(create_tablespace_directories in PostgreSQL's tablespace.c). On the primary's own host that is the live tablespace. So WAL is
searched for such records before the server gets it.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from pathlib import Path

from twist_dr.wal.names import Segment
from twist_dr.wal.pages import LONG_HEADER

_PAGE = 8192
_PAGE_HEADER = 24
#: Pages searched at a time: little enough for the processor's cache.
_PAGES = 64
#: Of a record's header (XLogRecord): the resource manager of tablespaces, at its 18th byte, and two bytes of padding; what may lie between
#: them and a path rules out nearly all places that look so. Looked for first, as the bytes before would cost ten times the search.
_LIKELY = re.compile(rb"\x05\x00\x00(?=.{4}(?:\xfd..)?(?:\xfc.{4})?(?:\xff.|\xfe.{4}).{4}/)", re.DOTALL)
_AT_MANAGER = 17
#: Info 0 is "create", with flags below; then the checksum, perhaps origin and outer transaction, and the record's own data: OID and path.
_RECORD = re.compile(
    rb"[\x00-\x0f]\x05\x00\x00.{4}(?:\xfd..)?(?:\xfc.{4})?(?:\xff.|\xfe.{4}).{4}(/[^\x00]{0,1023})\x00", re.DOTALL
)
#: No record of this kind is longer.
_LONGEST = 1100


def created_tablespaces(path: Path, segment: Segment) -> list[tuple[int, str]]:
    """LSN (to a page or so) and path of each tablespace that a segment's file creates. One cut by its end is not found: see :func:`across`."""
    found: list[tuple[str, int]] = []
    before = b""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for at in range(0, len(data), _PAGE * _PAGES):
            end = min(at + _PAGE * _PAGES, len(data))
            # Records go on behind the header of the next page: without headers none is cut.
            bodies = [data[page + _PAGE_HEADER : page + _PAGE] for page in range(at, end, _PAGE)]
            joined = b"".join([before, *bodies])
            for begin, place in _found(joined):
                pages, offset = divmod(begin - len(before), _PAGE - _PAGE_HEADER)
                found.append((place, segment.start + at + pages * _PAGE + _PAGE_HEADER + offset))
            before = joined[-_LONGEST:]
    # Where two looks find one, the earlier LSN.
    return [(lsn, place) for place, lsn in dict(sorted(found, reverse=True)).items()]


def edges(path: Path, size: int) -> tuple[bytes, bytes]:
    """The first and last bytes of a segment's file, headers left out, for :func:`across`."""
    with path.open("rb") as file:
        first = file.read(LONG_HEADER + _LONGEST)[LONG_HEADER:]
        file.seek(size - _LONGEST)
        return first, file.read()


def across(last: bytes, first: bytes) -> list[str]:
    """Paths of tablespaces whose record begins in one segment and ends in the next."""
    return [place for _, place in _found(last + first)]


def _found(data: bytes) -> Iterator[tuple[int, str]]:
    for likely in _LIKELY.finditer(data):
        begin = likely.start() - _AT_MANAGER
        match = _RECORD.match(data, likely.start() - 1) if begin >= 0 else None
        # A record says its own length first: that of all up to the zero behind the path. Rows that happen to look alike do not.
        if match is not None and struct.unpack_from("<I", data, begin)[0] == match.end() - begin:
            yield begin, match[1].decode(errors="backslashreplace")
