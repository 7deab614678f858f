"""The impact: what the live database and media have that a backup has not, and a restore would take away; and how it is told.

It is found in ``impact_database`` and ``impact_media``. They only tell. Nothing is written, and what cannot be compared is named
in a note and stops nothing: a live system that is damaged or locked up is what restores are for.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timezone

from twist_dr.errors import Cancelled
from twist_dr.postgres.changes import Changes
from twist_dr.postgres.schema_changes import SchemaChange, What
from twist_dr.redaction import one_line
from twist_dr.repository.table_names import TableName
from twist_dr.restore.schema_difference import SchemaDifference
from twist_dr.system.progress import human_bytes, human_seconds
from twist_dr.system.words import counted, few, unmarked

#: Nobody reads the two hundred and first row on a run's page.
_MOST_ROWS = 200


@dataclass(frozen=True)
class TableImpact:
    """One table. ``newest`` is the latest time in ``newest_column`` now; without a zone where the column has none.

    ``rows_now`` is None for a table that is gone from the live database, ``rows_then`` for one that the backup lacks.
    ``newer_rows`` have a time later than the backup's snapshot; None where no column tells. ``changes``: what the server counted since; None where
    nobody can tell.
    """

    table: TableName
    rows_now: int | None
    rows_then: int | None
    estimated: bool = False
    newest_column: str | None = None
    newest: datetime | date | None = None
    newer_rows: int | None = None
    changes: Changes | None = None

    @property
    def label(self) -> str:
        return self.table.label

    @property
    def newer(self) -> int:
        """Rows that a restore would take away, as far as one can tell: newer ones, or as many as there are more."""
        grown = 0 if self.estimated and self.rows_then is not None else (self.rows_now or 0) - (self.rows_then or 0)
        return max(grown, self.newer_rows or 0, self._at_most(self.changes.inserted) if self.changes else 0)

    @property
    def updated(self) -> int:
        """Rows that a restore would put back to what they were, at most."""
        return self._at_most(self.changes.updated) if self.changes else 0

    @property
    def difference(self) -> int:
        """How much it is another table now, in rows: what differs most is told first."""
        fewer = 0 if self.estimated else (self.rows_then or 0) - (self.rows_now or 0)
        return max(self.newer, self.updated, fewer, self.changes.deleted if self.changes else 0)

    @property
    def differs(self) -> bool:
        """Whether something shows that it is not what the backup has. An estimate alone shows nothing."""
        if self.rows_now is None or self.rows_then is None or self.newer_rows or (self.changes and any(self.changes)):
            return True
        return not self.estimated and self.rows_now != self.rows_then

    def _at_most(self, changes: int) -> int:
        """Rows that so many changes made: one row may have had many, and may be gone."""
        return min(changes, self.rows_now or 0)


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
    """All of it. Times in UTC; ``taken_at`` is when it was looked at, ``snapshot_at`` when the backup was; ``backup``: its id and label for people;
    ``schema``: what differs from the backup's to the live one, None where nobody asked."""

    taken_at: datetime
    snapshot_at: datetime
    tables: list[TableImpact]
    media: list[MediaImpact]
    notes: list[str] = field(default_factory=list)
    backup: str = "the backup"
    schema: SchemaDifference | None = None

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
            rows = counted(sum(table.newer for table in differing), "row")
            updated = sum(table.updated for table in differing)
            also = f", about {updated:,} updated since" if updated else ""
            parts.append(f"{counted(len(differing), 'table')} {verb}: {rows} newer than {backup}{also}")
        elif self.tables:
            parts.append(f"no table shows a difference from {backup}")
        if self.schema is not None and self.schema.unknown is None:
            parts.append(_schema_sentence(self.schema.changes))
        if self.media:
            parts.append(self._media_sentence())
        if not parts:
            parts.append(f"nothing was compared with {backup}")
        if notes := self.all_notes:
            parts.append(f"see the {counted(len(notes), 'note')}")
        return "; ".join(parts)

    def _media_sentence(self) -> str:
        counts = [
            (sum(folder.gone.count for folder in self.media), "would go"),
            (sum(folder.changed.count for folder in self.media), "would change back"),
            (sum(folder.back.count for folder in self.media), "would come back"),
        ]
        (first, what), *others = [each for each in counts if each[0]] or [(0, "would change")]
        return ", ".join([f"{counted(first, 'media file')} {what}", *(f"{count:,} {what}" for count, what in others)])

    def markdown(self) -> str:
        """For the run's page, in GitHub's flavour."""
        sentence = self.summary()
        blocks = [
            f"From {unmarked(self.backup)}, {human_seconds(self.age_seconds)} old. The backup is of {_time(self.snapshot_at)}.",
            f"{sentence[0].upper()}{sentence[1:]}.",
        ]
        if self.tables:
            blocks += _tables_markdown(self.tables)
        if self.schema is not None and self.schema.changes:
            blocks += _schema_markdown(self.schema.changes)
        if self.media:
            blocks += _media_markdown(self.media)
        if notes := self.all_notes:
            blocks.append("\n".join(f"- {unmarked(note)}" for note in notes))
        return "\n\n".join(blocks) + "\n"


def _tables_markdown(tables: Sequence[TableImpact]) -> list[str]:
    differing = sorted((t for t in tables if t.differs), key=lambda each: (-each.difference, each.table))
    same = [table for table in tables if not table.differs]
    shown = differing + [table for table in same if table.estimated]
    blocks = []
    if shown:
        lines = [
            "| table | rows in the backup | rows now | inserted | updated | deleted | newer rows | newest | by column |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |",
            *map(_table_line, shown[:_MOST_ROWS]),
        ]
        blocks.append("\n".join(lines))
    if any(table.changes for table in differing):
        blocks.append("Inserted, updated, deleted: about, as the server counted since the backup.")
    if len(shown) > _MOST_ROWS:
        blocks.append(f"and {counted(len(shown) - _MOST_ROWS, 'more table')} like these.")
    if counted_same := [table for table in same if not table.estimated]:
        shows = "that was changed" if all(table.changes for table in counted_same) else "that shows to be newer"
        blocks.append(f"{counted(len(counted_same), 'table')} with as many rows as in the backup, and none {shows}.")
    return blocks


def _table_line(table: TableImpact) -> str:
    now = "no such table" if table.rows_now is None else f"{'about ' * table.estimated}{table.rows_now:,}"
    then = "no such table" if table.rows_then is None else f"{table.rows_then:,}"
    changes = ["", "", ""] if table.changes is None else [f"{count:,}" for count in table.changes]
    newer = "" if table.newer_rows is None else f"{table.newer_rows:,}"
    newest = "" if table.newest is None else _time(table.newest)
    column = "" if table.newest_column is None else _code(table.newest_column)
    return f"| {' | '.join([_code(table.label), then, now, *changes, newer, newest, column])} |"


#: What a restore does to that which came, went or changed since the backup.
_BY_A_RESTORE: Mapping[What, str] = {"came": "would go", "went": "would come back", "changed": "would change back"}


def _schema_sentence(changes: Sequence[SchemaChange]) -> str:
    """``in the schema 2 would go (column public.a.b, index public.c), 1 would come back (view public.v)``."""
    told = []
    for what, by_a_restore in _BY_A_RESTORE.items():
        if names := [f"{each.kind} {each.name}" for each in changes if each.what == what]:
            told.append(f"{len(names):,} {by_a_restore} ({few(names)})")
    return f"in the schema {', '.join(told)}" if told else "the schema is the same"


def _schema_markdown(changes: Sequence[SchemaChange]) -> list[str]:
    lines = ["| schema | | in the backup | now |", "| --- | --- | --- | --- |"]
    for each in changes[:_MOST_ROWS]:
        cells = [_code(text) if text else "" for text in (each.before, each.after)]
        lines.append(f"| {_code(f'{each.kind} {each.name}')} | {_BY_A_RESTORE[each.what]} | {' | '.join(cells)} |")
    more = len(changes) - _MOST_ROWS
    return ["\n".join(lines), *([f"and {more:,} more like these, all of them in schema."] if more > 0 else [])]


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


def _code(name: str) -> str:
    """A name between backticks, also inside a table; names may hold whatever people and attackers put into them."""
    fence = "`" * (1 + max(map(len, re.findall("`+", name)), default=0))
    space = " " if "`" in name or name != name.strip() else ""
    return f"{fence}{space}{one_line(name)}{space}{fence}".replace("|", "\\|")


def go_on_unless(stop: threading.Event | None) -> None:
    """Raises ``Cancelled`` once ``stop`` is set."""
    if stop is not None and stop.is_set():
        raise Cancelled(
            "The comparison with the backup was stopped, and nothing was changed", remedy="start it again when you wish"
        )
