"""The schedules of the settings. A time that passed while the daemon was down is caught up once: Dagster launches its latest."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timezone
from typing import Any

import dagster as dg

from twist_dr.orchestrator.around import RUN_BACKUP
from twist_dr.orchestrator.taking import run_config
from twist_dr.repository.kinds import KINDS
from twist_dr.settings import Settings
from twist_dr.watch.runs import LABEL, SCHEDULED_FOR
from twist_dr.watch.schedules import ScheduleEntry, entries, label_of


def schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """One schedule for each that the settings have, running unless somebody stops it in the page."""
    return [_schedule(entry) for entry in entries(settings)]


def _schedule(entry: ScheduleEntry) -> dg.ScheduleDefinition:
    def request(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        due = context.scheduled_execution_time.astimezone(timezone.utc)
        label = label_of(entry, due)
        return dg.RunRequest(
            run_key=f"{entry.name} {due.isoformat()}",
            run_config=_run_config(entry, label),
            tags={SCHEDULED_FOR: due.isoformat(), LABEL: label},
        )

    return dg.ScheduleDefinition(
        name=entry.schedule,
        job_name=entry.job,
        cron_schedule=entry.cron,
        execution_timezone=entry.time_zone,
        execution_fn=request,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"{entry.job}, as {entry.place} of the settings says.",
        owners=[RUN_BACKUP],
    )


def _run_config(entry: ScheduleEntry, label: str) -> Mapping[str, Any]:
    """The run config of a scheduled run. Drills and scrubs have no label."""
    told = {name: ",".join(value) if isinstance(value, list) else value for name, value in entry.told.items()}
    config = {"label": label, **told} if entry.kind in KINDS else told
    return run_config(entry.job, config)
