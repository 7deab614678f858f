"""Phase one, the database: restored beside the live one, compared, made ready. The live one is not touched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from twist_dr.errors import DiskFilled, ProcessFailed, RestoreFailed, TwistDRError
from twist_dr.postgres.cluster import Cluster, Connection, first_line, named_errors, query
from twist_dr.postgres.everybodys_settings import missing_everybodys_settings
from twist_dr.postgres.roles import (
    apply_roles,
    memberships_of,
    missing_roles,
    role_names,
    roles_to_make,
    spoken,
    without_password,
)
from twist_dr.postgres.sessions import APPLYING, open_for_settings
from twist_dr.redaction import one_line
from twist_dr.system.processes import says_full
from twist_dr.system.words import few


@contextmanager
def full_server_named() -> Iterator[None]:
    """Whichever statement met the server's full disk first, the sentence is one and says what to do. Raises ``RestoreFailed``."""
    import psycopg

    try:
        yield
    except (TwistDRError, psycopg.Error) as error:
        if not _is_full(error):
            raise
        raise RestoreFailed(
            f"The disk of the database server filled up during the restore ({first_line(error)}); it needs about as much again as the live database, which was not changed",
            remedy="free space there",
        ) from error


def _is_full(error: BaseException | None) -> bool:
    """Whether that is what an error, or what it came of, means."""
    import psycopg

    while error is not None:
        # Some of the server's words reach us in an error without the SQLSTATE that means it.
        if isinstance(error, DiskFilled | psycopg.errors.DiskFull) or (
            isinstance(error, psycopg.Error) and says_full(str(error))
        ):
            return True
        error = error.__cause__
    return False


def refuse_full_disk(failed: Exception) -> None:
    """Raise ``RestoreFailed`` where what failed without harm did for a full disk: nothing is switched onto one that takes no more rows."""
    with full_server_named():
        if _is_full(failed):
            raise failed


def make_missing_roles(cluster: Cluster, connection: Connection, roles: bytes, *, gone: bool) -> list[str]:
    """Make the roles that the backup's server had and this one lacks, without login; returns a warning for each.

    A role that was dropped may be one that somebody was meant to lose: it owns its tables again, is a member of what it was, and lets
    nobody in. What is set for all roles is only told. Where the live database is ``gone`` with all the backup's roles, the server is a new
    one, and they come back as they were. Raises ``RestoreFailed``.
    """
    import psycopg
    from psycopg import sql

    if gone and not _has_any(connection, roles):
        return _make_as_they_were(cluster, connection, roles)
    warnings = []
    made = missing_roles(connection, roles)
    for role in made:
        # As it is to be pasted, whatever the name holds.
        name = sql.Identifier(role).as_string(connection)
        try:
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))
        except psycopg.Error as error:
            raise RestoreFailed(
                f"The server lacks the role {role}, which the backup's had, and it could not be made: {first_line(error)}",
                remedy=f"as a superuser: CREATE ROLE {name} NOLOGIN, or restore as a role with CREATEROLE.",
            ) from error
        warnings.append(
            f"the role {role} was missing and was made without login; if it is to log in: ALTER ROLE {name} LOGIN"
        )
    for membership in memberships_of(roles, made):
        told = one_line(membership.decode(errors="replace").removesuffix(";"))
        try:
            with spoken(connection, roles):
                connection.execute(membership)
            warnings.append(f"a membership of roles that were made was given as it was: {told}")
        except psycopg.Error as error:
            warnings.append(f"a membership of roles that were made could not be given ({first_line(error)}): {told}")
    return [*warnings, *missing_everybodys_settings(connection, roles)]


def _has_any(connection: Connection, roles: bytes) -> bool:
    """Whether the server has one of the roles, superusers and our own aside."""
    return bool(
        query(
            connection,
            "SELECT 1 FROM pg_roles WHERE rolname = ANY(%(names)s) AND NOT rolsuper AND rolname <> current_user",
            {"names": role_names(roles)},
        )
    )


def _make_as_they_were(cluster: Cluster, connection: Connection, roles: bytes) -> list[str]:
    remedy = "make them by hand, or name a superuser in restore.database_url, then restore again"
    made, told = roles_as_they_were(cluster, connection, roles, remedy)
    if not made:
        return []
    said = f"the server had no role of the backup's: {few(made, 20)} were made as they were"
    return [said, *told, *missing_everybodys_settings(connection, roles)]


def roles_as_they_were(
    cluster: Cluster, connection: Connection, roles: bytes, remedy: str
) -> tuple[list[str], list[str]]:
    """Make the roles that a new server lacks, with their passwords, as the backup's had them; returns them, and what a person should know.

    Raises ``RestoreFailed`` with that remedy; then none was made.
    """
    with named_errors("to list the roles"):
        missing = missing_roles(connection, roles)
    ours = roles_to_make(roles, missing)
    try:
        if missing:
            apply_roles(cluster, ours, connection.info.dbname)
    except ProcessFailed as error:
        raise RestoreFailed(f"The roles {few(missing, 20)} could not be made: {error}", remedy=remedy) from error
    return missing, [
        f"the role {role} may log in, and the backup holds no password for it; give it one if it needs one"
        for role in without_password(ours)
    ]


def run_statements(cluster: Cluster, name: str, statements: Iterable[str]) -> None:
    """Run SQL of the settings in a restored database, all of it in one transaction. Raises ``RestoreFailed``."""
    import psycopg

    with cluster.connect(name, autocommit=False, settings=APPLYING) as connection:
        open_for_settings(connection)
        for place, statement in enumerate(statements, 1):
            try:
                connection.execute(statement.encode())
            except psycopg.Error as error:
                raise RestoreFailed(
                    f"Statement {place} of after_restore_sql failed in {name}: {first_line(error)}",
                    remedy="correct it in the settings, then restore again",
                ) from error
        connection.commit()
