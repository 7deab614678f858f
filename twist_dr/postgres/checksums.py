"""A checksum of the rows of each table, in the order in which they lie: what a recovery brings back are the same pages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping

from twist_dr.errors import Cancelled
from twist_dr.postgres.cluster import Connection, read_tables
from twist_dr.repository.table_names import TableName


def table_checksums(
    connection: Connection, tables: Iterable[TableName], stopped: Callable[[], bool] = lambda: False
) -> dict[str, str]:
    """SHA-256 of each table's rows as COPY writes them, by label, in the transaction of ``connection``; each row travels once.

    Raises psycopg's errors and ``Cancelled``.
    """
    from psycopg import sql

    found = {}
    for table in tables:
        if stopped():
            raise Cancelled("The checksums of the tables were stopped", remedy="start the backup again when you wish")
        digest = hashlib.sha256()
        # Rolled back, so that the locks go.
        with connection.transaction(force_rollback=True):
            # From the first page on, whoever else reads the table; and as every server writes times.
            connection.execute("SET LOCAL synchronize_seqscans = off; SET LOCAL timezone = 'UTC'")
            with connection.cursor().copy(sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(*table))) as copy:
                for block in copy:
                    digest.update(block)
        found[table.label] = digest.hexdigest()
    return found


def compare_checksums(connection: Connection, recorded: Mapping[str, str]) -> list[str]:
    """A difference for each table whose rows are not those that were recorded; a table that is missing is told by the row counts."""
    tables = [table.key for table in read_tables(connection) if table.label in recorded]
    found = table_checksums(connection, tables)
    return [
        f"table {label}: its rows are not those of the restore point, though as many"
        for label, checksum in found.items()
        if checksum != recorded[label]
    ]
