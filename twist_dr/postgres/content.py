"""The content of a restored database: it is dumped again, and must be what was dumped before, entry by entry and row by row."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from twist_dr.errors import DatabaseError, DiskFilled, LocksExhausted, ProcessFailed
from twist_dr.postgres.cluster import Connection, named_errors
from twist_dr.postgres.differing_rows import Differing, columns_at_utc, copy_statement, first_difference
from twist_dr.postgres.dump import read_dump, restore_database
from twist_dr.postgres.dump_content import ContentReader, RawName, read_content, rows_at
from twist_dr.postgres.dump_toc import TocEntry, UnknownDump
from twist_dr.postgres.dumped_schema import DumpedSchema, ObjectKey, Unlike, key_of, same_constants, without_equal
from twist_dr.postgres.extension_restore import KeptFiles
from twist_dr.postgres.restore_place import TrialPlace
from twist_dr.postgres.roles import client_major
from twist_dr.postgres.sessions import LOOKING, SessionSettings
from twist_dr.postgres.tools import Tools
from twist_dr.redaction import one_line
from twist_dr.repository.manifest import PostgresFacts
from twist_dr.repository.table_names import TableName
from twist_dr.storage.chunks import lines
from twist_dr.system.progress import Report
from twist_dr.system.words import counted, few

#: Subscriptions are not restored, so they are not dumped either.
_OPTIONS = ("--no-subscriptions",)
_NAMED = 10
#: Of each column that COPY writes, in its order: whether it is a timestamp with time zone, or an array, domain, range or composite, which may hold one.
_MOMENTS = b"""
    WITH RECURSIVE made (num, type) AS (
        SELECT a.attnum, a.atttypid FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
        UNION
        SELECT m.num, CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.typelem END
          FROM made m JOIN pg_catalog.pg_type t ON t.oid = m.type
         WHERE t.typtype = 'd' OR (t.typcategory = 'A' AND t.typelem <> 0))
    SELECT pg_catalog.bool_or(t.oid = 'timestamptz'::regtype OR (t.typtype IN ('c', 'r', 'm')
           AND t.oid <> ALL ('{int4range,int8range,numrange,tsrange,daterange}'::regtype[])))
      FROM made m JOIN pg_catalog.pg_type t ON t.oid = m.type GROUP BY m.num ORDER BY m.num"""


@dataclass
class Content:
    """What came of it. ``differences`` and ``notes`` name tables, columns and places of rows; ``rows`` tells what stands in them, for
    those alone who may see it."""

    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)


def compare_content(
    place: TrialPlace, tools: Tools, dump: Path, facts: PostgresFacts, report: Report, kept: KeptFiles | None = None
) -> Content:
    """Dump what was restored again with ``tools``, and hold it against ``dump``, from which it came.

    The second dump is read as it comes and never stored. Raises ``DatabaseError`` where the server cannot dump it for want of something,
    ``DiskFilled`` among it.
    """
    try:
        return _Comparison(place, tools, dump, facts, report, kept).run()
    except UnknownDump:
        return Content(["database.dump is none that can be read, so the content cannot be compared"])
    except LocksExhausted as error:
        raise DatabaseError(
            f"The restored database could not be dumped again: {error}",
            remedy="raise max_locks_per_transaction on that server",
        ) from error
    except DiskFilled:  # which says nothing about what was restored
        raise
    except ProcessFailed as error:
        return Content([f"the restored database could not be dumped again: {error}"])


class _Comparison:
    def __init__(
        self,
        place: TrialPlace,
        tools: Tools,
        dump: Path,
        facts: PostgresFacts,
        report: Report,
        kept: KeptFiles | None,
    ) -> None:
        self._place = place
        self._tools = tools
        # Another version's pg_dump divides definitions otherwise, and large objects into other groups.
        self._strict = client_major(facts) == tools.major
        self._dump = dump
        self._facts = facts
        self._kept = kept
        self._report = report
        self._found = Content()
        self._settings: SessionSettings = {**LOOKING, "synchronize_seqscans": "off"}

    def run(self) -> Content:
        schema = DumpedSchema(self._dump, owners=self._place.keep_owners, alike=self._strict)
        stop = threading.Event()
        with ThreadPoolExecutor(1, "content") as beside:
            # Hashing releases the interpreter's lock.
            reading = beside.submit(read_content, self._dump, stop.is_set)
            try:
                restored = self._dump_again(ContentReader(schema.take), self._place.database)
                dumped = reading.result()
            finally:
                # Or whatever ended the dump would wait for the reading to end.
                stop.set()
        self._compare_schema(schema)
        self._compare_rows(dumped, restored)
        self._compare_objects(dumped, restored)
        if not self._place.keep_owners:
            self._found.notes.append(
                "verification.server restores without owners and grants, so these are not compared"
            )
        return self._found

    def _dump_again(self, reader: ContentReader, database: str, *options: str) -> ContentReader:
        with self._report.part("dumping again", self._dump.stat().st_size) as advance:
            read_dump(
                self._environment(database), self._tools, [*_OPTIONS, *options], reader, lambda piece: advance(len(piece))
            )  # fmt: skip
        return reader

    def _environment(self, database: str) -> Mapping[str, str | None]:
        return self._place.cluster.environment(database, self._settings)

    # -- schema ------------------------------------------------------------------------------------------------------

    def _compare_schema(self, schema: DumpedSchema) -> None:
        unlike = schema.unlike()
        if unlike.changed or (unlike and not self._strict):
            unlike = self._as_understood(schema, unlike)
        said = [
            *(f"{_words(key)} is missing after the restore" for key in unlike.missing),
            *(f"{_words(key)} was restored and is not in the dump" for key in unlike.added),
            *(f"{_words(key)} is not as it was dumped" for key in unlike.changed),
        ]
        self._found.differences += said[:_NAMED]
        if len(said) > _NAMED:
            self._found.differences.append(
                f"{counted(len(said) - _NAMED, 'more definition', 'is', 'are')} not as dumped"
            )

    def _as_understood(self, schema: DumpedSchema, unlike: Unlike) -> Unlike:
        """What is left when the server has read the dump's definitions anew and written them down.

        What is missing or new is excused only where another version's pg_dump divides definitions otherwise.
        """
        again: dict[ObjectKey, list[bytes]] = {}

        def take(entry: TocEntry) -> None:
            if schema.compares(entry):
                again.setdefault(key_of(entry), []).append(schema.text(entry))

        place = self._place
        with place.second_database() as database:
            restore_database(
                place.cluster, place.tools, database, self._dump, jobs=1, keep_owners=place.keep_owners, subscriptions=False,
                schema_only=True, kept=self._kept,
            )  # fmt: skip
            self._dump_again(ContentReader(take), database, "--schema-only")
        changed = {
            key: (texts, others)
            for key, (texts, others) in unlike.changed.items()
            if not same_constants(texts, others) or without_equal(others, again.get(key, []))[0]
        }
        if self._strict:
            return Unlike(unlike.missing, unlike.added, changed)
        return Unlike(
            [key for key in unlike.missing if key in again], [key for key in unlike.added if key not in again], changed
        )

    # -- rows --------------------------------------------------------------------------------------------------------

    def _compare_rows(self, dumped: ContentReader, restored: ContentReader) -> None:
        unlike = [
            name
            for name in sorted(dumped.blocks.keys() | restored.blocks.keys())
            if _digest(dumped, name) != _digest(restored, name)
        ]
        if not unlike:
            return
        moved: list[str] = []
        with self._place.connect() as connection, named_errors("to read rows of the restored database"):
            # As a dump has them, whatever the encoding is.
            connection.execute(
                b"SELECT pg_catalog.set_config('client_encoding', pg_catalog.getdatabaseencoding(), false)"
            )
            connection.execute(b"SET synchronize_seqscans = off")
            for name in unlike:
                if not self._name_rows(connection, name, dumped, restored):
                    moved.append(_label(name))
        if moved:
            self._found.notes.append(f"the rows of {few(moved)} came back all the same, and in another order")

    def _name_rows(self, connection: Connection, name: RawName, dumped: ContentReader, restored: ContentReader) -> bool:
        """Name the first row of a table that is not the same; returns whether there is one."""
        before, after = dumped.blocks.get(name), restored.blocks.get(name)
        load = (after or before or next(iter(dumped.blocks.values()))).load
        statement = copy_statement(load)
        if after is not None and statement is None:
            self._found.differences.append(f"table {_label(name)}: its rows came back otherwise")
            return True
        moments = _moments(connection, name) if before and after else set()

        def comparable(row: bytes) -> bytes:
            return columns_at_utc(row, moments) if moments else row

        with self._dump.open("rb") as file:
            differing = first_difference(
                lambda: map(comparable, rows_at(file, before.place)) if before else iter(()),
                lambda: map(comparable, _copy(connection, statement or b"")) if after else iter(()),
                load,
            )
        if differing is None:
            return False
        self._found.differences.append(f"table {_label(name)}: {_told(differing)}")
        self._found.rows.append(
            f"table {_label(name)}, row {differing.number}: dumped {_shown(differing.dumped)}, restored {_shown(differing.restored)}"
        )
        return True

    # -- large objects -----------------------------------------------------------------------------------------------

    def _compare_objects(self, dumped: ContentReader, restored: ContentReader) -> None:
        if unlike := dumped.objects.unlike(restored.objects):
            self._found.differences.append(
                f"{counted(len(unlike), 'large object')} came back otherwise: {few(map(str, unlike))}"
            )


def _digest(reader: ContentReader, name: RawName) -> bytes | None:
    block = reader.blocks.get(name)
    return block.digest if block else None


def _moments(connection: Connection, name: RawName) -> set[int]:
    """Places of the columns, as COPY writes them, in which a timestamp with time zone may stand: those are written in the server's time zone."""
    quoted = (b"E'" + part.replace(b"\\", b"\\\\").replace(b"'", b"''") + b"'" for part in name)
    rows = connection.execute(_MOMENTS % tuple(quoted)).fetchall()
    return {place for place, (moment,) in enumerate(rows) if moment}


def _copy(connection: Connection, statement: bytes) -> Iterator[bytes]:
    with connection.cursor().copy(statement) as copy:
        yield from lines(bytes(block) for block in copy)


def _told(differing: Differing) -> str:
    if differing.number == 0:
        return "its rows came back otherwise, the first ones aside"
    if differing.dumped is None:
        what = f"row {differing.number} was restored and is not in the dump"
    elif differing.restored is None:
        what = f"row {differing.number} of the dump is missing after the restore"
    else:
        columns = few(column.decode(errors="replace") for column in differing.columns)
        what = f"row {differing.number} of the dump came back otherwise" + (f", in {columns}" if columns else "")
    count = (
        "more rows differ"
        if differing.count is None
        else f"{counted(differing.count, 'row')} in all"
        if differing.count > 1
        else ""
    )
    return f"{what} ({count})" if count else what


def _label(name: RawName) -> str:
    return TableName(*(part.decode(errors="replace") for part in name)).label


def _words(key: ObjectKey) -> str:
    kind, schema, name = (part.decode(errors="replace") for part in key)
    return one_line(f"{kind.lower()} {f'{schema}.' if schema else ''}{name}")


def _shown(row: bytes | None) -> str:
    return "nothing" if row is None else one_line(row.decode(errors="replace"))
