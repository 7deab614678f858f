"""The application's database: how to connect, and what to know about it before and while it is backed up."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeAlias

from twist_dr.errors import DatabaseError, DatabaseGone, DatabaseRefused, DatabaseRightsMissing, DatabaseUnreachable
from twist_dr.postgres.materialized import read_views
from twist_dr.postgres.sessions import LOOKING, SessionSettings, is_gone, open_replication, open_session, start_options
from twist_dr.postgres.unplanned import PLANNING_RUNS_CODE, count_unplanned, read_unplanned
from twist_dr.postgres.url import WORDS, is_postgres_url
from twist_dr.redaction import keep_url, one_line
from twist_dr.repository.manifest import Extension, PostgresFacts, ViewFacts
from twist_dr.repository.table_names import TableName
from twist_dr.system.processes import says_full
from twist_dr.system.words import few

if TYPE_CHECKING:
    import psycopg
    from psycopg.pq import ConninfoOption

#: A session. As a string, for whoever only names it loads no psycopg.
Connection: TypeAlias = "psycopg.Connection[Any]"
_CONNECT_TIMEOUT_SECONDS = 10
_CANCEL_EVERY_SECONDS = 0.2
#: Refusals of a server that will answer a little later.
_PASSING = (
    "starting up",
    "shutting down",
    "recovery mode",
    "too many",
    "remaining connection slots",
    "not yet accepting",
)
#: Of a role that is not there a server says that its password is wrong.
NEW_SERVER = " (a new and empty server knows neither: name its superuser in restore.database_url, and launch the job restore with mode replace)"
#: What libpq and the server say of a session that is over.
_LOST = re.compile(
    r"terminating connection|connection is (?:lost|closed)|closed the connection|connection (?:reset|timed out)",
    re.IGNORECASE,
)
#: Tables counted by one statement. More save round trips, fewer keep its plan small.
_COUNT_AT_ONCE = 100


@dataclass(frozen=True)
class Table:
    """An ordinary table or partition that a dump holds."""

    schema: str
    name: str
    readable: bool
    filtered: bool
    """Row-level security would hide rows from this role."""
    raw: tuple[bytes, bytes]
    """Schema and name in the database's own encoding, as a dump has them."""
    unplanned: bool
    """A query of it would run code of users while it is planned: see :mod:`~twist_dr.postgres.unplanned`."""

    @property
    def key(self) -> TableName:
        return TableName(self.schema, self.name)

    @property
    def label(self) -> str:
        return self.key.label


@dataclass(frozen=True)
class Cluster:
    """A database on a server, by connection URL (a secret: it may hold a password).

    ``isolated``: the URL alone counts, and neither the environment nor a service file. For servers that we made. ``setting``: where the URL is
    written, for errors.
    """

    url: str = field(repr=False)
    isolated: bool = False
    setting: str = field(default="database.url", compare=False)

    def __post_init__(self) -> None:
        keep_url(self.url)

    @property
    def parameters(self) -> dict[str, str]:
        """libpq's parameters, defaults left out. Raises ``DatabaseRefused`` when the URL is not one, without a piece of it."""
        import psycopg
        from psycopg.conninfo import conninfo_to_dict

        # libpq's own errors quote what they do not understand.
        refused = DatabaseRefused("The database's URL is not a PostgreSQL URL", remedy=f"write {WORDS}")
        if "://" in self.url and not is_postgres_url(self.url):
            raise refused
        try:
            known = {name: str(value) for name, value in conninfo_to_dict(self.url).items()}
        except (psycopg.ProgrammingError, UnicodeDecodeError):
            raise refused from None
        if "@" in known.get("host", "") or not re.fullmatch("[0-9,]*", known.get("port", "")):
            raise refused
        return known

    @property
    def place(self) -> str:
        """For people: ``erp at db.example:5432``. No password."""
        known = self.parameters
        host = known.get("host") or os.environ.get("PGHOST") or "the local socket"
        return one_line(
            f"{known.get('dbname') or 'the default database'} at {host}:{known.get('port') or os.environ.get('PGPORT') or 5432}"
        )

    def environment(self, database: str | None = None, settings: SessionSettings = LOOKING) -> dict[str, str | None]:
        """The libpq environment that leads a child process where :meth:`connect` leads; ``None`` removes a variable.

        ``settings``: what the child's sessions begin with. Nothing of it shows in argv. It is taken from a connection, not from the
        URL: in libpq a service file beats ``PGHOST``, and a list of hosts leaves the choice open, so a child could end up on another
        server than we. Raises what :meth:`connect` raises.
        """
        options = _libpq_options()
        with self.connect(database) as connection:
            info = connection.info
            found = {option.keyword: option.val for option in connection.pgconn.info}
            resolved = {
                **{
                    option.keyword.decode(): value.decode()
                    for option in options
                    if (value := found.get(option.keyword)) and value != option.compiled
                },
                "host": info.host, "hostaddr": info.hostaddr if not info.host.startswith("/") else "", "port": str(info.port),
                "user": info.user, "password": info.password, "dbname": info.dbname,
                "options": start_options(self._known(database), settings),
            }  # fmt: skip
        # What we set for our own connection only, or what would change the bytes of a dump.
        for ours in ("client_encoding", "application_name", "service", "connect_timeout"):
            resolved.pop(ours, None)
        environment: dict[str, str | None] = dict.fromkeys(("PGSERVICEFILE", "PGSYSCONFDIR", "PGPASSFILE"))
        for option in options:
            if option.envvar is not None:
                environment[option.envvar.decode()] = resolved.get(option.keyword.decode()) or None
        # Messages are read by us (which tables were dumped) and by people; the data's encoding is not touched by LC_ALL.
        return {**environment, "PGCONNECT_TIMEOUT": str(_CONNECT_TIMEOUT_SECONDS), "LC_ALL": "C"}

    def connect(
        self, database: str | None = None, *, autocommit: bool = True, settings: SessionSettings = LOOKING
    ) -> Connection:
        """A connection whose session begins with ``settings``. Raises ``DatabaseUnreachable`` or ``DatabaseRefused``."""
        import psycopg

        try:
            connection = open_session(self._known(database), settings)
            connection.autocommit = autocommit
            return connection
        except psycopg.OperationalError as error:
            raise self._refusal(error, database) from error

    def replicate(self) -> Connection:
        """A connection for replication. Raises ``psycopg.OperationalError``."""
        return open_replication(self._known())

    def _known(self, database: str | None = None) -> dict[str, str]:
        known = {
            **(_compiled_defaults() if self.isolated else _given_options()),
            "connect_timeout": str(_CONNECT_TIMEOUT_SECONDS),
            "application_name": "twist-dr",
            # Without it psycopg gives bytes for text from a database in SQL_ASCII.
            "client_encoding": "UTF8",
            **self.parameters,
        }
        return known if database is None else {**known, "dbname": database}

    def _refusal(self, error: BaseException, database: str | None) -> DatabaseError:
        """What a failed connection means: libpq gives no error code, but a server that answered says FATAL."""
        reason = first_line(error)
        if says_full(str(error)):
            return DatabaseError(f"Cannot connect to {self.place}: {reason}", remedy="free space on the server's disk")
        if "FATAL" in reason and not any(passing in reason for passing in _PASSING):
            if is_gone(self._known(database), reason):
                return DatabaseGone(
                    f"Cannot connect to {self.place}: {reason}",
                    remedy=(
                        "if it was dropped, or the server is new, the job restore with mode replace makes it anew (where nothing of this installation "
                        f"is left: twist-dr recover), else correct its name in {self.setting}."
                    ),
                )
            return DatabaseRefused(
                f"Cannot connect to {self.place}: {reason}",
                remedy=f"correct user, password and database name in {self.setting}, or pg_hba.conf{NEW_SERVER}",
            )
        return DatabaseUnreachable(
            f"Cannot connect to {self.place}: {reason}",
            remedy=f"see that the server runs, and correct host and port in {self.setting}",
        )


def _libpq_options() -> list[ConninfoOption]:
    from psycopg.pq import Conninfo

    return Conninfo.get_defaults()


#: Options without a default of libpq's own in which an empty value means that there is none.
_MAY_BE_EMPTY = {
    "password",
    "passfile",
    "hostaddr",
    "options",
    "requirepeer",
    "require_auth",
    "sslcert",
    "sslkey",
    "sslrootcert",
    "sslcrl",
}


def _compiled_defaults() -> dict[str, str]:
    """libpq's own defaults for what the environment could set: what is given explicitly, nothing else can fill in."""
    defaults = {option.keyword.decode(): option.compiled for option in _libpq_options() if option.envvar is not None}
    return {
        name: (compiled or b"").decode() for name, compiled in defaults.items() if compiled or name in _MAY_BE_EMPTY
    }


def _given_options() -> dict[str, str]:
    """The ``options`` of PGOPTIONS or a service, which ours are added to."""
    [given] = [option.val for option in _libpq_options() if option.keyword == b"options"]
    return {"options": given.decode()} if given else {}


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without a trailing stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # libpq puts the reason after the address, and repeats itself once per address tried.
    return lines[0].rstrip(".") if lines else type(error).__name__


@contextmanager
def named_errors(doing: str) -> Iterator[None]:
    """Turn psycopg's errors into ``DatabaseError`` that says what was being done."""
    import psycopg

    try:
        yield
    except psycopg.errors.CharacterNotInRepertoire as error:
        raise DatabaseError(
            f"The database's encoding is SQL_ASCII, and it holds names that are no UTF-8 ({first_line(error)}), which nobody could call by name {doing}",
            remedy="rename them (ALTER TABLE ... RENAME TO), or move all of it into a database of the encoding that they are in",
        ) from error
    except psycopg.Error as error:
        if isinstance(error, psycopg.OperationalError) and _LOST.search(str(error)):
            raise DatabaseError(
                f"The session with PostgreSQL ended before it could be used {doing}: {first_line(error)}",
                remedy="see the server's log for who ended it, then start again",
            ) from error
        raise DatabaseError(
            f"PostgreSQL refused {doing}: {first_line(error)}", remedy="run twist-dr doctor to see what is missing"
        ) from error


def query(connection: Connection, statement: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
    """Rows of a statement of ours. Nothing from outside is ever put into ``statement``."""
    return connection.execute(statement, parameters).fetchall()


class Snapshot:
    """One exported snapshot: what the dump and the row counts both see. A context manager that holds a connection."""

    def __init__(self, cluster: Cluster) -> None:
        self._connection = cluster.connect()
        self._counting: threading.Thread | None = None
        try:
            with named_errors("an exported snapshot"):
                self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                self.id: str = query(self._connection, "SELECT pg_export_snapshot()")[0][0]
                self.taken_at = datetime.now(timezone.utc)
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *error: object) -> None:
        # Asked again and again: a cancel that arrives between two statements is lost.
        while self._counting is not None and self._counting.is_alive():
            with suppress(Exception):
                self._connection.cancel_safe()
            self._counting.join(_CANCEL_EVERY_SECONDS)
        self._connection.close()

    @property
    def server_major(self) -> int:
        return self._connection.info.server_version // 10000

    def may_read_role_passwords(self) -> bool:
        return bool(query(self._connection, "SELECT has_table_privilege('pg_authid', 'SELECT')")[0][0])

    @property
    def connection(self) -> Connection:
        """In the snapshot's transaction. Not for others while rows are counted."""
        return self._connection

    def facts(self, client_version: str) -> PostgresFacts:
        with named_errors("to describe the server"):
            return read_facts(self._connection, client_version)

    def tables(self) -> list[Table]:
        """Every table that the dump must hold. Raises ``DatabaseRightsMissing`` when one is closed to us, or shown in part."""
        with named_errors("to list the tables"):
            tables = read_tables(self._connection)
        need_readable(self._connection, tables, "the backup would be incomplete")
        return tables

    def count_rows(self, tables: list[Table]) -> RowCount:
        """Start counting every table's rows in the background; the result is asked of what this returns."""
        count = RowCount(self._connection, tables)
        self._counting = count.thread
        return count

    def migrations(self) -> dict[str, list[str]]:
        """Applied Django migrations by app; empty when there is no such table."""
        with named_errors("to read the migration state"):
            return read_migrations(self._connection)


def need_readable(connection: Connection, tables: Iterable[Table], so: str) -> None:
    """Raise ``DatabaseRightsMissing`` when one is closed to us, or shown in part; ``so`` is what would come of it."""
    [[role]] = query(connection, "SELECT quote_ident(current_user)")
    if filtered := [table.label for table in tables if table.filtered]:
        raise DatabaseRightsMissing(
            f"Row-level security would hide rows of {few(filtered)} from role {role}, so {so}",
            remedy=f"as a superuser run: ALTER ROLE {role} BYPASSRLS",
        )
    if closed := [table.label for table in tables if not table.readable]:
        raise DatabaseRightsMissing(
            f"Role {role} may not read {few(closed)}, so {so}",
            remedy=f"as a superuser run: GRANT pg_read_all_data TO {role} (PostgreSQL 14 and newer), or grant SELECT on them.",
        )


class RowCount:
    """Row counts in the making. When all was waited for, ``views``: what is recorded of materialized views, ``unread``: of which nothing could be."""

    def __init__(self, connection: Connection, tables: list[Table]) -> None:
        self._result: dict[TableName, int] = {}
        self._large_objects = 0
        self.views: dict[str, ViewFacts] = {}
        self.unread: list[str] = []
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._work, args=(connection, tables), name="row counts", daemon=True)
        self.thread.start()

    def wait(self) -> tuple[dict[TableName, int], int]:
        """Rows by table, and the number of large objects."""
        self.thread.join()
        if self._error is not None:
            raise self._error
        return self._result, self._large_objects

    def _work(self, connection: Connection, tables: list[Table]) -> None:
        try:
            with named_errors("to count rows"):
                self._result = count_rows(connection, tables)
                self._large_objects = int(query(connection, "SELECT count(*) FROM pg_largeobject_metadata")[0][0])
                self.views, self.unread = read_views(connection)
        except BaseException as error:
            self._error = error


def count_rows(connection: Connection, tables: list[Table]) -> dict[TableName, int]:
    """Rows of each table. ``ONLY``, as the dump has it: rows of inheriting tables count with those."""
    from psycopg import sql

    counts: dict[TableName, int] = {}
    planned = [table for table in tables if not table.unplanned]
    for start in range(0, len(planned), _COUNT_AT_ONCE):
        some = planned[start : start + _COUNT_AT_ONCE]
        parts = [
            sql.SQL("SELECT {}::int, count(*) FROM ONLY {}").format(
                sql.Literal(place), sql.Identifier(table.schema, table.name)
            )
            for place, table in enumerate(some)
        ]
        # Rolled back, so that the locks go: a count locks every index too, and would hold them until the dump has ended.
        # With thousands of tables the server's lock table would be full, for the application as well.
        with connection.transaction(force_rollback=True):
            rows = connection.execute(sql.SQL(" UNION ALL ").join(parts)).fetchall()
        counts.update({some[place].key: int(rows_in_it) for place, rows_in_it in rows})
    for table in tables:
        if table.unplanned:
            with connection.transaction(force_rollback=True):
                counts[table.key] = count_unplanned(connection, table.key)
    return counts


_TABLES = f"""
    SELECT n.nspname, c.relname, has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE'),
           row_security_active(c.oid),
           convert_to(n.nspname, getdatabaseencoding()), convert_to(c.relname, getdatabaseencoding()), {PLANNING_RUNS_CODE}
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND NOT (c.relpersistence = 'u' AND pg_is_in_recovery())
       AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
       AND NOT EXISTS (SELECT FROM pg_depend d
                        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
     ORDER BY 1, 2
"""


def read_tables(connection: Connection) -> list[Table]:
    """Ordinary tables and leaf partitions outside the system schemas; an extension's own tables belong to the extension."""
    return [
        Table(schema, name, readable, filtered, (raw_schema, raw_name), unplanned)
        for schema, name, readable, filtered, raw_schema, raw_name, unplanned in query(connection, _TABLES)
    ]


def unlogged_tables(connection: Connection) -> set[TableName]:
    """Tables that come back empty from a standby or a recovered server."""
    return {TableName(*row) for row in query(connection, _UNLOGGED)}


_UNLOGGED = """
    SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relpersistence = 'u' AND c.relkind = 'r'
"""


def read_migrations(connection: Connection) -> dict[str, list[str]]:
    """Applied Django migrations by app, in the order of application; empty without ``django_migrations``.

    The table is found wherever it is, whatever the search path. Where several schemas have one (a schema per tenant),
    apps outside ``public`` are called ``schema.app``.
    """
    schemas = [row[0] for row in query(connection, _MIGRATION_TABLES)]
    applied: dict[str, list[str]] = {}
    for schema in schemas:
        prefix = "" if len(schemas) == 1 or schema == "public" else f"{schema}."
        rows = read_unplanned(connection, TableName(schema, "django_migrations"), "id", "app", "name")
        # Of two numbers in digits the longer is the greater.
        for _, app, name in sorted(rows, key=lambda row: (len(row[0] or ""), row[0] or "")):
            applied.setdefault(f"{prefix}{app}", []).append(str(name))
    return applied


_MIGRATION_TABLES = """
    SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relname = 'django_migrations' AND c.relkind = 'r' AND n.nspname !~ '^pg_' ORDER BY 1
"""


def read_extensions(connection: Connection) -> list[Extension]:
    """Installed extensions by name."""
    rows = query(connection, "SELECT extname, extversion FROM pg_extension ORDER BY 1")
    return [Extension(name=name, version=version) for name, version in rows]


def read_system_identifier(connection: Connection) -> str | None:
    """The cluster's identity, or ``None`` where the provider closes ``pg_control_system`` to us."""
    if not query(connection, "SELECT has_function_privilege('pg_control_system()', 'EXECUTE')")[0][0]:
        return None
    return str(query(connection, "SELECT system_identifier FROM pg_control_system()")[0][0])


def read_facts(connection: Connection, client_version: str) -> PostgresFacts:
    """What the manifest records about server and database. Columns of ``pg_database`` differ from 13 to 18."""
    (database, version, number, size, encoding, role, in_recovery, lsn, bootstrap, public), *_ = query(
        connection,
        """SELECT to_jsonb(d), current_setting('server_version'), current_setting('server_version_num')::int,
                  pg_database_size(d.oid), pg_encoding_to_char(d.encoding), current_user, pg_is_in_recovery(),
                  CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text,
                  pg_get_userbyid(10), EXISTS (SELECT FROM pg_namespace WHERE nspname = 'public')
             FROM pg_database d WHERE d.datname = current_database()""",
    )
    return PostgresFacts(
        version=version,
        version_number=number,
        system_identifier=read_system_identifier(connection),
        lsn=lsn,
        timeline=_read_timeline(connection, in_recovery),
        in_recovery=in_recovery,
        database=database["datname"],
        database_size=size,
        encoding=encoding,
        collate=database["datcollate"],
        ctype=database["datctype"],
        locale_provider={"c": "libc", "i": "icu", "b": "builtin"}[database.get("datlocprovider", "c")],
        locale=database.get("datlocale") or database.get("daticulocale"),
        extensions=read_extensions(connection),
        bootstrap_role=bootstrap,
        dumped_as=role,
        client_version=client_version,
        public_schema=public,
        icu_rules=database.get("daticurules"),
        collation_version=database.get("datcollversion"),
    )


def _read_timeline(connection: Connection, in_recovery: bool) -> int:
    if query(connection, "SELECT has_function_privilege('pg_control_checkpoint()', 'EXECUTE')")[0][0]:
        return int(query(connection, "SELECT timeline_id FROM pg_control_checkpoint()")[0][0])
    if in_recovery:
        raise DatabaseRightsMissing(
            "A standby tells its timeline only through pg_control_checkpoint()",
            remedy="grant EXECUTE on it to this role",
        )
    # The first eight digits of a segment's name are its timeline.
    return int(query(connection, "SELECT pg_walfile_name(pg_current_wal_lsn())")[0][0][:8], 16)
