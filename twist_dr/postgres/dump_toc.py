"""The table of contents of a custom-format dump, read where it lies, so that it can be changed there, or as it comes.

The format is PostgreSQL's own, of pg_backup_archiver.c (``WriteHead``, ``WriteToc``) and pg_backup_custom.c.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import BinaryIO

#: Formats whose table of contents we know: of pg_dump 12 to 15, of 16, and of 17 and 18.
_WITH_LONG_COMPRESSION, _WITH_RELATION_KIND = 14, 16
_VERSIONS = {bytes([1, minor, 0]) for minor in (14, 15, 16)}
#: An integer has 4 bytes after its sign, an offset 8; format 1 is the custom one.
_SIZES_AND_FORMAT = bytes([4, 8, 1])
#: A flag and an offset: where an entry's rows are.
FLAG_AND_OFFSET = struct.Struct("<BQ")
#: The longest kind has a third of it; a length beyond is no length.
_LONGEST_KIND = 100
#: A table has at most 1,600 columns, whose names, defaults and options have a tenth of it.
_LONGEST_DEFINITION = 64 << 20


class UnknownDump(Exception):
    """Not a dump as we know them."""


@dataclass(frozen=True)
class Header:
    """``minor``: of the format's version 1. ``compression``: the method that the rows are compressed with, 0 for none."""

    minor: int
    compression: int


@dataclass(frozen=True)
class TocEntry:
    """One entry. ``definition``: the SQL that makes it, read for the kinds that were asked for; ``load``: the COPY that takes its rows;
    ``*_at``: where in the file it stands.

    ``schema``, ``name`` and ``owner`` are in the dump's encoding. Only here are they told apart for certain: in what pg_dump and pg_restore write
    for people a space or line break of a name is like any other.
    """

    number: int
    has_rows: int
    catalog: bytes
    oid: bytes
    """What it is in the server that was dumped, in digits: the catalog's OID and its own there; of what stands in none, zeros."""
    kind: bytes
    schema: bytes
    name: bytes
    access: bytes
    """The table access method, of what has one: no part of the definition."""
    owner: bytes
    definition: bytes
    definition_at: int
    load: bytes
    needs: frozenset[int]
    """Numbers of the entries that must be restored before it; some may be left out of the dump."""
    flag: int
    flag_at: int


def read_header(file: BinaryIO) -> Header:
    """Read up to the table of contents. Raises ``UnknownDump``."""
    if _take(file, 5) != b"PGDMP":
        raise UnknownDump
    version = _take(file, 3)
    if version not in _VERSIONS or _take(file, 3) != _SIZES_AND_FORMAT:
        raise UnknownDump
    minor = version[1]
    compression = read_integer(file) if minor == _WITH_LONG_COMPRESSION else _take(file, 1)[0]
    _take(file, 5 * 7)  # the time
    _skip_texts(file, 3)  # names of the database and of both versions
    return Header(minor, compression)


def read_entries(file: BinaryIO, header: Header, definitions_of: Container[bytes] = ()) -> Iterator[TocEntry]:
    """The entries that follow the header; after the last, the file stands at the first block of rows. Raises ``UnknownDump``."""
    for _ in range(read_integer(file)):
        yield read_entry(file, header, definitions_of)


def toc_size(file: BinaryIO) -> int | None:
    """Bytes up to the first block of rows; None when that is not all there, or no dump as we know them."""
    try:
        for _ in read_entries(file, read_header(file)):
            pass
    except UnknownDump:
        return None
    return file.tell()


def read_entry(file: BinaryIO, header: Header, definitions_of: Container[bytes] = ()) -> TocEntry:
    """The entry at which the file stands. Raises ``UnknownDump``."""
    number, has_rows = read_integer(file), read_integer(file)
    catalog, oid = _text(file), _text(file)
    name = _text(file)
    kind = _take(file, read_integer(file))
    read_integer(file)  # section
    definition, definition_at = b"", file.tell()
    if kind in definitions_of and (length := read_integer(file)) > 0:
        definition_at = file.tell()
        definition = _take(file, length, _LONGEST_DEFINITION)
    elif kind not in definitions_of:
        _skip_texts(file, 1)
    _skip_texts(file, 1)  # DROP
    load, schema = _text(file), _text(file)
    _skip_texts(file, 1)  # tablespace
    access = _text(file)
    if header.minor >= _WITH_RELATION_KIND:
        read_integer(file)
    owner = _text(file)
    _skip_texts(file, 1)  # WITH OIDS
    needs = []
    while (length := read_integer(file)) >= 0:  # up to a NULL
        needs.append(_take(file, length))
    flag_at = file.tell()
    flag, _ = FLAG_AND_OFFSET.unpack(_take(file, FLAG_AND_OFFSET.size))
    needed = frozenset(int(each) for each in needs if each.isdigit())
    return TocEntry(
        number, has_rows, catalog, oid, kind, schema, name, access, owner, definition, definition_at, load, needed, flag, flag_at,
    )  # fmt: skip


def _take(file: BinaryIO, size: int, most: int = _LONGEST_KIND) -> bytes:
    if not 0 <= size <= most or len(taken := file.read(size)) < size:
        raise UnknownDump
    return taken


def read_integer(file: BinaryIO) -> int:
    """An integer of the format: its sign, then four bytes."""
    taken = _take(file, 5)
    value = int.from_bytes(taken[1:], "little")
    return -value if taken[0] else value


def _text(file: BinaryIO) -> bytes:
    """Empty for a NULL, which has a length below zero."""
    return _take(file, max(0, read_integer(file)), _LONGEST_DEFINITION)


def _skip_text(file: BinaryIO) -> bool:
    """Whether there was one: a NULL has a length below zero."""
    length = read_integer(file)
    if length > 0:
        file.seek(length, os.SEEK_CUR)
    return length >= 0


def _skip_texts(file: BinaryIO, count: int) -> None:
    for _ in range(count):
        _skip_text(file)
