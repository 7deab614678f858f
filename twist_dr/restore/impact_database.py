"""What the live database has that a backup has not: rows of every table, counted or estimated, and the newest of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from twist_dr.postgres.changes import ChangesSince, read_counters
from twist_dr.postgres.cluster import Connection, Table, first_line, named_errors, need_readable, query, read_tables
from twist_dr.postgres.extension_members import MemberTable, columns_of
from twist_dr.postgres.extension_rows import as_written, digest_rows
from twist_dr.postgres.unplanned import count_unplanned
from twist_dr.redaction import one_line
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.table_names import TableName, from_label
from twist_dr.restore.impact import TableImpact, go_on_unless
from twist_dr.restore.newest_columns import COLUMNS, Column, Period, moment_of_column, newer_than, possible
from twist_dr.system.words import counted

if TYPE_CHECKING:
    from psycopg.sql import Composed

_COUNT_AT_ONCE = 100
#: Newer rows of a large table are counted by index, so far and no further.
_MOST_NEWER = 1_000_000
#: A table that is locked for longer, by a migration that hangs say, goes into the notes.
_LOCK_TIMEOUT = "2s"
_CANCEL_EVERY_SECONDS = 0.2
#: So much may the application's clock be ahead of the server's.
_CLOCKS = timedelta(minutes=5)


@dataclass(frozen=True)
class _Live:
    """A table of the live database, with the column that is asked for the newest row."""

    table: Table
    oid: int
    column: Column | None


def database_impact(
    connection: Connection, manifest: Manifest, *, large_bytes: int = 1 << 30, stop: threading.Event | None = None
) -> tuple[list[TableImpact], list[str]]:
    """Every table of the live database or the backup, by name, and notes on what could not be compared.

    All is read in one transaction of its own on an idle ``connection``. Tables of ``large_bytes`` and more (without
    indexes and TOAST) are estimated, not counted. Times without a zone are taken to be in the session's time zone.
    Raises ``DatabaseRightsMissing`` when the role may not read a table or row-level security would hide rows from it,
    ``DatabaseError`` when the server refuses, and ``Cancelled`` soon after ``stop`` is set.
    """
    if manifest.snapshot_at is None:
        return [], []
    with (
        named_errors("to compare the live database with the backup"),
        _stopped_by(stop, connection),
        connection.transaction(force_rollback=True),
    ):
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
        changes = ChangesSince(manifest.counters, read_counters(connection))
        reading = _Reading(connection, manifest, manifest.snapshot_at, changes, large_bytes, stop)
        reading.read_all(_read_live(connection))
        reading.notes += extension_impact(connection, manifest)
    found, then = reading.found, manifest.rows
    there = {name.among(then) for name in found} | reading.unread
    for name in then.keys() - there:
        found[name] = TableImpact(name, None, then[name])
    return [found[name] for name in sorted(found)], reading.notes


@contextmanager
def _stopped_by(stop: threading.Event | None, connection: Connection) -> Iterator[None]:
    """Cancel what the server does for us once ``stop`` is set: counting may take minutes."""
    import psycopg

    if stop is None:
        yield
        return
    done = threading.Event()

    def watch() -> None:
        # Asked again and again: a cancel that arrives between two statements is lost.
        while not done.wait(_CANCEL_EVERY_SECONDS):
            if stop.is_set():
                with suppress(Exception):
                    connection.cancel_safe()

    watcher = threading.Thread(target=watch, name="impact watch", daemon=True)
    watcher.start()
    try:
        yield
    except psycopg.Error:
        go_on_unless(stop)
        raise
    finally:
        done.set()
        watcher.join()


def _read_live(connection: Connection) -> list[_Live]:
    tables = read_tables(connection)
    need_readable(connection, tables, "nobody could tell what a restore would take away")
    oids: dict[tuple[str, str], int] = {}
    columns: dict[tuple[str, str], list[Column]] = {}
    for schema, name, oid, *column in query(connection, COLUMNS):
        oids[schema, name] = oid
        if column[0] is not None and (found := Column(*column)).tells:
            columns.setdefault((schema, name), []).append(found)
    live = []
    for table in tables:
        key = (table.schema, table.name)
        best = min(columns.get(key, []), key=lambda column: column.rank, default=None)
        live.append(_Live(table, oids[key], best))
    return live


class _Reading:
    """Reads tables, a hundred at once; those of a hundred in which one cannot be read, one by one."""

    def __init__(
        self,
        connection: Connection,
        manifest: Manifest,
        snapshot_at: datetime,
        changes: ChangesSince,
        large_bytes: int,
        stop: threading.Event | None,
    ) -> None:
        self._connection = connection
        self._then = manifest.rows
        # A number, which is the same in every DateStyle.
        now = float(query(connection, "SELECT extract(epoch FROM now())::float8")[0][0])
        ahead = datetime.fromtimestamp(now, timezone.utc) + _CLOCKS
        self._period = Period(snapshot_at.isoformat(), ahead.isoformat())
        self._changes = changes
        self._large_bytes = large_bytes
        self._stop = stop
        self.found: dict[TableName, TableImpact] = {}
        self.unread: set[TableName] = set()
        self.notes: list[str] = []
        if changes.unknown:
            self.notes.append(
                f"rows that were only updated since the backup are seen where a column tells alone: {changes.unknown}"
            )

    def read_all(self, tables: Sequence[_Live]) -> None:
        for start in range(0, len(tables), _COUNT_AT_ONCE):
            self._read_or_note(tables[start : start + _COUNT_AT_ONCE])

    def _read_or_note(self, some: Sequence[_Live]) -> None:
        import psycopg

        go_on_unless(self._stop)
        try:
            # Rolled back, so that the locks go: a count locks every index too, and with thousands of tables the
            # server's lock table would be full, for the application as well.
            with self._connection.transaction(force_rollback=True):
                found = self._read(some)
        except psycopg.Error as error:
            go_on_unless(self._stop)
            if self._connection.closed:
                raise
            if len(some) > 1:
                for each in some:
                    self._read_or_note([each])
            elif not isinstance(error, psycopg.errors.UndefinedTable):  # that one was dropped just now
                table = some[0].table
                self.unread.add(table.key.among(self._then))
                self.notes.append(f"{table.label} cannot be read and was not compared: {first_line(error)}")
            return
        self.found.update({impact.table: impact for impact in found})

    def _read(self, some: Sequence[_Live]) -> list[TableImpact]:
        # Not in the statement that lists the tables: this waits for locks.
        sizes = dict(
            query(
                self._connection,
                "SELECT oid::bigint, pg_relation_size(oid) FROM unnest(%(oids)s::oid[]) AS oid",
                {"oids": [each.oid for each in some]},
            )
        )
        # An empty table has nothing to estimate, and the planner would make up some rows.
        unplanned = [each for each in some if each.table.unplanned]
        planned = [each for each in some if not each.table.unplanned]
        large = [each for each in planned if (sizes[each.oid] or 0) >= max(self._large_bytes, 1)]
        small = [each for each in planned if each not in large]
        return [*self._count(small), *map(self._estimate, large), *map(self._count_unplanned, unplanned)]

    def _count(self, small: Sequence[_Live]) -> list[TableImpact]:
        from psycopg import sql

        if not small:
            return []
        parts = [_count_statement(place, each, self._period) for place, each in enumerate(small)]
        rows = self._connection.execute(sql.SQL(" UNION ALL ").join(parts)).fetchall()
        return [self._impact(small[place], count, newest, newer) for place, count, newest, newer in rows]

    def _estimate(self, live: _Live) -> TableImpact:
        """By the planner: it takes ``reltuples``, and how the table has grown since those were counted."""
        from psycopg import sql

        name = sql.Identifier(live.table.schema, live.table.name)
        plan = self._connection.execute(sql.SQL("EXPLAIN (FORMAT JSON) SELECT FROM ONLY {}").format(name)).fetchall()
        count = int(plan[0][0][0]["Plan"]["Plan Rows"])
        if live.column is None or not live.column.indexed:
            return self._impact(_Live(live.table, live.oid, None), count, None, None, estimated=True)
        # For this savepoint only. Statistics that are out of date would have it read the whole table.
        self._connection.execute("SET LOCAL enable_seqscan = off")
        statement = sql.SQL(
            "SELECT (SELECT (extract(epoch FROM max({column})) * 1000000)::bigint FROM ONLY {table} WHERE {possible}),"
            " (SELECT count(*) FROM (SELECT FROM ONLY {table} WHERE {newer} LIMIT {most}) AS newer)"
        ).format(
            table=name, most=sql.Literal(_MOST_NEWER), column=sql.Identifier(live.column.name),
            possible=possible(live.column, self._period), newer=newer_than(live.column, self._period),
        )  # fmt: skip
        newest, newer = self._connection.execute(statement).fetchall()[0]
        if newer == _MOST_NEWER:
            self.notes.append(f"{live.table.label} has {_MOST_NEWER:,} newer rows, or more: counting stopped there")
        return self._impact(live, count, newest, newer, estimated=True)

    def _count_unplanned(self, live: _Live) -> TableImpact:
        if live.column is not None:
            self.notes.append(
                f"{live.table.label} has an index or statistics with functions of users, which a search for its newest rows would run as "
                "our role: its rows were only counted"
            )
        return self._impact(
            _Live(live.table, live.oid, None), count_unplanned(self._connection, live.table.key), None, None
        )

    def _impact(
        self, live: _Live, count: int, newest: int | None, newer: int | None, *, estimated: bool = False
    ) -> TableImpact:
        column, name = live.column, live.table.key.among(self._then)
        changes = self._changes.of(name)
        # A column that only happens to hold a time tells nothing that the server did not count: an appointment comes and goes by itself.
        if changes is not None and newer is not None and column is not None and not column.is_of_writing:
            newer = min(newer, changes.inserted + changes.updated)
        # Rows of the snapshot's own day may be from before it or after it: none of a later day tells nothing.
        if column is not None and column.type == "date":
            newer = newer or None
        return TableImpact(
            table=live.table.key,
            rows_now=count,
            rows_then=self._then.get(name),
            estimated=estimated,
            newest_column=column.name if column else None,
            newest=moment_of_column(newest, column.type) if column and newest is not None else None,
            newer_rows=newer,
            changes=changes,
        )


def _count_statement(place: int, live: _Live, period: Period) -> Composed:
    from psycopg import sql

    if live.column is None:
        newest, newer = sql.Composed([sql.SQL("NULL::bigint")]), sql.Composed([sql.SQL("NULL::bigint")])
    else:
        # Numbers, which are the same for every type of column, DateStyle and time zone.
        newest = sql.SQL("(extract(epoch FROM max({}) FILTER (WHERE {})) * 1000000)::bigint").format(
            sql.Identifier(live.column.name), possible(live.column, period)
        )
        newer = sql.SQL("count(*) FILTER (WHERE {})").format(newer_than(live.column, period))
    return sql.SQL("SELECT {}::int, count(*), {}, {} FROM ONLY {}").format(
        sql.Literal(place), newest, newer, sql.Identifier(live.table.schema, live.table.name)
    )


def extension_impact(connection: Connection, manifest: Manifest) -> list[str]:
    """Tables of extensions whose rows the backup keeps, and which hold others now, each as a sentence. Raises psycopg's errors."""
    import psycopg

    notes = []
    for kept in manifest.extension_rows:
        name = from_label(kept.table)
        what = f"table {name.label} of the extension {kept.extension}: {counted(kept.rows, 'row')} in the backup"
        columns = columns_of(connection, name)
        if columns is None:
            notes.append(f"{what}, and no such table now")
            continue
        try:
            with as_written(connection):
                now = digest_rows(connection, MemberTable(kept.extension, name.schema, name.name, "", columns))
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.LockNotAvailable) as error:
            notes.append(f"{what}, and those of now cannot be read: {first_line(error)}")
            continue
        if now.number != kept.content:
            notes.append(f"{what}, {now.rows:,} now, and they are not the same")
    return list(map(one_line, notes))
