"""The impact: what the live database and media have that a backup has not, and a restore would take away.

It only tells. Nothing is written, and what cannot be compared is named in a note and stops nothing: a live system that is
damaged or locked up is what restores are for.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from errno import ENOENT, ENOTDIR
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from twist_dr.engine.archive import Entry
from twist_dr.engine.manifest import Manifest
from twist_dr.engine.postgres.cluster import Table, first_line, named_errors, query, read_tables
from twist_dr.engine.progress import human_bytes, human_seconds
from twist_dr.errors import Cancelled, DatabaseRightsMissing

if TYPE_CHECKING:
    from psycopg.sql import Composed

    from twist_dr.engine.postgres.cluster import Connection

#: Nobody reads the two hundred and first row on a run's page.
_MOST_ROWS = 200
_MOST_EXAMPLES = 20
_MOST_NOTES = 20

# -- what is told -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TableImpact:
    """One table. ``newest`` is the latest time in ``newest_column`` now; without a zone where the column has none.

    ``rows_now`` is None for a table that is gone from the live database, ``rows_then`` for one that the backup lacks.
    ``newer_rows`` have a time later than the backup's snapshot; None where no column tells.
    """

    label: str
    rows_now: int | None
    rows_then: int | None
    estimated: bool = False
    newest_column: str | None = None
    newest: datetime | date | None = None
    newer_rows: int | None = None

    @property
    def at_stake(self) -> int:
        """Rows that a restore would take away, as far as one can tell: newer ones, or as many as there are more."""
        grown = 0 if self.estimated and self.rows_then is not None else (self.rows_now or 0) - (self.rows_then or 0)
        return max(grown, self.newer_rows or 0)

    @property
    def differs(self) -> bool:
        """Whether something shows that it is not what the backup has. An estimate alone shows nothing."""
        if self.rows_now is None or self.rows_then is None or self.newer_rows:
            return True
        return not self.estimated and self.rows_now != self.rows_then


@dataclass(frozen=True)
class Files:
    """Files and links: how many, their bytes, and some of their paths, ``folder/name``, fit to be shown."""

    count: int = 0
    bytes: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class MediaImpact:
    """One media folder. ``gone``: live has them and the backup lacks them. ``changed``: they differ; bytes are the live ones.

    ``back``: the backup has them and live lacks them.
    """

    folder: str
    gone: Files = Files()
    changed: Files = Files()
    back: Files = Files()
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Impact:
    """All of it. Times in UTC; ``taken_at`` is when it was looked at, ``snapshot_at`` when the backup was."""

    taken_at: datetime
    snapshot_at: datetime
    tables: list[TableImpact]
    media: list[MediaImpact]
    notes: list[str] = field(default_factory=list)

    @property
    def age_seconds(self) -> float:
        return max(0.0, (self.taken_at - self.snapshot_at).total_seconds())

    @property
    def all_notes(self) -> list[str]:
        """Those of the database, then those of each media folder."""
        return [*self.notes, *(note for folder in self.media for note in folder.notes)]

    def summary(self) -> str:
        """One sentence: ``12 tables differ: 341 rows newer than the backup of 3 h 20 min ago; 4 media files would go``."""
        backup = f"the backup of {human_seconds(self.age_seconds)} ago"
        parts = []
        if differing := [table for table in self.tables if table.differs]:
            verb = "differs" if len(differing) == 1 else "differ"
            rows = _counted(sum(table.at_stake for table in differing), "row")
            parts.append(f"{_counted(len(differing), 'table')} {verb}: {rows} newer than {backup}")
        elif self.tables:
            parts.append(f"no table shows a difference from {backup}")
        if self.media:
            parts.append(self._media_sentence())
        if not parts:
            parts.append(f"nothing was compared with {backup}")
        if notes := self.all_notes:
            parts.append(f"see the {_counted(len(notes), 'note')}")
        return "; ".join(parts)

    def _media_sentence(self) -> str:
        counts = [
            (sum(folder.gone.count for folder in self.media), "would go"),
            (sum(folder.changed.count for folder in self.media), "would change back"),
            (sum(folder.back.count for folder in self.media), "would come back"),
        ]
        (first, what), *others = [each for each in counts if each[0]] or [(0, "would change")]
        return ", ".join([f"{_counted(first, 'media file')} {what}", *(f"{count:,} {what}" for count, what in others)])

    def markdown(self) -> str:
        """For the run's page, in GitHub's flavour."""
        sentence = self.summary()
        blocks = [f"{sentence[0].upper()}{sentence[1:]}. The backup is of {_time(self.snapshot_at)}."]
        if self.tables:
            blocks += _tables_markdown(self.tables)
        if self.media:
            blocks += _media_markdown(self.media)
        if notes := self.all_notes:
            blocks.append("\n".join(f"- {_text(note)}" for note in notes))
        return "\n\n".join(blocks) + "\n"


def _tables_markdown(tables: Sequence[TableImpact]) -> list[str]:
    differing = sorted((t for t in tables if t.differs), key=lambda table: (-table.at_stake, table.label))
    shown = differing + [table for table in tables if table.estimated and not table.differs]
    blocks = []
    if shown:
        lines = [
            "| table | rows now | rows in the backup | newer rows | newest | by column |",
            "| --- | ---: | ---: | ---: | --- | --- |",
            *map(_table_line, shown[:_MOST_ROWS]),
        ]
        blocks.append("\n".join(lines))
    if len(shown) > _MOST_ROWS:
        blocks.append(f"and {len(shown) - _MOST_ROWS:,} more tables like these.")
    if same := len(tables) - len(shown):
        blocks.append(f"{_counted(same, 'table')} with as many rows as in the backup, and none that shows to be newer.")
    return blocks


def _table_line(table: TableImpact) -> str:
    now = "no such table" if table.rows_now is None else f"{'about ' * table.estimated}{table.rows_now:,}"
    then = "no such table" if table.rows_then is None else f"{table.rows_then:,}"
    newer = "" if table.newer_rows is None else f"{table.newer_rows:,}"
    newest = "" if table.newest is None else _time(table.newest)
    column = "" if table.newest_column is None else _code(table.newest_column)
    return f"| {_code(table.label)} | {now} | {then} | {newer} | {newest} | {column} |"


def _media_markdown(media: Sequence[MediaImpact]) -> list[str]:
    lines = ["| media folder | would go | would change back | would come back |", "| --- | ---: | ---: | ---: |"]
    blocks = []
    for folder in media:
        kinds = ((folder.gone, "go"), (folder.changed, "change back"), (folder.back, "come back"))
        cells = [f"{files.count:,} ({human_bytes(files.bytes)})" if files.count else "0" for files, _ in kinds]
        lines.append(f"| {_code(folder.folder)} | {' | '.join(cells)} |")
        for files, what in kinds:
            if files.count:
                more = files.count - len(files.examples)
                names = ", ".join(map(_code, files.examples)) + (f" and {more:,} more" if more else "")
                blocks.append(f"- would {what}: {names}")
    return ["\n".join(lines), *(["\n".join(blocks)] if blocks else [])]


def _time(moment: datetime | date) -> str:
    if not isinstance(moment, datetime):
        return moment.isoformat()
    if moment.tzinfo is None:
        return f"{moment:%Y-%m-%d %H:%M:%S}"
    return f"{moment.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _code(name: str) -> str:
    """A name between backticks, also inside a table; names may hold whatever people and attackers put into them."""
    fence = "`" * (1 + max(map(len, re.findall("`+", name)), default=0))
    space = " " if "`" in name or name != name.strip() else ""
    return f"{fence}{space}{_printable(name)}{space}{fence}".replace("|", "\\|")


def _text(sentence: str) -> str:
    return re.sub(r"([\\`*_<>\[\]|~])", r"\\\1", _printable(sentence))


# -- the database -----------------------------------------------------------------------------------------------------

#: Columns that tell when a row was written, best first. After them any that ends in _at, then any timestamptz.
_NAMES = (
    "updated_at", "modified_at", "modified", "updated", "changed_at", "created_at", "created", "timestamp", "occurred_at",
    "date_joined",
)  # fmt: skip
#: These tell when something will be, whenever the row was written: a session that expires tomorrow is not newer for it.
_FORESEEN = re.compile(
    r"(^|_)(expir\w*|due|until|valid|next|deadline|schedul\w*|planned|starts?|ends?|eta|not_before|run_at)(_|$)"
)
_TYPES = ("timestamptz", "timestamp", "date")
#: What Python's datetime can hold. Infinity lies outside, and so do the years after 9999 that PostgreSQL knows.
_EARLIEST, _LATEST = "0001-01-02", "9999-12-30"
_COUNT_AT_ONCE = 100
#: Newer rows of a large table are counted by index, so far and no further.
_MOST_NEWER = 1_000_000
#: A table that is locked for longer, by a migration that hangs say, goes into the notes.
_LOCK_TIMEOUT = "2s"
_CANCEL_EVERY_SECONDS = 0.2


@dataclass(frozen=True)
class _Column:
    name: str
    type: str
    indexed: bool
    place: int

    @property
    def rank(self) -> tuple[object, ...]:
        """Dates last, as they tell no more than the day; then by name, then by type."""
        name = self.name.lower()
        known = _NAMES.index(name) if name in _NAMES else len(_NAMES) + (not name.endswith("_at"))
        return self.type == "date", known, _TYPES.index(self.type), self.place

    @property
    def tells(self) -> bool:
        name = self.name.lower()
        if name in _NAMES:
            return True
        return not _FORESEEN.search(name) and (name.endswith("_at") or self.type == "timestamptz")


@dataclass(frozen=True)
class _Live:
    """A table of the live database, with the column that is asked for the newest row."""

    table: Table
    oid: int
    column: _Column | None


def database_impact(
    connection: Connection, manifest: Manifest, *, large_bytes: int = 1 << 30, stop: threading.Event | None = None
) -> tuple[list[TableImpact], list[str]]:
    """Every table of the live database or the backup, by label, and notes on what could not be compared.

    All is read in one transaction of its own on an idle ``connection``. Tables of ``large_bytes`` and more (without
    indexes and TOAST) are estimated, not counted. Times without a zone are taken to be in the session's time zone.
    Raises ``DatabaseRightsMissing`` when the role may not read a table or row-level security would hide rows from it,
    ``DatabaseError`` when the server refuses, and ``Cancelled`` soon after ``stop`` is set.
    """
    if manifest.snapshot_at is None:
        return [], []
    with (
        named_errors("to compare the live database with the backup"),
        _stopped_by(stop, connection),
        connection.transaction(force_rollback=True),
    ):
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        # A role that row-level security would filter gets an error, never fewer rows.
        connection.execute("SET LOCAL row_security = off")
        connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
        reading = _Reading(connection, manifest, manifest.snapshot_at, large_bytes, stop)
        reading.read_all(_read_live(connection))
    found = reading.found
    for label in manifest.tables.keys() - found.keys() - reading.unread:
        found[label] = TableImpact(label, None, manifest.tables[label])
    return [found[label] for label in sorted(found)], reading.notes


@contextmanager
def _stopped_by(stop: threading.Event | None, connection: Connection) -> Iterator[None]:
    """Cancel what the server does for us once ``stop`` is set: counting may take minutes."""
    import psycopg

    if stop is None:
        yield
        return
    done = threading.Event()

    def watch() -> None:
        # Asked again and again: a cancel that arrives between two statements is lost.
        while not done.wait(_CANCEL_EVERY_SECONDS):
            if stop.is_set():
                with suppress(Exception):
                    connection.cancel_safe()

    watcher = threading.Thread(target=watch, name="impact watch", daemon=True)
    watcher.start()
    try:
        yield
    except psycopg.Error:
        _go_on(stop)
        raise
    finally:
        done.set()
        watcher.join()


def _go_on(stop: threading.Event | None) -> None:
    if stop is not None and stop.is_set():
        raise Cancelled(
            "The comparison with the backup was stopped; nothing was changed. Start it again when you wish."
        )


def _read_live(connection: Connection) -> list[_Live]:
    tables = read_tables(connection)
    role = str(query(connection, "SELECT quote_ident(current_user)")[0][0])
    if filtered := [table.label for table in tables if table.filtered]:
        raise DatabaseRightsMissing(
            f"Row-level security would hide rows of {_few(filtered)} from role {role}, so nobody could tell what a restore "
            f"would take away; as a superuser run: ALTER ROLE {role} BYPASSRLS"
        )
    if closed := [table.label for table in tables if not table.readable]:
        raise DatabaseRightsMissing(
            f"Role {role} may not read {_few(closed)}, so nobody could tell what a restore would take away; as a superuser "
            f"run: GRANT pg_read_all_data TO {role} (PostgreSQL 14 and newer), or grant SELECT on them."
        )
    oids: dict[tuple[str, str], int] = {}
    columns: dict[tuple[str, str], list[_Column]] = {}
    for schema, name, oid, *column in query(connection, _COLUMNS):
        oids[schema, name] = oid
        if column[0] is not None and (found := _Column(*column)).tells:
            columns.setdefault((schema, name), []).append(found)
    live = []
    for table in tables:
        key = (table.schema, table.name)
        best = min(columns.get(key, []), key=lambda column: column.rank, default=None)
        live.append(_Live(table, oids[key], best))
    return live


_COLUMNS = """
    SELECT n.nspname, c.relname, c.oid::bigint, a.attname, t.typname,
           EXISTS (SELECT FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid JOIN pg_am m ON m.oid = ic.relam
                    WHERE i.indrelid = c.oid AND i.indkey[0] = a.attnum AND i.indisvalid AND i.indpred IS NULL
                      AND m.amname = 'btree'),
           a.attnum
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN (pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                            AND t.oid IN ('timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype))
             ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
     WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


class _Reading:
    """Reads tables, a hundred at once; those of a hundred in which one cannot be read, one by one."""

    def __init__(
        self,
        connection: Connection,
        manifest: Manifest,
        snapshot_at: datetime,
        large_bytes: int,
        stop: threading.Event | None,
    ) -> None:
        self._connection = connection
        self._then = manifest.tables
        self._since = snapshot_at.isoformat()
        self._large_bytes = large_bytes
        self._stop = stop
        self.found: dict[str, TableImpact] = {}
        self.unread: set[str] = set()
        self.notes: list[str] = []

    def read_all(self, tables: Sequence[_Live]) -> None:
        for start in range(0, len(tables), _COUNT_AT_ONCE):
            self._read_or_note(tables[start : start + _COUNT_AT_ONCE])

    def _read_or_note(self, some: Sequence[_Live]) -> None:
        import psycopg

        _go_on(self._stop)
        try:
            # Rolled back, so that the locks go: a count locks every index too, and with thousands of tables the
            # server's lock table would be full, for the application as well.
            with self._connection.transaction(force_rollback=True):
                found = self._read(some)
        except psycopg.Error as error:
            _go_on(self._stop)
            if self._connection.closed:
                raise
            if len(some) > 1:
                for each in some:
                    self._read_or_note([each])
            elif not isinstance(error, psycopg.errors.UndefinedTable):  # that one was dropped just now
                label = some[0].table.label
                self.unread.add(label)
                self.notes.append(f"{label} cannot be read and was not compared: {first_line(error)}")
            return
        self.found.update({impact.label: impact for impact in found})

    def _read(self, some: Sequence[_Live]) -> list[TableImpact]:
        # Not in the statement that lists the tables: this waits for locks.
        sizes = dict(
            query(
                self._connection,
                "SELECT oid::bigint, pg_relation_size(oid) FROM unnest(%(oids)s::oid[]) AS oid",
                {"oids": [each.oid for each in some]},
            )
        )
        # An empty table has nothing to estimate, and the planner would make up some rows.
        large = [each for each in some if (sizes[each.oid] or 0) >= max(self._large_bytes, 1)]
        small = [each for each in some if each not in large]
        return self._count(small) + [self._estimate(each) for each in large]

    def _count(self, small: Sequence[_Live]) -> list[TableImpact]:
        from psycopg import sql

        if not small:
            return []
        parts = [_count_statement(place, each, self._since) for place, each in enumerate(small)]
        rows = self._connection.execute(sql.SQL(" UNION ALL ").join(parts)).fetchall()
        return [self._impact(small[place], count, newest, newer) for place, count, newest, newer in rows]

    def _estimate(self, live: _Live) -> TableImpact:
        """By the planner: it takes ``reltuples``, and how the table has grown since those were counted."""
        from psycopg import sql

        name = sql.Identifier(live.table.schema, live.table.name)
        plan = self._connection.execute(sql.SQL("EXPLAIN (FORMAT JSON) SELECT FROM ONLY {}").format(name)).fetchall()
        count = int(plan[0][0][0]["Plan"]["Plan Rows"])
        if live.column is None or not live.column.indexed:
            return self._impact(_Live(live.table, live.oid, None), count, None, None, estimated=True)
        # For this savepoint only. Statistics that are out of date would have it read the whole table.
        self._connection.execute("SET LOCAL enable_seqscan = off")
        statement = sql.SQL(
            "SELECT (SELECT (extract(epoch FROM max({column})) * 1000000)::bigint FROM ONLY {table} WHERE {possible}),"
            " (SELECT count(*) FROM (SELECT FROM ONLY {table} WHERE {newer} LIMIT {most}) AS newer)"
        ).format(
            table=name, most=sql.Literal(_MOST_NEWER), column=sql.Identifier(live.column.name),
            possible=_possible(live.column), newer=_newer(live.column, self._since),
        )  # fmt: skip
        newest, newer = self._connection.execute(statement).fetchall()[0]
        if newer == _MOST_NEWER:
            self.notes.append(f"{live.table.label} has {_MOST_NEWER:,} newer rows, or more: counting stopped there")
        return self._impact(live, count, newest, newer, estimated=True)

    def _impact(
        self, live: _Live, count: int, newest: int | None, newer: int | None, *, estimated: bool = False
    ) -> TableImpact:
        label, column = live.table.label, live.column
        # Rows of the snapshot's own day may be from before it or after it: none of a later day tells nothing.
        if column is not None and column.type == "date":
            newer = newer or None
        return TableImpact(
            label=label,
            rows_now=count,
            rows_then=self._then.get(label),
            estimated=estimated,
            newest_column=column.name if column else None,
            newest=_moment(newest, column.type) if column and newest is not None else None,
            newer_rows=newer,
        )


def _count_statement(place: int, live: _Live, since: str) -> Composed:
    from psycopg import sql

    if live.column is None:
        newest, newer = sql.Composed([sql.SQL("NULL::bigint")]), sql.Composed([sql.SQL("NULL::bigint")])
    else:
        # Numbers, which are the same for every type of column, DateStyle and time zone.
        newest = sql.SQL("(extract(epoch FROM max({}) FILTER (WHERE {})) * 1000000)::bigint").format(
            sql.Identifier(live.column.name), _possible(live.column)
        )
        newer = sql.SQL("count(*) FILTER (WHERE {})").format(_newer(live.column, since))
    return sql.SQL("SELECT {}::int, count(*), {}, {} FROM ONLY {}").format(
        sql.Literal(place), newest, newer, sql.Identifier(live.table.schema, live.table.name)
    )


def _possible(column: _Column) -> Composed:
    from psycopg import sql

    return sql.SQL("{column} BETWEEN {earliest}::{type} AND {latest}::{type}").format(
        column=sql.Identifier(column.name), type=sql.SQL(column.type), earliest=_EARLIEST, latest=_LATEST
    )  # fmt: skip


def _newer(column: _Column, since: str) -> Composed:
    from psycopg import sql

    return sql.SQL("{column} > {since}::timestamptz::{type} AND {column} <= {latest}::{type}").format(
        column=sql.Identifier(column.name), type=sql.SQL(column.type), since=since, latest=_LATEST
    )  # fmt: skip


def _moment(microseconds: int, kind: str) -> datetime | date:
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=microseconds)
    if kind == "date":
        return moment.date()
    return moment if kind == "timestamptz" else moment.replace(tzinfo=None)


# -- media ------------------------------------------------------------------------------------------------------------

#: A float holds today's time to a quarter of a microsecond; some file systems round to a whole one.
_SAME_TIME_SECONDS = 2e-6


def media_impact(
    folders: Mapping[str, Path], index: Iterator[Entry], *, stop: threading.Event | None = None
) -> list[MediaImpact]:
    """Each live media folder against the backup's index, which is read to its end; sorted by name.

    Both are walked in the order of :class:`~twist_dr.engine.archive.ArchiveWriter`, so neither is held in memory. Files
    are compared by kind, size and time, links by what they lead to; nothing is opened. Folders are not counted, only what
    is in them. Raises what ``index`` raises, and ``Cancelled`` soon after ``stop`` is set.
    """
    found = {}
    for name, entries in groupby(index, lambda entry: entry.path.partition("/")[0]):
        if name in folders:
            found[name] = _FolderComparison(name, folders[name], stop).compare(entries)
        else:
            _go_on(stop)
            note = f"the backup has media of {_shown(name)}, which the settings do not have; they would be left out"
            found[name] = MediaImpact(_shown(name), notes=[note])
    for name in folders.keys() - found.keys():
        note = f"the backup has no media of {name}; {folders[name]} would stay as it is"
        found[name] = MediaImpact(name, notes=[note])
    return [found[name] for name in sorted(found)]


def _shown(path: str) -> str:
    """A path in words: names need not be UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


@dataclass(frozen=True)
class _Found:
    """What lies in a live folder. ``path`` as in the index, ``real`` where it is; ``kind`` as there, or ``unreadable``."""

    path: str
    real: str
    kind: str
    size: int = 0
    modified: float = 0.0
    why: str = ""


class _Tally:
    def __init__(self) -> None:
        self._count = self._bytes = 0
        self._examples: list[str] = []

    def add(self, path: str, size: int) -> None:
        self._count += 1
        self._bytes += size
        if len(self._examples) < _MOST_EXAMPLES:
            self._examples.append(_shown(path))

    @property
    def files(self) -> Files:
        return Files(self._count, self._bytes, self._examples)


class _FolderComparison:
    """Two walks side by side."""

    def __init__(self, name: str, root: Path, stop: threading.Event | None) -> None:
        self._name, self._root, self._stop = name, root, stop
        self._gone, self._changed, self._back = _Tally(), _Tally(), _Tally()
        self._unreadable: list[_Found] = []
        self._hidden = ""
        """Where we could not look: what the backup has below it may be there or not."""

    def compare(self, entries: Iterator[Entry]) -> MediaImpact:
        walk = _walk(os.path.realpath(self._root), self._name)
        live, entry = next(walk, None), next(entries, None)
        missing = live is None
        while live is not None or entry is not None:
            _go_on(self._stop)
            if entry is None or (live is not None and _order(live.path) < _order(entry.path)):
                assert live is not None
                self._only_live(live)
                live = next(walk, None)
            elif live is None or live.path != entry.path:
                self._only_backup(entry)
                entry = next(entries, None)
            else:
                self._both(live, entry)
                live, entry = next(walk, None), next(entries, None)
        return MediaImpact(
            self._name, self._gone.files, self._changed.files, self._back.files, self._notes(missing=missing)
        )

    def _only_live(self, live: _Found) -> None:
        if live.kind == "unreadable":
            self._cannot_look(live)
        elif live.kind != "folder":
            self._gone.add(live.path, live.size)

    def _only_backup(self, entry: Entry) -> None:
        hidden = self._hidden and entry.path.startswith(self._hidden)
        if entry.kind != "folder" and not hidden:
            self._back.add(entry.path, entry.size)

    def _both(self, live: _Found, entry: Entry) -> None:
        if live.kind == "unreadable":
            self._cannot_look(live)
        elif live.kind != entry.kind or (live.kind != "folder" and not _same(live, entry)):
            self._changed.add(live.path, live.size)

    def _cannot_look(self, live: _Found) -> None:
        self._unreadable.append(live)
        self._hidden = f"{live.path}/"

    def _notes(self, *, missing: bool) -> list[str]:
        if missing:
            return [f"the media folder {self._root} is not there; mount it, or correct media.{self._name}"]
        some, more = self._unreadable[:_MOST_NOTES], len(self._unreadable) - _MOST_NOTES
        notes = [f"{_shown(each.real)} cannot be read ({each.why}) and was not compared" for each in some]
        return notes + ([f"{self._name}: {more:,} more cannot be read and were not compared"] if more > 0 else [])


def _order(path: str) -> str:
    """Sorts as the archive does: a folder, all that is in it, then its next neighbour."""
    return path.replace("/", "\0")


def _same(live: _Found, entry: Entry) -> bool:
    if live.kind == "link":
        try:
            target = os.readlink(live.real)
        except OSError:  # changed under our hands
            return False
        return hashlib.sha256(os.fsencode(target)).hexdigest() == entry.sha256
    return live.size == entry.size and abs(live.modified - entry.modified) <= _SAME_TIME_SECONDS


def _walk(root: str, name: str) -> Iterator[_Found]:
    """A folder and all below it; nothing when it is not there."""
    folders: list[tuple[str, str, Iterator[str]]] = []
    found, children = _look(root, name)
    while True:
        if found is not None:
            yield found
            if children is not None:
                folders.append((found.real, found.path, iter(children)))
        while folders and (child := next(folders[-1][2], None)) is None:
            folders.pop()
        if not folders:
            return
        real, path, _ = folders[-1]
        assert child is not None
        found, children = _look(f"{real}/{child}", f"{path}/{child}")


def _look(real: str, path: str) -> tuple[_Found | None, list[str] | None]:
    """What is there, and its sorted names when it is a folder. None for what has gone, and what backups leave out."""
    try:
        status = os.lstat(real)
        if stat.S_ISDIR(status.st_mode):
            return _Found(path, real, "folder"), sorted(os.listdir(real))
    except OSError as error:
        if error.errno in (ENOENT, ENOTDIR):
            return None, None
        return _Found(path, real, "unreadable", why=os.strerror(error.errno or 0)), None
    if stat.S_ISREG(status.st_mode):
        return _Found(path, real, "file", status.st_size, status.st_mtime), None
    return (_Found(path, real, "link"), None) if stat.S_ISLNK(status.st_mode) else (None, None)
