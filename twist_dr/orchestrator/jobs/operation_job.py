"""The job of an operation that needs nothing more of Dagster than to be launched, and a page to show its result on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import dagster as dg

from twist_dr.operations import Config, Operation
from twist_dr.orchestrator.around import APPLICATION, operation, owner, run_tags
from twist_dr.orchestrator.taking import taking
from twist_dr.settings import Settings

C = TypeVar("C", bound=Config)
R = TypeVar("R")


def operation_job(
    settings: Settings,
    launched: Operation[C, R],
    *,
    step: str,
    description: str,
    page: Callable[[R], Mapping[str, dg.MetadataValue]],
    retry: bool = False,
) -> dg.JobDefinition:
    """The job has the operation's name, its settings as run config, and its permission as owner. ``page``: what the run shows of a result."""

    @dg.op(name=step, required_resource_keys={APPLICATION})
    @taking(launched.config)
    def work(context: dg.OpExecutionContext, config: C) -> None:
        with operation(context, launched, retry=retry) as app:
            context.add_output_metadata(page(launched(app, config, app.report)))

    @dg.job(name=launched.name, description=description, tags=run_tags(settings), owners=[owner(launched)])
    def job() -> None:
        work()

    return job
