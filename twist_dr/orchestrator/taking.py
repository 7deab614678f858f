"""Steps that take the settings of an operation as their run config."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import dagster as dg
from pydantic import create_model

from twist_dr.operations.operation import Config

C = TypeVar("C", bound=Config)
T = TypeVar("T")


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
