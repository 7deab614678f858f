"""A stop, once it is known: what PostgreSQL has to read for it, what was last before it, and what comes after it and would be lost."""

from __future__ import annotations

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


def inclusive(
    ground: ClusterArchive,
    lineage: Lineage,
    stretch: Stretch,
    base: PlannedBase,
    reader: Reader,
    record: WalRecord,
    warnings: tuple[str, ...],
) -> Resolved:
    """A stop behind a record."""
    end = record.end(ground.size)
    last = last_ending(reader, record.lsn + 1)
    lost = _lost(ground, lineage, stretch, reader, record.lsn + 1, end)
    noted = last_ending(reader, record.lsn)
    return Resolved(
        lineage,
        stretch,
        base,
        Stop(record.lsn, True),
        end,
        end,
        last.at if last else None,
        _noted(noted, base),
        lost,
        warnings,
    )


def exclusive(
    ground: ClusterArchive,
    lineage: Lineage,
    stretch: Stretch,
    base: PlannedBase,
    reader: Reader,
    lsn: int,
    warnings: tuple[str, ...],
) -> Resolved:
    """A stop before the first record at ``lsn`` or behind. PostgreSQL must read that one whole to know it."""
    following, record = reader.record_from(lsn), reader.record_before(lsn)
    assert following is not None
    if record is None or record.end(ground.size) < stop_of(base):
        raise ground.refusal(f"{format_lsn(lsn)} is before {base.backup_id} is consistent.")
    last = last_ending(reader, following.lsn)
    end = record.end(ground.size)
    lost = _lost(ground, lineage, stretch, reader, following.lsn, end)
    return Resolved(
        lineage,
        stretch,
        base,
        Stop(lsn, False),
        end,
        following.end(ground.size),
        last.at if last else None,
        _noted(last, base),
        lost,
        warnings,
    )


def _noted(last: Ending | None, base: PlannedBase) -> datetime | None:
    return last.at if last is not None and last.lsn >= start_of(base) else None


def _lost(ground: ClusterArchive, lineage: Lineage, stretch: Stretch, reader: Reader, lsn: int, end: int) -> Lost:
    unseen = ground.gap(lineage, stretch.run) or ground.more_elsewhere()
    if lsn >= stretch.run.end:
        return Lost(0, None, None, 0, unseen)
    endings, all_seen = endings_from(reader, lsn)
    lost: list[Ending] = [ending for ending in endings if ending.committed]
    return Lost(
        len(lost),
        lost[0].at if lost else None,
        lost[-1].at if lost else None,
        max(0, stretch.run.end - end),
        not all_seen or unseen,
    )
