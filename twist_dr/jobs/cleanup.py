"""The job that removes what has had its time: databases and media that restores replaced."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of steps themselves.

from datetime import datetime, timezone

import dagster as dg
from pydantic import Field

from twist_dr.engine.lock import application_lock
from twist_dr.engine.restore.settle import half_removed, kept, remove_kept, settle_interrupted
from twist_dr.orchestration import RUN_BACKUP, RUN_TAGS, operation
from twist_dr.resources.restores import surroundings
from twist_dr.settings import Settings


class CleanupConfig(dg.Config):
    """Launched as it is, it removes what is due."""

    dry_run: bool = Field(False, description="Only show what would be removed.")


def cleanup_job(settings: Settings) -> dg.JobDefinition:
    """The job ``cleanup``."""

    @dg.op(name="remove_replaced")
    def remove_replaced(context: dg.OpExecutionContext, config: CleanupConfig) -> None:
        with operation(context) as report, application_lock(settings.lock_dir, settings.application, "A cleanup"):
            around, now = surroundings(settings), datetime.now(timezone.utc)
            if not config.dry_run:
                settle_interrupted(around, report)
                for journal in half_removed(around):
                    remove_kept(journal, around)
                    report.info(f"removed what an earlier cleanup had left of {journal.restore_id}")
            rows, removed = [], 0
            for each in kept(around):
                until = each.journal.keep_until
                due = until is not None and until <= now
                rows.append(
                    f"| {each.journal.restore_id} | {each} | {'remove' if due else 'keep'} | {until:%Y-%m-%d %H:%M} |"
                )
                if due and not config.dry_run:
                    remove_kept(each.journal, around)
                    removed += 1
                    report.info(f"removed {each}, which {each.journal.restore_id} had replaced")
            table = "\n".join(["| restore | replaced | | kept until (UTC) |", "| --- | --- | --- | --- |", *rows])
            context.add_output_metadata(
                {
                    "plan": dg.MetadataValue.md(table if rows else "nothing is kept"),
                    "removed": dg.MetadataValue.int(removed),
                }
            )
            report.info(f"{removed} of {len(rows)} kept things removed" + (" (dry run)" if config.dry_run else ""))

    @dg.job(
        name="cleanup",
        description="Remove databases and media that restores replaced, once restore.keep_replaced_for is over.",
        tags=RUN_TAGS,
        owners=[RUN_BACKUP],
    )
    def job() -> None:
        remove_replaced()

    return job
