"""The list of what a dump holds, as ``pg_restore --list --verbose`` gives it, and which of its entries belong to some tables.

That is told by their numbers and dependencies, never by their names: in the list nothing divides a name with spaces from the next word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

#: Kinds of a dump's entries by the catalog they stand in; 0 for what is in none.
_KINDS = {
    "1259": ("TABLE", "SEQUENCE", "INDEX", "VIEW", "MATERIALIZED VIEW", "FOREIGN TABLE"),
    "0": ("TABLE DATA", "TABLE ATTACH", "SEQUENCE SET", "INDEX ATTACH", "USER MAPPING"),
    "1417": ("SERVER",),
    "2328": ("FOREIGN DATA WRAPPER",),
    "2604": ("DEFAULT",),
    "2606": ("CONSTRAINT", "CHECK CONSTRAINT", "FK CONSTRAINT"),
    "2618": ("RULE",),
    "2620": ("TRIGGER",),
    "3256": ("POLICY",),
}
#: Left out unless the chosen tables cannot be without. The last four would lead out of the sandbox.
_RELATIONS = {
    "TABLE", "SEQUENCE", "VIEW", "MATERIALIZED VIEW", "FOREIGN TABLE", "FOREIGN DATA WRAPPER", "SERVER", "USER MAPPING",
}  # fmt: skip
_ENTRY = re.compile(r"(\d+); (\d+) \d+ (.*)")
_DEPENDS = re.compile(r";\s+depends on:((?: \d+)+)")


@dataclass(frozen=True)
class ListEntry:
    """An entry of a dump's list. ``kind`` is empty where it does not matter."""

    number: int
    kind: str
    needs: frozenset[int]


def parse_list(listing: bytes) -> list[ListEntry]:
    """The entries of a list; without ``--verbose`` none needs another."""
    entries: list[ListEntry] = []
    for line in listing.decode(errors="replace").split("\n"):
        if found := _ENTRY.match(line):
            number, catalog, rest = found.groups()
            kind = next((kind for kind in _KINDS.get(catalog, ()) if rest.startswith(f"{kind} ")), "")
            entries.append(ListEntry(int(number), kind, frozenset()))
        elif entries and (found := _DEPENDS.match(line)):
            last = entries[-1]
            entries[-1] = ListEntry(last.number, last.kind, frozenset(map(int, found[1].split())))
    return entries


def with_descendants(entries: list[ListEntry], tables: set[int]) -> set[int]:
    """The tables and all tables that need them: their partitions and heirs, and those with a column of a table's row type."""
    found = set(tables)
    for entry in entries:  # what is needed stands before what needs it
        if entry.kind == "TABLE" and entry.needs & found:
            found.add(entry.number)
    return found


def definitions_of(entries: list[ListEntry], tables: set[int]) -> list[int]:
    """What is to be made before the rows come: the tables, what they need, and all types, functions, extensions.

    All functions, as what is called inside a function's body is recorded nowhere; but none that needs what is left out.
    """
    by_number = {entry.number: entry for entry in entries}
    waiting = [*tables]
    waiting += [entry.number for entry in entries if entry.kind in ("SEQUENCE", "DEFAULT") and entry.needs & tables]
    needed: set[int] = set()
    while waiting:
        if (number := waiting.pop()) not in needed and number in by_number:
            needed.add(number)
            waiting += by_number[number].needs
    left_out: set[int] = set()
    for entry in entries:
        # A partition chosen without its parent stands alone.
        stranger = entry.kind == "TABLE ATTACH" and not entry.needs <= tables
        if stranger or (entry.number not in needed and (entry.kind in _RELATIONS or entry.needs & left_out)):
            left_out.add(entry.number)
    return [entry.number for entry in entries if entry.number not in left_out]


def contents_of(entries: list[ListEntry], tables: set[int]) -> list[int]:
    """Rows, values of sequences, keys, checks and indexes of the tables."""
    needed = set().union(*(entry.needs for entry in entries if entry.number in tables or _default(entry, tables)))
    sequences = {entry.number for entry in entries if entry.kind == "SEQUENCE" and entry.needs & tables} | needed
    chosen: list[int] = []
    own = set(tables)
    parts = {entry.number for entry in entries if entry.kind in ("TABLE", "INDEX", "CONSTRAINT")}
    for entry in entries:
        if (
            (entry.kind in ("TABLE DATA", "CONSTRAINT", "CHECK CONSTRAINT", "INDEX") and entry.needs & tables)
            or (entry.kind == "SEQUENCE SET" and entry.needs & sequences)
            or (entry.kind == "INDEX ATTACH" and entry.needs & parts <= own)
        ):
            chosen.append(entry.number)
            own.add(entry.number)
    return chosen


def count_indexes(entries: list[ListEntry], numbers: Iterable[int]) -> int:
    """How many of these entries make an index."""
    chosen = set(numbers)
    return sum(entry.kind in ("INDEX", "CONSTRAINT") for entry in entries if entry.number in chosen)


def _default(entry: ListEntry, tables: set[int]) -> bool:
    return entry.kind == "DEFAULT" and bool(entry.needs & tables)
