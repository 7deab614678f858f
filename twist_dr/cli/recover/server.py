"""The server that a database is recovered on: what it must be, found out before anything is fetched."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twist_dr.cli.recover.arguments import DATABASE_VARIABLE
from twist_dr.errors import DatabaseRefused, RestoreRefused
from twist_dr.postgres.cluster import Cluster, named_errors, query
from twist_dr.postgres.databases import find_oid
from twist_dr.postgres.restore_place import missing_extensions, restoring_major
from twist_dr.postgres.tools import Tools, choose_serving, find_tools
from twist_dr.repository.manifest import PostgresFacts
from twist_dr.system.words import few

if TYPE_CHECKING:
    from twist_dr.postgres.cluster import Connection

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
        version = _need_version(connection, facts)
        _need_rights(connection)
        _need_extensions(connection, facts)
        major = connection.info.server_version // 10000
        tools = _tools(major, facts)
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


def _need_version(connection: Connection, facts: PostgresFacts) -> str:
    version, standby = query(connection, "SELECT current_setting('server_version'), pg_is_in_recovery()")[0]
    if standby:
        raise RestoreRefused(
            "The server is a standby and takes no changes", remedy=f"name its primary in {DATABASE_VARIABLE}"
        )
    if connection.info.server_version // 10000 < facts.major:
        raise RestoreRefused(
            f"The server runs PostgreSQL {version}, and the backup comes from {facts.version}: dumps of a newer server do not go into an older one",
            remedy=f"name a server of version {facts.major} or newer in {DATABASE_VARIABLE}",
        )
    return str(version)


def _need_rights(connection: Connection) -> None:
    role, superuser = query(connection, "SELECT current_user, rolsuper FROM pg_roles WHERE rolname = current_user")[0]
    # Owners, row-level security and extensions come back as they were only by who may do everything.
    if not superuser and not query(
        connection,
        "SELECT 1 FROM pg_roles WHERE rolname = current_user AND rolcreatedb AND rolcreaterole AND rolbypassrls",
    ):
        raise RestoreRefused(
            f"The role {role} is no superuser and lacks CREATEDB, CREATEROLE or BYPASSRLS, so it cannot bring a database back with its roles and "
            "owners",
            remedy=f"name a superuser in {DATABASE_VARIABLE}",
        )


def _need_extensions(connection: Connection, facts: PostgresFacts) -> None:
    if missing := missing_extensions(connection, facts):
        major = connection.info.server_version // 10000
        raise RestoreRefused(
            f"The server lacks the extensions {few(missing, 20)} that the backup uses",
            remedy=f"install their packages for PostgreSQL {major} there, then run again",
        )


def _tools(major: int, facts: PostgresFacts) -> Tools:
    return choose_serving(find_tools(), major, restoring_major(facts))
