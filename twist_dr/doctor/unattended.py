"""What runs by itself, who hears of it, and what goes: read from the settings, and from the addresses of the channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from twist_dr.catalog import BackupRow
from twist_dr.doctor.findings import Check, ok, problem, warning
from twist_dr.system.progress import human_bytes, human_seconds
from twist_dr.system.words import command
from twist_dr.watch.alerts.channels import Channel, channel_errors
from twist_dr.watch.alerts.rules_common import Finding, human
from twist_dr.watch.schedules import ScheduleEntry, period

#: The rest is the backup's own, and growth's.
_MOST_OF_THE_TIME = 0.5


def check_schedules(
    launched: Sequence[str], *, silent: str | None, verified: bool, kept_for_ever: Sequence[str]
) -> Check[None]:
    """``launched``: names of the schedules. ``silent``: why nothing launches them now. ``kept_for_ever``: storage targets without retention."""
    if not launched:
        yield ok("schedules", "not in the settings, so nothing runs by itself: launch backups by hand or from cron")
        return
    if silent is None:
        yield ok("schedules", f"{', '.join(launched)}; the daemon runs")
    else:
        yield warning(
            "schedules",
            f"nothing launches {', '.join(launched)}: {silent}",
            "dagster-daemon run -w workspace.yaml  # or dagster dev; it is seen here a minute later",
        )
    if not verified:
        yield warning(
            "schedules", "scheduled backups are not restored for proof", "set schedules.verify to true, or remove it"
        )
    if kept_for_ever:
        yield warning(
            "retention",
            f"nothing is ever deleted on {', '.join(kept_for_ever)}",
            "set storage_targets.NAME.retention; docs/retention.md has examples",
        )


def check_proof_time(entry: ScheduleEntry, proven: BackupRow, now: datetime, *, when: str) -> Check[None]:
    """Whether verifications, as long as the last one of ``proven`` took, end before the next full backup of ``entry`` begins."""
    proof = proven.last_verification
    if proof is None:
        return
    took, between = timedelta(seconds=proof.seconds), period(entry, now)
    of = f" of {entry.place}" if entry.own_name else ""
    found = f"the last verification took {human_seconds(proof.seconds)} for {human_bytes(proven.plain_bytes)}, and full backups{of} are {human_seconds(between.total_seconds())} apart"
    if when == "each" and took > between * _MOST_OF_THE_TIME:
        yield warning(
            "verification time", found, "set verification.when to daily or weekly, or raise verification.jobs"
        )
    else:
        yield ok("verification time", found)


def check_media_age(newest: BackupRow | None, most: timedelta, now: datetime) -> Check[None]:
    """``newest``: the newest verified backup with media, which may be ``most`` old."""
    found = (
        f"the newest verified backup with media is {newest.backup_id}, {human(now - newest.started_at)} old"
        if newest
        else "no backup with media was verified"
    )
    if newest is not None and now - newest.started_at <= most:
        yield ok("media age", f"{found}; it may be {human(most)}")
    else:
        yield warning(
            "media age",
            f"{found}; {human(most)} is the objective",
            f"{command('backup_full')} && {command('verify_backup')}",
        )


def check_daemon(stale: Sequence[Finding]) -> Check[None]:
    """``stale``: what the alerts say of a change that the daemon's code location has not loaded."""
    for each in stale:
        yield warning("code location", each.message, each.advice)


def check_alerts(channels: Sequence[Channel], *, alone: bool, heartbeat: bool) -> Check[None]:
    """Nothing is sent. ``alone``: something runs by itself, so somebody should be told when it fails."""
    errors: Mapping[str, str] = channel_errors(channels) if channels else {}
    for name, error in errors.items():
        yield problem(
            "alerts", f"the channel {name}: {error}", f"fix alerts.channels.{name}.url, then run: twist-dr alerts test"
        )
    if channels and not errors:
        yield ok("alerts", f"{', '.join(channel.name for channel in channels)}; try them with: twist-dr alerts test")
    if alone and not channels:
        yield warning(
            "alerts", "nobody is told when something is wrong", "set alerts.channels, then run: twist-dr alerts test"
        )
    if alone and not heartbeat:
        yield ok("heartbeat", "not in the settings, so nobody outside notices when this whole machine falls silent")
