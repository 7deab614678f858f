"""The job that reads what storage targets hold again, in a rotation, and repairs what went bad."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from twist_dr.operations.table import SCRUB
from twist_dr.orchestrator.jobs.operation_job import operation_job, shown
from twist_dr.orchestrator.metadata import in_markdown
from twist_dr.settings import Settings
from twist_dr.system.words import unmarked

if TYPE_CHECKING:
    from twist_dr.scrub.found import ScrubResult

_SHOWN = 200


def scrub_job(settings: Settings) -> dg.JobDefinition:
    """The job ``scrub``."""
    return operation_job(settings, SCRUB, shown(SCRUB, _metadata))


def _metadata(result: ScrubResult) -> dict[str, dg.MetadataValue]:
    oldest = result.oldest.total_seconds() / 86400 if result.oldest is not None else 0.0
    return {
        "copies_read": dg.MetadataValue.int(result.copies),
        "wal_objects_read": dg.MetadataValue.int(result.wal_objects),
        "bytes_read": dg.MetadataValue.int(result.bytes),
        "bad": dg.MetadataValue.int(result.bad),
        "repaired": dg.MetadataValue.int(result.count("repaired")),
        "duration_seconds": dg.MetadataValue.float(result.seconds),
        "oldest_unread_days": dg.MetadataValue.float(round(oldest, 2)),
        "found": in_markdown(_table(result)),
    }


def _table(result: ScrubResult) -> str:
    """What was not as recorded, for people."""
    rows = [(each.what, each.target, each.told, f"{each.outcome}: {each.result}") for each in result.found]
    rows += [("everything else", name, why, "not read") for name, why in result.unread.items()]
    rows += [("", "", why, "not read") for why in result.unreadable]
    if not rows:
        return "everything that was read is as it was recorded"
    lines = ["| what | target | found | result |", "| --- | --- | --- | --- |"]
    lines += ["| " + " | ".join(map(unmarked, row)) + " |" for row in rows[:_SHOWN]]
    return "\n".join(lines) + (f"\n\nand {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else "")
