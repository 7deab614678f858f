"""The smallest Dagster job: what ``make bench`` measures start-up against."""

import dagster as dg


@dg.op
def nothing() -> None:
    """Does nothing."""


@dg.job(executor_def=dg.in_process_executor)
def empty() -> None:
    """One step that does nothing."""
    nothing()


defs = dg.Definitions(jobs=[empty])
