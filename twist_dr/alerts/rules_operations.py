"""Rules about everything else that runs: restores, upkeep, and the ways to people themselves."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from twist_dr.alerts.facts import Facts
from twist_dr.alerts.rules_common import Finding, failures, in_a_row, launch, sentence, shortened, what_failed
from twist_dr.engine.severity import Severity
from twist_dr.settings import Settings

#: A restore that failed is told of for so long: nothing makes it good but the next one.
_RESTORES_TOLD = timedelta(days=7)
_RESTORE_JOBS = ("restore", "restore_to_time", "undo_restore")
#: Told by other rules, or, for shipping, by how far the archive reaches: one round that failed says little.
_OTHERS_TELL = frozenset(
    (
        # By hand, by somebody who is told; what it should have brought is missed by the rules that look for it.
        "materialize",
        "backup_full",
        "backup_base",
        "backup_configuration",
        "backup_tenants",
        "verify_backup",
        "ship_wal",
        *_RESTORE_JOBS,
    )
)
_SERIOUS = frozenset(("drill", "scrub"))
#: A person stands before these, and was told.
_REFUSALS = frozenset(("RestoreRefused", "Busy", "SettingsError", "BackupNotFound", "RecoveryPointInvalid"))


def restore_failed(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """A restore failed and none has succeeded since. Plans, and what the gate refused, are not told: nothing was touched."""
    told: set[str | None] = set()
    for row in facts.restores:
        told.add(row.run_id)
        if row.mode == "plan" or row.state in ("refused", "running"):
            continue
        if row.state == "done" or now - row.started_at > _RESTORES_TOLD:
            break
        taken_back = (
            "was taken back, as the application was not healthy after it" if row.state == "undone" else "failed"
        )
        yield Finding(
            f"restore_failed:{row.restore_id}", "restore_failed", "error",
            sentence(f"The {row.kind} {row.restore_id} ({row.mode}) by {row.who} {taken_back}" + (f": {shortened(row.error)}" if row.error else "")),
            f"See what it came to: twist-dr restores {row.restore_id}; what was live is live still.", row.run_id, once=True,
        )  # fmt: skip
    for job in _RESTORE_JOBS:
        for attempt in failures(facts.attempts.get(job, ()))[:1]:
            known = attempt.run_id in told and attempt.state != "killed" and attempt.error_type != "RestoreInterrupted"
            if known or attempt.error_type in _REFUSALS or now - attempt.started_at > _RESTORES_TOLD:
                continue
            cut = attempt.state == "killed" or attempt.error_type == "RestoreInterrupted"
            yield Finding(
                f"restore_failed:{job}", "restore_failed", "critical" if cut else "error", what_failed(attempt),
                "Finish or revert what was cut short: twist-dr settle" if cut else "Look at the run, then start it again.",
                attempt.run_id, once=True,
            )  # fmt: skip


def job_failed(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """The last run of any other job failed: cleanup, scrub, drill, tests of targets."""
    for job, attempts in facts.attempts.items():
        failed = [] if job in _OTHERS_TELL else failures(attempts)
        if failed:
            worse = job in _SERIOUS or in_a_row(failed) > 1
            severity: Severity = "error" if worse else "warning"
            yield Finding(
                f"job_failed:{job}", "job_failed", severity, what_failed(failed[0]),
                f"Look at the run, mend what it names, then run: {launch(job)}", failed[0].run_id,
            )  # fmt: skip


def channel(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """The last message through a channel did not arrive."""
    for row in facts.deliveries:
        if row.channel in settings.alerts.channels and not row.ok:
            yield Finding(
                f"channel:{row.channel}", "channel", "error",
                sentence(f"Messages through the channel {row.channel} have failed since {row.since:%Y-%m-%d %H:%M} UTC: {shortened(row.error or 'no reason is known')}"),
                f"Correct alerts.channels.{row.channel}, or see to that server; then run: twist-dr alerts test",
            )  # fmt: skip
