"""Steps that take the settings of an operation as their run config."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

import dagster as dg
from pydantic import Field, create_model

from twist_dr.errors import LaunchRefused
from twist_dr.operations.operation import Config, Operation
from twist_dr.operations.table import JOBS, VERIFY_BACKUP
from twist_dr.operations.told import understood
from twist_dr.orchestrator.around import failure
from twist_dr.repository.kinds import KINDS

C = TypeVar("C", bound=Config)
T = TypeVar("T")

#: The step of ``verify_backup``.
VERIFICATION = "verification"

#: The step that is told what to do is called as its job, but for jobs of assets: there Dagster has the job's name already.
_STEPS = {**{spec.job: spec.step for spec in KINDS.values()}, VERIFY_BACKUP.name: VERIFICATION}
#: What each such step does.
LAUNCHED: dict[str, Operation[Any, Any]] = {
    _STEPS.get(each.name, each.name): each for each in JOBS if each.config.model_fields
}


def run_config(job: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """The run config of a job that is told some of its operation's settings."""
    return {"ops": {_STEPS.get(job, job): {"config": dict(told)}}} if told else {}


def taking(launched: Operation[C, Any]) -> Callable[[Callable[[Any, C], T]], Callable[..., T]]:
    """Around a step with the parameters ``context`` and ``config``: the launchpad shows the operation's settings, and the step is given them.

    Where there are none, the step has no run config. What does not make sense is told before the step begins.
    """
    model = launched.config
    # What else a value must be is told by us, in sentences.
    fields: dict[str, Any] = {
        name: (field.annotation, Field(field.default, description=field.description))
        for name, field in model.model_fields.items()
    }
    shown = create_model(model.__name__, __base__=dg.Config, __doc__=model.__doc__, **fields)

    def wrap(step: Callable[[Any, C], T]) -> Callable[..., T]:
        @wraps(step)
        def configured(context: Any, config: dg.Config | None = None) -> T:
            try:
                settings = understood(launched, config.model_dump() if config is not None else {})
            except LaunchRefused as refused:
                raise failure(refused) from None
            return step(context, settings)

        context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        taken = inspect.Parameter("config", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=shown)
        # Dagster reads the signature, not what is called.
        configured.__signature__ = inspect.Signature([context, taken] if fields else [context])  # type: ignore[attr-defined]
        return configured

    return wrap
