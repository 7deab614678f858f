"""Dumps, out of the server and back in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from twist_dr.errors import ProcessFailed
from twist_dr.postgres.cluster import Cluster, Table, first_line
from twist_dr.postgres.dump_reader import DumpReader
from twist_dr.postgres.dump_toc import UnknownDump, read_entries, read_header
from twist_dr.postgres.extension_restore import KeptFiles, MembersRestore
from twist_dr.postgres.sessions import LOADING
from twist_dr.postgres.tools import Tools
from twist_dr.repository.streams import write_new
from twist_dr.repository.table_names import in_quotes
from twist_dr.system.processes import Child, run
from twist_dr.system.words import few

#: Who waits for locks, and for how long, ``lock_waits`` says. This is for a server that has no session left for it: no pg_dump waits for ever.
_LONGEST_LOCK_WAIT = "12h"
#: The header of a custom-format dump alone is larger than this.
_LEAST_DUMP = 512
_LEAST_ROLES = 100
_SYSTEM_GRANT = re.compile(rb"\d+; \d+ \d+ ACL pg_catalog (.*)")
#: Megabytes for building indexes, all restore jobs together. The default of 64 each makes a restore a fifth slower.
_INDEX_MEMORY = 1024
_LISTED = re.compile(rb"(\d+); ")
_WARNING = re.compile(r"^pg_dump(?:all)?: (warning: .*)$")

Write = Callable[[bytes], None]


class _Warnings:
    """What a dumping program warns of."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def __call__(self, line: str) -> None:
        if match := _WARNING.match(line):
            self.sentences.append(match[1])


def dump_database(cluster: Cluster, tools: Tools, snapshot_id: str, tables: Iterable[Table], write: Write) -> list[str]:
    """Write the custom-format dump of the snapshot, uncompressed, for the stream to compress; returns what pg_dump warned of.

    Raises ``ProcessFailed`` when pg_dump fails, writes what is no dump, or leaves out one of ``tables``.
    """
    dumped = custom_dump(cluster, tools, [f"--snapshot={snapshot_id}"], write)
    if missing := sorted(table.label for table in tables if table.raw not in dumped.tables):
        raise ProcessFailed(
            f"pg_dump reported success but left out {few(missing)}",
            remedy="check the rights of the role, and that no table was dropped meanwhile, then run the backup again",
        )
    return dumped.warnings


def dump_schema(cluster: Cluster, tools: Tools, snapshot_id: str, write: Write) -> None:
    """Write a custom-format dump of the snapshot without its rows. Raises ``ProcessFailed``."""
    custom_dump(cluster, tools, [f"--snapshot={snapshot_id}", "--schema-only"], write)


def dump_members(
    cluster: Cluster, tools: Tools, snapshot_id: str, extensions: Iterable[str], write: Write
) -> list[str]:
    """Write a custom-format dump of the definitions of all members of those extensions, and of nothing else; returns what pg_dump warned of.

    Only for pg_upgrade does pg_dump tell what an extension's members are, one by one. Raises ``ProcessFailed``.
    """
    options = [
        f"--snapshot={snapshot_id}",
        "--binary-upgrade",
        "--schema-only",
    ]
    options += ["--exclude-schema=*", *(f"--extension={in_quotes(name)}" for name in extensions)]
    return custom_dump(cluster, tools, options, write).warnings


@dataclass(frozen=True)
class Dumped:
    """``tables``: schema and name of those whose rows are in the dump, to the last, in its encoding."""

    tables: set[tuple[bytes, bytes]]
    warnings: list[str]


def custom_dump(cluster: Cluster, tools: Tools, options: Sequence[str], write: Write) -> Dumped:
    """Write a custom-format dump, uncompressed. Raises ``ProcessFailed`` when pg_dump fails or writes what is no whole dump."""
    reader = DumpReader()
    warnings = read_dump(cluster.environment(), tools, options, reader, write)
    return Dumped(reader.tables, warnings)


def read_dump(
    environment: Mapping[str, str | None], tools: Tools, options: Sequence[str], reader: DumpReader, write: Write
) -> list[str]:
    """Dump in custom format where the environment leads, to be read by ``reader`` and written; returns pg_dump's warnings.

    Raises ``ProcessFailed`` as :func:`custom_dump` does.
    """
    warnings = _Warnings()
    program = tools.program("pg_dump")
    arguments: list[str | Path] = [
        program, "--format=custom", "--compress=0", "--no-password", f"--lock-wait-timeout={_LONGEST_LOCK_WAIT}", *options,
    ]  # fmt: skip
    wrote = 0
    try:
        with Child(arguments, environment=environment, on_line=warnings) as child:
            for chunk in child.bulk_output():
                wrote += len(chunk)
                reader.feed(chunk)
                write(chunk)
            child.finish(_LEAST_DUMP, wrote)
    except UnknownDump:
        raise ProcessFailed(
            f"{program} wrote something that is no dump, or none as pg_dump 12 to 18 write them",
            remedy="put PostgreSQL's own client tools of such a version in its place",
        ) from None
    if not reader.at_end:
        raise ProcessFailed(f"{program} reported success but its dump breaks off", remedy="run the backup again")
    return warnings.sentences


def connection_string(database: str) -> str:
    """A database's name for the options of client programs, which take one with ``=`` or ``://`` in it for a connection string: so they
    are given one (PostgreSQL, "Connection Strings")."""
    from psycopg.conninfo import make_conninfo

    return make_conninfo(dbname=database)


def dump_roles(cluster: Cluster, tools: Tools, with_passwords: bool, write: Write) -> list[str]:
    """Write the cluster's roles and tablespaces as SQL, which a dump of one database lacks; returns what pg_dumpall warned of."""
    environment = cluster.environment()
    # pg_dumpall asks the server for its maintenance database unless told one that we may certainly open.
    arguments: list[str | Path] = [
        tools.program("pg_dumpall"), "--globals-only", "--no-password", f"--database={connection_string(environment['PGDATABASE'] or '')}",
    ]  # fmt: skip
    if not with_passwords:
        arguments.append("--no-role-passwords")
    warnings = _Warnings()
    wrote = 0
    with Child(arguments, environment=environment, on_line=warnings) as child:
        for chunk in child.bulk_output():
            wrote += len(chunk)
            write(chunk)
        child.finish(_LEAST_ROLES, wrote)
    return warnings.sentences


def restore_database(
    cluster: Cluster,
    tools: Tools,
    database: str,
    dump: Path,
    *,
    jobs: int,
    keep_owners: bool = True,
    subscriptions: bool = True,
    entries: Path | None = None,
    schema_only: bool = False,
    kept: KeptFiles | None = None,
    public: bool | None = None,
) -> list[str]:
    """Restore a custom-format dump into an existing empty database, and what it left out of extensions; returns notes for people.

    ``public``: as :class:`~twist_dr.repository.manifest.PostgresFacts` tells, of the schema that every new database has. ``entries``: a file with the entries to restore, as :func:`without_system_grants` writes it. Raises ``ProcessFailed`` at the first
    error.
    """
    arguments: list[str | Path] = [
        tools.program("pg_restore"), "--exit-on-error", "--no-password", "--no-tablespaces",
        f"--dbname={connection_string(database)}",
    ]  # fmt: skip
    if not keep_owners:
        arguments += ["--no-owner", "--no-privileges"]
    if not subscriptions:
        arguments.append("--no-subscriptions")
    if schema_only:
        arguments.append("--schema-only")
    settings = {**LOADING, "maintenance_work_mem": f"{max(64, _INDEX_MEMORY // jobs)}MB"}

    def restore(jobs: int, entries: Path | None) -> None:
        chosen = [] if entries is None else [f"--use-list={entries}"]
        run([*arguments, f"--jobs={jobs}", *chosen, dump], environment=cluster.environment(database, settings))

    def restore_most(entries: Path | None) -> None:
        late = late_entries(dump) if jobs > 1 else set()
        if not late:
            restore(jobs, entries)
            return
        listed = run([tools.program("pg_restore"), "--list", dump]) if entries is None else entries.read_bytes()
        parts: tuple[list[bytes], list[bytes]] = ([], [])
        for line in listed.splitlines(keepends=True):
            if number := _LISTED.match(line):
                parts[int(number[1]) in late].append(line)
        with TemporaryDirectory(prefix="late-", dir=dump.parent) as folder:
            for part, at_once in zip(parts, (jobs, 1), strict=True):
                path = Path(folder, f"{at_once}.list")
                path.write_bytes(b"".join(part))
                restore(at_once, path)

    notes = _drop_public(cluster, database) if public is False else []
    if kept is None:
        restore_most(entries)
        return notes
    listed = run([tools.program("pg_restore"), "--list", dump]) if entries is None else entries.read_bytes()
    members = MembersRestore(cluster, tools, database, kept, keep_owners=keep_owners, rows=not schema_only)
    with TemporaryDirectory(prefix="members-", dir=dump.parent) as folder:
        first, rest = Path(folder, "first.list"), Path(folder, "rest.list")
        for path, lines in zip((first, rest), members.divide(listed), strict=True):
            path.write_bytes(b"".join(lines))
        restore(1, first)
        members.make()
        restore_most(rest)
    members.finish()
    return notes + members.notes


def _drop_public(cluster: Cluster, database: str) -> list[str]:
    """A dump does not say that there was no schema ``public``; returns a note where it stays."""
    import psycopg

    with cluster.connect(database) as connection:
        try:
            connection.execute("DROP SCHEMA IF EXISTS public")
        except psycopg.Error as error:
            return [f"the backup has no schema public, and the one here could not be dropped: {first_line(error)}"]
    return []


def without_system_grants(tools: Tools, dump: Path, entries: Path) -> list[str]:
    """Write a dump's list without the grants on PostgreSQL's own functions; returns what was left out, in pg_restore's words.

    ``GRANT EXECUTE ON FUNCTION pg_switch_wal()`` lies in the database in which it was given, so a dump has it, and only a superuser
    can give it again.
    """
    kept, left_out = [], []
    for line in run([tools.program("pg_restore"), "--list", dump]).splitlines(keepends=True):
        found = _SYSTEM_GRANT.match(line)
        if found is None:
            kept.append(line)
        else:
            left_out.append(found[1].decode(errors="replace").rsplit(" ", 1)[0])
    if left_out:
        write_new(entries, kept, durable=False)
    return left_out


_TRIGGER, _EVENT_TRIGGER = b"TRIGGER", b"EVENT TRIGGER"


def late_entries(dump: Path) -> set[int]:
    """Numbers of the entries that a single job must restore when all others are there; mostly none.

    A partition has its trigger from the table it belongs to. Where it is enabled otherwise there, pg_dump writes an entry with nothing
    but ``ALTER TABLE ... DISABLE TRIGGER``, and does not say that it needs the entry that makes the trigger. Event triggers follow it,
    as they follow all definitions, or they would see it.
    """
    late: set[int] = set()
    try:
        with dump.open("rb") as file:
            entries = list(read_entries(file, read_header(file), (_TRIGGER,)))
    except UnknownDump:
        return late  # pg_restore says what is wrong with it
    late |= {
        each.number for each in entries if each.kind == _TRIGGER and each.definition.lstrip().startswith(b"ALTER ")
    }
    if late:
        late |= {each.number for each in entries if each.kind == _EVENT_TRIGGER}
        late |= {each.number for each in entries if each.needs & late}
    return late
