"""The job that restores a backup: launched as it is, it plans the restore of the latest verified one and changes nothing."""

from __future__ import annotations

import dagster as dg

from twist_dr.operations.restore import RestoreConfig, restore
from twist_dr.operations.table import RESTORE
from twist_dr.orchestrator.around import APPLICATION, operation, owner, run_tags
from twist_dr.orchestrator.jobs.restore_page import watched
from twist_dr.orchestrator.taking import taking
from twist_dr.settings import Settings


def restore_job(settings: Settings) -> dg.JobDefinition:
    """The job ``restore``."""

    @dg.op(name="restore_backup", required_resource_keys={APPLICATION})
    @taking(RestoreConfig)
    def restore_backup(context: dg.OpExecutionContext, config: RestoreConfig) -> None:
        with operation(context, RESTORE) as app, watched(context, app) as shown:
            restore(app, config, app.report, shown)

    @dg.job(
        name=RESTORE.name,
        description="Restore a backup: plan it (the default), into a sandbox beside the live database, or cut over to it and keep "
        "what it replaces.",
        tags=run_tags(settings),
        owners=[owner(RESTORE)],
    )
    def job() -> None:
        restore_backup()

    return job
