"""When what the settings schedule is due. Plain: the orchestrator launches, others ask whether it did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone, tzinfo
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from twist_dr.repository.kinds import BASE, KINDS
from twist_dr.repository.manifest import Label
from twist_dr.settings import Settings
from twist_dr.settings.scheduling import FullSchedule, ScheduleKind

if TYPE_CHECKING:
    from cronsim import CronSim

_JOBS: dict[str, str] = {
    **{kind: spec.job for kind, spec in KINDS.items()},
    "drill": "drill",
    "scrub": "scrub",
    "test_targets": "test_storage_targets",
}
#: More than any clock is put forward or back at once.
_CHANGE = timedelta(hours=4)
#: Hours in which Dagster looks whether a clock is put forward or back (dagster/_utils/schedules.py, DAYLIGHT_SAVINGS_HOURS).
_NIGHT = frozenset({1, 2, 3})
#: How far is looked at first: what is due each minute has few due times in it. Each further look is four times as long.
_FIRST_LOOK, _LONGEST_LOOK = timedelta(hours=2), timedelta(days=60 * 366)


@dataclass(frozen=True)
class ScheduleEntry:
    """One schedule: ``job`` is launched whenever ``cron`` says so in ``time_zone``.

    ``own_name`` tells one of several of a kind from the others. ``label``: None where the calendar says it. ``told``: of the job's run config, all but
    the label.
    """

    kind: ScheduleKind
    job: str
    cron: str
    time_zone: str
    own_name: str = ""
    label: Label | None = None
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Unlike that of any other."""
        return f"{self.kind}_{self.own_name}" if self.own_name else self.kind

    @property
    def place(self) -> str:
        """Where it stands in the settings."""
        return f"schedules.{self.kind}{f' ({self.own_name})' if self.own_name else ''}"

    @property
    def schedule(self) -> str:
        """Its name in the orchestrator."""
        return f"{self.name}_schedule"

    @property
    def launcher(self) -> str:
        """Who launched its runs, as the catalog says it."""
        return f"schedule {self.schedule}"

    @property
    def takes_media(self) -> bool:
        return self.kind == "full" and "media" in self.told.get("parts", ("media",))


def entries(settings: Settings) -> list[ScheduleEntry]:
    """The schedules that the settings have; none without the section. ``tenants`` is reserved, and none of them."""
    wanted = settings.schedules
    if wanted is None:
        return []
    # The calendar labels those of one schedule, the first that takes everything: a month has one monthly backup.
    by_calendar = next((each for each in wanted.full if each.is_whole and each.label is None), None)
    found = []
    for kind, each in wanted.several():
        label: Label | None = getattr(each, "label", None)
        if isinstance(each, FullSchedule) and label is None and each is not by_calendar:
            label = "scheduled" if each.is_whole else "manual"
        found.append(ScheduleEntry(kind, _JOBS[kind], each.cron, wanted.time_zone, each.own_name, label, each.told))
    return found if settings.wal is not None else [each for each in found if each.kind != BASE.kind]


def media_differ(settings: Settings) -> bool:
    """Whether some scheduled full backups have media and others have not: then one does not stand for the other."""
    return len({entry.takes_media for entry in entries(settings) if entry.kind == "full"}) > 1


def several_of_a_job(settings: Settings) -> list[ScheduleEntry]:
    """Those whose job has more than one schedule."""
    found = entries(settings)
    jobs = [entry.job for entry in found]
    return [entry for entry in found if jobs.count(entry.job) > 1]


def last_due(entry: ScheduleEntry, now: datetime) -> datetime | None:
    """When it was due last, UTC: ``now`` at the latest. None when that is more than fifty years ago."""
    return next(dues_before(entry, now), None)


def dues_before(entry: ScheduleEntry, now: datetime) -> Iterator[datetime]:
    """When it was due, UTC, newest first, from ``now`` back for more than fifty years."""
    end, span = now, _FIRST_LOOK
    while span < _LONGEST_LOOK:
        # Both ends are looked at whole, so that no due time falls between two looks.
        yield from reversed(_between(entry, end - span, end))
        end, span = end - span, 4 * span


def next_due(entry: ScheduleEntry, now: datetime) -> datetime | None:
    """When it is due next, UTC, after ``now``. None when that is more than fifty years away."""
    start, span = now, _FIRST_LOOK
    while span < _LONGEST_LOOK:
        if found := _between(entry, start, start + span):
            return found[0]
        start, span = start + span, 4 * span
    return None


def period(entry: ScheduleEntry, now: datetime) -> timedelta:
    """The time between its last and its next due time."""
    last, following = last_due(entry, now), next_due(entry, now)
    if last is None or following is None:
        return timedelta(days=366)
    return following - last


def longest_between(entry: ScheduleEntry, now: datetime) -> timedelta:
    """The longer of the time between its last two due times and its :func:`period`: a weekend goes on until its end was seen."""
    dues = list(islice(dues_before(entry, now), 2))
    return max(period(entry, now), dues[0] - dues[1] if len(dues) > 1 else timedelta())


def label_of(entry: ScheduleEntry, due: datetime) -> Label:
    """What a scheduled backup is labelled: the first full one of a month ``monthly``, of a week (ISO 8601) ``weekly``, by the schedule's own calendar."""
    if entry.kind != "full" or entry.label is not None:
        return entry.label or "scheduled"
    zone = ZoneInfo(entry.time_zone)
    today = due.astimezone(zone)
    before = last_due(entry, due - timedelta(seconds=1))
    earlier = before.astimezone(zone) if before is not None else datetime.min
    if (earlier.year, earlier.month) != (today.year, today.month):
        return "monthly"
    return "scheduled" if earlier.isocalendar()[:2] == today.isocalendar()[:2] else "weekly"


# -- as the orchestrator launches ---------------------------------------------------------------------------------------


def _between(entry: ScheduleEntry, after: datetime, until: datetime) -> list[datetime]:
    """When it is due, UTC, later than ``after`` and not later than ``until``; in order."""
    from cronsim import CronSim

    zone: tzinfo = ZoneInfo(entry.time_zone)
    cron = CronSim(_as_orchestrator_reads(entry.cron), _clock(after, zone) - _CHANGE)
    if _is_hourly(cron) and not datetime.now(zone).utcoffset() % timedelta(hours=1):  # type: ignore[operator]
        zone = timezone.utc
        cron.dt = _clock(after, zone)
    end = _clock(until, zone) + _CHANGE
    found: list[datetime] = []
    for wall in takewhile(lambda wall: wall <= end, cron):
        moments = [moment.astimezone(timezone.utc) for moment in _moments(cron, wall, zone)]
        # Where a clock was put forward, a later time of it may come earlier; it is not gone back to.
        found += moments if _every_hour(cron) else [each for each in moments if not found or each > found[-1]]
    return sorted(moment for moment in set(found) if after < moment <= until)


def _clock(moment: datetime, zone: tzinfo) -> datetime:
    return moment.astimezone(zone).replace(microsecond=0, tzinfo=None)


def _as_orchestrator_reads(cron: str) -> str:
    """Of day and weekday either suffices, but where one is any: ``*/2`` is not any day, as it would be to Debian's cron, which CronSim follows."""
    minute, hour, day, month, weekday = cron.split()
    return " ".join((minute, hour, day.replace("*/", "1-31/"), month, weekday.replace("*/", "0-6/")))


def _moments(cron: CronSim, wall: datetime, zone: tzinfo) -> Iterator[datetime]:
    """The moments at which it is due that the clock shows as ``wall``, by the rules of Dagster's iterator (dagster/_utils/schedules.py)."""
    moment = wall.replace(tzinfo=zone)
    exists = moment.astimezone(timezone.utc).astimezone(zone).replace(tzinfo=None) == wall
    if _every_hour(cron):
        # Each hour that passes counts, and no other.
        yield from _both(moment) if exists else ()
        return
    if not exists and wall.hour in _NIGHT:
        moment = moment.replace(minute=0) + (zone.dst(moment + timedelta(hours=1)) or timedelta())
        late = _once_a_day(cron) and moment.hour in _NIGHT
    else:
        late = exists and (wall.hour in _NIGHT or not _once_a_day(cron))
    yield _both(moment)[-1] if late else moment


def _both(moment: datetime) -> list[datetime]:
    """The moment, and where the clock shows it twice the second one; where it is never shown, by the clock before and by the one after."""
    second = moment.replace(fold=1)
    return [moment] if moment.utcoffset() == second.utcoffset() else [moment, second]


def _every_hour(cron: CronSim) -> bool:
    return len(cron.hours) == 24


def _is_hourly(cron: CronSim) -> bool:
    """Whether only its minutes are chosen: it is then launched by the minutes of UTC, where the zone's hours begin with those of UTC today."""
    return len(cron.minutes) < 60 and _every_hour(cron) and _any_month(cron) and _any_day(cron) and _any_weekday(cron)


def _once_a_day(cron: CronSim) -> bool:
    """Whether it is one of daily, weekly and monthly, which Dagster has rules of its own for."""
    if len(cron.minutes) != 1 or len(cron.hours) != 1 or not _any_month(cron):
        return False
    if _any_day(cron):
        return all(isinstance(each, int) for each in cron.weekdays)
    return len(cron.days) == 1 and 1 <= min(cron.days) <= 28 and _any_weekday(cron)


def _any_month(cron: CronSim) -> bool:
    return len(cron.months) == 12


def _any_day(cron: CronSim) -> bool:
    return len(cron.days) == 31


def _any_weekday(cron: CronSim) -> bool:
    return cron.weekdays >= set(range(7))
