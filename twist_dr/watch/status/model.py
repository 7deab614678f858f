"""What a status is made of: plain values. Times are UTC, ages and durations seconds, sizes bytes; None where something is not known."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime
from functools import cached_property
from typing import Any, Literal

from twist_dr.catalog.notes import Drilled, HistorySize, Note
from twist_dr.repository.manifest import Kind, Label, Proved
from twist_dr.system.severity import Severity
from twist_dr.watch.alerts.rules_common import STATES, SafetyState
from twist_dr.watch.status.score import ScorePart, parts

#: No number may say otherwise than the state does.
_HIGHEST: dict[SafetyState, int] = {"safe": 100, "degraded": 89, "unsafe": 49}


@dataclass(frozen=True)
class Reason:
    """Why something is not safe, in a sentence."""

    state: SafetyState
    text: str


@dataclass(frozen=True)
class BackupStatus:
    """The newest backup of a kind. ``copies``: their states by target."""

    backup_id: str
    kind: Kind
    label: Label
    started_at: datetime
    age: float
    seconds: float
    plain_bytes: int
    copies: dict[str, str]
    complete: bool
    verified: bool | None
    run_id: str | None = None


@dataclass(frozen=True)
class RecoveryPoint:
    """The newest state of the application that a verified backup, with WAL where ``through`` says so, leads back to."""

    at: datetime
    age: float
    backup_id: str
    through: Literal["backup", "wal"]
    targets: tuple[str, ...]


@dataclass(frozen=True)
class VerificationStatus:
    """The newest verified backup: when it was taken, when and from where it was proven, how long its database took to restore."""

    backup_id: str
    started_at: datetime
    age: float
    verified_at: datetime
    target: str
    restore_seconds: float | None
    proved: Proved


@dataclass(frozen=True)
class RestoreStatus:
    """The last restore."""

    restore_id: str
    mode: str
    state: str
    started_at: datetime
    who: str
    seconds_locked_out: float | None


@dataclass(frozen=True)
class TargetWal:
    """How far a target's archive of WAL reaches. ``bundle_seconds``: how often it gets some, in bundles; 0 where it gets all at once."""

    lsn: str | None
    timeline: int | None
    at: datetime | None
    age: float | None
    gaps: tuple[str, ...]
    error: str | None
    bundle_seconds: float = 0


@dataclass(frozen=True)
class TargetStatus:
    """One storage target. ``objective``: how old its newest checked copy may be, None of an archive, which gets old ones. ``oldest_checked_at``: the copy that was not read for longest.

    ``state`` is what the last use of it tells: ``unknown`` where there was none.
    """

    name: str
    enabled: bool
    state: Literal["ok", "failing", "unknown"]
    because: str | None
    newest_backup_id: str | None
    newest_at: datetime | None
    age: float | None
    objective: float | None
    copies: int
    corrupt: int
    used_bytes: int
    free: int | None
    total: int | None
    bytes_per_day: float | None
    days_until_full: float | None
    oldest_checked_at: datetime | None
    wal: TargetWal | None

    @property
    def late(self) -> bool:
        """Whether its newest checked copy is older than the objective, or there is none."""
        return self.objective is not None and (self.age is None or self.age > self.objective)


@dataclass(frozen=True)
class ActiveAlert:
    """Something wrong now, as a rule found it. ``since``, ``id`` and ``acknowledged_by`` from the alerts that people were told of, None where they were not yet."""

    cause: str
    state: SafetyState
    target: str | None
    kind: str
    severity: Severity
    message: str
    advice: str
    since: datetime | None
    id: int | None
    acknowledged_by: str | None


@dataclass(frozen=True)
class RunningAttempt:
    """A run that goes on."""

    run_id: str
    job: str
    who: str
    since: datetime


@dataclass(frozen=True)
class NextRun:
    """What runs next by itself, and when."""

    name: str
    job: str
    at: datetime


@dataclass(frozen=True)
class DaySuccess:
    """Runs of a day that ended; cancelled and refused ones do not count."""

    day: date
    succeeded: int
    failed: int


@dataclass(frozen=True)
class AttemptTotal:
    """Runs of a job within 90 days that are in a state."""

    job: str
    state: str
    count: int


@dataclass(frozen=True)
class Status:
    """What was collected, and what it means, which is a view of ``alerts`` alone: whatever is not as it should be is found by a rule."""

    application: str
    now: datetime
    backups: tuple[BackupStatus, ...]
    recovery_point: RecoveryPoint | None
    recovery_point_objective: float
    media_point: RecoveryPoint | None
    """The newest verified backup with media."""
    media_objective: float | None
    wal_objective: float | None
    last_verified: VerificationStatus | None
    last_restore: RestoreStatus | None
    last_drill: Drilled | None
    targets: tuple[TargetStatus, ...]
    spool_bytes: int | None
    spool_oldest: float | None
    alerts: tuple[ActiveAlert, ...]
    running: tuple[RunningAttempt, ...]
    next_runs: tuple[NextRun, ...]
    next_not: tuple[str, ...]
    """Why what the settings schedule is not among them, in sentences without a full stop."""
    daemon_seen_at: datetime | None
    """When the orchestrator's daemon was seen last."""
    success: tuple[DaySuccess, ...]
    attempts: tuple[AttemptTotal, ...]
    history: HistorySize | None
    ahead: tuple[str, ...]
    """Backups that begin in the future, as this machine's clock has it."""
    set_aside: tuple[str, ...] = ()
    """Verified backups that do not count: they hold what restores were about to replace."""

    @property
    def success_rate(self) -> float | None:
        """Of the runs that ended within 90 days, the fraction that succeeded."""
        succeeded = sum(day.succeeded for day in self.success)
        ended = succeeded + sum(day.failed for day in self.success)
        return succeeded / ended if ended else None

    @cached_property
    def reasons(self) -> tuple[Reason, ...]:
        """Why it is not safe, worst first."""
        wrong = [alert for alert in self.alerts if alert.state != "safe"]
        wrong.sort(key=lambda alert: -STATES.index(alert.state))
        return tuple(Reason(alert.state, alert.message.strip().rstrip(".")) for alert in wrong)

    @property
    def state(self) -> SafetyState:
        """The worst of what the rules find."""
        return self.reasons[0].state if self.reasons else "safe"

    @cached_property
    def score_parts(self) -> tuple[ScorePart, ...]:
        return tuple(parts(self))

    @property
    def score(self) -> int:
        """The health score from 0 to 100. Rounded down: 100 means that nothing is missing."""
        return min(int(sum(part.points for part in self.score_parts)), _HIGHEST[self.state])

    @property
    def exit_status(self) -> int:
        return STATES.index(self.state)

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        judged = {"state": self.state, "reasons": self.reasons, "score": self.score, "score_parts": self.score_parts}
        return {**plain(self), **plain(judged), "success_rate": self.success_rate}


def plain(value: Any) -> Any:
    """A value as JSON has it: times in ISO 8601."""
    if isinstance(value, Note):
        return value.model_dump()
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    return value.isoformat() if isinstance(value, date) else value
