"""Names of tables: a schema and a name, never one text in which nobody can tell which dot divides the two.

As text they are written as in SQL: ``public.invoice``, ``"a.b".c``, ``public."with,comma"``. Quotes stand where the parts could not be told
without them, and what is not seen is an escape: ``U&"new\\000Aline"``. Unlike in SQL upper and lower case are kept, quoted or not, and a
name without quotes may hold spaces.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import NamedTuple

from twist_dr.redaction import one_line

_DEFAULT_SCHEMA = "public"
_PART = r'(?:(?:U&)?"(?:[^"]|"")+"|[^.,"\s][^.,]*)'
_ITEM = re.compile(rf"\s*({_PART}(?:\.\s*{_PART})*)\s*(?:,|\Z)")
_PARTS = re.compile(rf"\s*({_PART})\s*(?:\.|\Z)")
_NOTHING = re.compile(r"[\s,]*")
_ESCAPE = re.compile(r"\\(\\|[0-9A-Fa-f]{4})")
_NEEDS_QUOTES = re.compile(r'[.,"]|^\s|\s$')


class TableName(NamedTuple):
    """Schema and name. A schema of ``""``, which PostgreSQL does not allow, marks a name that a manifest of format 1.0 leaves open."""

    schema: str
    name: str

    @property
    def label(self) -> str:
        """For people and documents. No two names share one, but for those that are left open."""
        return f"{_quoted(self.schema)}.{_quoted(self.name)}" if self.schema else self.name

    @property
    def plain(self) -> str:
        """As format 1.0 of the manifest wrote it: ``a.b.c`` for two different tables."""
        return f"{self.schema}.{self.name}"

    def among(self, names: Container[TableName]) -> TableName:
        """Itself, or what names of format 1.0 have in its place: that may be another table's as well."""
        left_open = TableName("", self.plain)
        return left_open if self not in names and left_open in names else self


def from_plain(text: str) -> TableName:
    """The name that format 1.0 wrote; left open where it has more dots than one."""
    schema, _, name = text.partition(".")
    return TableName("", text) if "." in name else TableName(schema, name)


def from_label(label: str) -> TableName:
    """The name that :attr:`TableName.label` wrote. Raises ``ValueError``."""
    parts = _parts(label)
    if len(parts) != 2:
        raise ValueError(f"{label} names no table")
    return TableName(*parts)


def split_names(text: str) -> list[str]:
    """The items of a list such as ``public.a, "with,comma", "a"."b.c"``. Raises ``ValueError`` where it is none."""
    items, place = [], _skip(text, 0)
    while place < len(text):
        found = _ITEM.match(text, place)
        if found is None:
            raise ValueError(
                f"{text[place:]} is no list of tables; separate them by commas, and write a name that has a dot, comma or quote in it as in "
                'SQL: public.a, "with,comma", "a"."b.c"'
            )
        items.append(found[1].rstrip())
        place = _skip(text, found.end())
    return items


def readings(text: str) -> list[TableName]:
    """What one item may stand for: a table without a schema is of ``public``, and of several dots outside quotes each may be the one
    that divides the two. Raises ``ValueError``."""
    parts = _parts(text)
    if len(parts) == 1:
        return [TableName(_DEFAULT_SCHEMA, parts[0])]
    return [TableName(".".join(parts[:place]), ".".join(parts[place:])) for place in range(1, len(parts))]


def table_name(text: str) -> TableName:
    """The one table that an item stands for. Raises ``ValueError`` where it may be several."""
    names = readings(text)
    if len(names) > 1:
        raise ValueError(f"{text} may mean {' or '.join(each.label for each in names)}; write the one that is meant")
    return names[0]


def _parts(item: str) -> list[str]:
    if split_names(item) != [item.strip()]:
        raise ValueError(f"{item} names no table")
    return [_unquoted(found[1].strip()) for found in _PARTS.finditer(item)]


def _skip(text: str, place: int) -> int:
    found = _NOTHING.match(text, place)
    assert found is not None
    return found.end()


def in_quotes(name: str) -> str:
    """As SQL quotes identifiers (PostgreSQL, "Identifiers and Key Words"); for psql, pg_dump and pg_restore, a pattern that fits this name alone."""
    return '"' + name.replace('"', '""') + '"'


def _quoted(part: str) -> str:
    """The same where that is needed, and readable whatever the name holds."""
    if one_line(part) != part:
        return f"U&{''.join(map(_escaped, in_quotes(part)))}"
    return in_quotes(part) if _NEEDS_QUOTES.search(part) else part


def _escaped(letter: str) -> str:
    if letter == "\\":
        return "\\\\"
    return letter if one_line(letter) == letter else f"\\{ord(letter):04X}"


def _unquoted(part: str) -> str:
    if part.startswith('U&"'):
        text = part[3:-1].replace('""', '"')
        return _ESCAPE.sub(lambda found: "\\" if found[1] == "\\" else chr(int(found[1], 16)), text)
    return part[1:-1].replace('""', '"') if part.startswith('"') else part
