"""Whether a server that lets us in lacks the database that was asked for. libpq says so in words alone, and in the server's language."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing

from twist_dr.postgres.sessions import LOOKING, open_session

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
