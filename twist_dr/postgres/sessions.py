"""What the sessions that we open begin with, whatever was set for the database and for our role.

A database's owner decides by ALTER DATABASE what a session in it begins with, its search path for one: a look-alike in front of a
function of PostgreSQL's own would be called, as our role. What goes with the start-up packet stands above ALTER DATABASE and ALTER
ROLE, and counts before anything else happens in the session (PostgreSQL, "Setting Parameters"). But a parameter that the server does
not know, or that the role may not set, makes it refuse the connection there: so its version, and what the role may, are asked first.

``search_path`` makes the names of functions, operators, types and catalogs PostgreSQL's own. What users made is never reached by it:
our SQL names that with its schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import psycopg

SessionSettings = Mapping[str, str]

_TIME_OUTS: SessionSettings = {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
}

#: Sessions that look, and act for us. Not the time zone: times without one that users stored are meant in the database's.
LOOKING: SessionSettings = {
    **_TIME_OUTS,
    # One that fires at login is code of others in our session.
    "event_triggers": "off",
    # Last, or a temporary table would come before the catalog of its name.
    "search_path": "pg_catalog,pg_temp",
    # Somebody may put a view in the place of a table between two looks; its functions would run as our role (CVE-2024-7348).
    "restrict_nonsystem_relation_kind": "view,foreign-table",
    # With it, planning a query computes what is constant in a table's checks: functions of others, as our role.
    "constraint_exclusion": "off",
    # A role that row-level security would filter gets an error, never fewer rows.
    "row_security": "off",
    "synchronous_commit": "on",
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "DateStyle": "ISO,MDY",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "quote_all_identifiers": "off",
    "exit_on_error": "off",
    "local_preload_libraries": "",
}

#: Sessions that run SQL of the settings: all else is as the database has it.
APPLYING: SessionSettings = {
    **_TIME_OUTS,
    "event_triggers": "off",
    "synchronous_commit": "on",
    "default_transaction_read_only": "off",
}

#: Sessions that put rows into tables, too. pg_dump writes a NULL in an array without quotes, and nothing that it or pg_restore sets has it read
#: as one where the database has ``array_nulls`` off; parallel sessions must not fail to be serialized.
FILLING: SessionSettings = {**APPLYING, "array_nulls": "on", "default_transaction_isolation": "read committed"}

#: Sessions of pg_restore. Commits are not waited for: whoever tells of the database commits after them (``databases.make_durable``), and
#: a commit is durable with all before it.
LOADING: SessionSettings = {**FILLING, "synchronous_commit": "off"}

#: Sessions of others' commands, and of replication, which has no database.
COMMANDS: SessionSettings = {**_TIME_OUTS, "synchronous_commit": "on"}

#: An expression that leaves tables where the database or the role has them looked for, and puts PostgreSQL's own functions before
#: others': without its name in the path, pg_catalog is searched before all.
CATALOG_FIRST = """pg_catalog.set_config('search_path', coalesce((
    SELECT pg_catalog.string_agg(pg_catalog.quote_ident(name), ',')
      FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) WITH ORDINALITY AS path (name, place)
     WHERE name OPERATOR(pg_catalog.<>) 'pg_catalog'), ''), false)"""

#: Versions, as server_version_num has them, that know a parameter which older ones do not.
_SINCE = {"idle_session_timeout": 140000, "transaction_timeout": 170000}
#: The minor release of each major that brought restrict_nonsystem_relation_kind.
_RESTRICTING = {13: 16, 14: 13, 15: 8, 16: 4}
#: From here on there are triggers on login, and a parameter to be spared them.
_EVENT_TRIGGERS = 170000


@dataclass(frozen=True)
class _Server:
    """What a start-up packet may hold: the server's version, and whether our role may switch event triggers off."""

    version: int = 0
    silences: bool = False

    def takes(self, name: str) -> bool:
        if name == "event_triggers":
            return self.silences
        if name == "restrict_nonsystem_relation_kind":
            major, minor = divmod(self.version, 10000)
            return minor >= _RESTRICTING.get(major, 0 if major > max(_RESTRICTING) else 10000)
        return self.version >= _SINCE.get(name, 0)


#: By where connections lead, and as whom: asked once per process.
_known_servers: dict[tuple[tuple[str, str], ...], _Server] = {}


def open_session(known: Mapping[str, str], settings: SessionSettings) -> psycopg.Connection[Any]:
    """A session with these libpq parameters that begins with ``settings``. Raises ``psycopg.OperationalError``."""
    import psycopg

    server = _known_servers.get(_key(known))
    if server is not None:
        try:
            connection = _connect(known, settings, server)
        except psycopg.OperationalError as error:
            # The server is an older one by now, or the role was a superuser.
            if not any(name in str(error) for name in settings if not _Server().takes(name)):
                raise
        else:
            if not _is_stale(server, connection):
                return connection
            connection.close()
    server = _known_servers[_key(known)] = _look(known)
    return _connect(known, settings, server)


def open_replication(known: Mapping[str, str]) -> psycopg.Connection[Any]:
    """A session for replication, of no database. Raises ``psycopg.OperationalError``."""
    import psycopg

    given = {**known, "options": start_options(known, COMMANDS), "replication": "true"}
    return psycopg.connect(**cast("dict[str, Any]", given), autocommit=True)


def start_options(known: Mapping[str, str], settings: SessionSettings) -> str:
    """libpq's ``options`` for a program that begins with ``settings``, where :func:`open_session` was before. ``known`` may have its own."""
    return _options(known, settings, _known_servers.get(_key(known), _Server()))


def spared_login_triggers(connection: psycopg.Connection[Any]) -> bool:
    """Whether sessions of the connection's role are spared triggers on login in every database."""
    return connection.info.server_version < _EVENT_TRIGGERS or _may_silence(connection)


def open_for_settings(connection: psycopg.Connection[Any]) -> None:
    """Before SQL of the settings, which names tables without a schema, runs in a database that somebody else owns."""
    connection.execute(f"SELECT {CATALOG_FIRST}".encode())


def known_to(version: int, settings: SessionSettings) -> SessionSettings:
    """The part of ``settings`` that a server of this version knows and every role may set."""
    return {name: value for name, value in settings.items() if _Server(version).takes(name)}


def _options(known: Mapping[str, str], settings: SessionSettings, server: _Server) -> str:
    # Of two the later counts, so ours does.
    ours = [f"-c {name}={_escaped(value)}" for name, value in settings.items() if server.takes(name)]
    return " ".join([*filter(None, [known.get("options", "")]), *ours])


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def _connect(known: Mapping[str, str], settings: SessionSettings, server: _Server) -> psycopg.Connection[Any]:
    connection = _begin(known, settings, server)
    # Again: PGDATESTYLE comes after the options, and a trigger on login that could not be switched off may have set anything.
    # Not those triggers themselves: a role that is set for the session may lack the right, and they are off.
    ours = {name: value for name, value in settings.items() if server.takes(name) and name != "event_triggers"}
    told = (f"pg_catalog.set_config('{name}', '{value}', false)" for name, value in ours.items())
    try:
        connection.execute(f"SELECT {', '.join(told)}".encode())
    except BaseException:
        connection.close()
        raise
    return connection


def _begin(known: Mapping[str, str], settings: SessionSettings, server: _Server) -> psycopg.Connection[Any]:
    import psycopg

    given = {**known, "options": _options(known, settings, server)}
    return psycopg.connect(**cast("dict[str, Any]", given), autocommit=True)


def _look(known: Mapping[str, str]) -> _Server:
    """What the server is and our role may, asked in a database that is not the application's: nobody's trigger fires there."""
    import psycopg

    there = {**known, "dbname": "template1" if known.get("dbname") == "postgres" else "postgres"}
    try:
        connection = _begin(there, LOOKING, _Server())
    except psycopg.errors.ConnectionTimeout:
        raise
    except psycopg.OperationalError:
        there = dict(known)
        connection = _begin(there, LOOKING, _Server())
    # The server says so much by itself. More is asked of a session that no time-out of a version of its own ends at once.
    with closing(connection):
        version, superuser = connection.info.server_version, _is_superuser(connection)
    if superuser or version < _EVENT_TRIGGERS:
        return _Server(version, version >= _EVENT_TRIGGERS)
    with closing(_connect(there, LOOKING, _Server(version))) as connection:
        return _Server(version, _may_silence(connection))


def _is_superuser(connection: psycopg.Connection[Any]) -> bool:
    return connection.info.parameter_status("is_superuser") == "on"


def _may_silence(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute(
        "SELECT pg_catalog.has_parameter_privilege(session_user, 'event_triggers', 'SET')"
    ).fetchone()
    return bool(row and row[0])


def _is_stale(server: _Server, connection: psycopg.Connection[Any]) -> bool:
    version = connection.info.server_version
    return version != server.version or (
        version >= _EVENT_TRIGGERS and _is_superuser(connection) and not server.silences
    )


def _key(known: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(
        sorted((name, value) for name, value in known.items() if name not in ("dbname", "password", "options"))
    )


#: Databases to be connected to while others are made, renamed, looked for, in the order of trying.
MAINTENANCE = ("postgres", "template1")


def is_gone(known: Mapping[str, str], reason: str) -> bool:
    """Whether there is no database of that name, asked from another one. ``reason``: why the connection was refused, which then names it."""
    import psycopg

    name = known.get("dbname") or known.get("user")
    if name is None or name not in reason:
        return False
    for database in MAINTENANCE:
        if database != name:
            try:
                with closing(open_session({**known, "dbname": database}, LOOKING)) as connection:
                    return not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchall()
            except psycopg.Error:
                continue
    return False
