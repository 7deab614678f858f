"""The job that takes a restore back."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of steps themselves.

import dagster as dg
from pydantic import Field

from twist_dr.engine.restore.record import Record
from twist_dr.engine.restore.undo import undo_restore
from twist_dr.errors import RestoreRefused, RestoreUndone, TwistDRError
from twist_dr.jobs.restore_page import metadata, observe
from twist_dr.orchestration import APPLICATION, RESTORE_BACKUP, operation, run_tags
from twist_dr.restores import RestoreLog, end_killed
from twist_dr.settings import Settings
from twist_dr.settings.asking import django_application
from twist_dr.settings.restoring import surroundings


class UndoRestoreConfig(dg.Config):
    """Launched as it is, it says what would be put back and changes nothing."""

    restore: str = Field("latest", description="latest, or a restore's id (twist-dr list --replaced)")
    reason: str = Field("", description="Why; required.")
    confirm: str = Field("", description="The application's name, typed.")


def undo_restore_job(settings: Settings) -> dg.JobDefinition:
    """The job ``undo_restore``."""

    @dg.op(name="put_back", required_resource_keys={APPLICATION})
    def put_back(context: dg.OpExecutionContext, config: UndoRestoreConfig) -> None:
        with operation(context) as (app, report), app.lock("Undoing a restore"):
            confirmed = config.confirm == app.name
            if confirmed and not config.reason.strip():
                raise RestoreRefused(
                    "Undoing a restore needs a reason, for those who find it later; write it in reason."
                )
            log = RestoreLog(app, report, verified=True)
            seen: list[Record] = []

            def note(record: Record) -> None:
                seen[:] = [record]
                log.note(record)

            try:
                record = undo_restore(
                    config.restore, surroundings(app.settings), report,
                    reason=config.reason, django=django_application(app.settings), confirmed=confirmed, note=note,
                )  # fmt: skip
                end_killed(app, report, but=record.restore_id)
            except BaseException as error:
                for record in seen:
                    undone = isinstance(error, RestoreUndone)
                    said = str(error) if isinstance(error, TwistDRError) else f"ended by {type(error).__name__}"
                    record.end(
                        "undone" if undone else "refused" if isinstance(error, RestoreRefused) else "failed", error=said
                    )
                    note(record)
                    observe(context, app, record, report)
                raise
            note(record)
            observe(context, app, record, report)
            context.add_output_metadata(metadata(record))
            report.info(record.result)

    @dg.job(
        name="undo_restore",
        description="Put back what a restore replaced, database and media, and keep what is live until then in turn.",
        tags=run_tags(settings),
        owners=[RESTORE_BACKUP],
    )
    def job() -> None:
        put_back()

    return job
