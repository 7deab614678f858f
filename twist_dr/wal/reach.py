"""How far each target reaches, as segments and partial segments come to it; and where it has a hole."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone

from twist_dr.errors import TwistDRError
from twist_dr.postgres.lsn import Gap
from twist_dr.repository.keys import Keyring
from twist_dr.system.progress import Report
from twist_dr.wal.archived import ArchivedPosition, NoticedGap, TargetShipped
from twist_dr.wal.destinations import Destinations
from twist_dr.wal.names import Segment
from twist_dr.wal.partial_segment import PartialSegment
from twist_dr.wal.state import ShippingState


class Reach:
    """The archived position of every target during one round, begun from ``state``. From any thread, one at a time for each target.

    ``positions``: by target, None for one that has nothing yet. ``gaps``: those that were noticed in this round.
    """

    def __init__(self, destinations: Destinations, keyring: Keyring, state: ShippingState, report: Report) -> None:
        self.positions: dict[str, ArchivedPosition | None] = {name: state.position(name) for name in destinations}
        self.gaps: list[NoticedGap] = []
        self._destinations = destinations
        self._keyring = keyring
        self._state = state
        self._report = report
        self._guard = threading.Lock()

    def add_segments(self, name: str, segments: Iterable[tuple[str, Segment]]) -> None:
        """The target has these, each of the cluster of a system identifier; a hole before one of them is a gap.

        Raises storage errors, with the archived position where it was.
        """
        position = self.positions[name]
        for identifier, segment in segments:
            position = self._extended(name, position, identifier, segment, segment.end)
        if position is not None:
            claim = self._state.claim(position.system_identifier, position.timeline, position.lsn)
            self.positions[name] = replace(position, at=claim or position.at)

    def add_partial(self, name: str, identifier: str, partial: PartialSegment, key: str | None) -> None:
        """The target has this partial segment, under ``key``; without one, only its bytes count, as nobody will add to them.

        Raises storage errors, with the archived position where it was.
        """
        position = self._extended(name, self.positions[name], identifier, partial.segment, partial.end)
        if key is not None:
            position = replace(position, at=partial.claim or position.at, partial=key)
        self.positions[name] = position

    def look_back(self, name: str) -> None:
        """The last whole segment that the target was given must be there still; where somebody has removed it, that is a gap.

        A cleanup removes the oldest first, so what it has removed has nothing older beside it. Raises storage errors.
        """
        position, size = self.positions[name], self._state.segment_size
        if position is None or size is None or self._state.clusters[-1:] != [position.system_identifier]:
            return
        last = Segment(position.timeline, position.lsn // size - 1, size)
        archive, identifier = self._destinations[name].archive, position.system_identifier
        if last.number < 0 or archive.has_segment(identifier, last, self._destinations[name].form):
            return
        known = (
            each for each in self._state.known_gaps() if each.target == name and each.system_identifier == identifier
        )
        if any(each.gap.begin <= last.start < each.gap.end for each in known):
            return
        # Listed by their names: the form may have changed, and a timeline that began later has it under the older one's.
        older = [each for each in archive.holdings(identifier, size).segments if each.number <= last.number]
        if any(each.number == last.number for each in older):
            return
        began_here = position.lsn > last.end and (position.partial is None or archive.has(position.partial))
        if older or not began_here:
            begin = max((each.end for each in older), default=last.start)
            self._note_gap(name, identifier, Gap(last.timeline, begin, last.end))

    def conclude(self, outcomes: dict[str, TargetShipped]) -> None:
        """Write what was reached into the outcomes, and into the state."""
        for name, position in self.positions.items():
            if position is not None:
                last, outcome = self._state.position(name), outcomes[name]
                outcome.position = position
                outcome.advanced = last is None or last.reached != position.reached
                self._state.positions[name] = position.document()
        self._state.gaps = [*self._state.gaps, *(gap.document() for gap in self.gaps)]

    def _extended(
        self, name: str, position: ArchivedPosition | None, identifier: str, segment: Segment, end: int
    ) -> ArchivedPosition:
        """The archived position of a target that has ``segment`` too, up to ``end``. Between clusters there is no gap: nothing leads across."""
        if position is None:
            return ArchivedPosition(identifier, segment.timeline, end)
        if position.system_identifier != identifier:
            clusters = self._state.clusters
            known = position.system_identifier in clusters
            older = known and clusters.index(identifier) < clusters.index(position.system_identifier)
            return position if older else ArchivedPosition(identifier, segment.timeline, end)
        if segment.timeline < position.timeline or (segment.timeline == position.timeline and end <= position.lsn):
            return position
        reached = self._until_fork(name, position, segment.timeline)
        if segment.start > reached:
            self._look_for_gap(name, identifier, reached, segment)
        at = position.at if segment.timeline == position.timeline else None
        return replace(position, timeline=segment.timeline, lsn=end, at=at)

    def _look_for_gap(self, name: str, identifier: str, reached: int, segment: Segment) -> None:
        """The target is asked itself: what was written down here may be older than what it holds."""
        destination = self._destinations[name]
        following = Segment.holding(segment.timeline, reached, segment.size)
        lacking = destination.archive.lacks(identifier, following, segment.start, destination.form)
        if lacking is not None:
            begin = max(reached, lacking.start)
            self._note_gap(name, identifier, Gap(segment.timeline, begin, segment.start))

    def _note_gap(self, name: str, identifier: str, gap: Gap) -> None:
        with self._guard:
            self.gaps.append(NoticedGap(name, identifier, gap, datetime.now(timezone.utc)))
        # Older partial segments may hold the only bytes before the gap: forgotten, they are not removed.
        self._state.partials.pop(name, None)
        self._report.warning(
            f"{gap.sentence(name)}, and no storage target has it any more: no recovery leads across; take a new base backup."
        )

    def _until_fork(self, name: str, position: ArchivedPosition, timeline: int) -> int:
        """How far what the target has is also the history of ``timeline``."""
        if timeline == position.timeline:
            return position.lsn
        with suppress(TwistDRError):
            ancestors = self._destinations[name].archive.history(position.system_identifier, timeline, self._keyring)
            for ancestor in ancestors:
                if ancestor.timeline == position.timeline:
                    return min(position.lsn, ancestor.switched_at)
        return position.lsn
