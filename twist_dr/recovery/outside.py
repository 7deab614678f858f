"""What a recovered server takes over of the one that is gone, though its configuration files are not used: how rows read there.

Its rows are dumped, looked at and computed with; the base backup's manifest says how the server was set.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from twist_dr.errors import DatabaseRefused, RecoveryFailed
from twist_dr.postgres.cluster import Cluster, Connection, first_line, named_errors, query
from twist_dr.postgres.surroundings import outside
from twist_dr.redaction import one_line
from twist_dr.repository.manifest import PostgresFacts

#: A server that was told to read its settings again does so at once; this is for a machine under load.
_SECONDS = 30.0
_LOOK_AGAIN_SECONDS = 0.02
#: Versions that remember by which version of a locale a database's own order was made.
_DATABASE_VERSIONS = 150000
_OLD_ORDERS = """
    SELECT 'collation ' || quote_ident(n.nspname) || '.' || quote_ident(c.collname), c.collversion, pg_collation_actual_version(c.oid)
      FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
     WHERE c.collversion <> pg_collation_actual_version(c.oid)
       AND EXISTS (SELECT FROM pg_depend d WHERE d.refclassid = 'pg_collation'::regclass AND d.refobjid = c.oid)
"""
_OLD_DATABASE_ORDER = """
    SELECT 'database ' || quote_ident(datname), datcollversion, pg_database_collation_actual_version(oid)
      FROM pg_database WHERE datname = current_database() AND datcollversion <> pg_database_collation_actual_version(oid)
"""


def surround(cluster: Callable[[str], Cluster], facts: PostgresFacts) -> list[str]:
    """Give a promoted server what was around the backup's database; returns sentences about what it has otherwise. Raises ``DatabaseError``."""
    told = _set_as_backed_up(cluster("postgres"), facts)
    # At the point it may have been dropped.
    with (
        suppress(DatabaseRefused),
        cluster(facts.database).connect() as connection,
        named_errors("to say how text is sorted"),
    ):
        told += text_orders(connection)
    return told


def _set_as_backed_up(cluster: Cluster, facts: PostgresFacts) -> list[str]:
    """Set a promoted server as the backup's was, and wait until new sessions see it; returns a sentence for what it does not take."""
    import psycopg
    from psycopg import sql

    notes = []
    with cluster.connect() as connection, named_errors("to set the recovered server as the backup's"):
        for name, value in outside(facts).items():
            try:
                connection.execute(
                    sql.SQL("ALTER SYSTEM SET {} TO {}").format(sql.Identifier(name), sql.Literal(value))
                )
            except psycopg.Error as error:
                notes.append(
                    one_line(f"the setting {name} of the backup's server cannot be had here: {first_line(error)}")
                )
        [[told]] = query(connection, "SELECT clock_timestamp()")
        query(connection, "SELECT pg_reload_conf()")
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        # Of a session: when the server had read its settings last, before it was begun.
        with cluster.connect() as connection, named_errors("to say how it is set"):
            [[read]] = query(connection, "SELECT pg_conf_load_time() >= %(told)s", {"told": told})
        if read:
            return notes
        time.sleep(_LOOK_AGAIN_SECONDS)
    raise RecoveryFailed(
        f"The recovered server did not read its settings within {_SECONDS:.0f} s", remedy="see the load of this machine"
    )


def text_orders(connection: Connection) -> list[str]:
    """A sentence where text is sorted by another version of a locale than when the indexes of the connection's database were made."""
    rows = query(connection, _OLD_ORDERS)
    if connection.info.server_version >= _DATABASE_VERSIONS:
        rows += query(connection, _OLD_DATABASE_ORDER)
    if not rows:
        return []
    told = ", ".join(f"{what} by version {was}, here by {now}" for what, was, now in rows[:3])
    return [
        one_line(
            f"text is sorted otherwise on this machine than where its indexes were made ({told}): indexes on text may not find every row here; "
            "REINDEX before you use it here, or run it where that version is"
        )
    ]
