"""How old an asset may be, shown on its page. Alerts go by what can be recovered, not by these: see ``twist_dr.watch.alerts``."""

from __future__ import annotations

from datetime import timedelta

import dagster as dg

from twist_dr.repository.kinds import KindSpec
from twist_dr.settings import Settings

#: Dagster takes no shorter window.
_SHORTEST = timedelta(minutes=1)


def fresh_within(objective: timedelta) -> dg.FreshnessPolicy:
    """Materialized within ``objective``; a warning when three quarters of it are over."""
    window = max(objective, _SHORTEST)
    warn = window * 0.75
    return dg.FreshnessPolicy.time_window(fail_window=window, warn_window=warn if warn >= _SHORTEST else None)


def window_of(settings: Settings, kind: KindSpec, target: str | None = None) -> timedelta:
    """How old the newest backup of a kind may be, or its copy on a target. Promises are made of full backups; the rest goes by its schedule."""
    objective = settings.storage_targets[target].objective if target else None
    return kind.max_age or objective or settings.objectives.recovery_point
