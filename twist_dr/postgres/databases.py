"""Databases as things on a server: made beside the live one, closed, renamed, dropped.

Names change hands in a cutover, OIDs never: what is to be found again after a crash is remembered by its OID.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from twist_dr.errors import CutoverFailed, DatabaseRefused, DatabaseUnreachable, Obstacle
from twist_dr.postgres.cluster import Cluster, Connection, first_line, named_errors, query
from twist_dr.postgres.sessions import MAINTENANCE

#: Names are cut to so many bytes by the server, silently (PostgreSQL, "Identifiers and Key Words").
_LONGEST_NAME = 63
_LOOK_AGAIN_SECONDS = 0.002
_END_SECONDS = 10.0
_RECONNECT_SECONDS = 0.25
#: How long a statement about a database waits for another session's lock on it: the application may be locked out meanwhile.
_LOCK_SECONDS = 10


def name_beside(live: str, purpose: str, when: datetime) -> str:
    """``erp_restore_20261121t140000``: a name that no live database has, within PostgreSQL's length."""
    suffix = f"_{purpose}_{when:%Y%m%dt%H%M%S}"
    kept = live.encode()[: _LONGEST_NAME - len(suffix)].decode(errors="ignore")
    return kept + suffix


def free_name(connection: Connection, live: str, purpose: str, when: datetime) -> str:
    """The first :func:`name_beside` from ``when`` on that no database bears."""
    while find_oid(connection, name := name_beside(live, purpose, when)) is not None:
        when += timedelta(seconds=1)
    return name


def connect_for_maintenance(cluster: Cluster) -> Connection:
    """A connection to a database that is not the application's: nobody can rename the one that he is connected to.

    Raises ``DatabaseUnreachable``, or ``DatabaseRefused`` when the role may connect to no other database.
    """
    live = cluster.parameters.get("dbname")
    refusals = []
    for database in MAINTENANCE:
        if database == live:
            continue
        try:
            connection = cluster.connect(database)
        except DatabaseRefused as error:
            refusals.append(str(error))
        else:
            connection.execute(f"SET lock_timeout = '{_LOCK_SECONDS}s'")
            return connection
    raise DatabaseRefused(
        f"The role that restores may connect to none of {' and '.join(MAINTENANCE)}, and a database cannot be renamed from inside",
        remedy=f"GRANT CONNECT ON DATABASE postgres to it. {refusals[-1] if refusals else ''}".rstrip(),
    )


@contextmanager
def maintenance(cluster: Cluster, doing: str = "", *, patience: float = 0.0) -> Iterator[Connection]:
    """:func:`connect_for_maintenance`, closed at the end. ``doing``: as in ``named_errors``; without it psycopg's errors come through.

    ``patience``: seconds for which a server that is restarting or full is asked again.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            connection = connect_for_maintenance(cluster)
            break
        except DatabaseUnreachable:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_RECONNECT_SECONDS)
    with closing(connection), named_errors(doing) if doing else nullcontext():
        yield connection


def find_oid(connection: Connection, name: str) -> int | None:
    """The OID of the database that bears a name now."""
    rows = query(connection, "SELECT oid::bigint FROM pg_database WHERE datname = %(name)s", {"name": name})
    return int(rows[0][0]) if rows else None


def find_name(connection: Connection, oid: int) -> str | None:
    """The name that a database bears now."""
    rows = query(connection, "SELECT datname FROM pg_database WHERE oid = %(oid)s", {"oid": oid})
    return str(rows[0][0]) if rows else None


def find_live(cluster: Cluster, connection: Connection) -> tuple[str, int | None]:
    """Name and OID of the application's database; no OID when it is gone. ``connection`` is one to another database."""
    name = cluster.parameters.get("dbname") or connection.info.user
    return name, find_oid(connection, name)


def find_owner(connection: Connection, name: str) -> str | None:
    """The owner of a database; None when it is gone."""
    rows = query(connection, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %(name)s", {"name": name})
    return str(rows[0][0]) if rows else None


def size_of(connection: Connection, name: str) -> int | None:
    """Bytes of a database on the server's disk; None when it is gone, or the role may not know it (it must be allowed to connect to it)."""
    import psycopg

    with suppress(psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidCatalogName):
        rows = query(
            connection, "SELECT pg_database_size(oid) FROM pg_database WHERE datname = %(name)s", {"name": name}
        )
        return int(rows[0][0]) if rows and rows[0][0] is not None else None
    return None


def is_empty(cluster: Cluster, name: str) -> bool:
    """Whether a database holds nothing but what the server itself puts there. Raises what connecting raises."""
    with cluster.connect(name) as connection:
        return not query(connection, "SELECT 1 FROM pg_class WHERE oid >= 16384 LIMIT 1")


# -- going ------------------------------------------------------------------------------------------------------------


def drop(connection: Connection, name: str) -> None:
    """Drop a database and end the sessions in it; one that is gone already is no error. Raises psycopg's errors."""
    from psycopg import sql

    connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def make_durable(connection: Connection) -> None:
    """Have all that was committed so far, by whomever, on the server's disk: a commit that is waited for brings all before it there."""
    # PostgreSQL, "Asynchronous Commit". A transaction that writes nothing waits for nothing; this message reaches nobody.
    query(connection, "SELECT pg_logical_emit_message(true, 'twist-dr', '')::text")


# -- switching --------------------------------------------------------------------------------------------------------


def obstacles(connection: Connection, live: str) -> list[Obstacle]:
    """What forbids to rename a database, each as a sentence with the way out."""
    rows = query(
        connection,
        """SELECT 'prepared transaction', gid FROM pg_prepared_xacts WHERE database = %(live)s
           UNION ALL SELECT 'logical replication slot', slot_name::text FROM pg_replication_slots WHERE database = %(live)s
           UNION ALL SELECT 'subscription', s.subname::text FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
                      WHERE d.datname = %(live)s ORDER BY 1, 2""",
        {"live": live},
    )
    remedies = {
        "prepared transaction": "end it with COMMIT PREPARED or ROLLBACK PREPARED in that database",
        "logical replication slot": "its readers would follow the replaced database: end them, then pg_drop_replication_slot",
        "subscription": "it would go on filling the replaced database: DROP SUBSCRIPTION, and make it anew afterwards",
    }
    return [Obstacle(f"the live database {live} has the {kind} {name}", remedies[kind]) for kind, name in rows]


def missing_rights(connection: Connection, live: str) -> list[Obstacle]:
    """What the role of the connection lacks to restore beside ``live`` and to switch, each as a sentence with the statement that helps.

    Where ``live`` is gone, that is less.
    """
    # To rename takes the owner's rights (USAGE), to give the restored one to the owner takes SET, which was MEMBER before 16.
    give = "SET" if connection.info.server_version >= 160000 else "MEMBER"
    (role, quoted, superuser, creates, owner, owns, signals, tablespace), *_ = query(
        connection,
        """SELECT current_user, quote_ident(current_user), r.rolsuper, r.rolcreatedb, quote_ident(pg_get_userbyid(d.datdba)),
                  pg_has_role(d.datdba, 'USAGE') AND pg_has_role(d.datdba, %(give)s), pg_has_role('pg_signal_backend', 'USAGE'),
                  CASE WHEN s.spcname <> 'pg_default' AND NOT has_tablespace_privilege(s.oid, 'CREATE') THEN quote_ident(s.spcname) END
             FROM pg_roles r LEFT JOIN pg_database d ON d.datname = %(live)s LEFT JOIN pg_tablespace s ON s.oid = d.dattablespace
            WHERE r.rolname = current_user""",
        {"live": live, "give": give},
    )
    if superuser:
        return []
    missing: list[Obstacle] = []
    inherit = " WITH INHERIT TRUE" if give == "SET" else f"; ALTER ROLE {quoted} INHERIT"
    if not creates:
        missing.append(
            Obstacle(f"role {role} may not create databases", f"as a superuser: ALTER ROLE {quoted} CREATEDB")
        )
    if owns is False:
        missing.append(
            Obstacle(
                f"role {role} may not rename {live}, which belongs to {owner}, or give it to {owner}",
                f"as a superuser: GRANT {owner} TO {quoted}{inherit}{', SET TRUE' if give == 'SET' else ''}",
            )
        )
    if tablespace is not None:
        missing.append(
            Obstacle(
                f"role {role} may not create databases in {tablespace}, where {live} is",
                f"as a superuser: GRANT CREATE ON TABLESPACE {tablespace} TO {quoted}",
            )
        )
    if not signals:
        missing.append(
            Obstacle(
                f"role {role} may not end other roles' sessions",
                f"as a superuser: GRANT pg_signal_backend TO {quoted}{inherit}",
            )
        )
    strong = query(
        connection,
        """SELECT DISTINCT a.usename FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid
            WHERE a.datname = %(live)s AND r.rolsuper AND a.pid <> pg_backend_pid()
              AND coalesce(a.backend_type, 'client backend') = 'client backend'""",
        {"live": live},
    )
    for (name,) in strong:
        missing.append(
            Obstacle(
                f"only a superuser may end the sessions of {name} in {live}", "end them, or restore as a superuser"
            )
        )
    return missing


@dataclass(frozen=True)
class Session:
    """A session in a database. ``busy``: in a transaction."""

    process: int
    user: str
    application: str
    address: str
    busy: bool

    def __str__(self) -> str:
        what = f" ({self.application})" if self.application else ""
        return f"process {self.process} of {self.user}{what} from {self.address}"


def sessions(connection: Connection, oid: int) -> list[Session]:
    """Sessions of clients in a database. Of other roles' sessions an ordinary role sees neither kind nor state: they count as busy clients."""
    rows = query(
        connection,
        """SELECT pid, coalesce(usename, '?'), coalesce(application_name, ''), coalesce(host(client_addr), 'the local socket'),
                  state IS DISTINCT FROM 'idle'
             FROM pg_stat_activity WHERE datid = %(oid)s AND usesysid IS NOT NULL AND pid <> pg_backend_pid()
              AND coalesce(backend_type, 'client backend') IN ('client backend', 'walsender')""",
        {"oid": oid},
    )
    return [Session(*row) for row in rows]


def close(connection: Connection, name: str) -> None:
    """Let nobody in any more. Sessions that are there stay."""
    _allow(connection, name, False)


def reopen(connection: Connection, name: str) -> None:
    """Let people in again."""
    _allow(connection, name, True)


def _allow(connection: Connection, name: str, allowed: bool) -> None:
    from psycopg import sql

    connection.execute(
        sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(sql.Identifier(name), sql.SQL(str(allowed).lower()))
    )


def wait_until_idle(connection: Connection, oid: int, seconds: float) -> bool:
    """Wait until no session in a database is in a transaction, ``seconds`` at most; whether it came to that."""
    deadline = time.monotonic() + seconds
    while any(session.busy for session in sessions(connection, oid)):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOOK_AGAIN_SECONDS)
    return True


def end_sessions(connection: Connection, oid: int) -> None:
    """End every session in a database and wait until they are gone. Raises ``CutoverFailed`` naming those that stay."""
    import psycopg

    deadline = time.monotonic() + _END_SECONDS
    while True:
        # The server's own workers (autovacuum) hold a rename up as well; only a superuser may end them, and RENAME asks them itself.
        with suppress(psycopg.errors.InsufficientPrivilege):
            query(
                connection,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datid = %(oid)s AND pid <> pg_backend_pid()",
                {"oid": oid},
            )
        for session in (left := sessions(connection, oid)):
            with suppress(psycopg.errors.InsufficientPrivilege):
                query(connection, "SELECT pg_terminate_backend(%(process)s)", {"process": session.process})
        if not left:
            return
        if time.monotonic() >= deadline:
            raise CutoverFailed(
                f"Sessions in the database {find_name(connection, oid)} could not be ended: {', '.join(map(str, left[:5]))}{(f' and {len(left) - 5} more' if len(left) > 5 else '')}",
                remedy="end them, or restore as a superuser",
            )
        time.sleep(_LOOK_AGAIN_SECONDS)


class StillInUse(CutoverFailed):
    """Somebody is in one of the databases."""


def switch(
    connection: Connection,
    *,
    live: str,
    incoming: str | None,
    kept: str | None,
    before_commit: Callable[[], None] = lambda: None,
) -> None:
    """In one transaction: ``live`` becomes ``kept``, ``incoming`` becomes ``live`` and takes connections.

    Without ``kept`` there is no ``live`` that would have to give way, without ``incoming`` none comes in its place.

    ``before_commit`` is called when both renames are done and can only be committed; whatever it raises takes them back.
    Until then new connections to either name wait (RENAME holds the strongest lock on both databases).
    Raises ``CutoverFailed``: nothing is renamed then. ``StillInUse`` is one, raised after the server waited for five seconds.
    """
    import psycopg
    from psycopg import sql

    rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
    named = " or ".join(name for name, comes in ((live, kept), (incoming, incoming)) if comes and name)
    try:
        with connection.transaction():
            if kept is not None:
                connection.execute(rename.format(sql.Identifier(live), sql.Identifier(kept)))
            if incoming is not None:
                connection.execute(rename.format(sql.Identifier(incoming), sql.Identifier(live)))
                _allow(connection, live, True)
            before_commit()
    except psycopg.errors.ObjectInUse as error:
        raise StillInUse(f"PostgreSQL refused to rename {named}: {first_line(error)}.") from error
    except psycopg.Error as error:
        raise CutoverFailed(
            f"PostgreSQL refused to rename {named}: {first_line(error)}", remedy="fix that, then restore again"
        ) from error
