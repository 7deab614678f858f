"""Connections to the catalog: opened for one transaction and closed after it.

Nothing stays open between calls: a backup may run for hours between two of them, in which firewalls drop idle
connections and servers restart, and a forked child must not share one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Engine, NullPool, create_engine, event

from twist_dr.catalog.columns import Rows
from twist_dr.catalog.errors import CatalogUnavailable, driver_error, named, unlike_our_tables
from twist_dr.catalog.location import Location
from twist_dr.catalog.schema import ensure_schema, refuse_newer
from twist_dr.postgres.sessions import CATALOG_FIRST, LOOKING, known_to

R = TypeVar("R")

#: How long a call waits for another process's lock before it says so.
LOCK_SECONDS = 15.0
_CONNECT_TIMEOUT_SECONDS = 10


class Database:
    """A catalog's database. Inert until the first transaction, which brings the tables up to date."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self._ready: Engine | None = None
        self._opening = threading.Lock()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads. Raises ``CatalogUnavailable``."""
        engine = self._engine()
        with self._named_errors(), engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes, committed at the end, rolled back on any error. Raises ``CatalogUnavailable``."""
        engine = self._engine()
        with self._named_errors(), engine.execution_options(writing=True).begin() as connection:
            yield connection

    def all(
        self,
        rows: Rows[R],
        *conditions: ColumnElement[bool],
        order: Sequence[ColumnElement[Any]] = (),
        limit: int | None = None,
    ) -> list[R]:
        """The rows of one table that fulfil every condition, in a transaction of their own. Raises ``CatalogUnavailable``."""
        with self.reading() as connection:
            return rows.all(connection, *conditions, order=order, limit=limit)

    def first(self, rows: Rows[R], *conditions: ColumnElement[bool]) -> R | None:
        """The only one that fulfils them, if there is one."""
        return next(iter(self.all(rows, *conditions, limit=1)), None)

    def _engine(self) -> Engine:
        with self._opening:
            if self._ready is None or self._is_gone():
                with self._named_errors():
                    engine = self._new_engine()
                    ensure_schema(engine, self.location.place)
                self._ready = engine
        return self._ready

    def _is_gone(self) -> bool:
        """SQLite would make a lost file anew by itself, without tables and readable for everybody."""
        return self.location.file is not None and not os.path.exists(self.location.file)

    def _new_engine(self) -> Engine:
        file = self.location.file
        if file is not None:
            self._make_file(file)
            return _sqlite_engine(self.location)
        return _postgres_engine(self.location)

    def _make_file(self, file: Path) -> None:
        """SQLite makes its files with the rights of the first one; they hold what a manifest holds."""
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise CatalogUnavailable(
                f"The catalog {file} cannot be opened ({error.strerror})",
                remedy="see that its folder exists and that this user may write to it",
            ) from None

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            cause = driver_error(error)
            if cause is None:
                raise
            if self._ready is not None and unlike_our_tables(error):
                refuse_newer(self._ready, self.location.place)
            raise named(cause, self.location.place) from error


def _sqlite_engine(location: Location) -> Engine:
    engine = create_engine(
        location.url, poolclass=NullPool, hide_parameters=True, connect_args={"timeout": LOCK_SECONDS}
    )

    @event.listens_for(engine, "connect")
    def connected(connection: Any, record: object) -> None:
        # The driver's own BEGIN comes late and never for DDL; ours is below.
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        # A reader that turns writer fails at once when another wrote meanwhile; one that says so first waits its turn.
        # https://sqlite.org/isolation.html
        writing = connection.get_execution_options().get("writing", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def _session(version: int) -> str:
    """The statement with which a session begins: as all that look and act for us, but for where tables are looked for."""
    ours = {**known_to(version, LOOKING), "lock_timeout": f"{int(LOCK_SECONDS * 1000)}ms"}
    settings = [f"pg_catalog.set_config('{name}', '{ours[name]}', false)" for name in ours if name != "search_path"]
    return f"SELECT {', '.join([*settings, CATALOG_FIRST])}"


def _postgres_engine(location: Location) -> Engine:
    # Prepared statements and start-up options do not pass poolers such as PgBouncer.
    arguments: dict[str, Any] = {"prepare_threshold": None, "application_name": "twist-dr"}
    if "connect_timeout" not in location.url.query:
        arguments["connect_timeout"] = _CONNECT_TIMEOUT_SECONDS
    engine = create_engine(location.url, poolclass=NullPool, hide_parameters=True, connect_args=arguments)

    # Before SQLAlchemy's own questions to a new connection.
    @event.listens_for(engine, "connect", insert=True)
    def connected(connection: Any, record: object) -> None:
        # Outside a transaction, or the first rollback would undo it.
        connection.autocommit = True
        connection.execute(_session(connection.info.server_version))
        connection.autocommit = False

    return engine
