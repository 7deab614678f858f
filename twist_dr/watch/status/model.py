"""What a status is made of: plain values. Times are UTC, ages and durations seconds, sizes bytes; None where something is not known."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime, timedelta
from typing import Any, Literal

from twist_dr.catalog.notes import Drilled
from twist_dr.repository.manifest import Kind, Label, Proved
from twist_dr.system.severity import Severity

State = Literal["safe", "degraded", "unsafe"]
#: From best to worst: the place is the exit status of ``twist-dr status``.
STATES: tuple[State, ...] = ("safe", "degraded", "unsafe")

#: A clock that is ahead by more than this makes ages meaningless.
CLOCK_TOLERANCE = timedelta(minutes=5)


@dataclass(frozen=True)
class Reason:
    """Why something is not safe, in a sentence."""

    state: State
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
    """How far a target's archive of WAL reaches."""

    lsn: str | None
    timeline: int | None
    at: datetime | None
    age: float | None
    gaps: tuple[str, ...]
    error: str | None


@dataclass(frozen=True)
class TargetStatus:
    """One storage target. ``objective``: how old its newest checked copy may be. ``oldest_checked_at``: the copy that was not read for longest.

    ``state`` is what the last use of it tells: ``unknown`` where there was none.
    """

    name: str
    enabled: bool
    state: Literal["ok", "failing", "unknown"]
    because: str | None
    newest_backup_id: str | None
    newest_at: datetime | None
    age: float | None
    objective: float
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
        return self.age is None or self.age > self.objective


@dataclass(frozen=True)
class ActiveAlert:
    """Something wrong now. ``id`` and the rest from the alerts that people were told of, None where they were not yet."""

    cause: str
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
class HistoryStatus:
    """What Dagster's history took when cleanup last shortened it: ``bytes`` after that, ``bytes_per_day`` that it had grown by."""

    at: datetime
    bytes: int
    bytes_per_day: float | None


@dataclass(frozen=True)
class ScorePart:
    """A part of the health score: ``points`` of ``most``, and why."""

    name: str
    points: float
    most: float
    because: str


@dataclass(frozen=True)
class Collected:
    """What was collected; nothing is judged yet."""

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
    history: HistoryStatus | None
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


@dataclass(frozen=True)
class Status(Collected):
    """The facts, and what they mean: ``state`` with its reasons, worst first, and the health score from 0 to 100."""

    state: State = "unsafe"
    reasons: tuple[Reason, ...] = ()
    score: int = 0
    score_parts: tuple[ScorePart, ...] = ()

    @property
    def exit_status(self) -> int:
        return STATES.index(self.state)

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**plain(self), "success_rate": self.success_rate}


def plain(value: Any) -> Any:
    """A value as JSON has it: times in ISO 8601."""
    if isinstance(value, Drilled):
        return value.model_dump()
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    return value.isoformat() if isinstance(value, date) else value
