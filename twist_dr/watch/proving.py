"""Which scheduled full backups are verified, and so how old the newest proven one may be."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from twist_dr.catalog import BackupRow
from twist_dr.repository.labels import is_meant
from twist_dr.settings import Settings
from twist_dr.watch.schedules import entries, longest_between

#: Beyond the objective: a proof of each period is made after its first backup.
_PERIODS = {"each": timedelta(), "daily": timedelta(days=1), "weekly": timedelta(days=7)}
_GIB = 1 << 30


def proof_is_due(settings: Settings, made: BackupRow, proven: BackupRow | None) -> bool:
    """Whether the settings want ``made`` verified. ``proven``: the newest full backup that was found good."""
    if _each(settings, made.plain_bytes) or proven is None:
        return True
    zone = ZoneInfo(settings.schedules.time_zone if settings.schedules else "UTC")
    last, this = proven.started_at.astimezone(zone), made.started_at.astimezone(zone)
    if settings.verification.when == "daily":
        return last.date() != this.date()
    return last.isocalendar()[:2] != this.isocalendar()[:2]


def allowed_age(settings: Settings, full_backups: Iterable[BackupRow], now: datetime) -> timedelta:
    """How old the newest verified recovery point may be.

    The objective; and the period of ``verification.when`` longer where a younger full backup, whole as far as a target's checked bytes
    tell, waits for its turn to be verified. One that was found bad is none.
    """
    objective = settings.objectives.recovery_point
    newest = next((row for row in full_backups if is_meant(row.label, None) and "database" in row.parts), None)
    if newest is None or _each(settings, newest.plain_bytes) or newest.last_verification is not None:
        return objective
    checked = any(copy.state == "checked" and copy.target in settings.enabled_targets for copy in newest.copies)
    return (
        objective + _PERIODS[settings.verification.when]
        if checked and now - newest.started_at <= objective
        else objective
    )


def allowed_media_age(settings: Settings, now: datetime) -> timedelta | None:
    """How old the newest verified backup with media may be. None where there are no media, or neither objective nor schedule says it."""
    if settings.objectives.media is not None or not settings.media:
        return settings.objectives.media if settings.media else None
    between = [longest_between(entry, now) for entry in entries(settings) if entry.takes_media]
    return 2 * min(between) + _PERIODS[settings.verification.when] if between else None


def _each(settings: Settings, plain_bytes: int) -> bool:
    wanted = settings.verification
    below = wanted.each_below_gib
    return wanted.when == "each" or (below is not None and plain_bytes < below * _GIB)
