"""The entries of a dump's table of contents, held against those of the restored database, dumped again.

The server keeps what it understood, not what it read, and writes that down in its own words: the predicate of an index may read differently
after it was restored, and means the same. So of an entry that reads differently the server is asked what it makes of the dump's words.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from twist_dr.postgres.differing_rows import at_utc
from twist_dr.postgres.dump_content import EveryKind
from twist_dr.postgres.dump_internals import without_internals
from twist_dr.postgres.dump_toc import TocEntry, read_entries, read_header
from twist_dr.postgres.statements import casting_elements, statements

#: Kind, schema and name, in the dump's encoding.
ObjectKey = tuple[bytes, bytes, bytes]

#: Of the database itself, which is made before a restore; subscriptions, which would pull data; rows and large objects, which are compared
#: for themselves; the planner's statistics, which are no content.
_NOT_COMPARED = {
    b"DATABASE", b"DATABASE PROPERTIES", b"SUBSCRIPTION", b"SUBSCRIPTION TABLE", b"TABLE DATA", b"BLOBS", b"STATISTICS DATA",
}  # fmt: skip
_OF_OTHERS = (b"DATABASE ", b"SUBSCRIPTION ")
_ABOUT_OTHERS = {b"COMMENT", b"SECURITY LABEL", b"ACL"}
#: Given by a restore with owners and grants alone.
_LARGE_OBJECTS, _OF_LARGE_OBJECTS = {b"BLOB", b"BLOB METADATA"}, b"LARGE OBJECT"
_RIGHTS = {b"ACL", b"DEFAULT ACL", *_LARGE_OBJECTS}
#: Every database has it; a dump has it where it belongs to somebody else than usual.
_PUBLIC: ObjectKey = (b"SCHEMA", b"", b"public")
#: Longer definitions are compared as they stand.
_MOST_REWRITTEN = 1 << 20
#: String constants and numbers: what the server puts into other words keeps them.
_CONSTANT = re.compile(rb"'(?:[^']|'')*'|(?<![A-Za-z_0-9\"])[0-9]+(?:\.[0-9]+)?")


@dataclass
class Unlike:
    """Entries that are not the same: those that only one dump has, and the texts of those that read differently."""

    missing: list[ObjectKey] = field(default_factory=list)
    added: list[ObjectKey] = field(default_factory=list)
    changed: dict[ObjectKey, tuple[list[bytes], list[bytes]]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.missing or self.added or self.changed)


class DumpedSchema:
    """The entries of a dump that lies there; :meth:`take` is given those of the other. ``owners``: whether owners and grants count;
    ``alike``: whether both were made by the same version's pg_dump, else groups of large objects and their grants do not count.

    Raises ``UnknownDump``.
    """

    def __init__(self, dump: Path, *, owners: bool, alike: bool) -> None:
        self._dump = dump
        self._owners = owners
        self._alike = alike
        self._waiting: dict[ObjectKey, list[bytes]] = {}
        self._unlike: dict[ObjectKey, list[bytes]] = {}
        for entry in _entries(dump):
            if self.compares(entry):
                self._waiting.setdefault(key_of(entry), []).append(_digest(self.text(entry)))

    def compares(self, entry: TocEntry) -> bool:
        if entry.kind in _NOT_COMPARED or (entry.kind in _ABOUT_OTHERS and entry.name.startswith(_OF_OTHERS)):
            return False
        if not self._alike and (
            entry.kind in _LARGE_OBJECTS or (entry.kind == b"ACL" and entry.name.startswith(_OF_LARGE_OBJECTS))
        ):
            return False
        return self._owners or (entry.kind not in _RIGHTS and key_of(entry) != _PUBLIC)

    def text(self, entry: TocEntry) -> bytes:
        access = b"USING %s\n" % entry.access if entry.access else b""
        return b"%s\n%s%s" % (
            entry.definition,
            access,
            b"OWNER TO " + entry.owner if self._owners and entry.owner else b"",
        )

    def take(self, entry: TocEntry) -> None:
        """An entry of the other dump."""
        if not self.compares(entry):
            return
        key, text = key_of(entry), self.text(entry)
        if (digest := _digest(text)) in (waiting := self._waiting.get(key, [])):
            waiting.remove(digest)
        else:
            self._unlike.setdefault(key, []).append(text)

    def unlike(self) -> Unlike:
        """What is not the same, when all of the other dump's entries were taken."""
        missing = {key for key, digests in self._waiting.items() if digests}
        changed = missing & self._unlike.keys()
        found = Unlike(sorted(missing - changed), sorted(self._unlike.keys() - changed))
        dumped: dict[ObjectKey, list[bytes]] = {}
        for entry in _entries(self._dump) if changed else ():
            if (key := key_of(entry)) in changed and self.compares(entry):
                dumped.setdefault(key, []).append(self.text(entry))
        for key in sorted(changed):
            pair = without_equal(dumped[key], self._unlike[key])
            if pair != ([], []):
                found.changed[key] = pair
        return found


def key_of(entry: TocEntry) -> ObjectKey:
    return entry.kind, entry.schema, entry.name


def without_equal(texts: list[bytes], others: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Both without what is in both, space between statements, comments and what is PostgreSQL's own left aside."""
    first, second = Counter(map(plain, texts)), Counter(map(plain, others))
    return sorted((first - second).elements()), sorted((second - first).elements())


def same_constants(texts: list[bytes], others: list[bytes]) -> bool:
    """Whether no constant is another: the server puts an expression into other words, and never an amount or a date into another."""
    return _constants(texts) == _constants(others)


def _constants(texts: list[bytes]) -> Counter[bytes]:
    return Counter(constant for text in texts for constant in _CONSTANT.findall(at_utc(text)))


def plain(text: bytes) -> bytes:
    """A definition without what says nothing, and with what servers are known to word otherwise once they have read it in one way."""
    told = b"\n".join(statements(without_internals(text)))
    return casting_elements(told) if len(told) <= _MOST_REWRITTEN else told


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).digest()


def _entries(dump: Path) -> Iterator[TocEntry]:
    with dump.open("rb") as file:
        yield from read_entries(file, read_header(file), EveryKind())
