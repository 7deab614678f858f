"""The sensor that verifies every scheduled full backup, and cleans up after scheduled backups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import TypeAlias

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from twist_dr.catalog import AttemptRow, CatalogUnavailable, SealedBackup
from twist_dr.orchestrator.around import RUN_BACKUP, without_secrets
from twist_dr.orchestrator.taking import run_config
from twist_dr.repository.kinds import BACKUP_JOBS, FULL
from twist_dr.settings import Application, ScheduleSettings
from twist_dr.watch.proving import proof_is_due
from twist_dr.watch.runs import SCHEDULED_FOR

#: What a sensor may launch.
Job: TypeAlias = dg.JobDefinition | UnresolvedAssetJobDefinition

_VERIFY, _CLEANUP, _STATUS = "verify_backup", "cleanup", "status"
#: Scheduled runs that are looked at: more than are launched in any night.
_RECENT = 30


def after_backups_sensor(app: Application, wanted: ScheduleSettings, jobs: Sequence[Job]) -> dg.SensorDefinition:
    """The sensor ``after_backups``. It goes by the catalog: what was due while the daemon was down is done when it is back."""

    @dg.sensor(
        name="after_backups",
        jobs=[job for job in jobs if job.name in (_VERIFY, _CLEANUP, _STATUS)],
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Verifies each scheduled full backup as soon as it is there, cleans up after scheduled backups, and draws the report.",
        owners=[RUN_BACKUP],
    )
    @without_secrets()
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        try:
            requests = list(_requests(app, wanted))
        except CatalogUnavailable as unavailable:
            return dg.SensorResult(skip_reason=str(unavailable))
        return dg.SensorResult(run_requests=requests, skip_reason=None if requests else "nothing to verify or clean up")

    return sensor


def _requests(app: Application, wanted: ScheduleSettings) -> Iterator[dg.RunRequest]:
    """Of the newest of each schedule at most: what an older one missed is made up for by it. Run keys keep a tick from asking twice."""
    catalog = app.catalog
    recent = catalog.attempts(app.name, scheduled=True, limit=_RECENT)
    backups = [attempt for attempt in recent if attempt.job in BACKUP_JOBS]
    # The newest of each job: an older one that still counts as running is dead, and nobody has noted it yet.
    newest_of = {attempt.job: attempt for attempt in reversed(backups)}
    if any(attempt.state == "running" for attempt in newest_of.values()):
        return
    proving = False
    # Of each schedule the newest: one that takes no media does not stand for the one that does.
    fulls = {each.who: each for each in reversed(backups) if each.job == FULL.job} if wanted.verify else {}
    for full in fulls.values():
        made = catalog.backup_of_run(full.run_id)
        # One that some target lacks can be proven from those that have it.
        here = made is not None and any(copy.state == "checked" for copy in made.copies)
        if made is not None and here and _is_due(app, made):
            verifications = [each for each in recent if each.job == _VERIFY and each.started_at > full.started_at]
            proving = proving or not verifications or verifications[0].state == "running"
            yield _request(_VERIFY, made.backup_id, {"backup": made.backup_id})
    if backups and not proving:
        newest = _newest(backups)
        # After the proof, so that the backup that has just been made may be the one that lets an older one go.
        if wanted.cleanup:
            yield _request(_CLEANUP, newest.run_id, {})
        cleanups = [each for each in recent if each.job == _CLEANUP and each.started_at > newest.started_at]
        if newest.job == FULL.job and ((cleanups and cleanups[0].state != "running") or not wanted.cleanup):
            yield _request(_STATUS, newest.run_id, {})


def _is_due(app: Application, made: SealedBackup) -> bool:
    # Of the backup itself its own proof says nothing: cleanup waits for the run that makes it.
    proof = made.last_verification
    proven = app.catalog.latest_verified(app.name, part="media" if "media" in made.parts else None)
    return proof is not None or proof_is_due(app.settings, made, proven)


def _newest(attempts: Sequence[AttemptRow]) -> AttemptRow:
    return max(attempts, key=lambda attempt: attempt.started_at)


def _request(job: str, key: str, told: dict[str, object]) -> dg.RunRequest:
    tags = {SCHEDULED_FOR: datetime.now(timezone.utc).isoformat()}
    return dg.RunRequest(run_key=f"{job} {key}", job_name=job, run_config=run_config(job, told), tags=tags)
