"""How far a storage target's archive reaches, what it will never have, and what one round of shipping did about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from twist_dr.errors import TwistDRError
from twist_dr.postgres.lsn import Gap

#: Names in documents of earlier versions.
_FORMER = {"head": "partial"}


@dataclass(frozen=True)
class ArchivedPosition:
    """How far a target's archive reaches. Everything before ``lsn`` is there; everything committed before ``at`` (the primary's clock) too.

    ``partial``: the key of the partial segment that it ends with, if it does.
    """

    system_identifier: str
    timeline: int
    lsn: int
    at: datetime | None = None
    partial: str | None = None

    @property
    def reached(self) -> tuple[str, int, int, datetime | None]:
        """What has to differ for the archive to reach further, or for longer."""
        return self.system_identifier, self.timeline, self.lsn, self.at

    def document(self) -> dict[str, object]:
        return {**vars(self), "at": self.at.isoformat() if self.at else None}

    @classmethod
    def from_document(cls, document: Mapping[str, object]) -> ArchivedPosition:
        values = {_FORMER.get(key, key): value for key, value in dict(document).items()}
        at = values.get("at")
        return cls(**{**values, "at": datetime.fromisoformat(str(at)) if at else None})  # type: ignore[arg-type]


@dataclass(frozen=True)
class NoticedGap:
    """A gap as shipping noticed it: whose, in which cluster, and when."""

    target: str
    system_identifier: str
    gap: Gap
    noticed_at: datetime

    def document(self) -> dict[str, object]:
        return {
            **vars(self.gap),
            "target": self.target,
            "system_identifier": self.system_identifier,
            "noticed_at": self.noticed_at.isoformat(),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> NoticedGap:
        gap = Gap(document.get("timeline"), document["begin"], document["end"])
        return cls(
            document["target"], document["system_identifier"], gap, datetime.fromisoformat(document["noticed_at"])
        )

    def __str__(self) -> str:
        return self.gap.sentence(self.target)


def gaps_after(gaps: Iterable[Gap], lsn: int) -> list[Gap]:
    """Those that a recovery from ``lsn`` on would meet."""
    return [gap for gap in gaps if gap.end > lsn]


def listed(gaps: Iterable[Gap], target: str) -> str:
    """All of a target in one line."""
    return "; ".join(gap.sentence(target) for gap in gaps) or "none"


@dataclass
class TargetShipped:
    """What one target got. ``advanced``: its archived position is further, in position or in time."""

    position: ArchivedPosition | None = None
    segments: int = 0
    stored_bytes: int = 0
    advanced: bool = False
    error: TwistDRError | None = None


@dataclass
class Shipped:
    """What one round did. ``oldest_seconds``: the age of the oldest file that some required target lacks.

    ``gaps`` were noticed in this round, ``known_gaps`` in this one or any before it.
    """

    targets: dict[str, TargetShipped]
    waiting: int = 0
    oldest_seconds: float = 0.0
    spool_bytes: int = 0
    gaps: list[NoticedGap] = field(default_factory=list)
    known_gaps: list[NoticedGap] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def errors(self) -> dict[str, TwistDRError]:
        return {name: outcome.error for name, outcome in self.targets.items() if outcome.error is not None}

    def gaps_of(self, target: str) -> list[Gap]:
        """The gaps that are known of a target, in the cluster that it has come to."""
        position = self.targets[target].position
        return [
            each.gap
            for each in self.known_gaps
            if each.target == target and position is not None and each.system_identifier == position.system_identifier
        ]

    @property
    def advanced(self) -> bool:
        return any(outcome.advanced for outcome in self.targets.values())


@dataclass(frozen=True)
class Known:
    """How far an archive was known to reach: ``lsn`` on ``timeline``, and everything committed before ``at``."""

    #: Who says so, for sentences.
    by: str
    system_identifier: str
    timeline: int
    lsn: int
    at: datetime | None = None
    #: Whether this recovery reads that archive; one that it was told to leave aside may well have it.
    asked: bool = True
