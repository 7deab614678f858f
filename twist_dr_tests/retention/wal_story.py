"""A cluster that writes WAL, is backed up and taken back in time: what its archive would hold, made of names alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import cast

from twist_dr.recovery.archives import Archives
from twist_dr.recovery.lineage import Lineage
from twist_dr.retention.model import ClusterWal, WalBase
from twist_dr.wal.history import Ancestor
from twist_dr.wal.holdings import Holdings, Stored
from twist_dr.wal.names import Segment
from twist_dr.wal.partial_segment import PartialSegment

SIZE = 1 << 20


def stored(name: str, modified: datetime) -> Stored:
    return Stored(f"shop/wal/1/{name[:8]}/{name}.zst.enc", 1000, modified)


@dataclass
class Story:
    """One cluster on timeline 1 at ``now``. ``moments``: timeline, LSN and time of everything that was ever the present."""

    now: datetime
    identifier: str = "1"
    timeline: int = 1
    lsn: int = SIZE
    newest: int = 1
    segments: dict[Segment, Stored] = field(default_factory=dict)
    partials: dict[PartialSegment, Stored] = field(default_factory=dict)
    bases: list[WalBase] = field(default_factory=list)
    ancestors: dict[int, list[Ancestor]] = field(default_factory=dict)
    moments: list[tuple[int, int, datetime]] = field(default_factory=list)

    def write(self, size: int, hours: float = 1.0) -> None:
        """So many bytes in so many hours; segments are archived when they are full."""
        first = Segment.holding(self.timeline, self.lsn, SIZE)
        self.lsn += size
        self.now += timedelta(hours=hours)
        while first.end <= self.lsn:
            self.segments[first] = stored(first.name, self.now)
            first = first.next
        self.moments.append((self.timeline, self.lsn, self.now))

    def base(self, name: str, size: int = SIZE // 2, hours: float = 1.0, good: bool = True) -> WalBase:
        """A base backup during which so much is written."""
        start = self.lsn
        self.write(size, hours)
        base = WalBase(name, self.timeline, start, self.lsn, self.now, good)
        self.bases.append(base)
        return base

    def back_to(self, moment: int) -> None:
        """A restore to one of the moments: a new timeline begins there, and what was open of the old one is lost."""
        timeline, self.lsn, _ = self.moments[moment]
        self.newest += 1
        self.ancestors[self.newest] = [*self.ancestors.get(timeline, []), Ancestor(timeline, self.lsn)]
        self.timeline = self.newest
        self.moments.append((self.timeline, self.lsn, self.now))

    def partial(self) -> PartialSegment:
        """The open segment, as far as it is written, goes to the archive too."""
        segment = Segment.holding(self.timeline, self.lsn, SIZE)
        partial = PartialSegment(segment, self.lsn - segment.start, self.now)
        self.partials[partial] = stored(partial.name, self.now)
        return partial

    def cluster(self) -> ClusterWal:
        holdings = Holdings(self.identifier, SIZE, dict(self.segments), dict(self.partials), set(self.ancestors))
        return ClusterWal(holdings, tuple(self.bases), dict(self.ancestors))


def names(objects: tuple[Stored, ...]) -> list[str]:
    return [each.key.rpartition("/")[2].split(".")[0] for each in objects]


def reached(cluster: ClusterWal, base: WalBase, timeline: int) -> int:
    """The LSN to which real recovery from a base on a timeline's line leads; -1 when it is not on it, or cannot become consistent."""
    archives = SimpleNamespace(
        is_genuine=lambda source: True,
        segment_size=SIZE,
        segments=cluster.holdings.segments,
        partials=sorted(cluster.holdings.partials, key=lambda partial: partial.end),
    )
    lineage = Lineage(timeline, cluster.ancestors.get(timeline, ()), cast(Archives, archives))
    left_at = {each: left for each, _, left in lineage.stretches}
    if base.timeline not in left_at:
        return -1
    left = left_at[base.timeline]
    end = lineage.run(base.start_lsn).end
    return end if (left is None or base.stop_lsn <= left) and base.stop_lsn <= end else -1


def recoverable(cluster: ClusterWal, timeline: int, lsn: int) -> bool:
    """Whether some good base leads to this point."""
    return any(base.good and base.stop_lsn <= lsn <= reached(cluster, base, timeline) for base in cluster.bases)
