"""The offsets that pg_dump leaves out of a dump it writes to a pipe, as it cannot go back to the table of contents.

Without them ``pg_restore --jobs`` searches the file for each table's rows, and cannot begin with the largest tables.
The format of their blocks is PostgreSQL's own, of pg_backup_custom.c.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from twist_dr.postgres.dump_toc import FLAG_AND_OFFSET, UnknownDump, read_entries, read_header

#: In front of an entry's offset, in the table of contents.
_NOT_SET, _SET, _NO_DATA = 1, 2, 3
#: Begins a block of a table's rows; its number follows. Then come chunks, a length and bytes each, and a length of zero.
_HEAD = bytes([1, 0])
_HEAD_SIZE = 6
_END = bytes(5)
_SMALLEST_PIECE, _LARGEST_PIECE = 4 << 10, 256 << 10


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
                os.pwrite(file.fileno(), FLAG_AND_OFFSET.pack(_SET, offset), entry.flag_at)
    except (UnknownDump, OSError):
        return False
    return bool(entries)


def _entries_with_rows(file: BinaryIO) -> list[_Entry]:
    """Read the header and the table of contents; the file then stands at the first block."""
    header = read_header(file)
    if header.compression != 0:
        raise UnknownDump
    entries: list[_Entry] = []
    for entry in read_entries(file, header):
        if (entry.has_rows, entry.flag) == (0, _NO_DATA):
            continue
        if (entry.has_rows, entry.flag, entry.kind) != (1, _NOT_SET, b"TABLE DATA") or entry.number <= 0:
            raise UnknownDump
        entries.append(_Entry(entry.number, entry.flag_at))
    return entries


def _offsets(file: BinaryIO, entries: list[_Entry]) -> list[int]:
    """Where the block of each entry begins. They must be all there is to the end of the file, in the entries' order."""
    offset = file.tell()
    offsets: list[int] = []
    for entry in entries:
        head = os.pread(file.fileno(), _HEAD_SIZE, offset)
        if head[:2] != _HEAD or int.from_bytes(head[2:], "little") != entry.number:
            raise UnknownDump
        offsets.append(offset)
        offset = _end_of_block(file, offset + _HEAD_SIZE)
    if offset != os.fstat(file.fileno()).st_size:
        raise UnknownDump
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
            raise UnknownDump
        start += size - (len(_END) - 1)
        size = min(2 * size, _LARGEST_PIECE)
