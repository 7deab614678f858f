"""A named point in the WAL at which the rows of every table are counted, exactly, while others go on writing.

Two things could make the counts wrong. A transaction may end between the restore point and the counting snapshot: then the snapshots
before and after differ, and it is tried again. And a transaction may already have written its commit to the WAL, before the restore
point, while nobody sees it yet: it waits for the disk, or for a standby (RecordTransactionCommit comes before ProcArrayEndTransaction). A
recovery to the point would have its rows. So a point counts only while no transaction of this database can be in the middle of its
commit: whoever has written holds the lock of its own transaction number until it is seen, and must be known to wait for its client.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from twist_dr.errors import Cancelled
from twist_dr.postgres.checksums import table_checksums
from twist_dr.postgres.cluster import (
    Cluster,
    Connection,
    Table,
    count_rows,
    named_errors,
    query,
    read_facts,
    read_migrations,
    read_tables,
    unlogged_tables,
)
from twist_dr.postgres.cluster_wide import RESTORE_POINT, SWITCH_WAL, allowed_to, grant
from twist_dr.postgres.surroundings import with_surroundings
from twist_dr.repository.manifest import PostgresFacts
from twist_dr.repository.table_names import TableName
from twist_dr.system.words import few

if TYPE_CHECKING:
    from psycopg.sql import SQL, Composed

_ATTEMPTS = 50
#: So long it is looked for a moment without a commit under way; asking costs the server nothing to speak of.
_SECONDS = 30.0
_PAUSE_SECONDS = 0.02

Warn = Callable[[str], None]


@dataclass(frozen=True)
class RestorePoint:
    """``lsn`` as text, where its record ends. ``rows`` by table."""

    name: str
    lsn: str
    at: datetime
    postgres: PostgresFacts
    rows: dict[TableName, int]
    large_objects: int
    migrations: dict[str, list[str]]
    checksums: dict[str, str]
    """Of each table's rows, by label; none unless they were asked for."""


def make_restore_point(
    cluster: Cluster,
    name: str,
    client_version: str,
    warn: Warn,
    *,
    checksums: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> RestorePoint | None:
    """Make a restore point called ``name`` and a number, count the rows at it, and have the WAL up to it written out.

    ``checksums``: of the rows of each table, too, which reads all of them.

    ``None`` when none can be made, or none whose counts are sure; ``warn`` is told why. Raises ``DatabaseError`` and ``Cancelled``.
    """
    with cluster.connect() as connection, named_errors("to count the rows at a restore point"):
        with allowed_to(cluster, RESTORE_POINT, connection) as maker:
            if maker is None:
                _warn_of_rights(connection, warn)
                return None
            tables = _countable(connection, warn)
            if tables is None:
                return None
            made = _quiet_point(connection, maker, name, stopped)
        if made is None:
            warn(
                f"cluster: in {_ATTEMPTS} attempts there was no moment at which no transaction was being committed, so no rows are "
                "recorded for this base backup and its rehearsal cannot compare them; take base backups when less is written, end "
                "prepared transactions that nobody needs, and give the role pg_read_all_stats, with which more of these moments are seen"
            )
            return None
        _have_written(cluster)
        final_name, lsn, at = made
        counts = count_rows(connection, tables)
        return RestorePoint(
            name=final_name,
            lsn=lsn,
            at=at,
            postgres=with_surroundings(read_facts(connection, client_version), cluster),
            rows=counts,
            large_objects=int(query(connection, "SELECT count(*) FROM pg_largeobject_metadata")[0][0]),
            migrations=read_migrations(connection),
            checksums=table_checksums(connection, [table.key for table in tables], stopped) if checksums else {},
        )


def _warn_of_rights(connection: Connection, warn: Warn) -> None:
    role = query(connection, "SELECT quote_ident(current_user)")[0][0]
    warn(
        f"cluster: role {role} may not make restore points, so no rows are recorded for this base backup, and no verification can prove it; run: "
        f"{grant(RESTORE_POINT, role)}"
    )


def _countable(connection: Connection, warn: Warn) -> list[Table] | None:
    # After a recovery an unlogged table is empty, whatever was in it.
    unlogged = unlogged_tables(connection)
    tables = [table for table in read_tables(connection) if table.key not in unlogged]
    if unlogged:
        warn(
            f"cluster: {few(name.label for name in sorted(unlogged))} is unlogged, so it comes back empty from a base backup"
        )
    if closed := [table.label for table in tables if table.filtered or not table.readable]:
        warn(
            f"cluster: the role may not read all rows of {few(closed)}, so no rows are recorded for this base backup; grant it "
            "pg_read_all_data and BYPASSRLS"
        )
        return None
    return tables


def _quiet_point(
    connection: Connection, maker: Connection, name: str, stopped: Callable[[], bool]
) -> tuple[str, str, datetime] | None:
    """A restore point, made over ``maker``, at which ``connection``'s snapshot, left open, is exact: its name, LSN and time."""
    deadline = time.monotonic() + _SECONDS
    attempt = 0
    while attempt < _ATTEMPTS and time.monotonic() < deadline:
        if stopped():
            raise Cancelled("The row counts were stopped", remedy="start the backup again when you wish")
        if not query(connection, _COMMITTING)[0][0]:
            attempt += 1
            final_name = f"{name}_{attempt}"
            if (made := _attempt(connection, maker, final_name)) is not None:
                return final_name, *made
        # Not in step with anything that writes at regular times.
        time.sleep(random.uniform(0, _PAUSE_SECONDS))
    return None


#: Transactions of this database, other than ours, that may be in the middle of a commit. One that waits for its client's next command is
#: not, nor is a vacuum's, which changes no rows; what the role may not see of a session, and prepared transactions, count as a commit.
_COMMITTING = """
    SELECT count(*) FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
     WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
       AND (a.datid IS NULL OR a.datname = current_database())
       AND coalesce(a.state, '') NOT LIKE 'idle in transaction%'
       AND coalesce(a.backend_type, '') <> 'autovacuum worker'
"""


def _attempt(connection: Connection, maker: Connection, name: str) -> tuple[str, datetime] | None:
    """In one message to the server, so that as little as possible comes between its statements, or in three where two databases are asked.

    ``None`` leaves no transaction open.
    """
    from psycopg import sql

    before = sql.SQL("BEGIN; SELECT pg_current_snapshot()::text")
    make = sql.SQL("SELECT pg_create_restore_point({})::text; SELECT clock_timestamp()").format(sql.Literal(name))
    after = sql.SQL(
        _COMMITTING + "; COMMIT; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT pg_current_snapshot()::text"
    )
    if maker is connection:
        rows = _values(connection, sql.SQL("; ").join([before, make, after]))
    else:
        rows = [*_values(connection, before), *_values(maker, make), *_values(connection, after)]
    snapshot_before, lsn, at, committing, snapshot_after = rows
    if snapshot_before == snapshot_after and not committing:
        return str(lsn), at.astimezone(timezone.utc)
    connection.execute("ROLLBACK")
    return None


def _values(connection: Connection, message: Composed | SQL) -> list[Any]:
    """The one value of each statement that gives rows."""
    cursor = connection.execute(message)
    found = []
    while True:
        if cursor.description is not None:
            found.append(cursor.fetchall()[0][0])
        if not cursor.nextset():
            return found


def _have_written(cluster: Cluster) -> None:
    """Have the WAL up to here written out and its segment closed: the record of a restore point alone wakes nobody, and would stay in memory."""
    with cluster.connect() as connection, allowed_to(cluster, SWITCH_WAL, connection) as switcher:
        if switcher is not None:
            switcher.execute("SELECT pg_switch_wal()")
        else:
            # A commit is written out at once. Where segments are archived whole, the point waits for the end of its segment.
            connection.execute("SET synchronous_commit = local")
            connection.execute("SELECT pg_logical_emit_message(true, 'twist-dr', 'restore point')")
