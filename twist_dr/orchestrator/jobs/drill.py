"""The job that rehearses a recovery, harmlessly, and measures how long it takes."""

from __future__ import annotations

import dagster as dg

from twist_dr.operations.table import DRILL
from twist_dr.orchestrator.jobs.operation_job import operation_job, shown
from twist_dr.orchestrator.metadata import in_list, in_words
from twist_dr.settings import Settings
from twist_dr.verify.drill import Rehearsed


def drill_job(settings: Settings) -> dg.JobDefinition:
    """The job ``drill``."""
    return operation_job(settings, DRILL, shown(DRILL, _metadata), retry=True)


def _metadata(drill: Rehearsed) -> dict[str, dg.MetadataValue]:
    found: dict[str, dg.MetadataValue] = {
        "target": in_words(drill.target),
        "notes": in_list(drill.notes),
    }
    if drill.objective_seconds is not None:
        found["objective_seconds"] = dg.MetadataValue.float(drill.objective_seconds)
    for name, way in drill.ways.items():
        found[f"{name}_backup_id"] = in_words(way.backup_id)
        found[f"{name}_total_seconds"] = dg.MetadataValue.float(way.seconds)
        for phase, seconds in way.phases.items():
            found[f"{name}_{phase}_seconds"] = dg.MetadataValue.float(seconds)
    return found
