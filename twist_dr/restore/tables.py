"""Some tables of a backup, restored beside the live ones: in a sandbox, or in a new schema of the live database."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from twist_dr.errors import ProcessFailed, RestoreFailed
from twist_dr.postgres.cluster import Cluster, Connection, count_rows, first_line, query, read_tables
from twist_dr.postgres.dump import connection_string
from twist_dr.postgres.dump_list import (
    ListEntry,
    contents_of,
    count_indexes,
    definitions_of,
    parse_list,
    with_descendants,
)
from twist_dr.postgres.making import Made
from twist_dr.postgres.sessions import LOADING
from twist_dr.postgres.tools import Tools
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.table_names import TableName, readings
from twist_dr.restore.pipeline import refuse_misread
from twist_dr.restore.table_copy import check_live, copy_into_live
from twist_dr.restore.table_family import (
    Relation,
    check_locks,
    check_names,
    gather_family,
    read_family,
    with_large_objects,
)
from twist_dr.system.processes import run
from twist_dr.system.progress import Report
from twist_dr.system.words import counted

#: Kinds of a dump's entries that are never restored with single tables, as a person is told of them.
_NEVER = {"FK CONSTRAINT": "foreign keys of and to them", "TRIGGER": "triggers", "POLICY": "policies", "RULE": "rules"}


@dataclass(frozen=True)
class RestoredTables:
    """``rows`` by table as the backup calls it; ``sentence`` says where they are; ``notes`` what a person should know."""

    rows: dict[TableName, int]
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
    made: Made,
) -> RestoredTables:
    """Restore ``tables``, with partitions and inheriting tables, into the empty database ``name``, which was ``made`` for them; from there, when ``live`` is the
    name of a database, in one transaction into its new ``schema``. No other table is restored with rows.

    Without foreign keys, triggers, rules, policies and grants. Raises ``RestoreFailed`` (nothing is left in ``live`` then),
    ``ClientToolsMissing`` and ``Cancelled``.
    """
    import psycopg

    work = _Tables(cluster, tools, name, dump, manifest, jobs, report)
    try:
        if live is not None:
            check_live(cluster, live, schema)
        return work.restore(tables, schema, live, made)
    except (psycopg.Error, ProcessFailed) as error:
        raise RestoreFailed(
            f"Tables of {manifest.backup_id} could not be restored: {first_line(error)}; nothing was changed in the live database",
            remedy="restore the whole backup into a sandbox, and take what you need from there",
        ) from error


@dataclass
class _Tables:
    """The restore of some tables into one side database."""

    cluster: Cluster
    tools: Tools
    name: str
    dump: Path
    manifest: Manifest
    jobs: int
    report: Report

    def restore(self, wanted: Sequence[str], schema: str, live: str | None, made: Made) -> RestoredTables:
        with self.cluster.connect(self.name) as connection:
            names = [self._find(connection, table) for table in wanted]
            candidates = with_descendants(self._entries, self._numbers(connection, names))
            self.report.info(f"restoring {', '.join(wanted)} into {self.name} with pg_restore {self.tools.version}")
            self._pg_restore("--section=pre-data", definitions_of(self._entries, candidates))
            refuse_misread(self.cluster, self.name, made)
            relations = read_family(connection, names)
            numbers = self._numbers(connection, [(each.schema, each.name) for each in relations])
            contents = contents_of(self._entries, numbers)
            if live is not None:
                check_names(relations)
                check_locks(connection, relations, count_indexes(self._entries, contents))
            self._pg_restore(f"--jobs={self.jobs}", contents)
            rows = self._compare(connection, relations)
            notes = self._notes(connection, relations, numbers)
            if live is not None:
                notes += gather_family(connection, relations, schema)
        ordinary = [each for each in relations if each.kind == "r"]
        what = f"{counted(len(ordinary), 'table')} with {counted(sum(rows.values()), 'row')}"
        if live is None:
            return RestoredTables(rows, f"{what} of {self.manifest.backup_id} in the database {self.name}", notes)
        role = copy_into_live(
            self.cluster,
            self.tools,
            self.name,
            live,
            schema,
            {each.name: rows[each.key] for each in ordinary},
            backup_id=self.manifest.backup_id,
            report=self.report,
        )
        sentence = (
            f"{what} of {self.manifest.backup_id} are in the schema {schema} of {live}, which only {role} may use; "
            f'to remove them: DROP SCHEMA "{schema}" CASCADE'
        )
        return RestoredTables(rows, sentence, notes)

    # -- what the dump has -----------------------------------------------------------------------------------------------

    @cached_property
    def _entries(self) -> list[ListEntry]:
        return parse_list(self._list("--verbose"))

    def _list(self, *options: str) -> bytes:
        return run([self.tools.program("pg_restore"), "--list", *options, self.dump], environment={"LC_ALL": "C"})

    def _find(self, connection: Connection, wanted: str) -> TableName:
        """Schema and name of a table that a person named. A dot outside quotes may divide the two, or be part of either."""
        found = [reading for reading in readings(wanted) if self._numbers(connection, [reading])]
        if not found and self._numbers(connection, [("public", wanted)]):
            found = [TableName("public", wanted)]
        if len(found) == 1:
            return found[0]
        if found:
            told = " or ".join(each.label for each in found)
            raise RestoreFailed(
                f"{wanted} may mean {told} of {self.manifest.backup_id}", remedy="write the one that is meant"
            )
        raise RestoreFailed(
            f"{self.manifest.backup_id} has no table {wanted} (a name with a comma is written in double quotes)",
            remedy=f"see what it has with: twist-dr show {self.manifest.backup_id} --json",
        )

    def _numbers(self, connection: Connection, tables: Iterable[tuple[str, str]]) -> set[int]:
        """The entries that define these tables. pg_restore compares whole names, in the dump's encoding."""
        by_schema: dict[str, list[str]] = {}
        for schema, name in _raw(connection, tables):
            by_schema.setdefault(schema, []).append(name)
        numbers = set()
        for schema, names in by_schema.items():
            listing = self._list(f"--schema={schema}", *(f"--table={name}" for name in names))
            numbers |= {entry.number for entry in parse_list(listing) if entry.kind == "TABLE"}
        return numbers

    def _pg_restore(self, option: str, numbers: Iterable[int]) -> None:
        with tempfile.NamedTemporaryFile("w", prefix="entries-", suffix=".list", dir=self.dump.parent) as file:
            file.writelines(f"{number};\n" for number in numbers)
            file.flush()
            arguments: list[str | Path] = [
                self.tools.program("pg_restore"), "--exit-on-error", "--no-password", "--no-tablespaces", "--no-owner",
                "--no-privileges", "--no-security-labels", f"--dbname={connection_string(self.name)}", option, f"--use-list={file.name}",
            ]  # fmt: skip
            run([*arguments, self.dump], environment=self.cluster.environment(self.name, LOADING))

    # -- what came of it -------------------------------------------------------------------------------------------------

    def _compare(self, connection: Connection, relations: list[Relation]) -> dict[TableName, int]:
        facts, recorded = self.manifest.postgres, self.manifest.rows
        assert facts is not None
        oids = {(each.schema, each.name) for each in relations}
        rows = count_rows(connection, [each for each in read_tables(connection) if (each.schema, each.name) in oids])
        # A standby has no rows of unlogged tables, so none were recorded.
        known = {each.key: 0 for each in relations if each.unlogged and facts.in_recovery} | recorded
        different = [
            f"table {name.label} has {counted(count, 'row')} where {known.get(name.among(recorded), 'none')} were recorded"
            for name, count in rows.items()
            if known.get(name.among(recorded)) != count
        ]
        if different:
            raise RestoreFailed(
                f"Tables of {self.manifest.backup_id} were restored and are not what was recorded: {'; '.join(different[:5])}. The live database was "
                "not changed",
                remedy="restore another backup, and keep this one until the cause is known",
            )
        return rows

    def _notes(self, connection: Connection, relations: list[Relation], numbers: set[int]) -> list[str]:
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
        facts = self.manifest.postgres
        if facts is not None and facts.in_recovery and (empty := [each.label for each in relations if each.unlogged]):
            notes.append(f"{', '.join(empty)} came back empty: unlogged, and backed up from a standby")
        if self.manifest.large_objects and (labels := with_large_objects(connection, relations)):
            notes.append(
                f"large objects, to which {', '.join(labels)} may point, are left out: a restore of the whole backup has them"
            )
        return notes


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
