"""The sensor that marks killed runs as failed."""

from __future__ import annotations

import dagster as dg

from twist_dr.orchestration import RUN_BACKUP, reap_dead_runs


@dg.sensor(
    name="dead_runs",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Marks runs as failed whose process was killed; otherwise they would be shown as going on for ever.",
    owners=[RUN_BACKUP],
)
def dead_runs_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Launches nothing."""
    reaped = reap_dead_runs(context.instance)
    return dg.SkipReason(f"marked {', '.join(reaped)}" if reaped else "no dead runs")
