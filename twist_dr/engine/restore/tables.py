"""Some tables of a backup, restored beside the live ones: in a sandbox, or in a new schema of the live database.

Which of a dump's entries belong to a table is told by their numbers and dependencies, as ``pg_restore --list --verbose`` gives them,
never by their names: in its list nothing divides a name with spaces from the next word.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from twist_dr.engine.manifest import Manifest
from twist_dr.engine.postgres.cluster import Cluster, count_rows, first_line, query, read_tables
from twist_dr.engine.postgres.tools import Tools, choose_tools, find_tools
from twist_dr.engine.processes import Child, run
from twist_dr.engine.progress import Report
from twist_dr.errors import ProcessFailed, RestoreFailed

if TYPE_CHECKING:
    from psycopg.sql import Identifier

    from twist_dr.engine.postgres.cluster import Connection

#: The head of a plain dump alone is larger than this.
_LEAST_DUMP = 256
#: From this version on, pg_dump writes SET transaction_timeout, which older servers do not know.
_TRANSACTION_TIMEOUT = 17
#: Kinds of a dump's entries by the catalog they stand in; 0 for what is in none.
_KINDS = {
    "1259": ("TABLE", "SEQUENCE", "INDEX", "VIEW", "MATERIALIZED VIEW", "FOREIGN TABLE"),
    "0": ("TABLE DATA", "TABLE ATTACH", "SEQUENCE SET", "INDEX ATTACH", "USER MAPPING"),
    "1417": ("SERVER",),
    "2328": ("FOREIGN DATA WRAPPER",),
    "2604": ("DEFAULT",),
    "2606": ("CONSTRAINT", "CHECK CONSTRAINT", "FK CONSTRAINT"),
    "2618": ("RULE",),
    "2620": ("TRIGGER",),
    "3256": ("POLICY",),
}
#: Left out unless the chosen tables cannot be without. The last four would lead out of the sandbox.
_RELATIONS = {
    "TABLE", "SEQUENCE", "VIEW", "MATERIALIZED VIEW", "FOREIGN TABLE", "FOREIGN DATA WRAPPER", "SERVER", "USER MAPPING",
}  # fmt: skip
_NEVER = {"FK CONSTRAINT": "foreign keys of and to them", "TRIGGER": "triggers", "POLICY": "policies", "RULE": "rules"}
_ENTRY = re.compile(r"(\d+); (\d+) \d+ (.*)")
_DEPENDS = re.compile(r";\s+depends on:((?: \d+)+)")


@dataclass(frozen=True)
class RestoredTables:
    """``rows`` by ``schema.table`` as the backup calls it; ``sentence`` says where they are; ``notes`` what a person should know."""

    rows: dict[str, int]
    sentence: str
    notes: list[str]


def restore_tables(
    cluster: Cluster,
    tools: Tools,
    name: str,
    dump: Path,
    manifest: Manifest,
    tables: Sequence[str],
    *,
    schema: str,
    live: str | None,
    jobs: int,
    report: Report,
) -> RestoredTables:
    """Restore ``tables``, with partitions and inheriting tables, into the empty database ``name``; from there, when ``live`` is the
    name of a database, in one transaction into its new ``schema``. No other table is restored with rows.

    Without foreign keys, triggers, rules, policies and grants. Raises ``RestoreFailed`` (nothing is left in ``live`` then),
    ``ClientToolsMissing`` and ``Cancelled``.
    """
    import psycopg

    work = _Tables(cluster, tools, name, dump, manifest, jobs, report)
    try:
        if live is not None:
            _check_live(cluster, live, schema)
        return work.restore(tables, schema, live)
    except (psycopg.Error, ProcessFailed) as error:
        raise RestoreFailed(
            f"Tables of {manifest.backup_id} could not be restored: {first_line(error)}; nothing was changed in the live database. "
            "Restore the whole backup into a sandbox, and take what you need from there."
        ) from error


def _check_live(cluster: Cluster, live: str, schema: str) -> None:
    """What would keep the schema out, or lead its rows elsewhere, before anything is done."""
    with cluster.connect(live) as connection:
        if query(connection, "SELECT 1 FROM pg_namespace WHERE nspname = %(schema)s", {"schema": schema}):
            raise RestoreFailed(
                f"The schema {schema} is in {live} already; drop or rename it, or restore into a sandbox."
            )
        # Rows of a table that a subscriber lacks stop its replication (PostgreSQL, "Logical Replication: Restrictions").
        every = query(connection, "SELECT pubname FROM pg_publication WHERE puballtables ORDER BY 1")
    if every:
        raise RestoreFailed(
            f"The publication {every[0][0]} of {live} is FOR ALL TABLES, so restored tables would be sent to its subscribers, which lack "
            "them; restore into a sandbox."
        )


# -- the dump's list ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """An entry of a dump's list. ``kind`` is empty where it does not matter."""

    number: int
    kind: str
    needs: frozenset[int]


def _parse(listing: bytes) -> list[_Entry]:
    entries: list[_Entry] = []
    for line in listing.decode(errors="replace").split("\n"):
        if found := _ENTRY.match(line):
            number, catalog, rest = found.groups()
            kind = next((kind for kind in _KINDS.get(catalog, ()) if rest.startswith(f"{kind} ")), "")
            entries.append(_Entry(int(number), kind, frozenset()))
        elif entries and (found := _DEPENDS.match(line)):
            last = entries[-1]
            entries[-1] = _Entry(last.number, last.kind, frozenset(map(int, found[1].split())))
    return entries


def _with_descendants(entries: list[_Entry], tables: set[int]) -> set[int]:
    """The tables and all tables that need them: their partitions and heirs, and those with a column of a table's row type."""
    found = set(tables)
    for entry in entries:  # what is needed stands before what needs it
        if entry.kind == "TABLE" and entry.needs & found:
            found.add(entry.number)
    return found


def _definitions(entries: list[_Entry], tables: set[int]) -> list[int]:
    """What is to be made before the rows come: the tables, what they need, and all types, functions, extensions.

    All functions, as what is called inside a function's body is recorded nowhere; but none that needs what is left out.
    """
    by_number = {entry.number: entry for entry in entries}
    waiting = [*tables]
    waiting += [entry.number for entry in entries if entry.kind in ("SEQUENCE", "DEFAULT") and entry.needs & tables]
    needed: set[int] = set()
    while waiting:
        if (number := waiting.pop()) not in needed and number in by_number:
            needed.add(number)
            waiting += by_number[number].needs
    left_out: set[int] = set()
    for entry in entries:
        # A partition chosen without its parent stands alone.
        stranger = entry.kind == "TABLE ATTACH" and not entry.needs <= tables
        if stranger or (entry.number not in needed and (entry.kind in _RELATIONS or entry.needs & left_out)):
            left_out.add(entry.number)
    return [entry.number for entry in entries if entry.number not in left_out]


def _contents(entries: list[_Entry], tables: set[int]) -> list[int]:
    """Rows, values of sequences, keys, checks and indexes of the tables."""
    needed = set().union(*(entry.needs for entry in entries if entry.number in tables or _default(entry, tables)))
    sequences = {entry.number for entry in entries if entry.kind == "SEQUENCE" and entry.needs & tables} | needed
    chosen: list[int] = []
    own = set(tables)
    parts = {entry.number for entry in entries if entry.kind in ("TABLE", "INDEX", "CONSTRAINT")}
    for entry in entries:
        if (
            (entry.kind in ("TABLE DATA", "CONSTRAINT", "CHECK CONSTRAINT", "INDEX") and entry.needs & tables)
            or (entry.kind == "SEQUENCE SET" and entry.needs & sequences)
            or (entry.kind == "INDEX ATTACH" and entry.needs & parts <= own)
        ):
            chosen.append(entry.number)
            own.add(entry.number)
    return chosen


def _indexes(entries: list[_Entry], numbers: Iterable[int]) -> int:
    chosen = set(numbers)
    return sum(entry.kind in ("INDEX", "CONSTRAINT") for entry in entries if entry.number in chosen)


def _default(entry: _Entry, tables: set[int]) -> bool:
    return entry.kind == "DEFAULT" and bool(entry.needs & tables)


# -- the restore --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Relation:
    oid: int
    schema: str
    name: str
    kind: str
    unlogged: bool

    @property
    def label(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def identifier(self) -> Identifier:
        from psycopg import sql

        return sql.Identifier(self.schema, self.name)


class _Tables:
    """The restore of some tables into one side database."""

    def __init__(
        self, cluster: Cluster, tools: Tools, name: str, dump: Path, manifest: Manifest, jobs: int, report: Report
    ) -> None:
        self._cluster = cluster
        self._tools = tools
        self._name = name
        self._dump = dump
        self._manifest = manifest
        self._jobs = jobs
        self._report = report

    def restore(self, wanted: Sequence[str], schema: str, live: str | None) -> RestoredTables:
        with self._cluster.connect(self._name) as connection:
            names = [self._find(connection, table) for table in wanted]
            candidates = _with_descendants(self._entries, self._numbers(connection, names))
            self._report.info(f"restoring {', '.join(wanted)} into {self._name} with pg_restore {self._tools.version}")
            self._pg_restore("--section=pre-data", _definitions(self._entries, candidates))
            relations = _family(connection, names)
            numbers = self._numbers(connection, [(each.schema, each.name) for each in relations])
            contents = _contents(self._entries, numbers)
            if live is not None:
                _check_names(relations)
                _check_locks(connection, relations, _indexes(self._entries, contents))
            self._pg_restore(f"--jobs={self._jobs}", contents)
            rows = self._compare(connection, relations)
            notes = self._notes(connection, relations, numbers)
            if live is not None:
                notes += _gather(connection, relations, schema)
        ordinary = [each for each in relations if each.kind == "r"]
        what = f"{len(ordinary)} {'table' if len(ordinary) == 1 else 'tables'} with {sum(rows.values())} rows"
        if live is None:
            return RestoredTables(rows, f"{what} of {self._manifest.backup_id} are in the database {self._name}", notes)
        role = self._copy(live, schema, {each.name: rows[each.label] for each in ordinary})
        sentence = (
            f"{what} of {self._manifest.backup_id} are in the schema {schema} of {live}, which only {role} may use; "
            f'to remove them: DROP SCHEMA "{schema}" CASCADE'
        )
        return RestoredTables(rows, sentence, notes)

    # -- what the dump has -----------------------------------------------------------------------------------------------

    @cached_property
    def _entries(self) -> list[_Entry]:
        return _parse(self._list("--verbose"))

    def _list(self, *options: str) -> bytes:
        return run([self._tools.program("pg_restore"), "--list", *options, self._dump], environment={"LC_ALL": "C"})

    def _find(self, connection: Connection, wanted: str) -> tuple[str, str]:
        """Schema and name of a table that a person named. A dot may divide the two, or be part of either."""
        dots = [place for place, letter in enumerate(wanted) if letter == "."]
        readings = [(wanted[:place], wanted[place + 1 :]) for place in dots]
        found = [reading for reading in readings if all(reading) and self._numbers(connection, [reading])]
        if not found and self._numbers(connection, [("public", wanted)]):
            found = [("public", wanted)]
        if len(found) == 1:
            return found[0]
        if found:
            told = " and ".join(f'"{schema}"."{name}"' for schema, name in found)
            raise RestoreFailed(f"{wanted} may mean {told} of {self._manifest.backup_id}; restore into a sandbox.")
        raise RestoreFailed(
            f"{self._manifest.backup_id} has no table {wanted}; see what it has with: twist-dr show {self._manifest.backup_id} --json"
        )

    def _numbers(self, connection: Connection, tables: Iterable[tuple[str, str]]) -> set[int]:
        """The entries that define these tables. pg_restore compares whole names, in the dump's encoding."""
        by_schema: dict[str, list[str]] = {}
        for schema, name in _raw(connection, tables):
            by_schema.setdefault(schema, []).append(name)
        numbers = set()
        for schema, names in by_schema.items():
            listing = self._list(f"--schema={schema}", *(f"--table={name}" for name in names))
            numbers |= {entry.number for entry in _parse(listing) if entry.kind == "TABLE"}
        return numbers

    def _pg_restore(self, option: str, numbers: Iterable[int]) -> None:
        with tempfile.NamedTemporaryFile("w", prefix="entries-", suffix=".list", dir=self._dump.parent) as file:
            file.writelines(f"{number};\n" for number in numbers)
            file.flush()
            arguments: list[str | Path] = [
                self._tools.program("pg_restore"), "--exit-on-error", "--no-password", "--no-tablespaces", "--no-owner",
                "--no-privileges", "--no-security-labels", f"--dbname={self._name}", option, f"--use-list={file.name}",
            ]  # fmt: skip
            run([*arguments, self._dump], environment=self._cluster.environment(self._name))

    # -- what came of it -------------------------------------------------------------------------------------------------

    def _compare(self, connection: Connection, relations: list[_Relation]) -> dict[str, int]:
        facts, recorded = self._manifest.postgres, self._manifest.tables
        assert facts is not None
        oids = {(each.schema, each.name) for each in relations}
        rows = count_rows(connection, [each for each in read_tables(connection) if (each.schema, each.name) in oids])
        # A standby has no rows of unlogged tables, so none were recorded.
        known = {each.label: 0 for each in relations if each.unlogged and facts.in_recovery} | recorded
        different = [
            f"table {label} has {count} rows where {known.get(label, 'none')} were recorded"
            for label, count in rows.items()
            if known.get(label) != count
        ]
        if different:
            raise RestoreFailed(
                f"Tables of {self._manifest.backup_id} were restored and are not what was recorded: {'; '.join(different[:5])}. The live "
                "database was not changed; restore another backup, and keep this one until the cause is known."
            )
        return rows

    def _notes(self, connection: Connection, relations: list[_Relation], numbers: set[int]) -> list[str]:
        notes = []
        left_out = Counter(
            _NEVER[entry.kind] for entry in self._entries if entry.kind in _NEVER and entry.needs & numbers
        )
        if left_out:
            told = ", ".join(f"{kind} ({count})" for kind, count in sorted(left_out.items()))
            notes.append(f"left out of the restored tables: {told}")
        if any(entry.kind == "FOREIGN TABLE" and entry.needs & numbers for entry in self._entries):
            notes.append(
                "partitions that are foreign tables are left out: their rows are on another server, and in no backup"
            )
        facts = self._manifest.postgres
        if facts is not None and facts.in_recovery and (empty := [each.label for each in relations if each.unlogged]):
            notes.append(f"{', '.join(empty)} came back empty: unlogged, and backed up from a standby")
        if self._manifest.large_objects and (labels := _with_large_objects(connection, relations)):
            notes.append(
                f"large objects, to which {', '.join(labels)} may point, are left out: a restore of the whole backup has them"
            )
        return notes

    # -- into the live database ------------------------------------------------------------------------------------------

    def _copy(self, live: str, schema: str, rows: dict[str, int]) -> str:
        """From the side database into the live one, in one transaction; returns the role that owns the schema now."""
        with self._cluster.connect(live) as connection:
            tools = _dumping_tools(self._tools, connection.info.server_version // 10000)
            closing = _closing(connection, schema, rows)
            role = str(query(connection, "SELECT current_user")[0][0])
        pattern = schema.replace('"', '""')
        dumping: list[str | Path] = [
            tools.program("pg_dump"), "--format=plain", f'--schema="{pattern}"', "--strict-names", "--no-owner", "--no-privileges",
            "--no-tablespaces", "--no-security-labels", "--no-password",
        ]  # fmt: skip
        try:
            with (
                Child(dumping, environment=self._cluster.environment(self._name)) as child,
                self._report.part(f"copying into {live}") as advance,
                _transaction(self._cluster, tools, live, closing) as write,
            ):
                wrote = 0
                for chunk in child.bulk_output():
                    wrote += len(chunk)
                    write(chunk)
                    advance(len(chunk))
                child.finish(_LEAST_DUMP, wrote)
        except ProcessFailed as error:
            reason = str(error).partition("ERROR:")[2].strip() or str(error)
            raise RestoreFailed(
                f"{live} does not take the tables of {self._manifest.backup_id}: {reason.rstrip('.')}. Nothing was changed in it. Make there "
                "what the tables need (types, functions, extensions) as it was at the time of the backup, or restore into a sandbox."
            ) from error
        return role


def _raw(connection: Connection, tables: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Schemas and names as arguments in the dump's encoding, which is that of the database we are connected to."""
    pairs = list(tables)
    rows = query(
        connection,
        """SELECT convert_to(schema, getdatabaseencoding()), convert_to(name, getdatabaseencoding())
             FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS wanted (schema, name)""",
        {"schemas": [schema for schema, _ in pairs], "names": [name for _, name in pairs]},
    )
    return [(os.fsdecode(schema), os.fsdecode(name)) for schema, name in rows]


def _family(connection: Connection, names: Sequence[tuple[str, str]]) -> list[_Relation]:
    """The tables, and those that inherit from them: partitions, their partitions, heirs."""
    rows = query(
        connection,
        """WITH RECURSIVE family (oid) AS (
               SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 JOIN unnest(%(schemas)s::text[], %(names)s::text[]) AS wanted (schema, name)
                   ON (n.nspname, c.relname) = (wanted.schema, wanted.name)
               UNION SELECT i.inhrelid FROM pg_inherits i JOIN family f ON i.inhparent = f.oid)
           SELECT c.oid::bigint, n.nspname, c.relname, c.relkind::text, c.relpersistence = 'u'
             FROM family f JOIN pg_class c ON c.oid = f.oid JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p') ORDER BY 2, 3""",
        {"schemas": [schema for schema, _ in names], "names": [name for _, name in names]},
    )
    return [_Relation(*row) for row in rows]


def _check_names(relations: list[_Relation]) -> None:
    counts = Counter(each.name for each in relations)
    if twice := [each.label for each in relations if counts[each.name] > 1]:
        raise RestoreFailed(
            f"{' and '.join(twice[:4])} have one name, and one schema holds only one table of a name; restore them one after the other, or "
            "into a sandbox."
        )


def _check_locks(connection: Connection, relations: list[_Relation], indexes: int) -> None:
    """One transaction keeps a lock on all that it makes, and the server's room for locks is one for all (max_locks_per_transaction)."""
    (made, room), *_ = query(
        connection,
        """SELECT count(*) + 2 * count(nullif(reltoastrelid, 0)),
                  current_setting('max_locks_per_transaction')::bigint
                  * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int)
             FROM pg_class WHERE oid = ANY(%(oids)s::oid[])""",
        {"oids": [each.oid for each in relations]},
    )
    needed = made + indexes
    if needed > room // 2:
        raise RestoreFailed(
            f"{len(relations)} tables in one transaction need about {needed} locks, and the server has room for {room}, the live database's "
            "sessions included; restore fewer at a time, or into a sandbox."
        )


def _with_large_objects(connection: Connection, relations: list[_Relation]) -> list[str]:
    rows = query(
        connection,
        """SELECT DISTINCT a.attrelid::bigint FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
            WHERE a.attrelid = ANY(%(oids)s::oid[]) AND a.attnum > 0 AND 'oid'::regtype IN (t.oid, t.typbasetype)""",
        {"oids": [each.oid for each in relations]},
    )
    found = {oid for (oid,) in rows}
    return [each.label for each in relations if each.oid in found]


#: Tables that inherit from one that is not chosen, and that one.
_STRANGE_PARENTS = """
    SELECT i.inhrelid::bigint, n.nspname, p.relname
      FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace n ON n.oid = p.relnamespace
     WHERE i.inhrelid = ANY(%(oids)s::oid[]) AND i.inhparent <> ALL(%(oids)s::oid[])
"""
#: Sequences that defaults draw from and that no chosen table owns; whether they are another table's identity; who draws.
_STRANGE_SEQUENCES = """
    SELECT a.adrelid::bigint, c.attname, n.nspname, s.relname, coalesce(o.deptype = 'i', false)
      FROM pg_attrdef a JOIN pg_attribute c ON (c.attrelid, c.attnum) = (a.adrelid, a.adnum)
      JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid AND d.refclassid = 'pg_class'::regclass
      JOIN pg_class s ON s.oid = d.refobjid AND s.relkind = 'S' JOIN pg_namespace n ON n.oid = s.relnamespace
      LEFT JOIN pg_depend o ON o.classid = 'pg_class'::regclass AND o.objid = s.oid AND o.deptype IN ('a', 'i')
                           AND o.refclassid = 'pg_class'::regclass
     WHERE a.adrelid = ANY(%(oids)s::oid[]) AND (o.refobjid = ANY(%(oids)s::oid[])) IS NOT TRUE
"""


def _gather(connection: Connection, relations: list[_Relation], schema: str) -> list[str]:
    """In the side database: put the tables into one schema, with nothing that would tie them to live ones there; returns notes."""
    from psycopg import sql

    oids = {"oids": [each.oid for each in relations]}
    by_oid = {each.oid: each for each in relations}
    into, notes, moving = sql.Identifier(schema), [], set()
    with connection.transaction():
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(into))
        # An heir without its parent would become, there, a child of the live parent, which would show its rows.
        for oid, *parent in query(connection, _STRANGE_PARENTS, oids):
            statement = sql.SQL("ALTER TABLE {} NO INHERIT {}")
            connection.execute(statement.format(by_oid[oid].identifier, sql.Identifier(*parent)))
        # A default must not draw from a live sequence: what it draws from comes along.
        for oid, column, place, sequence, identity in query(connection, _STRANGE_SEQUENCES, oids):
            if identity:  # which cannot be parted from its column
                statement = sql.SQL("ALTER TABLE {} ALTER COLUMN {} DROP DEFAULT")
                connection.execute(statement.format(by_oid[oid].identifier, sql.Identifier(column)))
                notes.append(
                    f"column {column} of {by_oid[oid].label} is without its default, which drew from another table's identity column"
                )
            else:
                moving.add((place, sequence))
        for name in moving:
            connection.execute(sql.SQL("ALTER SEQUENCE {} OWNED BY NONE").format(sql.Identifier(*name)))
            connection.execute(sql.SQL("ALTER SEQUENCE {} SET SCHEMA {}").format(sql.Identifier(*name), into))
        for each in relations:
            connection.execute(sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(each.identifier, into))
    return notes


def _dumping_tools(tools: Tools, major: int) -> Tools:
    """pg_dump must be as new as the server, pg_restore need not be."""
    if tools.major >= major:
        return tools
    found = find_tools((tools.folder,))
    usable = found if major >= _TRANSACTION_TIMEOUT else [each for each in found if each.major < _TRANSACTION_TIMEOUT]
    return choose_tools(usable, major, purpose="copy tables into")


def _closing(connection: Connection, schema: str, rows: dict[str, int]) -> bytes:
    """The end of the transaction: default privileges taken back, rows counted, and only then COMMIT."""
    from psycopg import sql

    revoke = sql.SQL(
        """DECLARE grantee text; BEGIN FOR grantee IN
               SELECT DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
                 FROM (SELECT nspacl, nspowner FROM pg_namespace WHERE nspname = {name}
                       UNION ALL SELECT c.relacl, c.relowner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                        WHERE n.nspname = {name}) AS made (acl, owner), aclexplode(acl) AS a
                WHERE a.grantee <> owner
           LOOP EXECUTE 'REVOKE ALL ON SCHEMA ' || {quoted} || ' FROM ' || grantee;
                EXECUTE 'REVOKE ALL ON ALL TABLES IN SCHEMA ' || {quoted} || ' FROM ' || grantee;
                EXECUTE 'REVOKE ALL ON ALL SEQUENCES IN SCHEMA ' || {quoted} || ' FROM ' || grantee;
           END LOOP; END"""
    ).format(name=sql.Literal(schema), quoted=sql.Literal(sql.Identifier(schema).as_string(connection)))
    blocks = [revoke]
    for table, count in rows.items():
        blocks.append(
            sql.SQL(
                "BEGIN IF (SELECT count(*) FROM ONLY {}) <> {} THEN RAISE EXCEPTION USING MESSAGE = {}; END IF; END"
            ).format(
                sql.Identifier(schema, table),
                sql.Literal(count),
                sql.Literal(f"table {table} did not arrive with all of its {count} rows"),
            )
        )
    statements = [f"DO {sql.Literal(block.as_string(connection)).as_string(connection)};" for block in blocks]
    return "\n".join(["SET client_encoding = 'UTF8';", *statements, "COMMIT;", ""]).encode()


@contextmanager
def _transaction(cluster: Cluster, tools: Tools, database: str, closing: bytes) -> Iterator[Callable[[bytes], None]]:
    """A transaction in psql that takes a script piece by piece. It is committed when the block ends well, by ``closing``.

    psql would commit what a broken pipe left of a script by itself, were it told to make the transaction: so the COMMIT is ours.
    """
    arguments: list[str | Path] = [
        tools.program("psql"), "--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", "--output=/dev/null",
    ]  # fmt: skip
    environment = cluster.environment(database)
    read_end, write_end = os.pipe()
    try:
        try:
            child = Child(arguments, environment=environment, stdin=read_end)
        finally:
            os.close(read_end)

        def write(data: bytes) -> None:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(write_end, rest) :]

        with child:
            try:
                write(b"SET idle_in_transaction_session_timeout = 0; SET statement_timeout = 0; BEGIN;\n")
                yield write
                write(closing + b"\\quit\n")
            except BrokenPipeError:
                child.finish()
                raise ProcessFailed("psql ended before the end of its script; run twist-dr doctor.") from None
            child.finish()
    finally:
        os.close(write_end)
