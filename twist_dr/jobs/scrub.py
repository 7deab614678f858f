"""The job that reads what storage targets hold again, in a rotation, and mends what went bad."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of steps themselves.

from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from twist_dr.backups import chosen_targets
from twist_dr.engine.progress import human_bytes, human_seconds
from twist_dr.engine.words import unmarked
from twist_dr.metadata import in_markdown
from twist_dr.orchestration import APPLICATION, RUN_BACKUP, operation, run_tags
from twist_dr.settings import Settings

if TYPE_CHECKING:
    from twist_dr.scrubbing import ScrubResult

_SHOWN = 200


class ScrubConfig(dg.Config):
    """All have defaults: launched as it is, it reads what is due."""

    all: bool = Field(False, description="Read everything now, whenever it was read last.")
    backup: str = Field("", description="Only this backup, by its id; empty: the rotation goes on.")
    targets: str = Field("all", description="all enabled storage targets, or some of them by name, separated by commas")


def scrub_job(settings: Settings) -> dg.JobDefinition:
    """The job ``scrub``."""

    @dg.op(name="read_again", required_resource_keys={APPLICATION})
    def read_again(context: dg.OpExecutionContext, config: ScrubConfig) -> None:
        # Not above: every other run would wait for it.
        from twist_dr.scrubbing import Scrub, ScrubOrder, raise_failures

        with operation(context) as (app, report):
            order = ScrubOrder(
                [*chosen_targets(app.settings, config.targets)], config.backup.strip() or None, config.all
            )
            result = Scrub(app, app.repositories(app.settings.restore.stall_seconds), report).run(order)
            context.add_output_metadata(_metadata(result))
            report.info(
                f"{result.copies} copies and {result.wal_objects} objects of archived WAL read, {human_bytes(result.bytes)} in "
                f"{human_seconds(result.seconds)}; {result.bad} bad, {result.count('mended')} of them mended"
            )
            raise_failures(result)

    @dg.job(
        name="scrub",
        description="Read copies and archived WAL again, the longest unread first, so that each is read within scrub.period; mend what is bad or "
        "missing from a good copy.",
        tags=run_tags(settings),
        owners=[RUN_BACKUP],
    )
    def job() -> None:
        read_again()

    return job


def _metadata(result: "ScrubResult") -> dict[str, dg.MetadataValue]:
    oldest = result.oldest.total_seconds() / 86400 if result.oldest is not None else 0.0
    return {
        "copies_read": dg.MetadataValue.int(result.copies),
        "wal_objects_read": dg.MetadataValue.int(result.wal_objects),
        "bytes_read": dg.MetadataValue.int(result.bytes),
        "bad": dg.MetadataValue.int(result.bad),
        "mended": dg.MetadataValue.int(result.count("mended")),
        "duration_seconds": dg.MetadataValue.float(result.seconds),
        "oldest_unread_days": dg.MetadataValue.float(round(oldest, 2)),
        "found": in_markdown(_table(result)),
    }


def _table(result: "ScrubResult") -> str:
    """What was not as recorded, for people."""
    rows = [(each.what, each.target, each.told, f"{each.outcome}: {each.result}") for each in result.found]
    rows += [("everything else", name, why, "not read") for name, why in result.unread.items()]
    rows += [("", "", why, "not read") for why in result.unreadable]
    if not rows:
        return "everything that was read is as it was recorded"
    lines = ["| what | target | found | result |", "| --- | --- | --- | --- |"]
    lines += ["| " + " | ".join(map(unmarked, row)) + " |" for row in rows[:_SHOWN]]
    return "\n".join(lines) + (f"\n\nand {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else "")
