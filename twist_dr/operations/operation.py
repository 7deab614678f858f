"""One operation, and who may launch it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from twist_dr.errors import PermissionMissing
from twist_dr.settings import Application
from twist_dr.settings.actor import Actor, Permission


class Config(BaseModel):
    """What may be told to an operation: flat, each with a default that is safe. An operation that is told nothing takes this."""

    model_config = ConfigDict(extra="forbid", frozen=True)


C = TypeVar("C", bound=Config)
R = TypeVar("R")


@dataclass(frozen=True)
class Operation(Generic[C, R]):
    """``work`` does it, for whoever has the ``permission``; where a step of the orchestrator shows more on the way than a result, it calls the same parts."""

    name: str
    permission: Permission
    config: type[C]
    work: Callable[[Application, C], R]
    does: str = ""
    """For whoever looks for what can be launched."""
    plan: Mapping[str, object] = field(default_factory=dict)
    """The settings with which it only shows what it would do, where there are such: whoever launches it by hand sees that first."""

    def require(self, actor: Actor) -> None:
        """Raises ``PermissionMissing`` unless the actor may."""
        if self.permission not in actor.permissions:
            raise PermissionMissing(
                f"{actor.name} may not launch {self.name}",
                remedy=f"ask somebody who has the permission {self.permission}",
            )

    def __call__(self, app: Application, config: C) -> R:
        """Do it for the application's actor. Raises ``PermissionMissing`` before anything is looked at."""
        self.require(app.actor)
        return self.work(app, config)
