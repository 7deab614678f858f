"""What somebody asks of a scrub, and what it found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from twist_dr.errors import CopyFailed, TargetUnavailable

#: ``gone``: deleted while it was read, which is no fault. ``never stored``: the backup never got there, which its own run has said.
ScrubOutcome = Literal["repaired", "not repaired", "gone", "never stored", "stored"]

_NAMED = 5


@dataclass(frozen=True)
class ScrubOrder:
    """``backup``: only this one. ``everything``: all of it, whenever it was read last."""

    targets: Sequence[str]
    backup: str | None = None
    everything: bool = False


@dataclass(frozen=True)
class ScrubFinding:
    """Something that was not as recorded. ``what``: a backup's id, or the key of an object of write-ahead log. ``result``: what was done, or why not."""

    what: str
    target: str
    told: str
    outcome: ScrubOutcome
    result: str


@dataclass
class ScrubResult:
    """``unread``: by target, why it could not be read (to the end). ``unreadable``: sentences about copies that nothing can be said of,
    and about what lies among them and is no part of a backup.

    ``oldest``: how long ago that copy was read which was not for the longest time; None without any.
    """

    copies: int = 0
    wal_objects: int = 0
    bytes: int = 0
    found: list[ScrubFinding] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    oldest: timedelta | None = None
    seconds: float = 0.0

    def count(self, outcome: ScrubOutcome) -> int:
        return sum(found.outcome == outcome for found in self.found)

    @property
    def bad(self) -> int:
        """Copies and objects that were bad or missing."""
        return self.count("repaired") + self.count("not repaired")


def raise_bad(result: ScrubResult) -> None:
    """Raise unless all that should have been read was, and is good now: ``CopyFailed``, or ``TargetUnavailable`` when targets were away only."""
    lasting = [
        f"{found.what} on {found.target} is bad and was not repaired: {found.told} {found.result}"
        for found in result.found
        if found.outcome == "not repaired"
    ]
    lasting += result.unreadable
    away = [f"{name} could not be read: {why}" for name, why in result.unread.items()]
    told = " ".join((lasting + away)[:_NAMED])
    if more := len(lasting + away) - _NAMED:
        told += f" And {more} more; see the run's table." if more > 0 else ""
    if lasting:
        raise CopyFailed(told)
    if away:
        raise TargetUnavailable(f"{told} What was not read is read first by the next scrub.")
