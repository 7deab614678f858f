"""The job that takes a restore back."""

from __future__ import annotations

import dagster as dg

from twist_dr.operations.table import UNDO_RESTORE
from twist_dr.operations.undo_restore import UndoRestoreConfig, undo_restore
from twist_dr.orchestrator.around import APPLICATION, operation, owner, run_tags
from twist_dr.orchestrator.jobs.restore_page import watched
from twist_dr.orchestrator.taking import taking
from twist_dr.settings import Settings


def undo_restore_job(settings: Settings) -> dg.JobDefinition:
    """The job ``undo_restore``."""

    @dg.op(name="put_back", required_resource_keys={APPLICATION})
    @taking(UndoRestoreConfig)
    def put_back(context: dg.OpExecutionContext, config: UndoRestoreConfig) -> None:
        with operation(context, UNDO_RESTORE) as app, watched(context, app) as shown:
            undo_restore(app, config, app.report, shown)

    @dg.job(
        name=UNDO_RESTORE.name,
        description="Put back what a restore replaced, database and media, and keep what is live until then in turn.",
        tags=run_tags(settings),
        owners=[owner(UNDO_RESTORE)],
    )
    def job() -> None:
        put_back()

    return job
