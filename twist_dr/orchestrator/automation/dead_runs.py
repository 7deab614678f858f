"""The sensor that marks killed runs as failed."""

from __future__ import annotations

import dagster as dg

from twist_dr.orchestrator.around import (
    DEAD_RUNS,
    RUN_BACKUP,
    reap_dead_runs,
    settle_attempts,
    telling,
    without_secrets,
)
from twist_dr.settings import Application
from twist_dr.watch.runs import note_killed


def dead_runs_sensor(app: Application) -> dg.SensorDefinition:
    """The sensor ``dead_runs``. It launches nothing."""

    @dg.sensor(
        name=DEAD_RUNS,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Marks runs as failed whose process was killed; otherwise they would be shown as going on for ever.",
        owners=[RUN_BACKUP],
    )
    @without_secrets()
    def dead_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        reaped = reap_dead_runs(context.instance)
        told: list[str] = []
        for run_id in reaped:
            note_killed(telling(app, told), run_id)
        told += settle_attempts(app, context.instance)
        marked = f"marked {', '.join(reaped)}" if reaped else "no dead runs"
        return dg.SkipReason("; ".join([marked, *told]))

    return dead_runs
