"""Timelines for retention: which base leads to which stretch of WAL, from histories and names alone.

``recovery/lineage.py`` answers what can be replayed; here the question is what must stay, and whatever is not known stays.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from twist_dr.retention.model import ClusterWal, WalBase
from twist_dr.wal.history import TimelineSpan, stretches_of
from twist_dr.wal.holdings import Stored


@dataclass(frozen=True)
class Branch:
    """A timeline with its ancestors. ``stretches``: timeline, LSN at which it begins, LSN at which it was left; the newest first.

    ``bases`` are those that lead to its end, by their time. ``run_of`` numbers the runs of archived segments without a gap, by the number of a
    segment: no recovery leads from one run into another.
    """

    timeline: int
    stretches: tuple[TimelineSpan, ...]
    bases: tuple[WalBase, ...]
    run_of: Mapping[int, int]
    size: int

    def numbers(self, lsn: int) -> Iterator[tuple[int, int, int | None]]:
        """What is read from ``lsn`` on: timeline, first number of a segment, and the number after the last one. See :func:`_numbers`."""
        return _numbers(self.stretches, lsn, self.size)

    def run(self, base: WalBase) -> int | None:
        """The run that a base can be restored with, None when WAL that it needs for itself is not archived here."""
        run = self.run_of.get(base.start_lsn // self.size)
        last = (max(base.stop_lsn, base.start_lsn + 1) - 1) // self.size
        return run if run is not None and run == self.run_of.get(last) else None

    def carries(self, base: WalBase) -> bool:
        """Whether recovery can begin with it."""
        return base.good and self.run(base) is not None


def _numbers(stretches: Sequence[TimelineSpan], lsn: int, size: int) -> Iterator[tuple[int, int, int | None]]:
    """Where a timeline was left, its file and that of the next have the same number; either may be the one that is archived."""
    for timeline, begin, left in stretches:
        first = max(begin, lsn) // size
        after = None if left is None else -(-left // size)
        if after is None or first < after:
            yield timeline, first, after


class Branches:
    """The lines of a cluster none of whose timelines is unknown."""

    def __init__(self, cluster: ClusterWal) -> None:
        self._cluster = cluster
        self._size = cluster.holdings.segment_size
        self._whole: dict[int, list[int]] = {}
        for segment in sorted(cluster.holdings.segments):
            self._whole.setdefault(segment.timeline, []).append(segment.number)
        self._open: dict[int, set[int]] = {}
        for partial in cluster.holdings.partials:
            if partial.size:
                self._open.setdefault(partial.segment.timeline, set()).add(partial.segment.number)
        self._lines: dict[int, Branch] = {}

    def __getitem__(self, timeline: int) -> Branch:
        if timeline not in self._lines:
            self._lines[timeline] = self._line(timeline)
        return self._lines[timeline]

    def _line(self, timeline: int) -> Branch:
        stretches = stretches_of(timeline, self._cluster.ancestors.get(timeline, ()))
        left_at = {each: left for each, _, left in stretches}
        bases = [
            base
            for base in self._cluster.bases
            if base.timeline in left_at and ((left := left_at[base.timeline]) is None or base.stop_lsn <= left)
        ]
        bases.sort(key=lambda base: (base.finished_at, base.id))
        return Branch(timeline, stretches, tuple(bases), self._runs(stretches), self._size)

    def _runs(self, stretches: Sequence[TimelineSpan]) -> dict[int, int]:
        """The number of the run that each archived segment of a line is in. A partial segment, or a file that ends where its timeline was left, ends one."""
        there: set[int] = set()
        whole: set[int] = set()
        left_at = {timeline: left for timeline, _, left in stretches}
        for timeline, first, after in _numbers(stretches, 0, self._size):
            left = left_at[timeline]
            numbers = self._whole.get(timeline, [])
            end = len(numbers) if after is None else bisect_left(numbers, after)
            found = numbers[bisect_left(numbers, first) : end]
            there.update(found)
            there.update(
                number
                for number in self._open.get(timeline, ())
                if first <= number and (after is None or number < after)
            )
            whole.update(found if left is None else (number for number in found if (number + 1) * self._size <= left))
        runs: dict[int, int] = {}
        run, last = 0, -2
        for number in sorted(there):
            if number != last + 1 or last not in whole:
                run += 1
            runs[number] = run
            last = number
        return runs


def unknown_timelines(cluster: ClusterWal) -> list[int]:
    """Timelines whose ancestors nobody could tell."""
    return [timeline for timeline in all_timelines(cluster) if timeline != 1 and timeline not in cluster.ancestors]


def all_timelines(cluster: ClusterWal) -> list[int]:
    """Every timeline of which there is WAL, a history or a base, the oldest first."""
    return sorted({*cluster.holdings.timelines, *(base.timeline for base in cluster.bases)})


def signs_of_life(cluster: ClusterWal) -> Iterator[datetime]:
    """When things of the cluster were stored or backed up."""
    yield from (stored.modified for _, stored in cluster.holdings.objects())
    yield from (base.finished_at for base in cluster.bases)


def last_written(cluster: ClusterWal) -> Stored | None:
    """The object that ends last on the newest timeline: whatever their times say, it was stored after the others."""
    found = {(segment.timeline, segment.end, 1): stored for segment, stored in cluster.holdings.segments.items()}
    found |= {
        (partial.segment.timeline, partial.end, 0): stored for partial, stored in cluster.holdings.partials.items()
    }
    return found[max(found)] if found else None


def wanted_lines(
    cluster: ClusterWal, lines: Branches, current: bool, window: timedelta | None, now: datetime
) -> list[Branch]:
    """The lines to which the window wants recovery: of all timelines that have WAL of its time, and of the newest one of a current cluster.

    Without a window these are all. Only for clusters without unknown timelines.
    """
    timelines = all_timelines(cluster)
    if window is None:
        wanted = set(timelines)
    else:
        wanted = set(timelines[-1:]) if current else set()
        wanted |= {segment.timeline for segment, stored in cluster.holdings.objects() if now - stored.modified < window}
        wanted |= {base.timeline for base in cluster.bases if now - base.finished_at < window}
    return [lines[timeline] for timeline in timelines if timeline in wanted]


def current_clusters(clusters: Sequence[ClusterWal], now: datetime) -> frozenset[str]:
    """The system identifier of the cluster that something was last heard of; several when they tie, or when a sign lies in the future."""
    newest: dict[str, datetime] = {}
    future: set[str] = set()
    for cluster in clusters:
        identifier = cluster.holdings.system_identifier
        for sign in signs_of_life(cluster):
            if sign > now:
                future.add(identifier)
            elif identifier not in newest or sign > newest[identifier]:
                newest[identifier] = sign
    last = max(newest.values(), default=None)
    return frozenset(future | {identifier for identifier, sign in newest.items() if sign == last})


def first_base(line: Branch, window: timedelta | None, now: datetime) -> WalBase | None:
    """The base that recovery to the beginning of the window begins with; the oldest one when none is old enough, or without a window."""
    before = [base for base in line.bases if window is not None and now - base.finished_at >= window]
    if before:
        return ([base for base in before if line.carries(base)] or before)[-1]
    return min(line.bases, key=lambda base: base.start_lsn, default=None)


def bases_of_runs(
    line: Branch, window: timedelta, now: datetime, young: Collection[int]
) -> Iterator[tuple[WalBase, bool]]:
    """Of each run that reaches into the window, the base before it began and the first one within it, with whether it is the former.

    That within takes the other's place when the window has moved on. ``young`` are numbers of segments that were stored within the window.
    """
    carriers: dict[int, list[WalBase]] = {}
    for base in line.bases:
        if (run := line.run(base)) is not None and base.good:
            carriers.setdefault(run, []).append(base)
    first = first_base(line, window, now)
    if first is not None and now - first.finished_at < window:
        first = None
    reaching = {line.run_of[number] for number in young if number in line.run_of}
    if carriers:
        reaching.add(max(carriers))
    for run, bases in carriers.items():
        if first is not None and line.carries(first) and all(_is_before(base, first) for base in bases):
            continue  # what follows them was written before the window, whenever it was stored
        before = [base for base in bases if now - base.finished_at >= window]
        within = [base for base in bases if now - base.finished_at < window]
        if within:
            yield within[0], False
        if before and (within or run in reaching):
            yield before[-1], True
    if first is not None:
        yield first, True


def _is_before(base: WalBase, other: WalBase) -> bool:
    """By place and by time: a clock may have been wrong."""
    return base.stop_lsn <= other.start_lsn and base.finished_at <= other.finished_at
