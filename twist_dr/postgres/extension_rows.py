"""Rows of tables that belong to extensions, as one SQL script: ``psql -f extension-rows.sql`` puts them back without us, in a database
whose extensions and tables are there.

Their content is told by a number that does not depend on the rows' order: the sum of the SHA-256 of all lines, as COPY writes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from twist_dr.postgres.cluster import Connection, query
from twist_dr.postgres.extension_members import MemberSequence, MemberTable
from twist_dr.system.sizes import CHUNK

if TYPE_CHECKING:
    from psycopg.sql import Composable, Composed

#: What changes how rows are written and read, whatever was set for the database or our role: a table comes out as it went in, and its
#: content is the same number on both sides.
_AS_WRITTEN = (
    "SET LOCAL TimeZone TO 'UTC'; SET LOCAL lc_monetary TO 'C'; SET LOCAL DateStyle TO 'ISO,MDY'; SET LOCAL IntervalStyle TO 'postgres'; "
    "SET LOCAL extra_float_digits TO 1; SET LOCAL bytea_output TO 'hex'; SET LOCAL xmlbinary TO 'base64'; SET LOCAL xmloption TO 'content'"
)
_HEAD = (
    "-- Rows of tables that belong to extensions, which pg_dump leaves out.\n"
    "BEGIN;\n"
    "SET LOCAL client_encoding TO 'UTF8';\nSET LOCAL standard_conforming_strings TO on;\n"
    f"{_AS_WRITTEN.replace('; ', f';{chr(10)}')};\n\n"
)
_TAIL = "COMMIT;\n"
_ROWS_END = b"\\.\n\n"
_MODULUS = 1 << 256


class RowsDigest:
    """Rows as they pass: how many, how many bytes, and what is in them."""

    def __init__(self) -> None:
        self.rows = 0
        self.size = 0
        self._sum = 0
        self._begun = b""

    def feed(self, piece: bytes) -> None:
        # In COPY's text format a line break ends a row, and none is in a row (PostgreSQL, "COPY", File Formats).
        *lines, self._begun = (self._begun + piece).split(b"\n")
        self.rows += len(lines)
        self.size += len(piece)
        for line in lines:
            self._sum += int.from_bytes(hashlib.sha256(line).digest(), "big")

    @property
    def number(self) -> str:
        return f"{self._sum % _MODULUS:064x}"


@contextmanager
def as_written(connection: Connection) -> Iterator[None]:
    """Read rows so inside, under locks that end with it, in a transaction of its own or one that goes on."""
    with connection.transaction(force_rollback=True):
        connection.execute(_AS_WRITTEN)
        yield


def digest_rows(connection: Connection, table: MemberTable) -> RowsDigest:
    """What is in a table now. Only inside :func:`as_written`. Raises psycopg's errors."""
    found = RowsDigest()
    for piece in _rows_of(connection, table):
        found.feed(piece)
    return found


def write_rows(
    connection: Connection, tables: list[MemberTable], sequences: list[MemberSequence], write: Callable[[bytes], None]
) -> list[MemberTable]:
    """Write the script; returns the tables with what is known of their rows now. Raises psycopg's errors."""
    from psycopg import sql

    place, waiting = 0, bytearray()

    def put(text: str | bytes) -> None:
        nonlocal place
        data = text.encode() if isinstance(text, str) else text
        place += len(data)
        waiting.extend(data)
        if len(waiting) >= CHUNK:  # rows come one by one
            flush()

    def flush() -> None:
        write(bytes(waiting))
        waiting.clear()

    written = []
    put(_HEAD)
    for table in tables:
        put(sql.SQL("DELETE FROM ONLY {};\n").format(sql.Identifier(*table.key)).as_string(connection))
        put(_copy_in(table).as_string(connection) + ";\n")
        content, begun = RowsDigest(), place
        with as_written(connection):
            for piece in _rows_of(connection, table):
                content.feed(piece)
                put(piece)
        written.append(replace(table, rows=content.rows, content=content.number, at=begun, size=content.size))
        put(_ROWS_END)
    for sequence in sequences:
        put(set_value(sequence).as_string(connection) + ";\n")
    put(_TAIL)
    flush()
    return written


def put_rows(connection: Connection, table: MemberTable, script: Path) -> bool:
    """Make a table's rows what the script has; returns whether they had to be changed. In the connection's transaction. Raises psycopg's errors."""
    from psycopg import sql

    with as_written(connection):
        if digest_rows(connection, table).number == table.content:
            return False
    connection.execute(_AS_WRITTEN)
    connection.execute(sql.SQL("DELETE FROM ONLY {}").format(sql.Identifier(*table.key)))
    with script.open("rb") as file, connection.cursor().copy(_copy_in(table)) as copy:
        file.seek(table.at)
        left = table.size
        while left and (piece := file.read(min(left, CHUNK))):
            left -= len(piece)
            copy.write(piece)
    return True


def set_value(sequence: MemberSequence) -> Composed:
    """The statement that gives a sequence its value."""
    from psycopg import sql

    return sql.SQL("SELECT pg_catalog.setval({}, {}, {})").format(
        sql.Literal(sql.Identifier(sequence.schema, sequence.name).as_string(None)),
        sql.Literal(sequence.last_value),
        sql.Literal(sequence.is_called),
    )


def existing_tables(connection: Connection, tables: list[MemberTable]) -> set[tuple[str, str]]:
    """Which of the tables there are."""
    rows = query(
        connection,
        """SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind = 'r' AND n.nspname = ANY (%(schemas)s)""",
        {"schemas": [table.schema for table in tables]},
    )
    return {(str(schema), str(name)) for schema, name in rows}


def _rows_of(connection: Connection, table: MemberTable) -> Iterator[bytes]:
    from psycopg import sql

    statement = sql.SQL("COPY {} {} TO STDOUT").format(sql.Identifier(*table.key), _columns(table))
    with connection.cursor().copy(statement) as copy:
        for piece in copy:
            yield bytes(piece)


def _copy_in(table: MemberTable) -> Composed:
    from psycopg import sql

    return sql.SQL("COPY {} {} FROM STDIN").format(sql.Identifier(*table.key), _columns(table))


def _columns(table: MemberTable) -> Composable:
    """None of a table without any, which SQL cannot list."""
    from psycopg import sql

    names = sql.SQL(", ").join(map(sql.Identifier, table.columns))
    return sql.SQL("({})").format(names) if table.columns else sql.SQL("")
