"""Restoring a dump together with what it leaves out of extensions (see :mod:`~twist_dr.postgres.extension_members`).

pg_restore goes twice over the dump: first what those members may need (extensions, types, functions, tables), then the rest, which may
need them: views, keys, grants. Between the two the members are made that CREATE EXTENSION did not make, and all rows are put back.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

from twist_dr.errors import ProcessFailed
from twist_dr.postgres.cluster import Cluster, Connection, first_line, query
from twist_dr.postgres.dump_internals import leave_out_internals
from twist_dr.postgres.dump_toc import TocEntry, UnknownDump, read_entries, read_header
from twist_dr.postgres.extension_members import KEPT, MEMBERS, ROWS, KeptMembers, MemberTable, member_identities
from twist_dr.postgres.extension_rows import existing_tables, put_rows, set_value
from twist_dr.postgres.sessions import LOADING
from twist_dr.postgres.statements import NAME, statements
from twist_dr.postgres.tools import Tools
from twist_dr.repository.manifest import Manifest
from twist_dr.system.processes import run
from twist_dr.system.words import counted, few

#: A line of a dump's list: its number, its catalog there, its own OID there, and what it is.
_LINE = re.compile(rb"\d+; (\d+) (\d+) (.*)")
#: What pg_dump --binary-upgrade adds for pg_upgrade, which a running server refuses.
_FOR_UPGRADES = re.compile(rb"SELECT pg_catalog\.binary_upgrade_|UPDATE pg_catalog\.pg_")
#: Around what was granted when an object was given to its extension: of grants, the dump itself has what was changed after that.
_GRANTED_THEN = re.compile(rb"SELECT pg_catalog\.binary_upgrade_set_record_init_privs\((true|false)\)")
_GIVEN = re.compile(rb"ALTER EXTENSION " + NAME + rb" ADD ")
#: Of members, too, the dump itself has these.
_IN_THE_DUMP = {b"SECURITY LABEL", b"POLICY", b"ROW SECURITY", b"DEFAULT ACL", b"EXTENSION"}
#: Needed where a key of a table in the dump refers to theirs.
_KEYS = {b"CONSTRAINT", b"INDEX", b"INDEX ATTACH", b"STATISTICS"}
#: May need what the dump has, and nothing there needs them.
_LAST = {
    b"ACL",
    b"DEFAULT",
    b"SEQUENCE OWNED BY",
    b"SEQUENCE SET",
    b"FK CONSTRAINT",
    b"TRIGGER",
    b"RULE",
    b"CHECK CONSTRAINT",
}
#: The names in our SQL are PostgreSQL's own, whatever the database has its sessions begin with.
_PUTTING = {**LOADING, "search_path": "pg_catalog,pg_temp"}


@dataclass(frozen=True)
class KeptFiles:
    """What a backup keeps of members of extensions, on our disk. ``definitions``: a dump of them, where some were added."""

    kept: KeptMembers
    rows: Path
    definitions: Path | None


def fetch_kept(
    manifest: Manifest, folder: Path, fetch: Callable[[str, Path], object], *, rows: bool = True
) -> KeptFiles | None:
    """Fetch what a backup keeps of members into ``folder``; None where it keeps nothing. ``fetch`` writes an artifact's plain bytes to a file.

    Without ``rows`` for a trial of the schema. Raises what fetching raises, and ``ArchiveInvalid``.
    """
    if manifest.artifact(KEPT) is None:
        return None
    definitions = None
    for name in (KEPT, ROWS, MEMBERS) if rows else (KEPT, MEMBERS):
        if manifest.artifact(name) is not None:
            fetch(name, folder / name)
    if manifest.artifact(MEMBERS) is not None:
        definitions = folder / MEMBERS
        leave_out_internals(definitions)
    return KeptFiles(KeptMembers.from_json((folder / KEPT).read_bytes()), folder / ROWS, definitions)


@dataclass
class MembersRestore:
    """One restore of members, into ``database``. Without ``rows`` for a trial of the schema."""

    cluster: Cluster
    tools: Tools
    database: str
    files: KeptFiles
    _: KW_ONLY
    keep_owners: bool
    rows: bool = True
    _dumped: set[tuple[bytes, bytes]] = field(init=False, default_factory=set)
    _missing: set[int] = field(init=False, default_factory=set)
    _entries: list[TocEntry] = field(init=False, default_factory=list)
    notes: list[str] = field(init=False, default_factory=list)

    def divide(self, listed: bytes) -> tuple[list[bytes], list[bytes]]:
        """The lines of a dump's list: what is restored before the members, and what after them."""
        kept = self.files.kept
        needing = {tuple(each.encode().split()) for each in kept.needing}
        rows = {table.oid.encode() for table in kept.tables}
        first: list[bytes] = []
        rest: list[bytes] = []
        before_data = True
        for line in listed.splitlines(keepends=True):
            found = _LINE.match(line)
            if found is None:
                continue
            catalog, oid, what = found.groups()
            if catalog != b"0":
                self._dumped.add((catalog, oid))
            if catalog == b"0" and oid in rows and what.startswith(b"TABLE DATA "):
                # A part of the rows, of a table that its extension declared as configuration: all of them are kept.
                continue
            before_data = before_data and not what.startswith((b"TABLE DATA ", b"BLOB", b"SEQUENCE SET "))
            early = before_data and catalog != b"0" and (catalog, oid) not in needing
            (first if early else rest).append(line)
        return first, rest

    def make(self) -> None:
        """Make members that CREATE EXTENSION did not, put rows back, and make the members' keys. Raises ``ProcessFailed``."""
        with self._connected("the members of extensions could not be made as they were") as connection:
            there = member_identities(connection)
            missing = [member for member in self.files.kept.members if (member.extension, member.identity) not in there]
            if missing and self.files.definitions is not None:
                self._choose({(member.catalog.encode(), member.oid.encode()) for member in missing})
            self._define(connection)
            if self.rows:
                self._put_rows(connection)
            self._apply(connection, self._chosen(lambda kind: kind in _KEYS))

    def finish(self) -> None:
        """What may need the rest of the dump: foreign keys, triggers, defaults. Raises ``ProcessFailed``."""
        with self._connected("the members of extensions could not be finished") as connection:
            self._apply(connection, self._chosen(lambda kind: kind in _LAST))
            for sequence in self.files.kept.sequences if self.rows else ():
                connection.execute(set_value(sequence))

    @contextmanager
    def _connected(self, what: str) -> Iterator[Connection]:
        import psycopg

        try:
            with self.cluster.connect(self.database, autocommit=False, settings=_PUTTING) as connection:
                yield connection
                connection.commit()
        except psycopg.Error as error:
            raise ProcessFailed(
                f"{what}: {first_line(error)}",
                remedy="restore as a superuser, with the extensions' versions of the backup",
            ) from error

    # -- definitions -----------------------------------------------------------------------------------------------------

    def _choose(self, missing: Collection[tuple[bytes, bytes]]) -> None:
        """The entries that make what is missing, and all that hangs on it."""
        definitions = self.files.definitions
        assert definitions is not None
        try:
            with definitions.open("rb") as file:
                self._entries = list(read_entries(file, read_header(file)))
        except UnknownDump:
            raise ProcessFailed(f"{definitions.name} is no dump as pg_dump 12 to 18 write them.") from None
        owned: set[int] = set()
        for entry in self._entries:
            if (entry.catalog, entry.oid) in missing:
                self._missing.add(entry.number)
            elif entry.kind == b"SEQUENCE OWNED BY":
                if entry.needs & (self._missing | owned):
                    self._missing.add(entry.number)
            elif entry.needs & self._missing and entry.kind not in _IN_THE_DUMP:
                # A sequence of a column is no member, and the dump has it, but not whose it is.
                (owned if (entry.catalog, entry.oid) in self._dumped else self._missing).add(entry.number)

    def _chosen(self, wanted: Callable[[bytes], bool]) -> list[int]:
        return [entry.number for entry in self._entries if entry.number in self._missing and wanted(entry.kind)]

    def _define(self, connection: Connection) -> None:
        """Make members, and give them to their extensions when they have the grants that they had then (pg_init_privs)."""
        given = []
        for statement in self._script(self._chosen(lambda kind: kind not in _KEYS | _LAST | {b"ACL"})):
            if _GIVEN.match(statement):
                given.append(statement)
            else:
                connection.execute(statement)
        then = False
        for statement in self._script(self._chosen(lambda kind: kind == b"ACL"), for_upgrades=True):
            if found := _GRANTED_THEN.match(statement):
                then = found[1] == b"true"
            elif then:
                connection.execute(statement)
        for statement in given:
            connection.execute(statement)
        connection.execute("SET client_encoding TO 'UTF8'")  # the scripts have set the dump's

    def _apply(self, connection: Connection, numbers: Iterable[int]) -> None:
        for statement in self._script(numbers):
            connection.execute(statement)
        connection.execute("SET client_encoding TO 'UTF8'")

    def _script(self, numbers: Iterable[int], *, for_upgrades: bool = False) -> Iterator[bytes]:
        """The statements of entries, in the dump's encoding, which the first of them sets."""
        lines = [f"{number};\n" for number in numbers]
        definitions = self.files.definitions
        if not lines or definitions is None:
            return
        with tempfile.NamedTemporaryFile("w", prefix="members-", suffix=".list", dir=definitions.parent) as file:
            file.writelines(lines)
            file.flush()
            owners = [] if self.keep_owners else ["--no-owner", "--no-privileges"]
            script = run(
                [
                    self.tools.program("pg_restore"), "--file=-", "--no-tablespaces", "--no-security-labels", *owners,
                    f"--use-list={file.name}", definitions,
                ]
            )  # fmt: skip
        yield from (each for each in statements(script) if for_upgrades or not _FOR_UPGRADES.match(each))

    # -- rows ------------------------------------------------------------------------------------------------------------

    def _put_rows(self, connection: Connection) -> None:
        tables = self.files.kept.tables
        there = existing_tables(connection, tables)
        if lost := [table.key.label for table in tables if (table.schema, table.name) not in there]:
            self.notes.append(
                f"rows of {few(lost)} were kept, and the extension there has no such table: they are in extension-rows.sql"
            )
        [[superuser]] = query(connection, "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = session_user")
        if superuser:
            # Neither triggers nor keys between the extension's own tables: the rows are those that were there.
            connection.execute("SET LOCAL session_replication_role TO replica")
        for table in tables:
            if (table.schema, table.name) in there:
                self._put(connection, table)

    def _put(self, connection: Connection, table: MemberTable) -> None:
        import psycopg

        try:
            put_rows(connection, table, self.files.rows)
        except psycopg.Error as error:
            raise ProcessFailed(
                f"the {counted(table.rows, 'row')} of {table.key.label}, which belongs to the extension {table.extension}, could not be put back: "
                f"{first_line(error)}",
                remedy="restore as a superuser, with the extension's version of the backup",
            ) from error
