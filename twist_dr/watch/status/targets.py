"""What the catalog knows of each storage target: what it holds, how it was the last time, how fast it fills."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from statistics import linear_regression
from typing import Literal

from twist_dr.catalog import SpaceRow, WalPositionRow
from twist_dr.catalog.summaries import CopyCount
from twist_dr.settings import Application
from twist_dr.watch.alerts.facts import SKEW, Facts
from twist_dr.watch.alerts.rules_targets import last_use
from twist_dr.watch.status.model import TargetStatus, TargetWal

#: Backups whose copies tell how a target is.
_RECENT = 20
#: Over which growth is reckoned, and the least that it takes.
_TREND = timedelta(days=30)
_LEAST_TREND = timedelta(days=1)
_DAY = 86400.0
#: Days up to which a line through a month is told as a forecast: five years, in which disks are replaced and habits change. Later is "not soon".
_FARTHEST = 5 * 365.0


def target_statuses(app: Application, facts: Facts, now: datetime) -> tuple[TargetStatus, ...]:
    """All targets of the settings, in their order."""
    counts: dict[str, dict[str, CopyCount]] = defaultdict(dict)
    for each in app.catalog.copy_counts(app.name):
        counts[each.target][each.state] = each
    return tuple(_target(app, facts, name, counts[name], now) for name in app.settings.storage_targets)


def _target(
    app: Application,
    facts: Facts,
    name: str,
    counts: Mapping[str, CopyCount],
    now: datetime,
) -> TargetStatus:
    target = app.settings.storage_targets[name]
    objective = target.objective or app.settings.objectives.recovery_point
    newest = facts.checked.get(name)
    samples = app.catalog.space(name, since=now - _TREND)
    held = [counts[state] for state in ("stored", "checked") if state in counts]
    used = sum(each.stored_bytes for each in held)
    position = facts.positions.get(name)
    state, because = _state(facts, name)
    if newest is None and not samples:
        rate = None
    else:
        rate = growth(samples)
        if rate is None and newest is not None:
            rate = app.catalog.stored_since(app.name, name, now - _TREND) / (_TREND.total_seconds() / _DAY)
    latest = samples[-1] if samples else None
    free = latest.free if latest else None
    return TargetStatus(
        name=name,
        enabled=target.enabled,
        state=state,
        because=because,
        newest_backup_id=newest.backup_id if newest else None,
        newest_at=newest.started_at if newest else None,
        age=max(0.0, (now - newest.started_at).total_seconds()) if newest else None,
        objective=objective.total_seconds() if name in app.settings.backup_targets or not target.enabled else None,
        copies=sum(each.count for each in held),
        corrupt=counts["corrupt"].count if "corrupt" in counts else 0,
        used_bytes=latest.used_bytes if latest and latest.used_bytes is not None else used,
        free=free,
        total=latest.total if latest else None,
        bytes_per_day=rate,
        days_until_full=_days_until_full(free, rate),
        oldest_checked_at=min((each.oldest_checked_at for each in held if each.oldest_checked_at), default=None),
        wal=_wal(position, now, app.settings.wal_every(name).total_seconds())
        if app.settings.wal and target.wal
        else None,
    )


def _days_until_full(free: int | None, rate: float | None) -> float | None:
    """None where it does not fill, or so slowly that nobody can say when it is full."""
    if free is None or rate is None or free > rate * _FARTHEST:
        return None
    return free / rate if rate > 0 else None


def growth(samples: Sequence[SpaceRow]) -> float | None:
    """Bytes per day by which our objects grew, as a straight line through the samples; None when they are too few or of one day."""
    known = [(row.at, row.used_bytes) for row in samples if row.used_bytes is not None]
    if len(known) < 2 or known[-1][0] - known[0][0] < _LEAST_TREND:
        return None
    days = [(at - known[0][0]).total_seconds() / _DAY for at, _ in known]
    used = [float(bytes_) for _, bytes_ in known]
    return linear_regression(days, used).slope


def _state(facts: Facts, name: str) -> tuple[Literal["ok", "failing", "unknown"], str | None]:
    """What the last use of a target tells, as the alerts see it: a round of WAL that failed says little."""
    last = last_use(facts, name)
    if last is None:
        return "unknown", None
    return ("ok", None) if last.error is None else ("failing", last.error)


def _wal(position: WalPositionRow | None, now: datetime, every: float) -> TargetWal:
    if position is None:
        return TargetWal(None, None, None, None, (), None, every)
    # What is not committed yet cannot be there: of an archived position from the future nothing is known.
    at = position.at if position.at and position.at <= now + SKEW else None
    age = max(0.0, (now - at).total_seconds()) if at else None
    gaps = tuple(gap.sentence(position.target) for gap in position.gaps)
    return TargetWal(position.lsn, position.timeline, at, age, gaps, position.error, every)
