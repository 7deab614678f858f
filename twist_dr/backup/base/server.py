"""What must be known of a server before its files are copied: whether it can be, and the facts that the manifest records."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from twist_dr.errors import BackupError, ClientToolsMissing, DatabaseRightsMissing
from twist_dr.postgres.cluster import Connection, named_errors, query
from twist_dr.postgres.tools import OLDEST_MAJOR, Tools, choose_tools, find_tools
from twist_dr.repository.manifest import Tablespace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

#: A recovering server must have at least as much of each (https://www.postgresql.org/docs/current/hot-standby.html).
CLUSTER_SETTINGS = (
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
)
#: The first version that takes incremental base backups.
INCREMENTAL_MAJOR = 17


@dataclass(frozen=True)
class Server:
    """A server that a base backup can be taken of. Sizes in bytes; ``now`` is its clock."""

    major: int
    in_recovery: bool
    now: datetime
    wal_segment_size: int
    data_checksums: bool
    summarizes_wal: bool
    settings: dict[str, int]
    tablespaces: list[Tablespace]
    size: int
    """Of all databases, as far as the role may ask."""


def read_server(connection: Connection) -> Server:
    """Raises ``DatabaseRightsMissing``, ``ClientToolsMissing`` (a version that is too old) or ``BackupError`` where no base can be taken."""
    with named_errors("to describe the server"):
        (role, may_replicate), *_ = query(
            connection,
            "SELECT quote_ident(rolname), rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user",
        )
        settings: dict[str, str] = dict(
            query(
                connection,
                "SELECT name, setting FROM pg_settings WHERE name = ANY(%(names)s)",
                {"names": [*CLUSTER_SETTINGS, "wal_level", "wal_segment_size", "data_checksums", "summarize_wal"]},
            )
        )
        major = connection.info.server_version // 10000
        _refuse(major, role, may_replicate, settings)
        in_recovery, now = query(connection, "SELECT pg_is_in_recovery(), clock_timestamp()")[0]
        return Server(
            major=major,
            in_recovery=in_recovery,
            now=now.astimezone(timezone.utc),
            wal_segment_size=int(settings["wal_segment_size"]),
            data_checksums=settings["data_checksums"] == "on",
            summarizes_wal=settings.get("summarize_wal") == "on",
            settings={name: int(settings[name]) for name in CLUSTER_SETTINGS},
            tablespaces=[Tablespace(oid=row[0], name=row[1], location=row[2], size=row[3]) for row in query(connection, _TABLESPACES)],
            size=int(query(connection, _SIZE)[0][0]),
        )  # fmt: skip


def _refuse(major: int, role: str, may_replicate: bool, settings: dict[str, str]) -> None:
    if major < OLDEST_MAJOR:
        raise ClientToolsMissing(
            f"The server runs PostgreSQL {major}, and twist-dr supports {OLDEST_MAJOR} and newer",
            remedy="upgrade the server",
        )
    if not may_replicate:
        raise DatabaseRightsMissing(
            f"Role {role} may not take base backups",
            remedy=f"as a superuser run: ALTER ROLE {role} REPLICATION, or name another role in wal.replication_url",
        )
    if settings["wal_level"] == "minimal":
        raise BackupError(
            "The server has wal_level = minimal, so nothing could be recovered from a base backup of it",
            remedy="set wal_level = replica in postgresql.conf and restart the server",
        )
    if settings["max_wal_senders"] == "0":
        raise BackupError(
            "The server has max_wal_senders = 0, so it gives no base backup",
            remedy="set it to 10 in postgresql.conf and restart the server",
        )


_TABLESPACES = """
    SELECT oid::bigint, spcname, pg_tablespace_location(oid),
           CASE WHEN has_tablespace_privilege(oid, 'CREATE') OR pg_has_role('pg_read_all_stats', 'MEMBER')
                THEN pg_tablespace_size(oid) END
      FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY 1
"""

_SIZE = """
    SELECT coalesce(sum(pg_database_size(oid)), 0) FROM pg_database
     WHERE has_database_privilege(oid, 'CONNECT') OR pg_has_role('pg_read_all_stats', 'MEMBER')
"""


def base_tools(folders: Sequence[Path], server_major: int) -> Tools:
    """The client tools to take a base with: pg_basebackup of the server's version, or the nearest newer. Raises ``ClientToolsMissing``."""
    having = [tools for tools in find_tools(folders) if tools.program("pg_basebackup").exists()]
    if not having:
        # Not choose_tools' own sentence: pg_dump may be there all the same.
        raise ClientToolsMissing(
            "No pg_basebackup was found beside PostgreSQL's client tools",
            remedy=(
                f"install postgresql-client-{server_major} (where packages part them, postgresql-server-{server_major}), or name the folder of "
                "pg_basebackup in database.client_tools"
            ),
        )
    return choose_tools(having, server_major, purpose="take a base backup of")


def server_clock(connection: Connection) -> datetime:
    """The server's time now."""
    with named_errors("to tell its time"):
        now: Any = query(connection, "SELECT clock_timestamp()")[0][0]
        assert isinstance(now, datetime)
        return now.astimezone(timezone.utc)
