"""Write-ahead log and base backups: does the server write what recovery needs, does it give it to us, and can it be recovered here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from twist_dr.backup.base.server import INCREMENTAL_MAJOR, base_tools
from twist_dr.doctor.database import check_login_triggers, explain_connection
from twist_dr.doctor.findings import Check, from_error, guarded, ok, problem, warning
from twist_dr.errors import ClientToolsMissing, DatabaseError
from twist_dr.postgres.cluster import Cluster, Connection, first_line, query
from twist_dr.postgres.cluster_wide import RESTORE_POINT, SWITCH_WAL, grant, may_execute
from twist_dr.postgres.databases import maintenance
from twist_dr.postgres.tools import choose_tools, find_tools
from twist_dr.recovery.planning import server_tools
from twist_dr.system.progress import human_bytes
from twist_dr.system.words import few
from twist_dr.wal.primary import Primary, Sample

_PATIENCE_SECONDS = 15
_RESTART = "then restart PostgreSQL"
_NAMES = (
    "wal_level", "max_wal_senders", "max_replication_slots", "max_slot_wal_keep_size", "archive_mode", "archive_library",
    "archive_command", "archive_timeout", "summarize_wal", "wal_summary_keep_time", "data_checksums",
)  # fmt: skip

#: What a refused replication connection says, and what to do about it. The first that fits counts.
_REPLICATING = (
    (
        "pg_hba.conf",
        "add to pg_hba.conf: host replication {role} ADDRESS_OF_THIS_MACHINE/32 scram-sha-256  # for a socket: local replication {role} peer; "
        "then: SELECT pg_reload_conf();",
    ),
    ("max_wal_senders", "ALTER SYSTEM SET max_wal_senders = 10;  -- then restart PostgreSQL; or end a replication that nobody needs"),
    ("replication role", "ALTER ROLE {role} REPLICATION;  -- as a superuser"),
    ("WAL sender", "ALTER ROLE {role} REPLICATION;  -- as a superuser"),
)  # fmt: skip


@dataclass(frozen=True)
class WalSeen:
    """What later checks need of the server. ``settings``: as ``pg_settings`` has them. ``held``: bytes that our slot holds back now."""

    major: int
    sample: Sample
    settings: dict[str, str]
    role: str
    archive_directory: str
    data_directory: Path | None

    @property
    def receiving(self) -> bool:
        slot = self.sample.slot
        return slot is not None and slot.active

    @property
    def held(self) -> int:
        slot = self.sample.slot
        return max(0, self.sample.lsn - slot.received) if slot is not None and slot.received is not None else 0

    @property
    def most_held(self) -> int | None:
        """Bytes that a slot may hold back; None without a bound."""
        megabytes = int(self.settings["max_slot_wal_keep_size"])
        return None if megabytes < 0 else megabytes << 20


def check_wal_server(
    cluster: Cluster, source: str, slot: str, folders: Sequence[Path], setting: str, *, apart: bool = False
) -> Check[WalSeen | None]:
    """The server, asked as the role that replicates. ``setting``: where its URL stands. ``apart``: it is not the role that backs up. Returns ``None`` when it cannot be asked."""
    try:
        connection = cluster.connect()
    except DatabaseError as error:
        yield explain_connection("wal", error, setting)
        return None
    with connection:
        connection.execute(f"SET lock_timeout = '{_PATIENCE_SECONDS}s'; SET statement_timeout = '{_PATIENCE_SECONDS}s'")
        seen = yield from guarded("wal", _look(connection, cluster, slot))
        if seen is None:
            return None
        if apart:
            yield from guarded("login triggers", check_login_triggers(connection))
        yield from _level(seen)
        # In this order: the replication connection takes a sender for a moment.
        yield from guarded("wal senders", _senders(connection, seen, source))
        yield from guarded("replication", _replication(connection, cluster, seen, setting))
        yield from guarded("slot", _slot(connection, seen, source, slot))
        yield from guarded("base backups", _base_backups(connection, cluster, seen, source))
        yield from guarded("recovery", check_programs(folders, seen, source))
        return seen


def _look(connection: Connection, cluster: Cluster, slot: str) -> Check[WalSeen | None]:
    """The very questions that shipping asks."""
    primary = Primary(cluster, slot)
    try:
        sample = primary.ask()
    except DatabaseError as error:
        yield from_error("wal", error)
        return None
    finally:
        primary.close()
    rows = query(
        connection, "SELECT name, setting FROM pg_settings WHERE name = ANY(%(names)s)", {"names": list(_NAMES)}
    )
    role, directory, may_see = query(
        connection,
        "SELECT quote_ident(current_user), coalesce(current_setting('basic_archive.archive_directory', true), ''), "
        "pg_has_role('pg_read_all_settings', 'USAGE')",
    )[0]
    data = Path(query(connection, "SELECT current_setting('data_directory')")[0][0]) if may_see else None
    return WalSeen(connection.info.server_version // 10000, sample, dict(rows), role, directory, data)


def _level(seen: WalSeen) -> Check[None]:
    if seen.sample.wal_level == "minimal":
        yield problem(
            "wal",
            "wal_level is minimal: the server writes too little to recover from",
            f"ALTER SYSTEM SET wal_level = replica; ALTER SYSTEM SET max_wal_senders = 10;  -- {_RESTART}",
        )
        return
    where = f"timeline {seen.sample.timeline}, segments of {seen.sample.segment_size >> 20} MiB"
    yield ok("wal", f"wal_level {seen.sample.wal_level}, cluster {seen.sample.system_identifier}, {where}")
    if seen.sample.in_recovery:
        yield warning(
            "wal",
            "this is a standby: its WAL is behind the primary's, no restore point can be made on it, so base backups count no rows",
            "name the primary in wal.replication_url, unless it must be spared",
        )


def _replication(connection: Connection, cluster: Cluster, seen: WalSeen, setting: str) -> Check[None]:
    check = "replication"
    if not query(connection, "SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user")[0][0]:
        yield problem(
            check,
            f"role {seen.role} may not replicate, so it gets neither WAL nor base backups",
            f"ALTER ROLE {seen.role} REPLICATION;  -- as a superuser; or name another role in wal.replication_url",
        )
        return
    if (refusal := _refused_replication(cluster)) is None:
        yield ok(check, f"role {seen.role} may replicate, and a replication connection was let in")
        return
    fitting = (remedy for reason, remedy in _REPLICATING if reason in refusal)
    remedy = next(fitting, f"see the server's log, and {setting}").format(role=seen.role)
    yield problem(check, f"role {seen.role} connects, but not for replication: {refusal}", remedy)


def _refused_replication(cluster: Cluster) -> str | None:
    """Why a replication connection fails; ``None`` when it does not. pg_hba.conf has lines of its own for them."""
    import psycopg

    try:
        cluster.replicate().close()
    except psycopg.OperationalError as error:
        reason = first_line(error)
        return re.sub(r"^connection (?:failed: connection )?to server at .*? failed: ", "", reason)
    return None


def _senders(connection: Connection, seen: WalSeen, source: str) -> Check[None]:
    used, most = (
        query(connection, "SELECT count(*) FROM pg_stat_replication")[0][0],
        int(seen.settings["max_wal_senders"]),
    )
    wanted = 1 if source == "archive" or seen.receiving else 2
    purpose = "base backups" if wanted == 1 else "the receiver and base backups"
    found = f"{most - used} of {most} WAL senders are free, {wanted} needed for {purpose}"
    if most - used < wanted:
        yield problem(
            "wal senders", found, f"ALTER SYSTEM SET max_wal_senders = {max(10, used + wanted)};  -- {_RESTART}"
        )
    else:
        yield ok("wal senders", found)


def _slot(connection: Connection, seen: WalSeen, source: str, name: str) -> Check[None]:
    check, slot = "slot", seen.sample.slot
    if source == "archive":
        if slot is not None and not slot.active:
            yield problem(
                check,
                f"the replication slot {name} is there and nobody uses it: the server keeps WAL for it, {human_bytes(seen.held)} by now",
                f"SELECT pg_drop_replication_slot('{name}');",
            )
        return
    if slot is None:
        used, most = (
            query(connection, "SELECT count(*) FROM pg_replication_slots")[0][0],
            int(seen.settings["max_replication_slots"]),
        )
        if used >= most:
            yield problem(
                check,
                f"all {most} replication slots are in use, so {name} cannot be made",
                f"ALTER SYSTEM SET max_replication_slots = {used + 5};  -- {_RESTART}; or drop one that nobody needs",
            )
        else:
            yield warning(
                check,
                f"the replication slot {name} is not there: nobody receives WAL, and the server keeps none for us",
                "twist-dr wal receive  # as a service; it makes the slot",
            )
        return
    if (
        query(connection, "SELECT slot_type FROM pg_replication_slots WHERE slot_name = %(name)s", {"name": name})[0][0]
        != "physical"
    ):
        yield problem(check, f"{name} is a logical replication slot of somebody else's", "name another one in wal.slot")
    elif slot.status == "lost":
        yield problem(
            check,
            f"the replication slot {name} is lost: WAL was removed that was not received yet",
            "twist-dr wal receive  # it makes the slot anew; then: twist-dr backup-base",
        )
    elif not slot.active:
        yield problem(
            check,
            f"nobody receives from the replication slot {name}: the server keeps {human_bytes(seen.held)} of WAL for it, and more and more",
            "twist-dr wal receive  # as a service",
        )
    else:
        bound = (
            f"at most {human_bytes(seen.most_held)}"
            if seen.most_held is not None
            else "without a bound (max_slot_wal_keep_size)"
        )
        yield ok(check, f"{name} is in use, {human_bytes(seen.held)} behind; the server keeps WAL for it {bound}")


def _base_backups(connection: Connection, cluster: Cluster, seen: WalSeen, source: str) -> Check[None]:
    check = "base backups"
    if seen.settings["data_checksums"] != "on":
        yield warning(
            check,
            "data checksums are off: damage in pages is copied into backups unnoticed",
            "pg_checksums --enable --progress -D DATA_FOLDER  # with the server stopped; it reads and writes all of it",
        )
    if not seen.sample.in_recovery:
        for name in (name for name, why in _FUNCTIONS.items() if why[0] in ("", source)):
            yield from _allowed(connection, cluster, seen, name)
    if seen.major >= INCREMENTAL_MAJOR:
        advice = "can be incremental" if seen.settings.get("summarize_wal") == "on" else (
            "are always full: ALTER SYSTEM SET summarize_wal = on; SELECT pg_reload_conf(); would let them be incremental"
        )  # fmt: skip
        yield ok(check, advice)


#: By function, the source that needs it (or any), and what it goes without.
_FUNCTIONS = {
    RESTORE_POINT: ("", "base backups count no rows, and no verification can prove them"),
    SWITCH_WAL: ("archive", "a base backup waits for its last WAL until the segment is full or archive_timeout passes"),
}


def _allowed(connection: Connection, cluster: Cluster, seen: WalSeen, function: str) -> Check[None]:
    """Whether the role may execute it where no restore takes the grant away: every restore replaces the application's database."""
    name, lasting = function.partition("(")[0], False
    with suppress(DatabaseError), maintenance(cluster) as elsewhere:
        lasting = may_execute(elsewhere, function)
    if lasting:
        return
    if not may_execute(connection, function):
        found = f"role {seen.role} may not execute {name}, so {_FUNCTIONS[function][1]}"
    else:
        found = f"role {seen.role} may execute {name} in the application's database alone, and loses that with a restore, unless a superuser's"
    yield warning("base backups", found, grant(function, seen.role))


def check_programs(folders: Sequence[Path], seen: WalSeen, source: str) -> Check[None]:
    found = []
    try:
        found.append(f"pg_basebackup of {base_tools(folders, seen.major).version}")
    except ClientToolsMissing as error:
        yield from_error("base backups", error)
    if source == "receive":
        having = [tools for tools in find_tools(folders) if tools.program("pg_receivewal").exists()]
        try:
            found.append(f"pg_receivewal of {choose_tools(having, seen.major, purpose='receive WAL from').version}")
        except ClientToolsMissing:
            yield problem(
                "slot",
                f"no pg_receivewal of version {seen.major} or newer is on this machine",
                f"apt-get install postgresql-client-{seen.major}, or name its folder in database.client_tools",
            )
    install = f"apt-get install postgresql-{seen.major}"
    elsewhere = "recovery to a point must take place on another machine"
    try:
        tools = server_tools(folders, seen.major)
    except ClientToolsMissing:
        yield warning("recovery", f"server programs of just version {seen.major} are not here: {elsewhere}", install)
        return
    wanted = ["pg_waldump", "pg_ctl", *(["pg_combinebackup"] if seen.major >= INCREMENTAL_MAJOR else [])]
    if missing := [name for name in wanted if not tools.program(name).exists()]:
        yield warning("recovery", f"{few(missing)} is not in {tools.folder}: {elsewhere}", install)
        return
    yield ok("recovery", f"server programs and pg_waldump {tools.version} in {tools.folder}; {few(found)}")
