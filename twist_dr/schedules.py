"""When what the settings schedule is due. Plain: the orchestrator launches, others ask whether it did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Literal
from zoneinfo import ZoneInfo

from twist_dr.engine.manifest import Label
from twist_dr.settings import Settings

EntryName = Literal["full", "configuration", "base", "base_incremental", "drill", "scrub"]

_JOBS: dict[EntryName, str] = {
    "full": "backup_full",
    "configuration": "backup_configuration",
    "base": "backup_base",
    "base_incremental": "backup_base",
    "drill": "drill",
    "scrub": "scrub",
}
#: Those that only a database with archived write-ahead log has.
_WITH_WAL: frozenset[EntryName] = frozenset({"base", "base_incremental"})
#: More than any clock is put forward or back for summer.
_SUMMER = timedelta(hours=3)


@dataclass(frozen=True)
class Entry:
    """One schedule: ``job`` is launched whenever ``cron`` says so in ``time_zone``."""

    name: EntryName
    job: str
    cron: str
    time_zone: str

    @property
    def schedule(self) -> str:
        """Its name in the orchestrator."""
        return f"{self.name}_schedule"

    @property
    def launcher(self) -> str:
        """Who launched its runs, as the catalog says it."""
        return f"schedule {self.schedule}"


def entries(settings: Settings) -> list[Entry]:
    """The schedules that the settings have; none without the section. ``tenants`` is reserved, and none of them."""
    wanted = settings.schedules
    if wanted is None:
        return []
    crons: dict[EntryName, str | None] = {
        "full": wanted.full,
        "configuration": wanted.configuration,
        "base": wanted.base,
        "base_incremental": wanted.base_incremental,
        "drill": wanted.drill,
        "scrub": wanted.scrub,
    }
    return [
        Entry(name, _JOBS[name], cron, wanted.time_zone)
        for name, cron in crons.items()
        if cron is not None and (settings.wal is not None or name not in _WITH_WAL)
    ]


def last_due(entry: Entry, now: datetime) -> datetime | None:
    """When it was due last, UTC: ``now`` at the latest. None when that is more than fifty years ago."""
    return next((due for due in _walk(entry, now + _SUMMER, back=True) if due <= now), None)


def dues_before(entry: Entry, now: datetime) -> Iterator[datetime]:
    """When it was due, UTC, newest first, from ``now`` back; without an end."""
    return (due for due in _walk(entry, now + _SUMMER, back=True) if due <= now)


def next_due(entry: Entry, now: datetime) -> datetime | None:
    """When it is due next, UTC, after ``now``. None when that is more than fifty years away."""
    return next((due for due in _walk(entry, now - _SUMMER, back=False) if due > now), None)


def period(entry: Entry, now: datetime) -> timedelta:
    """The time between its last and its next due time."""
    last, following = last_due(entry, now), next_due(entry, now)
    if last is None or following is None:
        return timedelta(days=366)
    return following - last


def label_of(entry: Entry, due: datetime) -> Label:
    """What a scheduled backup is labelled: the first full one of a month ``monthly``, of a week (ISO 8601) ``weekly``, by the schedule's own calendar."""
    if entry.name != "full":
        return "scheduled"
    zone = ZoneInfo(entry.time_zone)
    today = due.astimezone(zone)
    before = last_due(entry, due - timedelta(seconds=1))
    earlier = before.astimezone(zone) if before is not None else datetime.min
    if (earlier.year, earlier.month) != (today.year, today.month):
        return "monthly"
    return "scheduled" if earlier.isocalendar()[:2] == today.isocalendar()[:2] else "weekly"


def _walk(entry: Entry, start: datetime, *, back: bool) -> Iterator[datetime]:
    from cronsim import CronSim

    zone = ZoneInfo(entry.time_zone)
    minutes, hours = entry.cron.split()[:2]
    fixed = not minutes.startswith("*") and not hours.startswith("*")
    for due in CronSim(entry.cron, start.astimezone(zone).replace(microsecond=0), reverse=back):
        # An hour that comes twice: Dagster launches in the second one, CronSim names the first.
        yield (due.replace(fold=1) if fixed else due).astimezone(timezone.utc)
