"""The job that tries every storage target with a small object and says in words what is wrong."""

from __future__ import annotations

import dagster as dg

from twist_dr.operations.table import TEST_STORAGE_TARGETS
from twist_dr.operations.targets import in_a_line
from twist_dr.orchestrator.jobs.operation_job import operation_job, shown
from twist_dr.orchestrator.metadata import in_words
from twist_dr.settings import Settings


def test_storage_targets_job(settings: Settings) -> dg.JobDefinition:
    """The job ``test_storage_targets``: all targets at once, results in the catalog, failed when one is not usable."""
    page = shown(TEST_STORAGE_TARGETS, lambda tests: {test.target: in_words(in_a_line(test)) for test in tests})
    return operation_job(settings, TEST_STORAGE_TARGETS, page)
