"""Rules about storage targets and the disk for staging: there, willing, with space, and holding what they should."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import linear_regression

from twist_dr.catalog import BackupRow, SpaceRow
from twist_dr.errors import CredentialsRefused, TargetDailyLimit, TargetFull, TargetReauthorize
from twist_dr.repository.kinds import BACKUP_JOBS, DATA_KINDS, KINDS
from twist_dr.settings import Settings
from twist_dr.system.progress import human_bytes
from twist_dr.system.severity import Severity
from twist_dr.system.words import command, counted
from twist_dr.watch.alerts.facts import Facts
from twist_dr.watch.alerts.points import newest_point
from twist_dr.watch.alerts.rules_common import Finding, by_media, human, shortened, some
from twist_dr.watch.proving import allowed_age

#: Once told, space must be this much above the limit before it is called enough: it goes up and down with every backup.
_ENOUGH_AGAIN = 1.2
#: Long enough to order a disk, or a larger plan.
_SOON = timedelta(days=14)
_TREND_OVER = timedelta(days=2)
_TREND_SAMPLES = 3
_OLD_SAMPLE = timedelta(days=7)
_REFUSED = (CredentialsRefused.code, TargetReauthorize.code)
_BUSY_JOBS = (*BACKUP_JOBS, "verify_backup", "restore", "restore_to_time", "drill")


def integrity(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """A target holds a copy with other bytes than were stored, or does not hold it any more."""
    for name in settings.enabled_targets:
        bad = [
            row for row in facts.corrupt if any(copy.target == name and copy.state == "corrupt" for copy in row.copies)
        ]
        if not bad:
            continue
        alone = [row for row in bad if not any(copy.state == "checked" for copy in row.copies)]
        lost = f" No other target has a good copy of {some([row.backup_id for row in alone])}." if alone else ""
        stuck = [row.backup_id for row in bad if row not in alone and not _can_be_repaired(row, name)]
        advice = "Run scrub, which repairs a copy from a good one, and suspect that disk or bucket"
        if stuck:
            advice = f"No other target keeps {some(stuck)} in the form that {name} does, so no scrub can repair it; suspect that disk or bucket"
        yield Finding(
            f"integrity:{name}", "integrity", "critical" if alone else "error",
            f"{name} holds {len(bad)} corrupt {'copy, or lost it' if len(bad) == 1 else 'copies, or lost them'}: {some([row.backup_id for row in bad])}.{lost}",
            f"{advice}: {command('scrub')}" if not alone and not stuck else f"{advice}; make a new backup at once: {command('backup_full')}",
            about=frozenset(row.backup_id for row in bad), target=name,
        )  # fmt: skip


def _can_be_repaired(row: BackupRow, target: str) -> bool:
    """Whether another target has a good copy whose bytes are the same; bytes that are stored plain can be had from any."""
    wanted = {copy.form for copy in row.copies if copy.target == target}
    good = {copy.form for copy in row.copies if copy.state == "checked"}
    return "none" in wanted or bool(wanted & good)


def repaired(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """A scrub found something bad and repaired it. It is told until the next scrub has found nothing: a disk that lost one byte loses more."""
    done = [each for each in facts.attempts.get("scrub", ()) if each.state == "succeeded"]
    quiet_since = max((each.started_at for each in done), default=None)
    for name in settings.enabled_targets:
        recent = [
            each for each in facts.repairs if each.target == name and (quiet_since is None or each.at >= quiet_since)
        ]
        if recent:
            last = recent[-1]
            yield Finding(
                f"repaired:{name}", "repaired", "warning",
                f"{name} held {counted(len(recent), 'object', 'that was', 'that were')} bad or missing, stored anew from another target: "
                f"{some([each.backup_id for each in recent])} ({shortened(last.what)}).",
                f"Suspect the disk or bucket of {name}; read all of it again with: {command('scrub')}",
                # The same object may go bad again.
                about=frozenset(f"{each.backup_id} {each.at.isoformat()}" for each in recent), target=name,
            )  # fmt: skip


def bad_wal(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """A target holds write-ahead log that is bad, and no other target has it good."""
    for name, keys in facts.bad_wal.items():
        if name in settings.enabled_targets:
            yield Finding(
                f"integrity_wal:{name}", "integrity", "error",
                f"{name} holds {counted(len(keys), 'bad segment')} of write-ahead log that no other target could repair: {some(keys)}.",
                f"Take a new base backup, from which what follows can be recovered: {command('backup_base')}",
                about=frozenset(keys), target=name,
            )  # fmt: skip


@dataclass(frozen=True)
class Evidence:
    """What was last met at a target; ``error`` None: it did as it was asked. ``code``: its kind, None where that is not known."""

    at: datetime
    error: str | None
    code: str | None
    doing: str


def trouble(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """A target cannot be used: it refuses our credentials, is full, or does not answer."""
    for name in settings.enabled_targets:
        last = last_use(facts, name)
        if last is None or last.error is None:
            continue
        error = shortened(last.error.rstrip("."))
        if last.code == TargetReauthorize.code:
            continue  # rules_grants.py
        if last.code == CredentialsRefused.code:
            yield Finding(
                f"credentials:{name}", "credentials", "error",
                f"{name} {last.doing} failed: its credentials were refused, or lack a right: {error}.",
                f"Give storage_targets.{name} credentials that are valid (reauthorize it), then run: {command('test_storage_targets')}", target=name,
            )  # fmt: skip
        elif last.code == TargetFull.code:
            yield Finding(
                f"capacity:{name}", "capacity", "error", f"{name} is full: {error}.",
                f"Free some space there, raise its quota, or keep less (storage_targets.{name}.retention), then run: {command('backup_full')}", target=name,
            )  # fmt: skip
        elif last.code == TargetDailyLimit.code:
            yield Finding(
                f"upload_limit:{name}", "upload_limit", "warning", f"{name} {last.doing} failed: {error}.",
                "Wait: the next backup from tomorrow on stores there, and scrub stores what lacks. If it recurs, make fewer backups a day for it (schedules with targets).", target=name,
            )  # fmt: skip
        else:
            yield Finding(
                f"unreachable:{name}", "target_unreachable", "error", f"{name} {last.doing} failed: {error}.",
                f"See to that target, then run: {command('test_storage_targets')}", target=name,
            )  # fmt: skip


def last_use(facts: Facts, name: str) -> Evidence | None:
    """What was last met at a target."""
    return max(_evidence(facts, name), key=lambda each: each.at, default=None)


def _evidence(facts: Facts, name: str) -> Iterator[Evidence]:
    for kind in KINDS:
        settled = {row.backup_id for row in facts.settled(kind)}
        for row in facts.backups.get(kind, ()):
            for copy in row.copies:
                # A run that goes on may try again; what it has stored already counts.
                if copy.target == name and copy.state == "failed" and row.backup_id in settled:
                    error = copy.error or "the copy could not be stored"
                    yield Evidence(copy.updated_at, error, copy.error_code, "backup")
                elif copy.target == name and copy.state != "failed" and copy.checked_at is not None:
                    yield Evidence(copy.checked_at, None, None, "backup")
    for test in facts.target_tests:
        if test.target == name:
            failed = None if test.ok else test.error or "the test did not succeed"
            yield Evidence(test.at, failed, test.error_code, "test")
    position = facts.positions.get(name)
    # A round every minute meets every hiccup of a network: how long it lasts is told by the archived position's age.
    if position is not None and (position.error is None or position.error_code in _REFUSED):
        yield Evidence(position.updated_at, position.error, position.error_code, "write-ahead log")


def behind(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """A target's newest checked copy is too old, or it has none: it was left out, its copies fail, or nothing was made for so long."""
    newest = max((rows[0].started_at for kind in DATA_KINDS if (rows := facts.settled(kind))), default=None)
    point = newest_point(facts, settings, now)
    # Told as such, with the same to do.
    nothing_recent = point is None or now - point.at > allowed_age(settings, facts.backups.get("full", ()), now)
    for name, target in settings.backup_targets.items():
        most = target.objective or settings.objectives.recovery_point
        held = facts.checked.get(name)
        since = held.started_at if held else max(facts.since, facts.targets_since.get(name, facts.since))
        left_out = newest is not None and (held is None or newest > held.started_at)
        if now - since <= most:
            if held is None and not nothing_recent:
                yield Finding(
                    f"empty:{name}", "target_objective", "info", f"{name} holds no checked copy of a full or base backup yet.",
                    f"The next backup brings one; for one now, run: {command('backup_full')}", target=name, makes="degraded",
                )  # fmt: skip
            continue
        if nothing_recent and not left_out:
            continue
        what = (
            f"its newest checked copy is {human(now - since)} old ({held.backup_id})"
            if held
            else "it holds no checked copy of any backup"
        )
        advice = f"See why its copies fail, twist-dr list --target {name}, then run: {command('backup_full')}"
        if not left_out:
            what += ", and nothing newer was made"
            advice = f"Schedule backups as often as it asks, or give storage_targets.{name}.objective more time; for one now, run: {command('backup_full')}"
        yield Finding(
            f"objective:{name}", "target_objective", "error" if left_out else "warning", f"{name}: {what}; {human(most)} is the objective.",
            advice, target=name,
        )  # fmt: skip


def capacity(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """A target has little space left, or will soon have none."""
    for name, target in settings.enabled_targets.items():
        samples = [row for row in facts.space.get(name, ()) if row.at <= now and row.free is not None]
        if not samples or now - samples[-1].at > _OLD_SAMPLE:
            continue
        free, total = samples[-1].free or 0, samples[-1].total
        left = f"{name} has {human_bytes(free)} free"
        # Some providers say what is left and not of how much.
        severity: Severity | None = None
        if total:
            left = f"{name} has {human_bytes(free)} of {human_bytes(total)} free ({free / total:.0%})"
            severity = _scarce(free / total, target.warn_free, known=f"capacity:{name}" in facts.open)
        until = _full_in(samples)
        if until is not None and until <= _SOON:
            severity, left = severity or "warning", f"{left}; as it fills now, {name} is full in {human(until)}"
        if free < (needed := next_copy(facts, name)):
            severity, left = "error", f"{left}; the next backup may take {human_bytes(needed)} there"
        if severity is None:
            continue
        yield Finding(
            f"capacity:{name}", "capacity", severity, f"{left}.",
            f"Add space, or keep less (storage_targets.{name}.retention) and run: {command('cleanup')}", target=name,
        )  # fmt: skip


def next_copy(facts: Facts, name: str) -> int:
    """Bytes that the next backup may take on a target: of the last copy of each kind there, the largest."""
    last = [
        next(
            (copy for row in facts.settled(kind) for copy in row.copies if copy.target == name and copy.stored_bytes),
            None,
        )
        for kind in facts.backups
    ]
    return max((copy.stored_bytes or 0 for copy in last if copy is not None), default=0)


def _scarce(fraction: float, least: float, *, known: bool) -> Severity | None:
    if fraction < least / 2:
        return "error"
    return "warning" if fraction < least * (_ENOUGH_AGAIN if known else 1) else None


def _full_in(samples: Sequence[SpaceRow]) -> timedelta | None:
    """When there is no space left, by a straight line through the samples (least squares); None when it does not fill."""
    if len(samples) < _TREND_SAMPLES or samples[-1].at - samples[0].at < _TREND_OVER:
        return None
    times = [(row.at - samples[0].at).total_seconds() for row in samples]
    frees = [float(row.free or 0) for row in samples]
    slope = linear_regression(times, frees).slope
    return timedelta(seconds=min(frees[-1] / -slope, 1e9)) if slope < 0 else None


def staging(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """The disk on which backups are made has little space, or not enough for the next one."""
    disk, cause = facts.staging, "staging_disk"
    if disk is None:
        return
    known = cause in facts.open
    # A backup that is being made fills it for a while; so does a restore.
    if not known and any(facts.running(job) for job in _BUSY_JOBS):
        return
    # Backups of every hour without media do not tell what the night's will take.
    last = [rows[0] for kind in KINDS for _, rows in by_media(facts.settled(kind), settings) if rows]
    needed = max((row.staged_bytes for row in last), default=0)
    severity = _scarce(disk.fraction, settings.alerts.staging_free, known=known)
    short = needed > disk.free * (1 if not known else 1 / _ENOUGH_AGAIN)
    if severity is None and not short:
        return
    too_few = f", and the last backup took {human_bytes(needed)}" if short else ""
    yield Finding(
        cause, "staging", "error" if short else severity or "error",
        f"The disk of {settings.work_dir} has {human_bytes(disk.free)} of {human_bytes(disk.total)} free ({disk.fraction:.0%}){too_few}.",
        "Free some space there, or move work_dir to a larger disk; what waits in staging leaves it when every target has it.",
    )  # fmt: skip
