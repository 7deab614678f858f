"""The offsets that pg_dump leaves out of a dump it writes to a pipe, as it cannot go back to the table of contents.

Without them ``pg_restore --jobs`` searches the file for each table's rows, and cannot begin with the largest tables.
The format is PostgreSQL's own, of pg_backup_archiver.c (``WriteHead``, ``WriteToc``) and pg_backup_custom.c.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

#: Formats whose table of contents we know: of pg_dump 12 to 15, of 16, and of 17 and 18.
_WITH_LONG_COMPRESSION, _WITH_RELATION_KIND = 14, 16
_VERSIONS = {bytes([1, minor, 0]) for minor in (14, 15, 16)}
#: An integer has 4 bytes after its sign, an offset 8; format 1 is the custom one.
_SIZES_AND_FORMAT = bytes([4, 8, 1])
#: In front of an entry's offset, in the table of contents.
_NOT_SET, _SET, _NO_DATA = 1, 2, 3
_FLAG_AND_OFFSET = struct.Struct("<BQ")
#: Begins a block of a table's rows; its number follows. Then come chunks, a length and bytes each, and a length of zero.
_HEAD = bytes([1, 0])
_HEAD_SIZE = 6
_END = bytes(5)
_SMALLEST_PIECE, _LARGEST_PIECE = 4 << 10, 256 << 10


class _Unknown(Exception):
    """Not a dump as we know them."""


@dataclass(frozen=True)
class _Entry:
    """An entry of the table of contents that has rows. ``flag_at``: where in the file its flag and offset stand."""

    number: int
    flag_at: int


def fill_in_offsets(dump: Path, large_objects: int) -> bool:
    """Write the missing offsets into the table of contents of a custom-format dump, as pg_dump does when it writes to a file.

    ``dump`` is uncompressed, and a file of our own that was already verified: it is changed in place, and no longer has
    the recorded SHA-256. Returns whether it was done. Of a dump that is in any way not as expected nothing is changed,
    as it can be restored without; so too when it has large objects, whose bytes may look like a block of rows.
    """
    if large_objects:
        return False
    try:
        with dump.open("r+b", buffering=_LARGEST_PIECE) as file:
            # A storage target may hold a link to the file, and what a target holds is never changed.
            if os.fstat(file.fileno()).st_nlink != 1:
                return False
            entries = _entries_with_rows(file)
            offsets = _offsets(file, entries)
            for entry, offset in zip(entries, offsets, strict=True):
                # Flag and offset in one write: ended at any entry, the dump is as good as before.
                os.pwrite(file.fileno(), _FLAG_AND_OFFSET.pack(_SET, offset), entry.flag_at)
    except (_Unknown, OSError):
        return False
    return bool(entries)


def _entries_with_rows(file: BinaryIO) -> list[_Entry]:
    """Read the header and the table of contents; the file then stands at the first block."""
    if _take(file, 5) != b"PGDMP":
        raise _Unknown
    version = _take(file, 3)
    if version not in _VERSIONS or _take(file, 3) != _SIZES_AND_FORMAT:
        raise _Unknown
    compression = _integer(file) if version[1] == _WITH_LONG_COMPRESSION else _take(file, 1)[0]
    if compression != 0:
        raise _Unknown
    _skip_integers(file, 7)  # the time
    _skip_texts(file, 3)  # names of the database and of both versions
    entries: list[_Entry] = []
    for _ in range(_integer(file)):
        if entry := _entry(file, has_relation_kind=version[1] >= _WITH_RELATION_KIND):
            entries.append(entry)
    return entries


def _entry(file: BinaryIO, *, has_relation_kind: bool) -> _Entry | None:
    """Read one entry of the table of contents; None when it has no rows."""
    number, has_data = _integer(file), _integer(file)
    _skip_texts(file, 3)  # both oids, name
    kind = _take(file, _integer(file))
    _skip_integers(file, 1)  # section
    _skip_texts(file, 6)  # CREATE, DROP, COPY, schema, tablespace, access method
    if has_relation_kind:
        _skip_integers(file, 1)
    _skip_texts(file, 2)  # owner, WITH OIDS
    while _skip_text(file):  # dependencies, up to a NULL
        pass
    flag_at = file.tell()
    flag, _ = _FLAG_AND_OFFSET.unpack(_take(file, _FLAG_AND_OFFSET.size))
    if (has_data, flag) == (0, _NO_DATA):
        return None
    if (has_data, flag, kind) != (1, _NOT_SET, b"TABLE DATA") or number <= 0:
        raise _Unknown
    return _Entry(number, flag_at)


def _offsets(file: BinaryIO, entries: list[_Entry]) -> list[int]:
    """Where the block of each entry begins. They must be all there is to the end of the file, in the entries' order."""
    offset = file.tell()
    offsets: list[int] = []
    for entry in entries:
        head = os.pread(file.fileno(), _HEAD_SIZE, offset)
        if head[:2] != _HEAD or int.from_bytes(head[2:], "little") != entry.number:
            raise _Unknown
        offsets.append(offset)
        offset = _end_of_block(file, offset + _HEAD_SIZE)
    if offset != os.fstat(file.fileno()).st_size:
        raise _Unknown
    return offsets


def _end_of_block(file: BinaryIO, start: int) -> int:
    """The end of the block whose first chunk begins at ``start``, just after its length of zero.

    There may be a chunk for each row, so they are not gone through. Rows are text, in which PostgreSQL allows no zero
    byte, and of the five bytes of a chunk's length one is not zero: five zeros in a row can only be the last length.
    """
    size = _SMALLEST_PIECE
    while True:
        piece = os.pread(file.fileno(), size, start)
        if (found := piece.find(_END)) >= 0:
            return start + found + len(_END)
        if len(piece) < size:
            raise _Unknown
        start += size - (len(_END) - 1)
        size = min(2 * size, _LARGEST_PIECE)


def _take(file: BinaryIO, size: int) -> bytes:
    # A kind is the longest that is taken; a length beyond is no length.
    if not 0 <= size <= 100 or len(taken := file.read(size)) < size:
        raise _Unknown
    return taken


def _integer(file: BinaryIO) -> int:
    taken = _take(file, 5)
    value = int.from_bytes(taken[1:], "little")
    return -value if taken[0] else value


def _skip_integers(file: BinaryIO, count: int) -> None:
    _take(file, 5 * count)


def _skip_text(file: BinaryIO) -> bool:
    """Whether there was one: a NULL has a length below zero."""
    length = _integer(file)
    if length > 0:
        file.seek(length, os.SEEK_CUR)
    return length >= 0


def _skip_texts(file: BinaryIO, count: int) -> None:
    for _ in range(count):
        _skip_text(file)
