"""The recovery point: the newest state that is proven to be recoverable from an enabled storage target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from twist_dr.catalog import BackupRow
from twist_dr.repository.labels import BEFORE_A_CHANGE, is_meant
from twist_dr.settings import Settings
from twist_dr.wal.archived import gaps_after
from twist_dr.watch.alerts.facts import SKEW, Facts


@dataclass(frozen=True)
class Point:
    """A state of the application at ``at``, to which a verified backup leads back, with WAL where ``through`` says so."""

    at: datetime
    backup_id: str
    through: Literal["backup", "wal"]
    targets: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.backup_id}{' and write-ahead log' if self.through == 'wal' else ''} on {', '.join(self.targets)}"


def newest_point(facts: Facts, settings: Settings, now: datetime, *, lasting: bool = False) -> Point | None:
    """The newest one: a verified full backup with the database in it, or WAL over a verified base backup.

    ``lasting``: of those that a retention keeps as a night's, not for a while as what was there before an update.
    """
    return max(_points(facts, settings, now, lasting), key=lambda point: point.at, default=None)


def newest_media(facts: Facts, settings: Settings) -> Point | None:
    """The newest verified full backup with media in it."""
    rows = [*facts.backups.get("full", ()), *([facts.verified_media] if facts.verified_media else [])]
    row = next((row for row in rows if "media" in row.parts and is_proven(row, settings)), None)
    return Point(row.started_at, row.backup_id, "backup", good_on(row, settings)) if row else None


def set_aside(facts: Facts) -> tuple[str, ...]:
    """Ids of verified backups that do not count, newest first: they hold what restores were about to replace."""
    return tuple(
        row.backup_id
        for row in facts.backups.get("full", ())
        if not is_meant(row.label, None) and row.last_verification is not None and row.last_verification.verified
    )


def _points(facts: Facts, settings: Settings, now: datetime, lasting: bool) -> Iterator[Point]:
    for row in [*facts.backups.get("full", ()), *([facts.verified] if facts.verified else [])]:
        if lasting and row.label in BEFORE_A_CHANGE:
            continue
        if is_proven(row, settings) and "database" in row.parts:
            yield Point(row.started_at, row.backup_id, "backup", good_on(row, settings))
    # A verification of a base replays WAL over its whole chain, so the newest proven one is the one to start from.
    bases = [*facts.backups.get("base", ()), *([facts.verified_base] if facts.verified_base else [])]
    base = next((row for row in bases if is_proven(row, settings) and _was_counted(facts, row)), None)
    if base is None:
        return
    whole = facts.chain_on.get(base.backup_id, frozenset(good_on(base, settings)))
    if whole:
        yield Point(base.started_at, base.backup_id, "backup", tuple(sorted(whole)))
    reached = {name: at for name in sorted(whole) if (at := _reached(facts, base, name)) and at <= now + SKEW}
    if reached:
        furthest = max(reached.values())
        yield Point(furthest, base.backup_id, "wal", tuple(name for name, at in reached.items() if at == furthest))


def _was_counted(facts: Facts, row: BackupRow) -> bool:
    """Whether a base backup's rows were counted: earlier versions called those verified, too, that were compared with nothing.

    One whose manifest the catalog cannot read is not known to be.
    """
    known = facts.bases.get(row.backup_id)
    return known is not None and known.counted


def is_proven(row: BackupRow, settings: Settings) -> bool:
    """Whether it counts by itself, its last verification found it good, and an enabled target has a checked copy of it."""
    proof = row.last_verification
    return is_meant(row.label, None) and proof is not None and proof.verified and bool(good_on(row, settings))


def good_on(row: BackupRow, settings: Settings) -> tuple[str, ...]:
    """The enabled targets that have a checked copy."""
    return tuple(
        copy.target for copy in row.copies if copy.state == "checked" and copy.target in settings.enabled_targets
    )


def _reached(facts: Facts, row: BackupRow, target: str) -> datetime | None:
    """Up to when a target's archive leads from a base backup."""
    position, base = facts.positions.get(target), facts.bases.get(row.backup_id)
    if position is None or base is None or position.system_identifier != base.system_identifier:
        return None
    return None if gaps_after(position.gaps, base.start_lsn) else position.at
