"""How far a storage target's archive reaches, what it will never have, and what one round of shipping did about it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from twist_dr.engine.wal.names import format_lsn, parse_lsn
from twist_dr.errors import TwistDRError

_GAP_END = re.compile(r" to ([0-9A-F]{1,8}/[0-9A-F]{1,8})")


@dataclass(frozen=True)
class Frontier:
    """How far a target's archive reaches. Everything before ``lsn`` is there; everything committed before ``at`` (the primary's clock) too.

    ``head``: the key of the head that it ends with, if it does.
    """

    system_identifier: str
    timeline: int
    lsn: int
    at: datetime | None = None
    head: str | None = None

    @property
    def position(self) -> tuple[str, int, int, datetime | None]:
        """What has to differ for the archive to reach further, or for longer."""
        return self.system_identifier, self.timeline, self.lsn, self.at

    def document(self) -> dict[str, object]:
        return {**vars(self), "at": self.at.isoformat() if self.at else None}

    @classmethod
    def from_document(cls, document: Mapping[str, object]) -> Frontier:
        values = dict(document)
        at = values.get("at")
        return cls(**{**values, "at": datetime.fromisoformat(str(at)) if at else None})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Gap:
    """WAL that a target does not have and will not get: ``begin`` up to ``end`` (LSN, left out)."""

    target: str
    system_identifier: str
    begin: int
    end: int
    noticed_at: datetime

    def document(self) -> dict[str, object]:
        return {**vars(self), "noticed_at": self.noticed_at.isoformat()}

    @classmethod
    def from_document(cls, document: Mapping[str, object]) -> Gap:
        values = {**document, "noticed_at": datetime.fromisoformat(str(document["noticed_at"]))}
        return cls(**values)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.target} lacks WAL from {format_lsn(self.begin)} to {format_lsn(self.end)}"


def gaps_after(gaps: Iterable[str], lsn: int) -> list[str]:
    """Of the sentences that gaps are recorded as, those that a recovery from ``lsn`` on would meet; one that cannot be read is met."""
    return [gap for gap in gaps if (found := _GAP_END.search(gap)) is None or parse_lsn(found[1]) > lsn]


@dataclass
class Outcome:
    """What one target got. ``advanced``: its frontier is further, in position or in time."""

    frontier: Frontier | None = None
    segments: int = 0
    stored_bytes: int = 0
    advanced: bool = False
    error: TwistDRError | None = None


@dataclass
class Shipped:
    """What one round did. ``oldest_seconds``: the age of the oldest file that some required target lacks.

    ``gaps`` were noticed in this round, ``known_gaps`` in this one or any before it.
    """

    targets: dict[str, Outcome]
    waiting: int = 0
    oldest_seconds: float = 0.0
    spool_bytes: int = 0
    gaps: list[Gap] = field(default_factory=list)
    known_gaps: list[Gap] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def errors(self) -> dict[str, TwistDRError]:
        return {name: outcome.error for name, outcome in self.targets.items() if outcome.error is not None}

    def gaps_of(self, target: str) -> list[str]:
        """A sentence for each gap that is known of a target, in the cluster that it has come to."""
        frontier = self.targets[target].frontier
        return [
            str(gap)
            for gap in self.known_gaps
            if gap.target == target and frontier is not None and gap.system_identifier == frontier.system_identifier
        ]

    @property
    def advanced(self) -> bool:
        return any(outcome.advanced for outcome in self.targets.values())
