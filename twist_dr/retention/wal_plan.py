"""Which archived WAL of a storage target stays and which goes.

WAL has no use without a base before it: so what stays is told by the bases that stay, along the lines of their timelines.
Nothing that is younger than the window goes, and nothing of a cluster of which anything is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import groupby

from twist_dr.retention.doubts import set_back
from twist_dr.retention.lines import (
    Branch,
    Branches,
    bases_of_runs,
    current_clusters,
    first_base,
    last_written,
    unknown_timelines,
    wanted_lines,
)
from twist_dr.retention.model import ClusterWal, Doubt, WalPlan, WalStretch
from twist_dr.retention.policy import span
from twist_dr.wal.holdings import Stored
from twist_dr.wal.names import Segment

#: Whether a segment's object stays, and why.
WalFate = tuple[bool, str]
Judge = Callable[[Segment, Stored], WalFate]


def bases_of_window(clusters: Sequence[ClusterWal], window: timedelta | None, now: datetime) -> dict[str, str]:
    """Ids of the bases without which no recovery leads to every second of the window, with why. Of all bases that the target holds.

    Per line, and where WAL is missing per run without a gap: the newest good base before the window begins, and the one that will take its place. When a timeline's history is missing
    these cannot be told, and all bases of its cluster are named.
    """
    if window is None:
        return {}
    current, needed = current_clusters(clusters, now), dict[str, str]()
    for cluster in clusters:
        if unknown := unknown_timelines(cluster):
            for base in cluster.bases:
                needed[base.id] = (
                    f"the history of timeline {unknown[0]} is not there, so nobody can tell which bases it needs"
                )
            continue
        young = {segment.number for segment, stored in cluster.holdings.objects() if now - stored.modified < window}
        is_current = cluster.holdings.system_identifier in current
        for line in wanted_lines(cluster, Branches(cluster), is_current, window, now):
            words = f"the WAL window of {span(window)} on timeline {line.timeline}"
            for base, is_first in bases_of_runs(line, window, now, young):
                if is_first:
                    needed[base.id] = f"needed to recover the beginning of {words}"
                else:
                    needed.setdefault(base.id, f"the first base within {words}, or after a gap in it")
    return needed


def plan_wal(
    clusters: Sequence[ClusterWal], window: timedelta | None, now: datetime, doubts: Sequence[Doubt] = ()
) -> WalPlan:
    """What becomes of the WAL when of the bases those in ``clusters`` are left (``ClusterWal.keeping``).

    ``doubts`` are those of the plan for the backups about the clock: they hold for the WAL too.
    """
    current = current_clusters(clusters, now)
    any_base = any(cluster.bases for cluster in clusters)
    stretches: list[WalStretch] = []
    for cluster in clusters:
        is_current = cluster.holdings.system_identifier in current
        judge = _judge(cluster, is_current, any_base, window, now)
        stretches += _stretches(cluster, judge)
    found = [doubt for doubt in doubts if doubt.about == "clock"]
    for cluster in clusters:
        identifier, last = cluster.holdings.system_identifier, last_written(cluster)
        if identifier in current and last is not None:
            found += set_back(last.modified, now, f"the last archived WAL of cluster {identifier}")
    return WalPlan(now, tuple(stretches), tuple(found))


def _judge(cluster: ClusterWal, is_current: bool, any_base: bool, window: timedelta | None, now: datetime) -> Judge:
    """How the objects of a cluster are judged."""
    if unknown := unknown_timelines(cluster):
        return _all_stay(f"the history of timeline {unknown[0]} is not there, so nobody can tell what it needs")
    if not any_base:
        return _all_stay("no base backup is kept here")
    if cluster.bases:
        return _Needed(cluster, is_current, window, now)
    if is_current:
        return _all_stay("it is of the cluster that is in use, of which no base is kept here")
    if window is None:
        return _all_stay("no base of its cluster is kept here, and without a WAL window nothing says that it is old")

    def by_age(segment: Segment, stored: Stored) -> WalFate:
        if now - stored.modified < window:
            return True, f"younger than the WAL window of {span(window)}"
        return False, f"older than the WAL window of {span(window)}, and no base of its cluster is kept"

    return by_age


def _all_stay(reason: str) -> Judge:
    return lambda segment, stored: (True, reason)


class _Needed:
    """What the bases of a cluster need: each up to its own end, and from the first one on everything that the window wants."""

    def __init__(self, cluster: ClusterWal, is_current: bool, window: timedelta | None, now: datetime) -> None:
        self._size = cluster.holdings.segment_size
        self._window, self._now = window, now
        #: By timeline: first number, number after the last, reason.
        self._onward: dict[int, dict[tuple[int, int | None], str]] = {}
        self._own: dict[tuple[int, int], str] = {}
        lines = Branches(cluster)
        for line in wanted_lines(cluster, lines, is_current, window, now):
            self._want(line)
        for base in cluster.bases:
            after = base.stop_lsn // self._size + 1
            for timeline, first, left in lines[base.timeline].numbers(base.start_lsn):
                for number in range(first, after if left is None else min(after, left)):
                    self._own[timeline, number] = f"needed to restore {base.id} to its own end"

    def _want(self, line: Branch) -> None:
        base = first_base(line, self._window, self._now)
        if base is None:
            begin = line.stretches[0][1] // self._size
            self._onward.setdefault(line.timeline, {})[begin, None] = (
                f"no kept base leads to timeline {line.timeline} yet"
            )
            return
        what = (
            "it is the oldest that is kept"
            if self._window is None
            else f"the WAL window of {span(self._window)} begins with it"
        )
        for timeline, first, after in line.numbers(base.start_lsn):
            self._onward.setdefault(timeline, {}).setdefault((first, after), f"follows {base.id}: {what}")

    def __call__(self, segment: Segment, stored: Stored) -> WalFate:
        for (first, after), reason in self._onward.get(segment.timeline, {}).items():
            if first <= segment.number and (after is None or segment.number < after):
                return True, reason
        if (own := self._own.get((segment.timeline, segment.number))) is not None:
            return True, own
        if self._window is None:
            return False, "no kept base needs it"
        if self._now - stored.modified < self._window:
            return True, f"younger than the WAL window of {span(self._window)}"
        return False, f"older than the WAL window of {span(self._window)}, and no kept base needs it"


def _stretches(cluster: ClusterWal, judge: Judge) -> Iterator[WalStretch]:
    """All objects of a cluster in their order, with those of the same fate together."""
    fates: dict[Segment, WalFate] = {}
    held: dict[Stored, list[Segment]] = {}
    for segment, stored in sorted(cluster.holdings.objects(), key=lambda each: (each[0], each[1].key)):
        held.setdefault(stored, []).append(segment)
        # A partial segment stays with its segment, whichever of the two wants to.
        fate = judge(segment, stored)
        if segment not in fates or fate[0]:
            fates[segment] = fate

    def fate_of(item: tuple[Stored, list[Segment]]) -> tuple[int, bool, str]:
        """An object with several segments stays when one of them does."""
        segments = item[1]
        return segments[0].timeline, *next((fates[each] for each in segments if fates[each][0]), fates[segments[0]])

    for (timeline, keep, reason), group in groupby(held.items(), key=fate_of):
        items = list(group)
        yield WalStretch(
            cluster.holdings.system_identifier,
            timeline,
            items[0][1][0].name,
            items[-1][1][-1].name,
            tuple(stored for stored, _ in items),
            keep,
            reason,
        )
