"""The server that a database is recovered on: what it must be, found out before anything is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from twist_dr.cli.recover.arguments import DATABASE_VARIABLE
from twist_dr.errors import DatabaseRefused, Obstacle, RestoreRefused
from twist_dr.postgres.cluster import Cluster, Connection, named_errors, query
from twist_dr.postgres.databases import find_oid
from twist_dr.postgres.restore_place import restoring_major, server_obstacles
from twist_dr.postgres.tools import Tools, choose_serving, find_tools
from twist_dr.repository.manifest import PostgresFacts

#: What an unfinished database bears as its comment.
UNFINISHED = "twist-dr recover: not finished"
_LONGEST_NAME = 63


@dataclass(frozen=True)
class NewDatabase:
    """A database that is to be made. ``cluster`` leads to it, once it is there."""

    cluster: Cluster
    name: str
    tools: Tools
    major: int
    server_version: str
    beside: str
    """Another database of the server, to make this one from."""

    def maintenance(self) -> closing[Connection]:
        """A connection to the other database."""
        return closing(self.cluster.connect(self.beside))


def _connect_beside(cluster: Cluster) -> Connection:
    """A connection to ``postgres``, or to ``template1`` where that is closed to us."""
    try:
        return cluster.connect("postgres")
    except DatabaseRefused as refusal:
        try:
            return cluster.connect("template1")
        except DatabaseRefused:
            raise refusal from None


def look(url: str | None, facts: PostgresFacts) -> NewDatabase:
    """Raise ``RestoreRefused``, or what connecting raises, unless the backup can be restored as a new database there."""
    if not url:
        raise RestoreRefused(
            "Where the database shall be is not said",
            remedy=f"set the environment variable {DATABASE_VARIABLE} to postgresql://USER:PASSWORD@HOST:5432/NEW_DATABASE (a superuser; the database must not exist "
            "yet)",
        )
    cluster = Cluster(url)
    name = cluster.parameters.get("dbname")
    if not name or len(name.encode()) > _LONGEST_NAME:
        raise RestoreRefused(
            f"{DATABASE_VARIABLE} names no new database",
            remedy=f"end it with a name of at most {_LONGEST_NAME} bytes, as in postgresql://.../erp",
        )
    with closing(_connect_beside(cluster)) as connection, named_errors("to look at the server"):
        _need_absent(connection, name, cluster)
        if found := [*_obstacles(connection), *server_obstacles(connection, facts)]:
            raise RestoreRefused.by(found, f"{cluster.place} cannot be made")
        major = connection.info.server_version // 10000
        [[version]] = query(connection, "SELECT current_setting('server_version')")
        tools = choose_serving(find_tools(), major, restoring_major(facts))
        return NewDatabase(cluster, name, tools, major, version, connection.info.dbname)


def _need_absent(connection: Connection, name: str, cluster: Cluster) -> None:
    oid = find_oid(connection, name)
    if oid is None:
        return
    comment = query(connection, "SELECT shobj_description(%(oid)s::oid, 'pg_database')", {"oid": oid})[0][0]
    if comment == UNFINISHED:
        quoted = query(connection, "SELECT quote_ident(%(name)s)", {"name": name})[0][0]
        raise RestoreRefused(
            f"{cluster.place} is what a recovery that was cut short left",
            remedy=f"drop it (DROP DATABASE {quoted} WITH (FORCE)), then run again",
        )
    raise RestoreRefused(
        f"There is a database {cluster.place} already, and nothing is ever restored over one",
        remedy=f"name a new one in {DATABASE_VARIABLE}",
    )


def _obstacles(connection: Connection) -> Iterator[Obstacle]:
    [(standby, role, superuser, enough)] = query(
        connection,
        """SELECT pg_is_in_recovery(), rolname, rolsuper, rolcreatedb AND rolcreaterole AND rolbypassrls
             FROM pg_roles WHERE rolname = current_user""",
    )
    if standby:
        yield Obstacle("the server is a standby and takes no changes", f"name its primary in {DATABASE_VARIABLE}")
    # Owners, row-level security and extensions come back as they were only by who may do everything.
    if not superuser and not enough:
        yield Obstacle(
            f"the role {role} is no superuser and lacks CREATEDB, CREATEROLE or BYPASSRLS, so it cannot bring a database back with its roles and "
            "owners",
            f"name a superuser in {DATABASE_VARIABLE}",
        )
