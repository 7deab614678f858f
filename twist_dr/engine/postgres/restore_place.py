"""Where a backup is restored to be verified: a scratch server, or a database of its own on an existing server."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twist_dr.engine.manifest import PostgresFacts
from twist_dr.engine.postgres.cluster import Cluster, named_errors, query, read_system_identifier
from twist_dr.engine.postgres.scratch import ScratchServer, clear_scratch_remains
from twist_dr.engine.postgres.tools import Tools
from twist_dr.engine.processes import run
from twist_dr.errors import DatabaseError

if TYPE_CHECKING:
    from twist_dr.engine.postgres.cluster import Connection

_RESTORED = "restored"
#: What is ours on an existing server.
_DATABASE_PREFIX = "twist_dr_verify_"
_ROLE_MARK = "made by twist-dr for a verification"
#: Statements of pg_dumpall that reach for folders of the machine the backup came from, which may be this very one.
_TABLESPACE = re.compile(
    rb"^(CREATE|ALTER|COMMENT ON) TABLESPACE |^GRANT [^;]* ON TABLESPACE |^REVOKE [^;]* ON TABLESPACE "
)
_CREATE_ROLE = re.compile(rb"^CREATE ROLE (.+);$")


@dataclass
class RestorePlace:
    """An empty database to restore into. A context manager: leaving it removes what was made for it."""

    cluster: Cluster
    database: str
    tools: Tools
    version: str
    keep_owners: bool
    notes: list[str] = field(default_factory=list)
    _remove: Callable[[], Any] = lambda: None

    def connect(self) -> Connection:
        return self.cluster.connect(self.database)

    def __enter__(self) -> RestorePlace:
        return self

    def __exit__(self, *error: object) -> None:
        self._remove()


def scratch_server(tools: Tools, base: Path, facts: PostgresFacts, roles: bytes) -> RestorePlace:
    """A new server with the backup's roles and an empty database of the same encoding and locale."""
    clear_scratch_remains(base)
    with ExitStack() as stack:
        # The bootstrap role bears its old name: grants say who granted, and only that role may have granted anything.
        server = stack.enter_context(ScratchServer(tools, base, facts.bootstrap_role))
        cluster = server.cluster()
        _apply_roles(cluster, server.tools, _scratch_roles(roles, facts.bootstrap_role))
        with cluster.connect() as connection, named_errors("to make the scratch database"):
            notes = _create_database(connection, _RESTORED, facts)
            version = query(connection, "SELECT current_setting('server_version')")[0][0]
        return RestorePlace(server.cluster(_RESTORED), _RESTORED, tools, version, True, notes, stack.pop_all().close)


def existing_server(
    server: Cluster, live: Cluster, facts: PostgresFacts, roles: bytes, tools: Tools, backup_id: str
) -> RestorePlace:
    """A database of its own on a server that is not the live one. Roles that policies name are made without login.

    Raises ``DatabaseError`` when the server is the live one, or cannot prove that it is not.
    """
    name = f"{_DATABASE_PREFIX}{backup_id.lower().replace('-', '_')}"
    with server.connect() as connection, named_errors("to prepare the verification server"):
        identifier = read_system_identifier(connection)
        if identifier is None or identifier in (facts.system_identifier, _identifier_of(live)):
            raise DatabaseError(
                "verification.server is the production server itself, or does not let us see that it is another one; "
                "name a server of its own there, or install server programs and leave it out."
            )
        version = query(connection, "SELECT current_setting('server_version')")[0][0]
        _clear_existing(connection)
        made = _missing_roles(connection, roles)

        def remove() -> None:
            with server.connect() as again, named_errors("to remove the verification database"):
                _drop(again, [name], made)

        try:
            _make_roles(connection, made)
            notes = _create_database(connection, name, facts)
            # A session in the database while it is used tells it from what a killed run left.
            guard = server.connect(name)
        except BaseException:
            remove()
            raise

    def close() -> None:
        guard.close()
        remove()

    return RestorePlace(server, name, tools, version, False, notes, close)


def _clear_existing(connection: Connection) -> None:
    """Remove the databases and roles of verifications that were killed."""
    databases = query(
        connection,
        """SELECT datname FROM pg_database
            WHERE starts_with(datname, %(prefix)s) AND datname NOT IN (SELECT datname FROM pg_stat_activity WHERE datname IS NOT NULL)""",
        {"prefix": _DATABASE_PREFIX},
    )
    in_use = query(
        connection,
        "SELECT 1 FROM pg_stat_activity WHERE starts_with(datname, %(prefix)s)",
        {"prefix": _DATABASE_PREFIX},
    )
    roles = query(
        connection,
        "SELECT rolname FROM pg_roles WHERE shobj_description(oid, 'pg_authid') = %(mark)s",
        {"mark": _ROLE_MARK},
    )
    # A role may belong to a verification that is going on; then it is left for the next time.
    _drop(connection, [name for (name,) in databases], [] if in_use else [name for (name,) in roles])


def _drop(connection: Connection, databases: list[str], roles: list[str]) -> None:
    from psycopg import sql

    for database in databases:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))
    for role in roles:
        connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))


def _identifier_of(live: Cluster) -> str | None:
    # The live server may be gone when a backup is verified; then the manifest's identifier has to do.
    try:
        with live.connect() as connection:
            return read_system_identifier(connection)
    except DatabaseError:
        return None


def _scratch_roles(roles: bytes, bootstrap: str) -> bytes:
    """The roles' SQL without the role that exists already, and without tablespaces."""
    kept = []
    for line in roles.splitlines(keepends=True):
        match = _CREATE_ROLE.match(line.strip())
        if _TABLESPACE.match(line) or (match and _unquoted(match[1]) == bootstrap):
            continue
        kept.append(line)
    return b"".join(kept)


def _apply_roles(cluster: Cluster, tools: Tools, statements: bytes) -> None:
    # Password hashes: by way of a nameless file, never argv.
    with tempfile.TemporaryFile() as file:
        file.write(statements)
        file.seek(0)
        arguments: list[str | Path] = [tools.program("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-"]
        run(arguments, environment=cluster.environment(), stdin=file)


def _missing_roles(connection: Connection, roles: bytes) -> list[str]:
    wanted = [_unquoted(match[1]) for line in roles.splitlines() if (match := _CREATE_ROLE.match(line.strip()))]
    known = {row[0] for row in query(connection, "SELECT rolname FROM pg_roles")}
    return [role for role in wanted if role not in known]


def _make_roles(connection: Connection, roles: list[str]) -> None:
    from psycopg import sql

    for role in roles:
        connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))
        connection.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(sql.Identifier(role), sql.Literal(_ROLE_MARK)))


def _unquoted(identifier: bytes) -> str:
    text = identifier.decode(errors="surrogateescape")
    return text[1:-1].replace('""', '"') if text.startswith('"') else text


def _create_database(connection: Connection, name: str, facts: PostgresFacts) -> list[str]:
    """Create it as the backup's was, or with locale C where this server lacks the locale; returns a note then."""
    import psycopg
    from psycopg import sql

    begin = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {}").format(
        sql.Identifier(name), sql.Literal(facts.encoding)
    )
    locale = sql.SQL(" LC_COLLATE {} LC_CTYPE {}").format(sql.Literal(facts.collate), sql.Literal(facts.ctype))
    if facts.locale_provider == "icu":
        locale += sql.SQL(" LOCALE_PROVIDER icu ICU_LOCALE {}").format(sql.Literal(facts.locale))
    elif facts.locale_provider == "builtin":
        locale += sql.SQL(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {}").format(sql.Literal(facts.locale))
    try:
        connection.execute(begin + locale)
    except psycopg.Error:
        connection.execute(begin + sql.SQL(" LC_COLLATE 'C' LC_CTYPE 'C'"))
        wanted = facts.locale or facts.collate
        return [
            f"the locale {wanted} ({facts.locale_provider}) is not available here, so the database was restored with locale C"
        ]
    return []
