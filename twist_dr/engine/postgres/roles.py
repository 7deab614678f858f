"""The roles of a cluster, as ``pg_dumpall --globals-only`` writes them: which there are, and making them on another server."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from twist_dr.engine.manifest import PostgresFacts
from twist_dr.engine.postgres.cluster import Cluster, query
from twist_dr.engine.postgres.tools import Tools
from twist_dr.engine.processes import run

if TYPE_CHECKING:
    from twist_dr.engine.postgres.cluster import Connection

#: Statements of pg_dumpall that reach for folders of the machine the backup came from, which may be this very one.
_TABLESPACE = re.compile(
    rb"^(CREATE|ALTER|COMMENT ON) TABLESPACE |^GRANT [^;]* ON TABLESPACE |^REVOKE [^;]* ON TABLESPACE "
)
_CREATE_ROLE = re.compile(rb"^CREATE ROLE (.+);$")
_NAME = rb'(?:"(?:[^"]|"")*"|[^" ]+)'
_ALTER_ROLE = re.compile(rb"^ALTER ROLE (" + _NAME + rb") ")
_GRANTED_BY = re.compile(
    rb"^(GRANT " + _NAME + rb" TO " + _NAME + rb"(?: WITH ADMIN OPTION)?) GRANTED BY " + _NAME + rb";"
)
_ROLE_STATEMENT = re.compile(rb"^(?:CREATE ROLE|ALTER ROLE|COMMENT ON ROLE) (" + _NAME + rb")(?: |;)")
_MEMBERSHIP = re.compile(rb"^GRANT (" + _NAME + rb") TO (" + _NAME + rb")(?: |;)")
_PARAMETER = re.compile(rb"^GRANT [A-Z, ]+ ON PARAMETER .* TO (" + _NAME + rb")(?: |;)")
_GRANTOR = re.compile(rb" GRANTED BY " + _NAME + rb";$")
_LOGIN = re.compile(rb"^ALTER ROLE (" + _NAME + rb") WITH (?:[A-Z]+ )*LOGIN(?: |;)")
#: What a new role has not by itself; only a superuser may say even that (ALTER ROLE, "Notes").
_HAS_NOT = re.compile(rb" NO(?:SUPERUSER|REPLICATION|BYPASSRLS)\b")
_ATTRIBUTES = re.compile(rb"^ALTER ROLE " + _NAME + rb" WITH(?: [A-Z]+)+")
#: One statement; quotes are doubled within quotes, so they close and open again.
_STATEMENT = re.compile(rb"""(?:[^'";]|'[^']*'|"[^"]*")*;""")
#: What is no statement: empty lines, comments, and orders to psql (\restrict, \connect).
_BETWEEN = re.compile(rb"(?:\s+|--[^\n]*|\\[^\n]*)*")
#: From this version on, who granted a role must himself have been granted it with ADMIN OPTION (release notes of 16).
_GRANTORS_CHECKED = 16


def client_major(facts: PostgresFacts) -> int:
    """The major version of the pg_dump that made a backup."""
    return int(facts.client_version.partition(".")[0])


def scratch_roles(roles: bytes, facts: PostgresFacts, major: int) -> bytes:
    """The roles' SQL for a scratch server of version ``major``: without tablespaces, and without what would make or change
    the role that we work as (it exists already, and NOLOGIN or a setting of its own would lock us out)."""
    free_grantors = client_major(facts) < _GRANTORS_CHECKED <= major
    kept = []
    for line in roles.splitlines(keepends=True):
        match = _CREATE_ROLE.match(line.strip()) or _ALTER_ROLE.match(line)
        if _TABLESPACE.match(line) or (match and _unquoted(match[1]) == facts.bootstrap_role):
            continue
        # Before 16 nobody checked the grantor, so it may be one whom a newer server refuses.
        kept.append(_GRANTED_BY.sub(rb"\1;", line) if free_grantors else line)
    return b"".join(kept)


def roles_to_make(roles: bytes, missing: Collection[str]) -> bytes:
    """The part of the roles' SQL that makes those roles as they were: passwords, settings, memberships on either side.

    Who granted a membership is left out: on another server that role may lack the right to.
    """
    kept = []
    for statement in statements(roles):
        role, membership = _ROLE_STATEMENT.match(statement), _MEMBERSHIP.match(statement)
        named: tuple[bytes, ...] = role.groups() if role else membership.groups() if membership else ()
        if parameter := _PARAMETER.match(statement):
            named = parameter.groups()
        if statement.startswith(b"SET ") or any(_unquoted(name) in missing for name in named):
            bare = _ATTRIBUTES.sub(lambda found: _HAS_NOT.sub(b"", found[0]), statement)
            kept.append(_GRANTOR.sub(b";", statement) if membership else bare)
    return b"\n".join([*kept, b""])


def without_password(roles: bytes) -> list[str]:
    """Roles that the SQL lets log in and gives no password."""
    return [
        _unquoted(match[1])
        for statement in statements(roles)
        if (match := _LOGIN.match(statement)) and b" PASSWORD '" not in statement
    ]


def statements(script: bytes) -> Iterator[bytes]:
    """The SQL statements that pg_dumpall or pg_restore wrote, one by one, without comments and orders to psql."""
    place = 0
    while True:
        between = _BETWEEN.match(script, place)
        assert between is not None
        found = _STATEMENT.match(script, between.end())
        if found is None:
            return
        yield found[0]
        place = found.end()


def apply_roles(cluster: Cluster, tools: Tools, script: bytes, database: str | None = None) -> None:
    """Run the SQL of roles on a server, all of it or nothing, from ``database`` if not the cluster's own.

    Raises ``ProcessFailed`` at the first error.
    """
    # Password hashes: by way of a nameless file, never argv.
    with tempfile.TemporaryFile() as file:
        file.write(script)
        file.seek(0)
        # Terse: an error does not quote the statement, with the hash in it.
        arguments: list[str | Path] = [
            tools.program("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse", "--single-transaction", "-f", "-",
        ]  # fmt: skip
        run(arguments, environment=cluster.environment(database), stdin=file)


def missing_roles(connection: Connection, roles: bytes) -> list[str]:
    """Roles that the SQL makes and the server lacks."""
    known = {row[0] for row in query(connection, "SELECT rolname FROM pg_roles")}
    return [role for role in role_names(roles) if role not in known]


def role_names(roles: bytes) -> list[str]:
    """Roles that the SQL makes."""
    return [_unquoted(match[1]) for line in roles.splitlines() if (match := _CREATE_ROLE.match(line.strip()))]


def _unquoted(identifier: bytes) -> str:
    text = identifier.decode(errors="surrogateescape")
    return text[1:-1].replace('""', '"') if text.startswith('"') else text
