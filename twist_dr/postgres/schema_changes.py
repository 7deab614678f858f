"""What differs between the schemas of two dumps, told by their tables of contents: tables and columns, indexes, constraints and all else.

Of columns, constraints, indexes, sequences and types the definitions are told, too; of all other things (functions, views, foreign servers, ...) that they
changed and no more: a body of a function, or the options of a server, may hold a password.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from twist_dr.postgres.dump_content import EveryKind
from twist_dr.postgres.dump_toc import TocEntry, read_entries, read_header
from twist_dr.postgres.dumped_schema import ObjectKey, key_of, plain
from twist_dr.postgres.statements import NAME, divided, unquoted
from twist_dr.repository.table_names import TableName

What = Literal["came", "went", "changed"]

#: No schema: how a dump is read, the database itself, rows and large objects, numbers that sequences have come to, the planner's statistics. Of extensions
#: the version tells more, which is no part of a dump.
_NO_SCHEMA = {
    b"ENCODING", b"STDSTRINGS", b"SEARCHPATH", b"DATABASE", b"DATABASE PROPERTIES", b"TABLE DATA", b"SEQUENCE SET", b"MATERIALIZED VIEW DATA", b"BLOB",
    b"BLOBS", b"BLOB METADATA", b"STATISTICS DATA", b"EXTENSION", b"SUBSCRIPTION", b"SUBSCRIPTION TABLE",
}  # fmt: skip
_ABOUT = {b"COMMENT", b"SECURITY LABEL", b"ACL"}
_ABOUT_NO_SCHEMA = (b"DATABASE ", b"LARGE OBJECT", b"EXTENSION ", b"SUBSCRIPTION ")
_WORDS = {
    b"ACL": "grants", b"FK CONSTRAINT": "foreign key", b"TABLE ATTACH": "partition", b"INDEX ATTACH": "index of a partition", b"DEFAULT": "column default",
    b"SEQUENCE OWNED BY": "owner of the sequence", b"DEFAULT ACL": "default privileges",
}  # fmt: skip
_TABLES = {b"TABLE", b"FOREIGN TABLE"}
#: Told with their definitions.
_TOLD = {b"CONSTRAINT", b"CHECK CONSTRAINT", b"FK CONSTRAINT", b"INDEX", b"SEQUENCE", b"TYPE", b"DOMAIN", b"STATISTICS"}
#: Goes and comes with the table or sequence that it speaks of.
_PARTS = {*_ABOUT, b"SEQUENCE OWNED BY", b"TABLE ATTACH", b"INDEX ATTACH"}
#: Belong to whoever owns the table.
_OWNED_WITH_ANOTHER = {
    *_PARTS, b"CONSTRAINT", b"CHECK CONSTRAINT", b"FK CONSTRAINT", b"INDEX", b"DEFAULT", b"TRIGGER", b"RULE", b"POLICY", b"ROW SECURITY",
}  # fmt: skip
#: The longest definition that is told whole, in characters: a person reads no longer one.
_LONGEST = 500
#: A name with its schema, and whatever comes before the first bracket.
_QUALIFIED = rb'(?:"(?:[^"]|"")*"|[^" ;])+'
_CREATE_TABLE = re.compile(rb'CREATE (?:UNLOGGED |FOREIGN )*TABLE (?:"(?:[^"]|"")*"|[^"(])*')
_ITEM = re.compile(rb"(CONSTRAINT )?(" + NAME + rb")\s*(.*)", re.DOTALL)
_SET_DEFAULT = re.compile(
    rb"ALTER (?:FOREIGN )?TABLE (?:ONLY )?" + _QUALIFIED + rb" ALTER COLUMN (" + NAME + rb") SET DEFAULT (.*);",
    re.DOTALL,
)
#: What people call a thing: its kind and its name.
_Thing = tuple[str, str]


@dataclass(frozen=True)
class SchemaChange:
    """One thing that differs. ``kind`` and ``name`` are for people; ``before`` and ``after`` its definitions as the server writes them, None where it is not
    there, or where a definition is not told. Names are others': whoever shows them makes them fit."""

    what: What
    kind: str
    name: str
    before: str | None = None
    after: str | None = None


def compare_schemas(before: bytes, after: bytes) -> list[SchemaChange]:
    """What differs from one dump to the other, of which the heads are enough, in the order of kinds and names. Raises ``UnknownDump``.

    Dumps of pg_dumps of several major versions are compared as well: what these word otherwise then looks changed.
    """
    first, second = _digests(before), _digests(after)
    unlike = {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}
    old, new = _Things(before, unlike), _Things(after, unlike)
    whole = old.found.keys() ^ new.found.keys()
    changes = []
    for thing in sorted(old.found.keys() | new.found.keys()):
        one, other = old.found.get(thing), new.found.get(thing)
        if one == other or whole & (old.part_of.get(thing, set()) | new.part_of.get(thing, set())):
            continue
        what: What = "changed" if one and other else "went" if one else "came"
        # Of a table that came, its options say nothing.
        told = (thing in old.told or thing in new.told) and (what == "changed" or thing[0] != "table")
        changes.append(SchemaChange(what, *thing, *(_text(each) if told else None for each in (one, other))))
    return [*changes, *_in_another_order(old.columns, new.columns)]


def _in_another_order(
    before: Mapping[_Thing, Sequence[str]], after: Mapping[_Thing, Sequence[str]]
) -> Iterator[SchemaChange]:
    """Of tables that are in both. A column that was dropped and added again stands last, where COPY and SELECT * do not expect it."""
    for thing in sorted(before.keys() & after.keys()):
        both = set(before[thing]) & set(after[thing])
        old, new = ([name for name in names if name in both] for names in (before[thing], after[thing]))
        if old != new:
            yield SchemaChange(
                "changed", "order of columns", thing[1], _text([", ".join(old)]), _text([", ".join(new)])
            )


def _digests(head: bytes) -> dict[ObjectKey, set[bytes]]:
    found: dict[ObjectKey, set[bytes]] = {}
    for entry in _entries(head):
        text = b"%s\0%s\0%s" % (entry.definition, entry.access, entry.owner)
        found.setdefault(key_of(entry), set()).add(hashlib.blake2b(text, digest_size=16).digest())
    return found


def _entries(head: bytes) -> Iterator[TocEntry]:
    file = io.BytesIO(head)
    for entry in read_entries(file, read_header(file), EveryKind()):
        if entry.kind not in _NO_SCHEMA and not (entry.kind in _ABOUT and entry.name.startswith(_ABOUT_NO_SCHEMA)):
            yield entry


class _Things:
    """What a dump's entries of some keys define: of a table each column and check by itself.

    ``part_of``: what something comes and goes with; ``told``: what is told with its definition.
    """

    def __init__(self, head: bytes, keys: set[ObjectKey]) -> None:
        self.found: dict[_Thing, list[str]] = {}
        self.part_of: dict[_Thing, set[_Thing]] = {}
        self.told: set[_Thing] = set()
        self.columns: dict[_Thing, list[str]] = {}
        self._things: dict[int, _Thing] = {}
        for entry in _entries(head) if keys else ():
            if key_of(entry) in keys:
                self._take(entry)
        for texts in self.found.values():
            texts.sort()

    def _take(self, entry: TocEntry) -> None:
        definition = plain(entry.definition)
        thing = kind, name = _named(entry)
        self._things[entry.number] = thing
        # What it needs stands before it.
        needed = {self._things[number] for number in entry.needs & self._things.keys()}
        if entry.owner and entry.kind not in _OWNED_WITH_ANOTHER:
            self._add(("owner", f"of {kind} {name}"), entry.owner, {thing})
        if entry.kind in _TABLES:
            self._take_table(entry, thing, definition)
        elif entry.kind == b"DEFAULT" and (match := _SET_DEFAULT.fullmatch(definition)):
            column = unquoted(match[1]).encode(errors="surrogateescape")
            table = _label(entry.schema, entry.name.removesuffix(b" " + column))
            tables = {each for each in needed if each[0] in ("table", "foreign table")}
            self._add((kind, f"{table}.{_decoded(match[1])}"), match[2], tables)
        else:
            self._add(thing, definition, needed if entry.kind in _PARTS else set(), told=entry.kind in _TOLD)

    def _take_table(self, entry: TocEntry, thing: _Thing, definition: bytes) -> None:
        begin = match.end() if (match := _CREATE_TABLE.match(definition)) else 0
        items: list[bytes] = []
        end = -1
        if definition.startswith(b"(", begin):
            with suppress(ValueError):
                items, end = divided(definition, begin)
        for item in filter(None, (_ITEM.fullmatch(each.strip()) for each in items)):
            if not item[1]:
                self._add(("column", f"{thing[1]}.{_decoded(item[2])}"), item[3], {thing})
                self.columns.setdefault(thing, []).append(_decoded(item[2]))
            else:
                word = "check constraint" if item[3].startswith(b"CHECK ") else "constraint"
                self._add((word, f"{thing[1]} {_decoded(item[2])}"), item[3], {thing})
        # How it is stored and divided. Of a foreign table that may hold secrets.
        unlogged = b"UNLOGGED " * definition.startswith(b"CREATE UNLOGGED ")
        options = unlogged + definition[end + 1 :].lstrip(b"; \n") + (b" USING " + entry.access) * bool(entry.access)
        self._add(thing, options, told=entry.kind == b"TABLE")

    def _add(self, thing: _Thing, text: bytes, part_of: Set[_Thing] = frozenset(), *, told: bool = True) -> None:
        self.found.setdefault(thing, []).append(text.decode(errors="replace"))
        self.part_of.setdefault(thing, set()).update(part_of)
        if told:
            self.told.add(thing)


def _named(entry: TocEntry) -> _Thing:
    word = _WORDS.get(entry.kind, entry.kind.decode(errors="replace").lower())
    if entry.kind in _ABOUT:
        about, _, name = entry.name.partition(b" ")
        where = entry.schema + b"." if entry.schema else b""
        return word, f"of {about.decode(errors='replace').lower()} {(where + name).decode(errors='replace')}"
    return word, _label(entry.schema, entry.name)


def _label(schema: bytes, name: bytes) -> str:
    return (
        TableName(schema.decode(errors="replace"), name.decode(errors="replace")).label
        if schema
        else name.decode(errors="replace")
    )


def _decoded(name: bytes) -> str:
    return unquoted(name).encode(errors="surrogateescape").decode(errors="replace")


def _text(texts: list[str] | None) -> str | None:
    if texts is None:
        return None
    text = " ".join(" ".join(texts).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
