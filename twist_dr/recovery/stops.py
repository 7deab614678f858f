"""A stop, once it is known: what PostgreSQL has to read for it, what was last before it, and what comes after it and would be lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from twist_dr.backup.base.summary import PlannedBase
from twist_dr.postgres.lsn import format_lsn
from twist_dr.recovery.coverage import Stretch
from twist_dr.recovery.ground import ClusterArchive
from twist_dr.recovery.lineage import Lineage, start_of, stop_of
from twist_dr.recovery.reader import Reader
from twist_dr.recovery.scan import Ending, WalRecord
from twist_dr.recovery.search import endings_from, last_ending


@dataclass(frozen=True)
class Stop:
    """Where replay ends: behind the record that begins at ``lsn`` (``inclusive``), or before the first one at or behind it."""

    lsn: int
    inclusive: bool


@dataclass(frozen=True)
class Lost:
    """What was committed after the stop, as far as the archive tells: ``at_least`` when not all of it was looked at.

    ``since`` and ``until``: times of the first and the last of these transactions.
    """

    transactions: int
    since: datetime | None
    until: datetime | None
    wal_bytes: int
    at_least: bool


@dataclass(frozen=True)
class Resolved:
    """``end_lsn``: the end of the last record replayed. ``read_until``: PostgreSQL must read so far to know that it is to stop.

    ``noted_at``: what ``pg_last_xact_replay_timestamp()`` will say there. PostgreSQL does not note the time of the very record
    that it stops behind (recoveryStopsAfter in xlogrecovery.c), nor of what lies before the base. None when that is not known.
    """

    lineage: Lineage
    stretch: Stretch
    base: PlannedBase
    stop: Stop
    end_lsn: int
    read_until: int
    last_commit_at: datetime | None
    noted_at: datetime | None
    lost: Lost
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Looked:
    """A stretch that is looked into: on which line it lies, and who reads its WAL."""

    ground: ClusterArchive
    lineage: Lineage
    stretch: Stretch
    reader: Reader

    @property
    def end(self) -> int:
        """The LSN up to which there is WAL."""
        return self.stretch.run.end

    def known_until(self) -> datetime | None:
        """The latest moment that is known of what is there."""
        last = last_ending(self.reader, self.end)
        return max((at for at in (self.stretch.claim, last.at if last else None) if at is not None), default=None)

    def inclusive(self, base: PlannedBase, record: WalRecord, warnings: tuple[str, ...]) -> Resolved:
        """A stop behind a record."""
        end, behind = record.end(self.ground.size), record.lsn + 1
        last, noted = last_ending(self.reader, behind), last_ending(self.reader, record.lsn)
        return self._resolved(base, Stop(record.lsn, True), end, end, behind, last, noted, warnings)

    def exclusive(self, base: PlannedBase, lsn: int, warnings: tuple[str, ...]) -> Resolved:
        """A stop before the first record at ``lsn`` or behind. PostgreSQL must read that one whole to know it."""
        following, record = self.reader.record_from(lsn), self.reader.record_before(lsn)
        assert following is not None
        size = self.ground.size
        if record is None or record.end(size) < stop_of(base):
            raise self.ground.refusal(f"{format_lsn(lsn)} is before {base.backup_id} is consistent.")
        last, read_until = last_ending(self.reader, following.lsn), following.end(size)
        return self._resolved(base, Stop(lsn, False), record.end(size), read_until, following.lsn, last, last, warnings)

    def _resolved(
        self, base: PlannedBase, stop: Stop, end: int, read_until: int, behind: int, last: Ending | None, noted: Ending | None,
        warnings: tuple[str, ...],
    ) -> Resolved:  # fmt: skip
        return Resolved(
            self.lineage,
            self.stretch,
            base,
            stop,
            end,
            read_until,
            last_commit_at=last.at if last else None,
            noted_at=noted.at if noted is not None and noted.lsn >= start_of(base) else None,
            lost=self._lost(behind, end),
            warnings=warnings,
        )

    def _lost(self, lsn: int, end: int) -> Lost:
        unseen = self.ground.gap(self.lineage, self.stretch.run) or self.ground.more_elsewhere()
        if lsn >= self.end:
            return Lost(0, None, None, 0, unseen)
        endings, all_seen = endings_from(self.reader, lsn)
        lost = [ending.at for ending in endings if ending.committed]
        first, last = (lost[0], lost[-1]) if lost else (None, None)
        return Lost(len(lost), first, last, max(0, self.end - end), not all_seen or unseen)


@contextmanager
def looked_into(ground: ClusterArchive, lineage: Lineage, stretch: Stretch) -> Iterator[Looked]:
    """A stretch, readable while the block lasts."""
    with ground.reader(lineage, stretch.run) as reader:
        yield Looked(ground, lineage, stretch, reader)
