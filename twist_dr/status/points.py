"""The recovery point, as the alert rules know it."""

from __future__ import annotations

from datetime import datetime

from twist_dr.alerts.facts import Facts
from twist_dr.alerts.points import newest_point
from twist_dr.settings import Settings
from twist_dr.status.model import RecoveryPoint


def recovery_point(facts: Facts, settings: Settings, now: datetime) -> RecoveryPoint | None:
    """The newest state that is proven to be recoverable; one rule says so here and in the alerts."""
    point = newest_point(facts, settings, now)
    if point is None:
        return None
    age = max(0.0, (now - point.at).total_seconds())
    return RecoveryPoint(point.at, age, point.backup_id, point.through, point.targets)
