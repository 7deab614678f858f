"""How far each target reaches, as segments and heads come to it; and where it has a hole."""

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
from twist_dr.wal.destinations import Destinations
from twist_dr.wal.frontier import Frontier, NoticedGap, TargetShipped
from twist_dr.wal.head import Head
from twist_dr.wal.names import Segment
from twist_dr.wal.state import State


class Reach:
    """The frontier of every target during one round, begun from ``state``. From any thread, one at a time for each target.

    ``frontiers``: by target, None for one that has nothing yet. ``gaps``: those that were noticed in this round.
    """

    def __init__(self, destinations: Destinations, keyring: Keyring, state: State, report: Report) -> None:
        self.frontiers: dict[str, Frontier | None] = {name: state.frontier(name) for name in destinations}
        self.gaps: list[NoticedGap] = []
        self._destinations = destinations
        self._keyring = keyring
        self._state = state
        self._report = report
        self._guard = threading.Lock()

    def add_segments(self, name: str, segments: Iterable[tuple[str, Segment]]) -> None:
        """The target has these, each of the cluster of a system identifier; a hole before one of them is a gap.

        Raises storage errors, with the frontier where it was.
        """
        frontier = self.frontiers[name]
        for identifier, segment in segments:
            frontier = self._extended(name, frontier, identifier, segment, segment.end)
        if frontier is not None:
            claim = self._state.claim(frontier.system_identifier, frontier.timeline, frontier.lsn)
            self.frontiers[name] = replace(frontier, at=claim or frontier.at)

    def add_head(self, name: str, identifier: str, head: Head, key: str | None) -> None:
        """The target has this head, under ``key``; without one, only its bytes count, as nobody will add to them.

        Raises storage errors, with the frontier where it was.
        """
        frontier = self._extended(name, self.frontiers[name], identifier, head.segment, head.end)
        if key is not None:
            frontier = replace(frontier, at=head.claim or frontier.at, head=key)
        self.frontiers[name] = frontier

    def look_back(self, name: str) -> None:
        """The last whole segment that the target was given must be there still; where somebody has removed it, that is a gap.

        A cleanup removes the oldest first, so what it has removed has nothing older beside it. Raises storage errors.
        """
        frontier, size = self.frontiers[name], self._state.segment_size
        if frontier is None or size is None or self._state.clusters[-1:] != [frontier.system_identifier]:
            return
        last = Segment(frontier.timeline, frontier.lsn // size - 1, size)
        archive, identifier = self._destinations[name].archive, frontier.system_identifier
        if last.number < 0 or archive.has(
            archive.key(identifier, last.timeline, last.name, self._destinations[name].form)
        ):
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
        began_here = frontier.lsn > last.end and (frontier.head is None or archive.has(frontier.head))
        if older or not began_here:
            begin = max((each.end for each in older), default=last.start)
            self._note_gap(name, identifier, Gap(last.timeline, begin, last.end))

    def conclude(self, outcomes: dict[str, TargetShipped]) -> None:
        """Write what was reached into the outcomes, and into the state."""
        for name, frontier in self.frontiers.items():
            if frontier is not None:
                last, outcome = self._state.frontier(name), outcomes[name]
                outcome.frontier = frontier
                outcome.advanced = last is None or last.position != frontier.position
                self._state.frontiers[name] = frontier.document()
        self._state.gaps = [*self._state.gaps, *(gap.document() for gap in self.gaps)]

    def _extended(self, name: str, frontier: Frontier | None, identifier: str, segment: Segment, end: int) -> Frontier:
        """The frontier of a target that has ``segment`` too, up to ``end``. Between clusters there is no gap: nothing leads across."""
        if frontier is None:
            return Frontier(identifier, segment.timeline, end)
        if frontier.system_identifier != identifier:
            clusters = self._state.clusters
            known = frontier.system_identifier in clusters
            older = known and clusters.index(identifier) < clusters.index(frontier.system_identifier)
            return frontier if older else Frontier(identifier, segment.timeline, end)
        if segment.timeline < frontier.timeline or (segment.timeline == frontier.timeline and end <= frontier.lsn):
            return frontier
        reached = self._until_fork(name, frontier, segment.timeline)
        if segment.start > reached:
            self._look_for_gap(name, identifier, reached, segment)
        at = frontier.at if segment.timeline == frontier.timeline else None
        return replace(frontier, timeline=segment.timeline, lsn=end, at=at)

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
        # Older heads may hold the only bytes before the gap: forgotten, they are not removed.
        self._state.heads.pop(name, None)
        self._report.warning(
            f"{gap.sentence(name)}, and no storage target has it any more: no recovery leads across; take a new base backup."
        )

    def _until_fork(self, name: str, frontier: Frontier, timeline: int) -> int:
        """How far what the target has is also the history of ``timeline``."""
        if timeline == frontier.timeline:
            return frontier.lsn
        with suppress(TwistDRError):
            ancestors = self._destinations[name].archive.history(frontier.system_identifier, timeline, self._keyring)
            for ancestor in ancestors:
                if ancestor.timeline == frontier.timeline:
                    return min(frontier.lsn, ancestor.switched_at)
        return frontier.lsn
