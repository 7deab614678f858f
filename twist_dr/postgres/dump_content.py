"""What a custom-format dump holds, so far as it can be held against another one's: a hash for each table's rows, and the large objects.

Large objects are told by their numbers and 32 bits of a hash, eight bytes for each of what may be millions, and by the sum of their
whole hashes: equal sums are equal contents, and the short ones name what differs.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

from twist_dr.postgres.dump_reader import DumpReader
from twist_dr.postgres.dump_toc import TocEntry, read_integer
from twist_dr.storage.chunks import lines
from twist_dr.system.sizes import CHUNK

#: Schema and name in the dump's encoding.
RawName = tuple[bytes, bytes]
#: Ends the rows of a table: COPY's own mark.
_END_OF_ROWS = b"\\."


@dataclass(frozen=True)
class Block:
    """The rows of one table. ``place``: where in the dump they begin; ``load``: the COPY that takes them."""

    place: int
    digest: bytes
    load: bytes


class EveryKind:
    """All kinds of entries."""

    def __contains__(self, kind: object) -> bool:
        return True


class LargeObjects:
    """Contents of large objects, in any order."""

    def __init__(self) -> None:
        self.sum = 0
        self._known = array("Q")

    def add(self, oid: int, digest: bytes) -> None:
        self.sum = (self.sum + int.from_bytes(digest, "big")) & ((1 << 256) - 1)
        self._known.append((oid & 0xFFFFFFFF) << 32 | int.from_bytes(digest[:4], "big"))

    def __len__(self) -> int:
        return len(self._known)

    def unlike(self, others: LargeObjects) -> list[int]:
        """Numbers of those that are not the same in both, in order. Empty only when all are the same."""
        if self.sum == others.sum:
            return []
        return sorted({known >> 32 for known in set(self._known) ^ set(others._known)}) or [0]


class ContentReader(DumpReader):
    """Is fed with a dump. ``take``: is given each entry with its definition, before any rows come; None where nobody wants them."""

    def __init__(self, take: Callable[[TocEntry], None] | None = None) -> None:
        super().__init__()
        self.blocks: dict[RawName, Block] = {}
        self.objects = LargeObjects()
        self._take = take
        self._place = self._oid = 0
        self._hash = hashlib.sha256()
        if take is not None:
            self.definitions_of = EveryKind()

    def _take_entry(self, entry: TocEntry) -> None:
        if self._take is not None:
            self._take(entry)

    def _begin_rows(self, place: int) -> None:
        self._place, self._hash = place, hashlib.sha256()

    def _take_rows(self, piece: memoryview) -> None:
        self._hash.update(piece)

    def _end_rows(self, entry: TocEntry) -> None:
        self.blocks[entry.schema, entry.name] = Block(self._place, self._hash.digest(), entry.load)

    def _begin_object(self, oid: int) -> None:
        self._oid, self._hash = oid, hashlib.sha256(oid.to_bytes(8, "big", signed=True))

    def _take_object(self, piece: bytes) -> None:
        self._hash.update(piece)

    def _end_object(self) -> None:
        self.objects.add(self._oid, self._hash.digest())


def read_content(dump: Path, stopped: Callable[[], bool]) -> ContentReader:
    """The contents of a dump that lies there, uncompressed, or of its first part when it is stopped. Raises ``UnknownDump``."""
    reader = ContentReader()
    with dump.open("rb", buffering=0) as file:
        while not stopped() and (piece := file.read(CHUNK)):
            reader.feed(piece)
    return reader


def rows_at(file: BinaryIO, place: int) -> Iterator[bytes]:
    """The rows of the table whose block begins there, each as COPY writes it, without its line break. Raises ``UnknownDump``."""
    file.seek(place)
    pieces = (file.read(size) for size in iter(lambda: read_integer(file), 0))
    yield from takewhile(lambda row: row != _END_OF_ROWS, lines(pieces))
