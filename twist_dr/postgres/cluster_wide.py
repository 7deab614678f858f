"""Functions that do something to the whole server, and that a superuser has to allow: where a role may execute them.

A grant on a function lies in the catalog of one database (https://www.postgresql.org/docs/current/sql-grant.html). Every restore puts another database in the
place of the application's, and only a superuser's restore gives such grants again. So they are asked for in the maintenance database, which nothing
replaces; where earlier versions had them made, in the application's, they are used as long as they last.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from twist_dr.errors import DatabaseRefused
from twist_dr.postgres.cluster import Cluster, Connection, query
from twist_dr.postgres.databases import connect_for_maintenance
from twist_dr.postgres.sessions import MAINTENANCE

RESTORE_POINT, SWITCH_WAL = "pg_create_restore_point(text)", "pg_switch_wal()"


def may_execute(connection: Connection, function: str) -> bool:
    """Whether the role may execute ``function`` in the database of this connection."""
    return bool(query(connection, "SELECT has_function_privilege(%(name)s, 'EXECUTE')", {"name": function})[0][0])


@contextmanager
def allowed_to(cluster: Cluster, function: str, connection: Connection) -> Iterator[Connection | None]:
    """A connection over which the role may execute ``function``: ``connection``, to the application's database, or one to a maintenance database.

    None where it may in neither. Raises ``DatabaseUnreachable``.
    """
    if may_execute(connection, function):
        yield connection
        return
    try:
        elsewhere = connect_for_maintenance(cluster)
    except DatabaseRefused:
        yield None
        return
    with closing(elsewhere):
        yield elsewhere if may_execute(elsewhere, function) else None


def grant(function: str, role: str) -> str:
    """What allows it, for a superuser. ``role`` quoted as in SQL."""
    return f"GRANT EXECUTE ON FUNCTION {function} TO {role};  -- as a superuser, in the database {MAINTENANCE[0]}, which no restore replaces"
