"""Steps that take the settings of an operation as their run config."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

import dagster as dg
from pydantic import create_model

from twist_dr.operations.operation import Config
from twist_dr.operations.table import VERIFY_BACKUP
from twist_dr.repository.kinds import KINDS

C = TypeVar("C", bound=Config)
T = TypeVar("T")

#: The step of ``verify_backup``.
VERIFICATION = "verification"

#: The step that is told what to do is called as its job, but for jobs of assets: there Dagster has the job's name already.
_STEPS = {**{spec.job: spec.step for spec in KINDS.values()}, VERIFY_BACKUP.name: VERIFICATION}


def run_config(job: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """The run config of a job that is told some of its operation's settings."""
    return {"ops": {_STEPS.get(job, job): {"config": dict(told)}}} if told else {}


def taking(model: type[C]) -> Callable[[Callable[[Any, C], T]], Callable[..., T]]:
    """Around a step with the parameters ``context`` and ``config``: the launchpad shows the operation's settings, and the step is given them.

    Where there are none, the step has no run config.
    """
    fields: dict[str, Any] = {name: (field.annotation, field) for name, field in model.model_fields.items()}
    shown = create_model(model.__name__, __base__=dg.Config, __doc__=model.__doc__, **fields)

    def wrap(step: Callable[[Any, C], T]) -> Callable[..., T]:
        @wraps(step)
        def configured(context: Any, config: dg.Config | None = None) -> T:
            return step(context, model(**config.model_dump()) if config is not None else model())

        context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        taken = inspect.Parameter("config", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=shown)
        # Dagster reads the signature, not what is called.
        configured.__signature__ = inspect.Signature([context, taken] if fields else [context])  # type: ignore[attr-defined]
        return configured

    return wrap
