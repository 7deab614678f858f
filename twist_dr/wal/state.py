"""What shipping remembers from round to round and from process to process: the cluster, what was claimed of it, each target's frontier."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from twist_dr.wal.frontier import Frontier, NoticedGap
from twist_dr.wal.primary import Sample

#: Claims that are kept: in a spool that waits for the server's archiver, the open segment may be hours behind them.
_MOST_CLAIMS = 500


@dataclass
class State:
    """What outlives a process; every field is as JSON holds it.

    ``clusters``: system identifiers that are ours, the present one last. ``claims``: moments of the primary's clock, each with the LSN
    before which everything committed by then lies, on ``timeline``. ``heads``: keys of heads that a target may hold.
    """

    clusters: list[str] = field(default_factory=list)
    segment_size: int | None = None
    timeline: int | None = None
    claims: list[tuple[str, int]] = field(default_factory=list)
    frontiers: dict[str, dict[str, Any]] = field(default_factory=dict)
    heads: dict[str, list[str]] = field(default_factory=dict)
    gaps: list[dict[str, Any]] = field(default_factory=list)

    def frontier(self, target: str) -> Frontier | None:
        """How far the target was known to reach."""
        document = self.frontiers.get(target)
        return None if document is None else Frontier.from_document(document)

    def known_gaps(self) -> list[NoticedGap]:
        """All that were ever noticed."""
        return [NoticedGap.from_document(document) for document in self.gaps]

    def note(self, sample: Sample) -> None:
        """Remember what the primary said: that its cluster is ours, and what it claims."""
        identifier = sample.system_identifier
        if self.clusters[-1:] != [identifier] or self.timeline != sample.timeline:
            self.clusters = [*(each for each in self.clusters if each != identifier), identifier]
            # What was claimed of another history's positions says nothing of this one's.
            self.claims, self.timeline = [], sample.timeline
        self.segment_size = sample.segment_size
        if sample.at is None:
            return
        # Of several moments at one position, the last says most. One that has not come yet was claimed by a clock that has been put right.
        earlier = [
            (at, lsn) for at, lsn in self.claims if lsn != sample.lsn and datetime.fromisoformat(at) <= sample.at
        ]
        if len(earlier) >= _MOST_CLAIMS:
            earlier = [*earlier[: _MOST_CLAIMS // 2 : 2], *earlier[_MOST_CLAIMS // 2 :]]
        self.claims = [*earlier, (sample.at.isoformat(), sample.lsn)]

    def claim(self, system_identifier: str, timeline: int, lsn: int) -> datetime | None:
        """The latest moment whose commits all lie before that position."""
        if self.clusters[-1:] != [system_identifier] or self.timeline != timeline:
            return None
        fitting = [at for at, position in self.claims if position <= lsn]
        return datetime.fromisoformat(fitting[-1]) if fitting else None
