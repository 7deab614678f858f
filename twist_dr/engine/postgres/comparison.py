"""A restored database, compared with what the manifest recorded when the backup was taken."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from twist_dr.engine.manifest import Manifest
from twist_dr.engine.postgres.cluster import (
    count_rows,
    named_errors,
    query,
    read_extensions,
    read_migrations,
    read_tables,
)
from twist_dr.engine.progress import LOG_EVERY_SECONDS, Report

if TYPE_CHECKING:
    from twist_dr.engine.postgres.cluster import Connection

#: Tables counted between two looks at the clock.
_COUNT_AT_ONCE = 20
_UNLOGGED = """
    SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relpersistence = 'u' AND c.relkind = 'r'
"""


@dataclass
class Comparison:
    """What was found. Without ``differences`` the database is what was recorded."""

    tables: int = 0
    rows: int = 0
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def compare_database(
    connection: Connection, manifest: Manifest, report: Report, *, key_tables: Sequence[str] = ()
) -> Comparison:
    """Compare rows of every table, large objects, migrations and extensions.

    Not compared: the rows of tables that belong to an extension, including those that it marked with
    pg_extension_config_dump, which a dump holds in part (the rows that its condition selects). Raises ``DatabaseError``.
    """
    facts = manifest.postgres
    assert facts is not None
    found = Comparison()
    with named_errors("to compare the restored database"):
        counts = _count(connection, report, unlogged=manifest.kind != "base" and not facts.in_recovery)
        found.differences += _compare_rows(manifest.tables, counts)
        objects = query(connection, "SELECT count(*) FROM pg_largeobject_metadata")[0][0]
        if objects != manifest.large_objects:
            found.differences.append(f"large objects: {objects} restored where {manifest.large_objects} were recorded")
        if read_migrations(connection) != manifest.migrations:
            found.differences.append("django_migrations: other migrations are applied than were recorded")
        restored = {extension.name: extension.version for extension in read_extensions(connection)}
    for extension in facts.extensions:
        if extension.name not in restored:
            found.differences.append(f"extension {extension.name} is missing after the restore")
        elif restored[extension.name] != extension.version:
            found.notes.append(
                f"extension {extension.name}: {restored[extension.name]} here, {extension.version} where it was backed up"
            )
    for table in key_tables:
        label = table if "." in table else f"public.{table}"
        if not counts.get(label):
            found.differences.append(f"key table {label} is {'empty' if label in counts else 'missing'}")
    found.tables, found.rows = len(counts), sum(counts.values())
    return found


def _count(connection: Connection, report: Report, *, unlogged: bool) -> dict[str, int]:
    tables = read_tables(connection)
    if not unlogged:
        # A standby and a recovered server have no rows of unlogged tables, so none were recorded.
        names = {name for (name,) in query(connection, _UNLOGGED)}
        tables = [table for table in tables if table.label not in names]
    counts: dict[str, int] = {}
    told = time.monotonic()
    for start in range(0, len(tables), _COUNT_AT_ONCE):
        if time.monotonic() - told >= LOG_EVERY_SECONDS:
            told = time.monotonic()
            report.info(f"comparing: rows of {len(counts)} of {len(tables)} tables are counted")
        counts.update(count_rows(connection, tables[start : start + _COUNT_AT_ONCE]))
    return counts


def _compare_rows(recorded: dict[str, int], restored: dict[str, int]) -> list[str]:
    differences = []
    for table, rows in sorted(recorded.items()):
        if table not in restored:
            differences.append(f"table {table} is missing after the restore ({rows} rows were recorded)")
        elif restored[table] != rows:
            differences.append(f"table {table}: {restored[table]} rows restored where {rows} were recorded")
    differences += [f"table {table} was restored but not recorded" for table in sorted(set(restored) - set(recorded))]
    return differences
