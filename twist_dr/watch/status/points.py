"""What can be recovered, as the alert rules know it."""

from __future__ import annotations

from datetime import datetime

from twist_dr.settings import Settings
from twist_dr.watch.alerts.facts import Facts
from twist_dr.watch.alerts.points import Point, newest_media, newest_point
from twist_dr.watch.status.model import RecoveryPoint


def recovery_point(facts: Facts, settings: Settings, now: datetime) -> RecoveryPoint | None:
    """The newest state that is proven to be recoverable; one rule says so here and in the alerts."""
    return _with_age(newest_point(facts, settings, now), now)


def media_point(facts: Facts, settings: Settings, now: datetime) -> RecoveryPoint | None:
    """The newest verified backup with media, likewise."""
    return _with_age(newest_media(facts, settings), now)


def _with_age(point: Point | None, now: datetime) -> RecoveryPoint | None:
    if point is None:
        return None
    age = max(0.0, (now - point.at).total_seconds())
    return RecoveryPoint(point.at, age, point.backup_id, point.through, point.targets)
