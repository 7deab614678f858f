"""A restored database, compared with what the manifest recorded when the backup was taken."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from twist_dr.postgres.cluster import (
    Connection,
    count_rows,
    named_errors,
    query,
    read_extensions,
    read_migrations,
    read_tables,
    unlogged_tables,
)
from twist_dr.postgres.extension_members import MemberTable, columns_of, member_identities, read_members
from twist_dr.postgres.extension_rows import as_written, digest_rows
from twist_dr.redaction import one_line
from twist_dr.repository.kinds import KINDS
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.table_names import TableName, from_label, table_name
from twist_dr.system.progress import LOG_EVERY_SECONDS, Report
from twist_dr.system.words import counted, few

#: Tables counted between two looks at the clock.
_COUNT_AT_ONCE = 20


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
    """Compare rows of every table, large objects, migrations and extensions, and the content of extensions' tables that was kept.

    Not compared: the rows of tables that an extension declared as its configuration without a condition. Raises ``DatabaseError``.
    """
    facts = manifest.postgres
    assert facts is not None
    found = Comparison()
    with named_errors("to compare the restored database"):
        counts = _count(connection, report, unlogged=not KINDS[manifest.kind].physical and not facts.in_recovery)
        _compare_rows(manifest.rows, counts, found)
        objects = query(connection, "SELECT count(*) FROM pg_largeobject_metadata")[0][0]
        if objects != manifest.large_objects:
            found.differences.append(f"large objects: {objects} restored where {manifest.large_objects} were recorded")
        if read_migrations(connection) != manifest.migrations:
            found.differences.append("django_migrations: other migrations are applied than were recorded")
        restored = {extension.name: extension.version for extension in read_extensions(connection)}
        _compare_kept(connection, manifest, restored, found)
        _compare_members(connection, manifest, restored, found)
    for extension in facts.extensions:
        if extension.name not in restored:
            found.differences.append(f"extension {one_line(extension.name)} is missing after the restore")
        elif restored[extension.name] != extension.version:
            found.notes.append(
                one_line(
                    f"extension {extension.name}: {restored[extension.name]} here, {extension.version} where it was backed up"
                )
            )
    for table in key_tables:
        name = table_name(table)
        if not counts.get(name):
            found.differences.append(f"key table {name.label} is {'empty' if name in counts else 'missing'}")
    found.tables, found.rows = len(counts), sum(counts.values())
    return found


def _count(connection: Connection, report: Report, *, unlogged: bool) -> dict[TableName, int]:
    tables = read_tables(connection)
    if not unlogged:
        # A standby and a recovered server have no rows of unlogged tables, so none were recorded.
        without_rows = unlogged_tables(connection)
        tables = [table for table in tables if table.key not in without_rows]
    counts: dict[TableName, int] = {}
    told = time.monotonic()
    for start in range(0, len(tables), _COUNT_AT_ONCE):
        if time.monotonic() - told >= LOG_EVERY_SECONDS:
            told = time.monotonic()
            report.info(f"comparing: rows of {len(counts)} of {len(tables)} tables are counted")
        counts.update(count_rows(connection, tables[start : start + _COUNT_AT_ONCE]))
    return counts


def _compare_kept(connection: Connection, manifest: Manifest, versions: dict[str, str], found: Comparison) -> None:
    """The content of extensions' tables. Another version of an extension may have other tables: that is told, and no difference."""
    assert manifest.postgres is not None
    recorded = {extension.name: extension.version for extension in manifest.postgres.extensions}
    for kept in manifest.extension_rows:
        name = from_label(kept.table)
        told = found.differences if versions.get(kept.extension) == recorded.get(kept.extension) else found.notes
        what = f"table {name.label} of the extension {one_line(kept.extension)}"
        columns = columns_of(connection, name)
        if columns is None:
            told.append(f"{what} is missing after the restore ({counted(kept.rows, 'row', 'was', 'were')} recorded)")
            continue
        with as_written(connection):
            content = digest_rows(connection, MemberTable(kept.extension, name.schema, name.name, "", columns))
        if content.rows != kept.rows:
            told.append(f"{what}: {counted(content.rows, 'row')} restored where {kept.rows:,} were recorded")
        elif content.number != kept.content:
            told.append(f"{what}: the content of its {counted(kept.rows, 'row')} is not what was recorded")


def _compare_members(connection: Connection, manifest: Manifest, versions: dict[str, str], found: Comparison) -> None:
    """What belongs to each extension. A note: an extension that was updated may have kept what a new one of its version has not."""
    facts = manifest.postgres
    assert facts is not None
    if connection.info.server_version // 10000 != facts.major:
        return
    recorded = {extension.name: extension.version for extension in facts.extensions}
    there = read_members(connection) if manifest.extension_members else {}
    identities = member_identities(connection) if manifest.extension_members else set()
    for name, members in manifest.extension_members.items():
        if name not in there or versions.get(name) != recorded.get(name) or there[name].sha256 == members.sha256:
            continue
        missing = [identity for identity in members.added if (name, identity) not in identities]
        told = f", and lacks {few(missing, 10)}" if missing else ""
        found.notes.append(
            one_line(
                f"the extension {name} has {counted(there[name].count, 'object')} where {members.count:,} were recorded{told}: no dump holds what somebody added to it "
                "(ALTER EXTENSION ... ADD), but for tables, views, types and functions in SQL"
            )
        )


def _compare_rows(recorded: dict[TableName, int], restored: dict[TableName, int], found: Comparison) -> None:
    bearers: dict[TableName, list[TableName]] = {}
    for name in restored:
        bearers.setdefault(name.among(recorded), []).append(name)
    for name, rows in sorted(recorded.items()):
        counts = [restored[each] for each in bearers.get(name, [])]
        if not counts:
            found.differences.append(
                f"table {name.label} is missing after the restore ({counted(rows, 'row', 'was', 'were')} recorded)"
            )
        elif rows not in counts:
            told = " and ".join(counted(each, "row") for each in counts)
            found.differences.append(f"table {name.label}: {told} restored where {rows:,} were recorded")
        elif len(counts) > 1:
            told = " and ".join(each.label for each in bearers[name])
            found.notes.append(
                f"{told} were restored, which the backup records as one, {name.label}, with {counted(rows, 'row')}: it does not tell the other's"
            )
    for name in sorted(bearers.keys() - recorded.keys()):
        found.differences.append(f"table {name.label} was restored but not recorded")
