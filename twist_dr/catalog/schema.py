"""Which tables the catalog has, and bringing an older one up to date on first use.

The common case costs one query: Alembic is imported only when there is something to do.
"""

from __future__ import annotations

import threading
from contextlib import suppress

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from twist_dr.catalog.errors import CatalogTooNew, missing_table

#: The newest migration's revision. Revisions are four digits and count up.
HEAD = "0010"
#: Not Alembic's default name, which Dagster's storage and other applications use in the same database.
VERSION_TABLE = "twist_dr_catalog_version"
#: PostgreSQL's advisory locks are numbers: "twistdr" in ASCII.
_MIGRATION_LOCK = 0x74776973746472
#: Where Alembic finds the migrations: a package and a folder in it.
SCRIPTS = "twist_dr.catalog:migrations"
#: Alembic keeps what it is doing in module globals.
_one_at_a_time = threading.Lock()


def ensure_schema(engine: Engine, place: str) -> None:
    """Bring the tables to ``HEAD``, whatever other processes do meanwhile. Raises ``CatalogTooNew`` and driver errors."""
    version = _read_version(engine)
    _refuse_newer(version, place)
    if version != HEAD:
        with _one_at_a_time, engine.connect() as connection:
            _upgrade(connection.execution_options(writing=True), place)


def refuse_newer(engine: Engine, place: str) -> None:
    """Raise ``CatalogTooNew`` where somebody brought the tables past what this process knows, while it ran."""
    with suppress(DBAPIError):
        _refuse_newer(_read_version(engine), place)


def _read_version(engine: Engine) -> str | None:
    try:
        with engine.connect() as connection:
            return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    except DBAPIError as error:
        if missing_table(error):
            return None
        raise


def _refuse_newer(version: str | None, place: str) -> None:
    if version is not None and version > HEAD:
        raise CatalogTooNew(
            f"The catalog {place} was changed by a newer twist-dr (its tables are at {version}, this one knows them up to {HEAD})",
            remedy="upgrade twist-dr, and start anew what has run since before (the daemon, the page, twist-dr wal ship)",
        )


def _upgrade(connection: Connection, place: str) -> None:
    """One transaction: all of it or nothing. A second process waits for the first, then finds nothing to do."""
    from alembic import command
    from alembic.config import Config
    from alembic.migration import MigrationContext

    sqlite = connection.dialect.name == "sqlite"
    if sqlite:
        # Neither is possible inside a transaction. Foreign keys are off because SQLite changes a table by making a new
        # one and dropping the old, which would delete what refers to it.
        cursor = connection.connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA foreign_keys = OFF")
        cursor.close()
    with connection.begin():
        if not sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
        migrations = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        _refuse_newer(migrations.get_current_revision(), place)
        config = Config()
        config.set_main_option("script_location", SCRIPTS)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
