"""What a database has that a full backup of it does not hold, or a restore does not put back: named, wherever somebody could rely on it.

One function for doctor, backup, plan and verification; ``docs/what-is-in-a-backup.md`` is the same list for people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from twist_dr.postgres.cluster import Connection, query
from twist_dr.postgres.extension_members import read_kept
from twist_dr.redaction import one_line
from twist_dr.system.words import counted, few


@dataclass(frozen=True)
class LeftOut:
    """One thing that is left out. ``kind`` as the page calls it; ``remedy``: what to do about it."""

    kind: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return one_line(f"{self.what}; {self.remedy}")


def left_out(connection: Connection) -> list[LeftOut]:
    """What a full backup of the connection's database leaves out. Raises psycopg's errors."""
    return [LeftOut(kind, *found) for kind, look in KINDS.items() for found in look(connection)]


_Found = Iterator[tuple[str, str]]


def _prepared_transactions(connection: Connection) -> _Found:
    for gid, owner, since in query(
        connection,
        "SELECT gid, owner, prepared::timestamptz(0)::text FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared, gid",
    ):
        yield (
            f"the prepared transaction {gid} of {owner}, pending since {since}, is neither committed nor in a dump",
            "end it in that database with COMMIT PREPARED or ROLLBACK PREPARED, then back up again",
        )


def _subscriptions(connection: Connection) -> _Found:
    for (name,) in query(
        connection,
        "SELECT subname FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1",
    ):
        yield (
            f"the subscription {name} is not restored: it would fetch rows at once, from where the application's still does",
            "keep the statement that made it, and make it anew after a restore",
        )


def _slots(connection: Connection) -> _Found:
    for (name,) in query(
        connection,
        "SELECT slot_name FROM pg_replication_slots WHERE slot_type = 'logical' AND database = current_database() AND NOT temporary ORDER BY 1",
    ):
        yield (
            f"the logical replication slot {name} is in no dump",
            "make it anew after a restore, and have its readers begin anew",
        )


def _foreign_tables(connection: Connection) -> _Found:
    names = query(connection, "SELECT ftrelid::regclass::text FROM pg_foreign_table WHERE ftrelid >= 16384 ORDER BY 1")
    if names:
        what = counted(len(names), "foreign table")
        yield (
            f"the rows of {what} ({few(str(name) for (name,) in names)}) are on other servers, and only their definitions are in a backup",
            "back up those servers, too",
        )


def _user_mappings(connection: Connection) -> _Found:
    [[role, superuser]] = query(
        connection, "SELECT quote_ident(rolname), rolsuper FROM pg_roles WHERE rolname = current_user"
    )
    closed = query(
        connection, "SELECT usename || ' on ' || srvname FROM pg_user_mappings WHERE umoptions IS NULL ORDER BY 1"
    )
    if closed and not superuser:
        yield (
            f"options of user mappings ({few(str(name) for (name,) in closed)}), passwords among them, are not shown to role {role}",
            "give them anew after a restore with ALTER USER MAPPING, or back up as a superuser",
        )


def _extension_tables(connection: Connection) -> _Found:
    for table, extension in read_kept(connection).closed.items():
        yield (
            f"rows of {table.label}, which belongs to the extension {extension}, are not shown to the role that backs up",
            f"grant it SELECT on {table.label}, and BYPASSRLS where its rows have policies",
        )


def _unlogged_tables(connection: Connection) -> _Found:
    names = query(
        connection,
        "SELECT oid::regclass::text FROM pg_class WHERE pg_is_in_recovery() AND relpersistence = 'u' AND relkind = 'r' ORDER BY 1",
    )
    if names:
        yield (
            f"the rows of {counted(len(names), 'unlogged table')} ({few(str(name) for (name,) in names)}) are not on a standby",
            "back up from the primary if they are wanted",
        )


#: What is looked for, by what the page calls it.
KINDS: dict[str, Callable[[Connection], _Found]] = {
    "prepared transactions": _prepared_transactions,
    "subscriptions": _subscriptions,
    "logical replication slots": _slots,
    "rows of foreign tables": _foreign_tables,
    "options of user mappings": _user_mappings,
    "closed tables of extensions": _extension_tables,
    "unlogged tables on a standby": _unlogged_tables,
}
