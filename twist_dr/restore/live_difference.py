"""A backup held against the live database: rows per table, migrations, extensions, and the schema."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from twist_dr.backup.diff import Difference, compare
from twist_dr.catalog import SealedBackup
from twist_dr.errors import BackupError, DatabaseError
from twist_dr.postgres.cluster import named_errors, read_facts, read_migrations
from twist_dr.postgres.roles import client_major
from twist_dr.repository.manifest import Manifest, schema_version
from twist_dr.repository.sources import Sources
from twist_dr.restore.impact_database import database_impact
from twist_dr.restore.schema_difference import Schema, SchemaDifference, backup_schema, compared, live_schema
from twist_dr.settings import Application
from twist_dr.system.words import few

LIVE = "live"


def between(app: Application, before: SealedBackup, after: SealedBackup) -> Difference:
    """What differs from one backup to another, with their schemas where both have one."""
    found = compare(before.manifest, after.manifest)
    dumps = [each.manifest.artifact("database.dump") for each in (before, after)]
    if before.backup_id == after.backup_id or None in dumps:
        return found
    first, second = (_schema_of(app, each) for each in (before, after))
    return _with_schema(found, compared(first, second))


def against_live(app: Application, before: SealedBackup) -> Difference:
    """What differs from a backup to the live database: large tables are estimated, and only said to be. Raises ``BackupError`` where it holds no database."""
    manifest = before.manifest
    if manifest.postgres is None:
        raise BackupError(f"{before.backup_id} holds no database", remedy="compare a full or base backup")
    try:
        live, notes = _live(app, manifest)
    except DatabaseError as error:
        unread = f"the live database could not be compared: {error}".rstrip(".")
        return replace(compare(manifest, manifest), after=LIVE, notes=(unread,))
    found = replace(compare(manifest, live), notes=tuple(notes))
    folders = app.settings.database.client_tools
    live_now = partial(live_schema, app.cluster, folders, client_major(manifest.postgres))
    return _with_schema(found, compared(_schema_of(app, before), live_now))


def _schema_of(app: Application, backup: SealedBackup) -> Callable[[], Schema]:
    def read() -> Schema:
        places = list(app.repositories().values())
        sources = Sources(
            backup.backup_id, places, app.keyring, app.report, patience=app.settings.restore.stall_seconds
        )
        return backup_schema(sources)

    return read


def _live(app: Application, manifest: Manifest) -> tuple[Manifest, list[str]]:
    """The manifest as a backup of now would have it, as far as one can tell without taking it."""
    assert manifest.postgres is not None
    with app.cluster.connect(autocommit=False) as connection, named_errors("to compare it with a backup"):
        facts, migrations = read_facts(connection, manifest.postgres.client_version), read_migrations(connection)
        connection.rollback()
        tables, notes = database_impact(connection, manifest)
    if estimated := [each.label for each in tables if each.estimated]:
        notes.append(f"rows of {few(estimated)} were not counted, for they are large")
    rows = {
        each.label: each.rows_then if each.estimated and each.rows_then is not None else each.rows_now
        for each in tables
        if each.rows_now is not None
    }
    changes = {
        "backup_id": LIVE, "postgres": facts, "migrations": migrations, "db_schema_version": schema_version(migrations), "tables": rows,
    }  # fmt: skip
    return manifest.model_copy(update=changes), notes


def _with_schema(found: Difference, schema: SchemaDifference) -> Difference:
    return replace(found, schema=schema.changes, notes=(*found.notes, *schema.doubts))
