"""What an operation tells, as values: whoever wants to know listens."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Begun:
    """A step of an operation is at work."""

    operation: str


@dataclass(frozen=True)
class Line:
    """Something to be read at once, without secrets; several lines where an operation shows a page."""

    text: str
    warning: bool = False


@dataclass(frozen=True, eq=False)
class OperationPart:
    """A part of an operation, which goes through about ``total`` bytes, if that is known. Of the same name there may be several."""

    name: str
    total: int | None = None
    began: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Progress:
    """``done`` bytes of a part; told first with none, last when it is ``over``, well or not."""

    part: OperationPart
    done: int
    over: bool = False


@dataclass(frozen=True)
class Shown:
    """For whoever keeps a page of the operation: a plan that is about to be carried out, what became of a part of it, the record of a restore."""

    what: object


@dataclass(frozen=True)
class Planned:
    """What a plan is about, in settings that mean the same ever after, where what it was told ("latest") may mean another one by then."""

    settings: Mapping[str, str]


@dataclass(frozen=True)
class Proven:
    """A backup of the application's data was restored, and is what was recorded when it was taken."""

    backup_id: str


@dataclass(frozen=True)
class Ended:
    """A step of an operation has ended; ``last``: no other follows, so the operation has ended with it. One that failed is always the last."""

    operation: str
    state: Literal["succeeded", "failed", "cancelled"]
    last: bool = True
    step: str | None = None
    error: str | None = None
    error_code: str | None = None


Event = Begun | Line | Progress | Shown | Planned | Proven | Ended

#: Called by whichever thread tells something, by several at once. One that fails ends what is told of, so what must not end it does not raise.
Listener = Callable[[Event], None]
