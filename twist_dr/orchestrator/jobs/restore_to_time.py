"""The job that recovers to a point in time: launched as it is, it plans the recovery of the latest state and changes nothing."""

from __future__ import annotations

import dagster as dg

from twist_dr.operations.restore_to_time import RestoreToTimeConfig, restore_to_time
from twist_dr.operations.table import RESTORE_TO_TIME
from twist_dr.orchestrator.around import APPLICATION, operation, owner, run_tags
from twist_dr.orchestrator.jobs.restore_page import watched
from twist_dr.orchestrator.taking import taking
from twist_dr.settings import Settings


def restore_to_time_job(settings: Settings) -> dg.JobDefinition:
    """The job ``restore_to_time``."""

    @dg.op(name="recover_to_point", required_resource_keys={APPLICATION})
    @taking(RestoreToTimeConfig)
    def recover_to_point(context: dg.OpExecutionContext, config: RestoreToTimeConfig) -> None:
        with operation(context, RESTORE_TO_TIME) as app, watched(context, app) as shown:
            restore_to_time(app, config, app.report, shown)

    @dg.job(
        name=RESTORE_TO_TIME.name,
        description="Recover to any second, LSN, transaction or named point: plan it (the default), into a sandbox, in the place of the "
        "live database, or as a data folder on a recovery host.",
        tags=run_tags(settings),
        owners=[owner(RESTORE_TO_TIME)],
    )
    def job() -> None:
        recover_to_point()

    return job
