"""The health score: how good it is, in a number. The formula is written down in docs/status.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twist_dr.repository.kinds import DATA_KINDS
from twist_dr.system.progress import human_age

if TYPE_CHECKING:
    from twist_dr.watch.status.model import Status

#: What the parts of the score count, 100 together.
MOST = {"recovery point": 40, "storage targets": 20, "last backup": 10, "runs of 90 days": 15, "alerts": 15}
#: What an alert costs.
_COST = {"info": 0, "warning": 3, "error": 7, "critical": 15}


@dataclass(frozen=True)
class ScorePart:
    """A part of the health score: ``points`` of ``most``, and why."""

    name: str
    points: float
    most: float
    because: str


def parts(status: Status) -> Iterator[ScorePart]:
    """What the score is made of."""
    yield _recovery_point_part(status)
    enabled = [target for target in status.targets if target.enabled]
    wrong = {alert.target for alert in status.alerts if alert.state != "safe"}
    good = [target for target in enabled if not target.late and target.name not in wrong]
    yield _part(
        "storage targets",
        len(good) / len(enabled) if enabled else 0.0,
        f"{len(good)} of {len(enabled)} are good and have a copy in time",
    )
    whole = [backup for backup in status.backups if backup.kind in DATA_KINDS]
    newest = max(whole, key=lambda backup: backup.started_at, default=None)
    if newest is None:
        yield _part("last backup", 0.0, "there is none")
    else:
        sound = newest.complete and newest.verified is not False
        yield _part(
            "last backup", float(sound), f"{newest.backup_id} is {'complete' if sound else 'incomplete or not good'}"
        )
    rate = status.success_rate
    yield _part("runs of 90 days", rate or 0.0, "none ended" if rate is None else f"{rate:.1%} succeeded")
    most = MOST["alerts"]
    cost = min(most, sum(_COST[alert.severity] for alert in status.alerts))
    yield _part("alerts", 1 - cost / most, f"{len(status.alerts)} active" if status.alerts else "none")


def _recovery_point_part(status: Status) -> ScorePart:
    point, objective = status.recovery_point, status.recovery_point_objective
    if point is None:
        return _part("recovery point", 0.0, "there is none")
    # All of it within the objective, nothing from twice the objective on.
    over = point.age / objective - 1 if objective else float(point.age > 0)
    return _part(
        "recovery point", min(1.0, max(0.0, 1 - over)), f"{human_age(point.age)} old, objective {human_age(objective)}"
    )


def _part(name: str, fraction: float, because: str) -> ScorePart:
    return ScorePart(name, round(MOST[name] * fraction, 1), MOST[name], because)
