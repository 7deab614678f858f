"""The roles of a cluster, as ``pg_dumpall --globals-only`` writes them: which there are, and making them on another server."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from twist_dr.errors import ProcessFailed
from twist_dr.postgres.cluster import Cluster, Connection, query
from twist_dr.postgres.statements import NAME, statements, unquoted
from twist_dr.repository.manifest import PostgresFacts

#: Statements of pg_dumpall that reach for folders of the machine the backup came from, which may be this very one. Its key words are
#: capitals, and no name without quotes is: so a name never passes for one.
_TABLESPACE = re.compile(
    rb"(?:CREATE|ALTER|DROP|COMMENT ON) TABLESPACE |(?:GRANT|REVOKE) [A-Z, ]+ ON TABLESPACE |SECURITY LABEL FOR "
    + NAME
    + rb" ON TABLESPACE "
)
_ENCODING = re.compile(rb"^SET client_encoding = '(\w+)';$", re.MULTILINE)
_EVERYBODY = b"ALTER ROLE ALL "
_CREATE_ROLE = re.compile(rb"CREATE ROLE (" + NAME + rb")")
_ALTER_ROLE = re.compile(rb"ALTER ROLE (" + NAME + rb") ")
_GRANTED_BY = re.compile(rb"(GRANT " + NAME + rb" TO " + NAME + rb"(?: WITH ADMIN OPTION)?) GRANTED BY " + NAME + rb";")
_ROLE_STATEMENT = re.compile(rb"(?:CREATE ROLE|ALTER ROLE|COMMENT ON ROLE) (" + NAME + rb")(?: |;)")
_MEMBERSHIP = re.compile(rb"GRANT (" + NAME + rb") TO (" + NAME + rb")(?: |;)")
_PARAMETER = re.compile(rb"GRANT [A-Z, ]+ ON PARAMETER .* TO (" + NAME + rb")(?: |;)")
_GRANTOR = re.compile(rb" GRANTED BY " + NAME + rb";$")
_LOGIN = re.compile(rb"ALTER ROLE (" + NAME + rb") WITH (?:[A-Z]+ )*LOGIN(?P<rest>[ ;].*)", re.DOTALL)
#: What a new role has not by itself; only a superuser may say even that (ALTER ROLE, "Notes").
_HAS_NOT = re.compile(rb" NO(?:SUPERUSER|REPLICATION|BYPASSRLS)\b")
_ATTRIBUTES = re.compile(rb"ALTER ROLE " + NAME + rb" WITH(?: [A-Z]+)+")
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
    for statement in statements(roles):
        match = _CREATE_ROLE.match(statement) or _ALTER_ROLE.match(statement)
        # What is set for all roles may be refused, and is given one by one (``everybodys_settings``).
        if (
            statement.startswith(_EVERYBODY)
            or _TABLESPACE.match(statement)
            or (match and unquoted(match[1]) == facts.bootstrap_role)
        ):
            continue
        # Before 16 nobody checked the grantor, so it may be one whom a newer server refuses.
        ungranted = _GRANTED_BY.fullmatch(statement) if free_grantors else None
        kept.append(ungranted[1] + b";" if ungranted else statement)
    return b"\n".join([*kept, b""])


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
        if statement.startswith(_EVERYBODY):
            continue
        if statement.startswith(b"SET ") or any(unquoted(name) in missing for name in named):
            bare = _ATTRIBUTES.sub(lambda found: _HAS_NOT.sub(b"", found[0]), statement)
            kept.append(_GRANTOR.sub(b";", statement) if membership else bare)
    return b"\n".join([*kept, b""])


def memberships_of(roles: bytes, made: Collection[str]) -> list[bytes]:
    """The statements of the roles' SQL that make ``made`` members of roles, and roles members of them, as :func:`roles_to_make` has them."""
    return [each for each in statements(roles_to_make(roles, made)) if _MEMBERSHIP.match(each)]


@contextmanager
def spoken(connection: Connection, roles: bytes) -> Iterator[None]:
    """Statements of the block that are taken from the roles' SQL are in its encoding."""
    from psycopg import sql

    found = _ENCODING.search(roles)
    connection.execute(sql.SQL("SET client_encoding TO {}").format(sql.Literal(found[1].decode() if found else "UTF8")))
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("SET client_encoding TO 'UTF8'")


def without_password(roles: bytes) -> list[str]:
    """Roles that the SQL lets log in and gives no password."""
    return [
        unquoted(match[1])
        for statement in statements(roles)
        if (match := _LOGIN.match(statement)) and b" PASSWORD '" not in match["rest"]
    ]


def apply_roles(cluster: Cluster, script: bytes, database: str | None = None) -> None:
    """Run the SQL of roles on a server, all of it or nothing, from ``database`` if not the cluster's own.

    Statement by statement, as psql would run orders of its own that the script holds, and each in the encoding that the script
    has set by then. Raises ``ProcessFailed`` at the first error, which does not quote the statement: it may hold a password's hash.
    """
    from psycopg.pq import DiagnosticField, ExecStatus

    with cluster.connect(database) as connection:
        for statement in (b"BEGIN", *statements(script), b"COMMIT"):
            result = connection.pgconn.exec_(statement)
            if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
                reason = result.error_field(DiagnosticField.MESSAGE_PRIMARY) or connection.pgconn.error_message
                raise ProcessFailed(f"The server does not take the roles: {reason.decode(errors='replace').strip()}")


def missing_roles(connection: Connection, roles: bytes) -> list[str]:
    """Roles that the SQL makes and the server lacks."""
    known = {row[0] for row in query(connection, "SELECT rolname FROM pg_roles")}
    return [role for role in role_names(roles) if role not in known]


def role_names(roles: bytes) -> list[str]:
    """Roles that the SQL makes."""
    return [unquoted(match[1]) for statement in statements(roles) if (match := _CREATE_ROLE.match(statement))]
