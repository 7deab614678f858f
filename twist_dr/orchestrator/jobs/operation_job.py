"""The job of an operation, and of those that need nothing more of Dagster than to be launched, and a page to show their result on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import dagster as dg

from twist_dr.operations import Config, Operation
from twist_dr.orchestrator.around import APPLICATION, operation, owner, run_tags
from twist_dr.orchestrator.taking import taking
from twist_dr.settings import Application, Settings

C = TypeVar("C", bound=Config)
R = TypeVar("R")
Work = Callable[[dg.OpExecutionContext, Application, C], None]


def operation_job(
    settings: Settings, launched: Operation[C, Any], work: Work[C], *, retry: bool = False
) -> dg.JobDefinition:
    """The job and its step have the operation's name; the operation's settings are its run config, and the permission is its owner."""

    @dg.op(name=launched.name, description=launched.does, required_resource_keys={APPLICATION})
    @taking(launched)
    def step(context: dg.OpExecutionContext, config: C) -> None:
        with operation(context, launched, retry=retry) as app:
            work(context, app, config)

    # Steps and graphs share one space of names in a code location, jobs have their own.
    @dg.graph(name=f"{launched.name}_steps")
    def graph() -> None:
        step()

    return graph.to_job(launched.name, description=launched.does, tags=run_tags(settings), owners=[owner(launched)])


def shown(launched: Operation[C, R], page: Callable[[R], Mapping[str, dg.MetadataValue]]) -> Work[C]:
    """Do it; ``page``: what the run shows of a result."""

    def work(context: dg.OpExecutionContext, app: Application, config: C) -> None:
        context.add_output_metadata(page(launched(app, config)))

    return work
