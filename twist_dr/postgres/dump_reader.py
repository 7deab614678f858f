"""Which tables' rows a custom-format dump holds, to the last of them, told from its bytes as they come."""

from __future__ import annotations

import os
from collections.abc import Callable, Container
from typing import BinaryIO, cast

from twist_dr.postgres.dump_toc import (
    Header,
    TocEntry,
    UnknownDump,
    read_entry,
    read_header,
    read_integer,
)

#: Begin a block, and the number of its entry follows. The blocks are PostgreSQL's own, of pg_backup_custom.c.
_ROWS, _LARGE_OBJECTS = b"\x01", b"\x03"
#: Ends a block of rows: a chunk's length of zero. Rows are text, in which PostgreSQL allows no zero byte, and of the five bytes of a
#: chunk's length one is not zero: five zeros in a row can only be the last length. There may be a chunk for each row, so they are not
#: gone through.
_END = bytes(5)


class _Incomplete(Exception):
    """The bytes that are needed next have not come yet."""


class _Arriving:
    """What has come and was not read yet, with as much of a file's ways as :mod:`dump_toc` needs."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._place = self._gone = 0

    def __len__(self) -> int:
        return len(self._data) - self._place

    @property
    def at(self) -> int:
        """Where in the dump it stands; :meth:`tell` is good until more comes."""
        return self._gone + self._place

    def add(self, piece: bytes) -> None:
        del self._data[: self._place]
        self._data += piece
        self._gone += self._place
        self._place = 0

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> None:
        place = offset if whence == os.SEEK_SET else self._place + offset
        if place > len(self._data):
            raise _Incomplete
        self._place = place

    def read(self, size: int) -> bytes:
        begun = self._place
        self.seek(size, os.SEEK_CUR)
        return bytes(self._data[begun : self._place])

    def past(self, end: bytes, passed: Callable[[memoryview], object]) -> bool:
        """Go on behind ``end``, or to where it may have begun; returns whether it is there. ``passed`` is given what is left behind."""
        begun, found = self._place, self._data.find(end, self._place)
        self._place = found + len(end) if found >= 0 else max(begun, len(self._data) - len(end) + 1)
        with memoryview(self._data) as whole, whole[begun : self._place] as piece:
            passed(piece)
        return found >= 0


class DumpReader:
    """Is fed with an uncompressed dump, piece by piece. ``tables``: schema and name of those whose rows were there to their end.

    What is done with entries, rows and large objects, the methods :meth:`_take_entry` and following, is nothing unless a subclass says so.
    """

    #: Kinds of entries whose definitions are read.
    definitions_of: Container[bytes] = ()

    def __init__(self) -> None:
        self.tables: set[tuple[bytes, bytes]] = set()
        self._arriving = _Arriving()
        self._file = cast("BinaryIO", self._arriving)
        self._header: Header | None = None
        self._left = self._number = 0
        self._with_rows: dict[int, TocEntry] = {}
        self._step: Callable[[], bool] = self._read_header

    @property
    def at_end(self) -> bool:
        """Whether nothing is begun and unfinished."""
        return self._step == self._begin_block and not len(self._arriving)

    def feed(self, piece: bytes) -> None:
        """Raises ``UnknownDump`` when it is not a dump as we know them."""
        self._arriving.add(piece)
        more = True
        while more:
            begun = self._arriving.tell()
            try:
                more = self._step()
            except _Incomplete:
                self._arriving.seek(begun)
                return

    # -- steps: each is taken anew when more bytes have come, unless it is done; they return whether to go on ------------------

    def _read_header(self) -> bool:
        self._header, self._left = read_header(self._file), read_integer(self._file)
        if self._header.compression != 0:
            raise UnknownDump
        self._step = self._read_entry
        return True

    def _read_entry(self) -> bool:
        if not self._left:
            self._step = self._begin_block
            return True
        assert self._header is not None
        entry = read_entry(self._file, self._header, self.definitions_of)
        if entry.has_rows and entry.kind == b"TABLE DATA":
            self._with_rows[entry.number] = entry
        self._take_entry(entry)
        self._left -= 1
        return True

    def _begin_block(self) -> bool:
        kind, self._number = self._file.read(1), read_integer(self._file)
        if kind not in (_ROWS, _LARGE_OBJECTS):
            raise UnknownDump
        self._step = self._read_rows if kind == _ROWS else self._begin_large_object
        if kind == _ROWS:
            self._begin_rows(self._arriving.at)
        return True

    def _read_rows(self) -> bool:
        if not self._arriving.past(_END, self._take_rows):
            return False
        if (entry := self._with_rows.get(self._number)) is not None:
            self.tables.add((entry.schema, entry.name))
            self._end_rows(entry)
        self._step = self._begin_block
        return True

    def _begin_large_object(self) -> bool:
        """Its oid, then its bytes in chunks; a zero in place of either is the end."""
        if oid := read_integer(self._file):
            self._begin_object(oid)
        self._step = self._read_chunk if oid else self._begin_block
        return True

    def _read_chunk(self) -> bool:
        if (size := read_integer(self._file)) < 0:
            raise UnknownDump
        if size:
            self._take_object(self._file.read(size))
        else:
            self._end_object()
            self._step = self._begin_large_object
        return True

    # -- what a subclass does with what is read ---------------------------------------------------------------------------------

    def _take_entry(self, entry: TocEntry) -> None: ...

    def _begin_rows(self, place: int) -> None:
        """``place``: where in the dump the block's first chunk begins."""

    def _take_rows(self, piece: memoryview) -> None:
        """A piece of the block's chunks as they lie there, lengths included."""

    def _end_rows(self, entry: TocEntry) -> None: ...

    def _begin_object(self, oid: int) -> None: ...

    def _take_object(self, piece: bytes) -> None: ...

    def _end_object(self) -> None: ...
