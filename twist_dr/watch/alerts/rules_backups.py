"""Rules about backups: made when they are due, on every storage target that they are for, proven."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import takewhile

from twist_dr.catalog import AttemptRow, BackupRow, CopyRow
from twist_dr.errors import CopyFailed, CopyFailedForNow
from twist_dr.repository.kinds import BACKUP_JOBS, DATA_KINDS, KINDS
from twist_dr.settings import Settings
from twist_dr.system.words import command, counted
from twist_dr.watch.alerts.daemon import why_silent
from twist_dr.watch.alerts.facts import Facts
from twist_dr.watch.alerts.rules_common import (
    Finding,
    by_media,
    by_schedule,
    failures,
    in_a_row,
    shortened,
    some,
    what_failed,
)
from twist_dr.watch.schedules import ScheduleEntry, dues_before, entries, period

_PARTIAL = (CopyFailed.code, CopyFailedForNow.code)
_LONGEST_GRACE = timedelta(hours=6)
_SHORTEST_GRACE = timedelta(minutes=10)


def failed(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """A backup job's last run failed or was killed; two due times in a row are critical."""
    told = set[str]()
    for job in BACKUP_JOBS:
        for name, attempts in by_schedule(facts, settings, job):
            failed = failures(attempts)
            if not failed or failed[0].error_code in _PARTIAL or failed[0].run_id in told:
                continue
            told.add(failed[0].run_id)
            streak = in_a_row(failed)
            again = f" {streak} scheduled backups in a row came to nothing." if streak > 1 else ""
            yield Finding(
                f"backup_failed:{name}", "backup_failed", "critical" if streak > 1 else "error", what_failed(failed[0]) + again,
                f"Look at the run, fix what it names, then run: {command(job)}", failed[0].run_id,
            )  # fmt: skip


def partial(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """The newest backup of a kind is not, checked, on every storage target that it is for."""
    for kind in KINDS:
        job = KINDS[kind].job
        lacked = set[str | None]()
        for end, rows in by_media(facts.settled(kind), settings):
            if lacking := _lacking(rows[0], settings) if rows else []:
                lacked.add(rows[0].run_id)
                yield _partial(f"partial:{job}{end}", job, rows, lacking, settings)
            elif rows and _is_nowhere(rows[0], settings):
                yield Finding(
                    f"partial:{job}{end}", "partial", "warning", f"{rows[0].backup_id}, the newest {kind} backup, is on no storage target.",
                    f"Make a new backup: {command(job)}", rows[0].run_id,
                )  # fmt: skip
        newest = max((row.started_at for row in facts.settled(kind)[:1]), default=None)
        for name, attempts in by_schedule(facts, settings, job):
            failed = failures(attempts)
            if not failed or failed[0].error_code not in _PARTIAL or failed[0].run_id in lacked:
                continue
            if newest is None or newest < failed[0].started_at:
                lacked.add(failed[0].run_id)
                yield Finding(
                    f"partial:{name}", "partial", "warning", what_failed(failed[0]),
                    f"See to the target, then make a new backup: {command(job)}", failed[0].run_id,
                )  # fmt: skip


def _partial(
    cause: str, job: str, rows: Sequence[BackupRow], lacking: Sequence[CopyRow], settings: Settings
) -> Finding:
    held = [copy.target for copy in rows[0].copies if copy.state == "checked"]
    before = {copy.target for copy in _lacking(rows[1], settings)} if len(rows) > 1 else set()
    again = before & {copy.target for copy in lacking}
    told = "; ".join(f"{copy.target}: {_why(copy)}" for copy in lacking)
    where = f"It is on {', '.join(held)}." if held else "No target has it."
    unread = [copy.target for copy in rows[0].copies if copy.state == "stored"]
    if {copy.target for copy in lacking} <= set(unread):
        # As after a rebuild of the catalog: it is there, and nobody has read it since.
        return Finding(
            cause, "partial", "warning", f"{rows[0].backup_id} is on {', '.join(unread)}, where its bytes were not checked yet.",
            f"Have them read: {command('scrub')} all=true", rows[0].run_id, about=frozenset(unread),
        )  # fmt: skip
    if unread and not held:
        where = f"It is on {', '.join(unread)}, where its bytes were not checked yet."
    return Finding(
        cause, "partial", "error" if again or not held else "warning",
        f"{rows[0].backup_id} is missing on {', '.join(copy.target for copy in lacking)}. {told}. {where}",
        f"See to the target, then store these copies anew in the page, or make a new backup: {command(job)}",
        rows[0].run_id, about=frozenset(copy.target for copy in lacking),
    )  # fmt: skip


def _lacking(row: BackupRow, settings: Settings) -> list[CopyRow]:
    """Copies that should be there and are not; corrupt ones are told of as such."""
    wanted = settings.enabled_targets
    return [copy for copy in row.copies if copy.target in wanted and copy.state in ("failed", "pending", "stored")]


def _is_nowhere(row: BackupRow, settings: Settings) -> bool:
    """Whether no target holds it; a corrupt copy on one that is used is told of as such."""
    bad = {copy.target for copy in row.copies if copy.state == "corrupt"}
    return not (
        bad & settings.enabled_targets.keys() or any(copy.state in ("stored", "checked") for copy in row.copies)
    )


def _why(copy: CopyRow) -> str:
    states = {"pending": "it was never stored there", "stored": "its bytes were not checked"}
    return shortened((copy.error or "").rstrip(".") or states.get(copy.state, "it could not be stored"))


def missed(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """A schedule was due, and nothing was launched in good time."""
    for entry in entries(settings):
        since = facts.schedules_since.get(entry.name)
        if since is None:
            continue
        begun = _last_begun(facts, entry)
        late = now - _grace(entry, now)
        dues = takewhile(lambda due: due > since and (begun is None or due > begun), dues_before(entry, late))  # noqa: B023
        lost = [due for due, _ in zip(dues, range(100), strict=False)]
        if not lost or _is_waited_for(facts, entry, lost[-1], now):
            continue
        often = f" It was due {counted(len(lost), 'time')} since." if len(lost) > 1 else ""
        important = entry.kind in DATA_KINDS and entry.told.get("type", "full") == "full"
        yield Finding(
            f"missed:{entry.name}", "missed",
            ("critical" if len(lost) > 1 else "error") if important else "warning",
            f"{entry.job} was due at {lost[-1]:%Y-%m-%d %H:%M} UTC ({entry.place}: '{entry.cron}', {entry.time_zone}) and was not launched.{often}",
            f"{_why_not(facts, entry, now)}, then run: {command(entry.job)}",
        )  # fmt: skip


def _why_not(facts: Facts, entry: ScheduleEntry, now: datetime) -> str:
    """What to do so that it is launched the next time."""
    if facts.daemon is not None and (silent := why_silent(facts.daemon, now)):
        return f"Start dagster-daemon: {silent}"
    if facts.daemon is not None and entry.schedule in facts.daemon.stopped:
        return "Switch its schedule on, as somebody switched it off (page: Automation)"
    return "See that dagster-daemon runs and that its schedule is on (page: Automation)"


def _last_begun(facts: Facts, entry: ScheduleEntry) -> datetime | None:
    """The latest due time that was met: a run that was launched for it, or any that began later."""
    # Nor does anybody who was refused, or thought better of it: no backup came of that, and no rule tells of it.
    known = [each for each in facts.attempts.get(entry.job, ()) if not (each.was_refused or _was_stopped(each))]
    # Two schedules may launch one job: a daily incremental base backup does not stand for the weekly full one.
    attempts = [each for each in known if not each.who.startswith("schedule ") or each.who == entry.launcher]
    begun = [attempt.started_at for attempt in attempts]
    begun += [attempt.scheduled_for for attempt in attempts if attempt.scheduled_for is not None]
    # A catalog that was rebuilt knows backups and no runs.
    if not known:
        begun += [row.started_at for kind, rows in facts.backups.items() if kind == entry.kind for row in rows[:1]]
    return max(begun, default=None)


def _was_stopped(attempt: AttemptRow) -> bool:
    return attempt.state == "cancelled" and attempt.scheduled_for is None


def _grace(entry: ScheduleEntry, now: datetime) -> timedelta:
    """How late a launch may be: the machine restarts, another operation goes on."""
    usual = period(entry, now)
    return min(max(min(usual / 4, _LONGEST_GRACE), _SHORTEST_GRACE), usual / 2)


def _is_waited_for(facts: Facts, entry: ScheduleEntry, due: datetime, now: datetime) -> bool:
    """Whether the run before it still goes on, and has not for so long that another one was due."""
    return facts.running(entry.job) is not None and now - due < period(entry, now)


def verification_failed(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """The newest backup that was put to the proof failed it, or there could be no proof."""
    told: set[str | None] = set()
    named = [(kind, *each) for kind in KINDS for each in by_media(facts.backups.get(kind, ()), settings)]
    for kind, end, rows in named:
        proof = next((row.last_verification for row in rows if row.last_verification), None)
        if proof is None or proof.verified:
            continue
        told.add(proof.run_id)
        yield Finding(
            f"verification_failed:{kind}{end}", "verification_failed", "error",
            f"{proof.backup_id}, restored from {proof.target}, is not what was recorded when it was taken: {shortened(some(proof.differences))}.",
            f"Make a new backup and verify it: {command(KINDS[kind].job)} && {command('verify_backup')}. Keep the bad one until its cause is known.",
            proof.run_id,
        )  # fmt: skip
    failed = failures(facts.attempts.get("verify_backup", ()))
    if failed and failed[0].run_id not in told:
        streak = in_a_row(failed)
        yield Finding(
            "verification_failed:verify_backup", "verification_failed", "critical" if streak > 1 else "error",
            what_failed(failed[0]), f"Look at the run, fix what it names, then run: {command('verify_backup')}", failed[0].run_id,
        )  # fmt: skip
