"""What shipping remembers from round to round and from process to process: the cluster, what was claimed of it, each target's archived position."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from twist_dr.wal.archived import ArchivedPosition, NoticedGap
from twist_dr.wal.primary import Sample

#: Claims that are kept: in a spool that waits for the server's archiver, the open segment may be hours behind them.
_MOST_CLAIMS = 500


#: Names of fields in what earlier versions wrote.
_FORMER = {"frontiers": "positions", "heads": "partials"}


@dataclass
class ShippingState:
    """What outlives a process; every field is as JSON holds it.

    ``clusters``: system identifiers that are ours, the present one last. ``claims``: moments of the primary's clock, each with the LSN
    before which everything committed by then lies, on ``timeline``. ``partials``: keys of partial segments that a target may hold.
    """

    clusters: list[str] = field(default_factory=list)
    segment_size: int | None = None
    timeline: int | None = None
    claims: list[tuple[str, int]] = field(default_factory=list)
    positions: dict[str, dict[str, Any]] = field(default_factory=dict)
    partials: dict[str, list[str]] = field(default_factory=dict)
    gaps: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> ShippingState:
        """As read. Raises ``TypeError``, ``ValueError`` and ``KeyError`` for what is none."""
        state = cls(**{_FORMER.get(key, key): value for key, value in document.items()})
        state.claims = [(str(at), int(lsn)) for at, lsn in state.claims]
        for target in state.positions:
            state.position(target)
        state.known_gaps()
        return state

    def position(self, target: str) -> ArchivedPosition | None:
        """How far the target was known to reach."""
        document = self.positions.get(target)
        return None if document is None else ArchivedPosition.from_document(document)

    def known_gaps(self) -> list[NoticedGap]:
        """All that were ever noticed."""
        return [NoticedGap.from_document(document) for document in self.gaps]

    def forget(self, targets: Iterable[str]) -> None:
        """Targets that get no WAL on purpose: what they miss until they get it again is on others, and no gap for ever."""
        for name in targets:
            self.positions.pop(name, None)
            self.partials.pop(name, None)
            self.gaps = [gap for gap in self.gaps if gap["target"] != name]

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
