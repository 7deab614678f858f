"""Collecting what a status is made of: from the catalog and this machine's disk, never from a storage target, so that it is quick."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import date, datetime, timedelta

from twist_dr.catalog import BackupRow, Catalog, CatalogUnavailable
from twist_dr.catalog.location import parse_location
from twist_dr.catalog.notes import Drilled, HistorySize
from twist_dr.catalog.summaries import AttemptCount
from twist_dr.repository.kinds import KINDS
from twist_dr.settings import Application, Settings
from twist_dr.watch.alerts.daemon import Daemon, why_silent
from twist_dr.watch.alerts.facts import SKEW, Facts, gather
from twist_dr.watch.alerts.points import Point, newest_media, newest_point, set_aside
from twist_dr.watch.proving import allowed_age, allowed_media_age
from twist_dr.watch.schedules import entries, next_due
from twist_dr.watch.status.alerts import active_alerts
from twist_dr.watch.status.model import (
    AttemptTotal,
    BackupStatus,
    DaySuccess,
    NextRun,
    RecoveryPoint,
    RestoreStatus,
    RunningAttempt,
    Status,
    VerificationStatus,
)
from twist_dr.watch.status.targets import target_statuses

#: Over which the success rate is reckoned.
RATE_DAYS = 90
#: Jobs that run every minute, or only look: they would drown what the rate is to tell.
_NOT_RATED = frozenset({"ship_wal", "status"})


def collect(app: Application, now: datetime) -> Status:
    """Whether the application is safe at ``now``. Raises ``CatalogUnavailable``: the caller reports what cannot be known as unsafe."""
    require_catalog(app.settings)
    return _collected(app, gather(app, now), now)


def require_catalog(settings: Settings) -> None:
    """Raise ``CatalogUnavailable`` when the catalog's file is missing: opening it would make an empty one, as if nothing had ever been there."""
    location = parse_location(settings.catalog_url)
    if location.file is not None and not location.file.exists():
        raise CatalogUnavailable(
            f"There is no catalog {location.file}: either nothing was backed up from here yet, or it was lost. Make a backup, or run: "
            "twist-dr catalog rebuild --from TARGET"
        )


def _collected(app: Application, known: Facts, now: datetime) -> Status:
    application = app.name
    running = [
        row for rows in known.attempts.values() for row in rows if row.state == "running" and row.job != "status"
    ]
    counts = app.catalog.attempt_counts(application, now - timedelta(days=RATE_DAYS))
    media_age = allowed_media_age(app.settings, now)
    next_runs, next_not = _next(app.settings, known.daemon, now)
    return Status(
        application=application,
        now=now,
        backups=tuple(_backup(rows[0], now) for kind in KINDS if (rows := known.backups[kind])),
        recovery_point=_with_age(newest_point(known, app.settings, now), now),
        recovery_point_objective=allowed_age(app.settings, known.backups.get("full", ()), now).total_seconds(),
        media_point=_with_age(newest_media(known, app.settings), now),
        media_objective=media_age.total_seconds() if media_age else None,
        wal_objective=app.settings.objectives.wal.total_seconds() if app.settings.wal else None,
        last_verified=_last_verified(app.catalog, application, now),
        last_restore=_last_restore(app.catalog, application),
        last_drill=app.catalog.note(application, Drilled),
        targets=target_statuses(app, known, now),
        spool_bytes=max((row.spool_bytes for row in known.positions.values()), default=None),
        spool_oldest=max((row.oldest_seconds for row in known.positions.values()), default=None),
        alerts=active_alerts(app, known, now),
        running=tuple(
            RunningAttempt(row.run_id, row.job, row.who, row.started_at)
            for row in sorted(running, key=lambda row: row.started_at, reverse=True)
        ),
        next_runs=next_runs,
        next_not=next_not,
        daemon_seen_at=known.daemon.seen_at if known.daemon else None,
        success=_success(counts),
        attempts=_totals(counts),
        set_aside=set_aside(known),
        history=app.catalog.note(application, HistorySize),
        ahead=tuple(row.backup_id for row in app.catalog.backups(application=application, since=now + SKEW, limit=3)),
    )


def _with_age(point: Point | None, now: datetime) -> RecoveryPoint | None:
    return RecoveryPoint(point.at, age(point.at, now), point.backup_id, point.through, point.targets) if point else None


def _backup(row: BackupRow, now: datetime) -> BackupStatus:
    proof = row.last_verification
    return BackupStatus(
        backup_id=row.backup_id,
        kind=row.kind,
        label=row.label,
        started_at=row.started_at,
        age=age(row.started_at, now),
        seconds=(row.finished_at - row.started_at).total_seconds(),
        plain_bytes=row.plain_bytes,
        copies={copy.target: copy.state for copy in row.copies},
        complete=row.complete,
        verified=proof.verified if proof else None,
        run_id=row.run_id,
    )


def age(moment: datetime, now: datetime) -> float:
    """Seconds since then; never negative."""
    return max(0.0, (now - moment).total_seconds())


def _last_verified(catalog: Catalog, application: str, now: datetime) -> VerificationStatus | None:
    row = catalog.latest_verified(application)
    proof = row.last_verification if row else None
    if row is None or proof is None:
        return None
    return VerificationStatus(
        row.backup_id,
        row.started_at,
        age(row.started_at, now),
        proof.started_at,
        proof.target,
        proof.restore_seconds,
        proof.proved,
    )


def _last_restore(catalog: Catalog, application: str) -> RestoreStatus | None:
    # A plan changes nothing, and those who look for the last restore do not mean it.
    row = next((row for row in catalog.restores(application, limit=20) if row.mode != "plan"), None)
    if row is None:
        return None
    return RestoreStatus(
        row.restore_id,
        row.kind if row.kind == "undo" else row.mode,
        row.state,
        row.started_at,
        row.who,
        row.seconds_locked_out,
    )


def _success(counts: Sequence[AttemptCount]) -> tuple[DaySuccess, ...]:
    days: dict[date, Counter[str]] = defaultdict(Counter)
    for each in counts:
        if each.job not in _NOT_RATED and each.state not in ("running", "cancelled", "refused"):
            days[each.day]["succeeded" if each.state == "succeeded" else "failed"] += each.count
    return tuple(DaySuccess(day, ended["succeeded"], ended["failed"]) for day, ended in sorted(days.items()))


def _totals(counts: Sequence[AttemptCount]) -> tuple[AttemptTotal, ...]:
    totals: Counter[tuple[str, str]] = Counter()
    for each in counts:
        totals[each.job, each.state] += each.count
    return tuple(AttemptTotal(job, state, count) for (job, state), count in sorted(totals.items()))


def _next(settings: Settings, daemon: Daemon | None, now: datetime) -> tuple[tuple[NextRun, ...], tuple[str, ...]]:
    """What will be launched by itself, soonest first, and why what the settings schedule will not."""
    wanted = entries(settings)
    if not wanted:
        return (), ("nothing runs by itself (the settings have no section schedules)",)
    silent = why_silent(daemon, now)
    if daemon is None or silent:
        return (), (f"no: {silent}",)
    off = [entry.name for entry in wanted if entry.schedule in daemon.stopped]
    due = [(entry, next_due(entry, now)) for entry in wanted if entry.name not in off]
    found = [NextRun(entry.name, entry.job, at) for entry, at in due if at is not None]
    why = [f"not {name}: somebody switched it off (page: Automation)" for name in off]
    if daemon.changed:
        why.append(f"this is not sure: the code location has not loaded {daemon.file} as it is now")
    return tuple(sorted(found, key=lambda run: run.at)), tuple(why)
