"""Rules about everything else that runs: restores, upkeep, the ways to people themselves, and the catalog that remembers all of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from twist_dr.catalog.location import parse_location
from twist_dr.errors import RestoreInterrupted, TargetUnavailable
from twist_dr.repository.kinds import BACKUP_JOBS
from twist_dr.settings import Settings
from twist_dr.system.severity import Severity
from twist_dr.system.words import command
from twist_dr.watch.alerts.daemon import Daemon, installed_version
from twist_dr.watch.alerts.facts import Facts
from twist_dr.watch.alerts.rules_common import Finding, failures, in_a_row, shortened, what_failed, with_full_stop

#: A restore that failed is told of for so long: nothing makes it good but the next one.
_RESTORES_TOLD = timedelta(days=7)
_RESTORE_JOBS = ("restore", "restore_to_time", "undo_restore")
#: Told by other rules, or, for shipping, by how far the archive reaches: one round that failed says little.
_OTHERS_TELL = frozenset(
    (
        # By hand, by somebody who is told; what it should have brought is missed by the rules that look for it.
        "materialize",
        *BACKUP_JOBS,
        "verify_backup",
        "ship_wal",
        *_RESTORE_JOBS,
    )
)
_SERIOUS = frozenset(("drill", "scrub"))
#: Where the page reloads the code location.
RELOAD = "Deployment -> Code locations -> Reload"


def restore_interrupted(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """A restore was cut short, and nobody has finished or reverted it."""
    if any(facts.running(job) for job in _RESTORE_JOBS):
        return
    rows = {row.restore_id: row for row in facts.restores}
    for restore_id, told in facts.journals.items():
        if told is None:
            continue
        row = rows.get(restore_id)
        why = f": {shortened(row.error)}" if row is not None and row.error else ""
        yield Finding(
            f"restore_interrupted:{restore_id}", "restore_interrupted", "critical", with_full_stop(told + why),
            "Finish or revert what was cut short: twist-dr settle", row.run_id if row is not None else None,
        )  # fmt: skip


def restore_failed(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """A restore failed and none has succeeded since. Not told: plans and what the gate refused, which touched nothing, and what was settled."""
    attempts = [attempt for job in _RESTORE_JOBS for attempt in facts.attempts.get(job, ())]
    cut = {each.run_id for each in attempts if each.state == "killed" or each.error_code == RestoreInterrupted.code}
    # All of them: what came to its end before another job's success is not told by its run.
    told = {row.run_id for row in facts.restores if row.state != "running" or row.restore_id in facts.journals}
    for row in facts.restores:
        if row.mode == "plan" or row.state in ("refused", "running", "settled"):
            continue
        # What was cut short is told by its journal, for as long as it is not settled.
        if row.state == "failed" and row.run_id in cut:
            continue
        if row.state == "done" or now - row.started_at > _RESTORES_TOLD:
            break
        taken_back = (
            "was taken back, as the application was not healthy after it" if row.state == "undone" else "failed"
        )
        yield Finding(
            f"restore_failed:{row.restore_id}", "restore_failed", "error",
            with_full_stop(f"The {row.kind} {row.restore_id} ({row.mode}) by {row.who} {taken_back}" + (f": {shortened(row.error)}" if row.error else "")),
            f"See what it came to: twist-dr restores {row.restore_id}; what was live is live still.", row.run_id, once=True,
        )  # fmt: skip
    for job in _RESTORE_JOBS:
        for attempt in failures(facts.attempts.get(job, ()))[:1]:
            if attempt.run_id in told or now - attempt.started_at > _RESTORES_TOLD:
                continue
            yield Finding(
                f"restore_failed:{job}", "restore_failed", "error", what_failed(attempt),
                "Look at the run, then start it again.", attempt.run_id, once=True,
            )  # fmt: skip


def job_failed(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """The last run of any other job failed: cleanup, scrub, drill, tests of targets."""
    for job, attempts in facts.attempts.items():
        failed = [] if job in _OTHERS_TELL else failures(attempts)
        # What is wrong with each target is told as such, until it was used and well.
        if failed and (job, failed[0].error_code) != ("test_storage_targets", TargetUnavailable.code):
            worse = job in _SERIOUS or in_a_row(failed) > 1
            severity: Severity = "error" if worse else "warning"
            yield Finding(
                f"job_failed:{job}", "job_failed", severity, what_failed(failed[0]),
                f"Look at the run, fix what it names, then run: {command(job)}", failed[0].run_id,
            )  # fmt: skip


def stale(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """The code location goes by settings, or runs a version, from before a change."""
    return not_loaded(facts.daemon, now)


def not_loaded(daemon: Daemon | None, now: datetime) -> Iterator[Finding]:
    """What was changed and the daemon's code location has not loaded."""
    if daemon is None or not daemon.runs(now):
        return
    if daemon.changed:
        yield Finding(
            "stale:settings", "stale", "warning",
            f"{daemon.file} was changed since the code location loaded it: schedules, alerts and jobs of the page still go by what it was.",
            f"Reload it: in the page, {RELOAD}.",
        )  # fmt: skip
    if daemon.version != (installed := installed_version()):
        yield Finding(
            "stale:version", "stale", "warning",
            f"twist-dr {installed} is installed, and the code location still runs {daemon.version}.",
            f"Restart what runs it (systemctl restart twist-dr-code, or dagster dev), then in the page, {RELOAD}.",
        )  # fmt: skip


def channel(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """The last message through a channel did not arrive."""
    for row in facts.deliveries:
        if row.channel in settings.alerts.channels and not row.ok:
            yield Finding(
                f"channel:{row.channel}", "channel", "error",
                with_full_stop(f"Messages through the channel {row.channel} have failed since {row.since:%Y-%m-%d %H:%M} UTC: {shortened(row.error or 'no reason is known')}"),
                f"Correct alerts.channels.{row.channel}, or see to that server; then run: twist-dr alerts test",
            )  # fmt: skip


def catalog_lost(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """The catalog is not the one that was written before. Stays until it is rebuilt, or the old one is back."""
    if facts.catalog_lost:
        yield Finding(
            "catalog_lost", "catalog_lost", "critical",
            f"The catalog {parse_location(settings.catalog_url).place} was lost or replaced: it lacks what this machine wrote into it last. "
            "What it knew of backups, proofs, restores, holds and alerts is not known now.",
            "If the old one is only away (a disk that is not mounted), stop twist-dr and put it back; else read the backups back: "
            "twist-dr catalog rebuild --from TARGET",
        )  # fmt: skip
