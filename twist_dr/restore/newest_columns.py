"""Which column of a table tells when its rows were written, and how it is asked for the newest row and for the newer ones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psycopg.sql import Composed

#: Columns that tell when a row was written, best first. After them any that ends in _at, then any timestamptz.
_NAMES = (
    "updated_at", "modified_at", "modified", "updated", "changed_at", "created_at", "created", "timestamp", "occurred_at",
    "date_joined",
)  # fmt: skip
#: These tell when something will be, whenever the row was written: a session that expires tomorrow is not newer for it.
_FORESEEN = re.compile(
    r"(^|_)(expir\w*|due|until|valid|next|deadline|schedul\w*|planned|starts?|ends?|eta|not_before|run_at)(_|$)"
)
_TYPES = ("timestamptz", "timestamp", "date")
#: What Python's datetime can hold; infinity lies outside.
_EARLIEST = "0001-01-02"


@dataclass(frozen=True)
class Period:
    """From the backup's snapshot until now, ISO 8601 with a zone. What is dated later was not written since: it is due, or valid, some day."""

    since: str
    now: str


@dataclass(frozen=True)
class Column:
    """A column with a date or time. ``type`` as in pg_type; ``indexed``: a whole btree index begins with it; ``place``: attnum."""

    name: str
    type: str
    indexed: bool
    place: int

    @property
    def rank(self) -> tuple[object, ...]:
        """Dates last, as they tell no more than the day; then by name, then by type."""
        name = self.name.lower()
        known = _NAMES.index(name) if name in _NAMES else len(_NAMES) + (not name.endswith("_at"))
        return self.type == "date", known, _TYPES.index(self.type), self.place

    @property
    def is_of_writing(self) -> bool:
        """Whether it says by its name that it is about the row, and not about what the row is about."""
        name = self.name.lower()
        return name in _NAMES or (name.endswith("_at") and not _FORESEEN.search(name))

    @property
    def tells(self) -> bool:
        """Whether it is likely to say when a row was written."""
        return self.is_of_writing or (self.type == "timestamptz" and not _FORESEEN.search(self.name.lower()))


#: Every table, as schema, name and OID, with each of its columns that hold a date or time, as :class:`Column` has it; or with nulls.
COLUMNS = """
    SELECT n.nspname, c.relname, c.oid::bigint, a.attname, t.typname,
           EXISTS (SELECT FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid JOIN pg_am m ON m.oid = ic.relam
                    WHERE i.indrelid = c.oid AND i.indkey[0] = a.attnum AND i.indisvalid AND i.indpred IS NULL
                      AND m.amname = 'btree'),
           a.attnum
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN (pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                            AND t.oid IN ('timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype))
             ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
     WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""


def possible(column: Column, period: Period) -> Composed:
    """A condition: the value is one that Python can hold, and not in the future."""
    from psycopg import sql

    return sql.SQL("{column} BETWEEN {earliest}::{type} AND {now}::timestamptz::{type}").format(
        column=sql.Identifier(column.name), type=sql.SQL(column.type), earliest=_EARLIEST, now=period.now
    )  # fmt: skip


def newer_than(column: Column, period: Period) -> Composed:
    """A condition: the row is from that period."""
    from psycopg import sql

    return sql.SQL("{column} > {since}::timestamptz::{type} AND {column} <= {now}::timestamptz::{type}").format(
        column=sql.Identifier(column.name), type=sql.SQL(column.type), since=period.since, now=period.now
    )  # fmt: skip


def moment_of_column(microseconds: int, kind: str) -> datetime | date:
    """What a column of type ``kind`` says, from microseconds since 1970; without a zone where the type has none."""
    found = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=microseconds)
    if kind == "date":
        return found.date()
    return found if kind == "timestamptz" else found.replace(tzinfo=None)
