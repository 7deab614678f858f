"""A recovery point made exact: which base backups, which WAL, and the record at which replay ends.

Everything is settled here, before a server is made: PostgreSQL is given ``recovery_target_lsn``, a timeline as a number, and
just the segments of the plan; afterwards the server is held against ``end_lsn`` and ``noted_at``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from twist_dr.postgres.lsn import format_lsn
from twist_dr.recovery.ground import ClusterArchive
from twist_dr.recovery.lineage import facts, start_of
from twist_dr.recovery.points import resolve
from twist_dr.recovery.stops import Lost, Stop
from twist_dr.recovery.target import RecoveryTarget, moment
from twist_dr.recovery.vanished import Vanished
from twist_dr.repository.manifest import Manifest
from twist_dr.system.progress import human_bytes
from twist_dr.system.words import counted, unmarked
from twist_dr.wal.history import Ancestor
from twist_dr.wal.names import Segment
from twist_dr.wal.partial_segment import PartialSegment

__all__ = ["Lost", "RecoveryPlan", "Stop", "make_plan"]


@dataclass(frozen=True)
class RecoveryPlan:
    """``chain``: base backups, the full one first. ``segments``, then ``partial``: what replay may be given, and nothing else.

    ``end_lsn``: replay must end exactly here, the end of the last record replayed. ``last_commit_at``: the time of the last
    transaction before the stop, committed or rolled back; None when none was found near it. ``noted_at``: of the last one whose
    time the server itself will know, see ``Resolved``. ``vanished``: archived WAL behind the stop that is not there any more, which was accepted. ``histories``: timelines whose
    history files replay may ask for. ``stored_bytes``: bases and WAL as stored.
    """

    target: RecoveryTarget
    chain: tuple[Manifest, ...]
    timeline: int
    ancestors: tuple[Ancestor, ...]
    stop: Stop
    end_lsn: int
    last_commit_at: datetime | None
    noted_at: datetime | None
    segments: tuple[Segment, ...]
    partial: PartialSegment | None
    histories: tuple[int, ...]
    stored_bytes: int
    lost: Lost
    warnings: tuple[str, ...]
    vanished: Vanished | None = None

    @property
    def base(self) -> Manifest:
        """The base backup that replay begins with: the last of the chain."""
        return self.chain[-1]

    def sentence(self) -> str:
        """The plan in a line."""
        last = f", behind the transaction of {moment(self.last_commit_at)}" if self.last_commit_at else ""
        return (
            f"{self.target.text}: from {self.base.backup_id} on timeline {self.timeline} by {counted(len(self.segments), 'segment')}"
            f"{' and a partial segment' if self.partial else ''} to {format_lsn(self.end_lsn)}{last}; {self._lost_words()}."
        )

    def rows(self) -> list[tuple[str, str]]:
        """The plan, name and text of each of its parts."""
        base, stop = (
            facts(self.base),
            "behind the record at" if self.stop.inclusive else "before the record at or behind",
        )
        chain = " ← ".join(link.backup_id for link in self.chain)
        wal = (
            f"{self.segments[0].name} to {self.segments[-1].name}, {counted(len(self.segments), 'segment')}"
            if self.segments
            else "no whole segment"
        )
        return [
            ("recovery point", self.target.text),
            ("base backup", f"{self.base.backup_id}, complete at {moment(base.stopped_at)}, {base.stop_lsn}"),
            ("chain", chain),
            (
                "timeline",
                f"{self.timeline}"
                + "".join(f"; {each.timeline} was left at {format_lsn(each.switched_at)}" for each in self.ancestors),
            ),
            (
                "WAL",
                wal
                + (f", and {self.partial.segment.name} up to {format_lsn(self.partial.end)}" if self.partial else ""),
            ),
            ("to fetch", human_bytes(self.stored_bytes)),
            ("stop", f"{stop} {format_lsn(self.stop.lsn)}; replay ends at {format_lsn(self.end_lsn)}"),
            ("last transaction", moment(self.last_commit_at) if self.last_commit_at else "none near the stop"),
            ("would be lost", self._lost_words()),
        ]

    def markdown(self) -> str:
        """The plan for a page."""
        lines = [
            "| | |",
            "|---|---|",
            *(f"| {name} | {unmarked(text)} |" for name, text in self.rows()),
        ]
        return "\n".join(
            lines + ([""] if self.warnings else []) + [f"- **Warning:** {unmarked(each)}" for each in self.warnings]
        )

    def _lost_words(self) -> str:
        lost = self.lost
        if self.vanished is not None:
            return self.vanished.sentence().rstrip(".")
        if not lost.transactions:
            return (
                "some WAL after it is not looked at"
                if lost.at_least
                else "nothing in the archive was committed after it"
            )
        assert lost.since is not None and lost.until is not None
        return (
            f"{'at least ' if lost.at_least else ''}{counted(lost.transactions, 'transaction')} committed after it in the whole cluster, the server's own included, "
            f"from {moment(lost.since)} to {moment(lost.until)}, {human_bytes(lost.wal_bytes)} of WAL"
        )


def make_plan(target: RecoveryTarget, ground: ClusterArchive, whole: Callable[[str], Manifest]) -> RecoveryPlan:
    """Find the point, and what leads there. ``whole`` gives a base backup's manifest by its id.

    Raises ``RecoveryPointInvalid``, saying what can be recovered instead; ``WalConflict``; ``WalMissing`` and ``WalInvalid`` when archived WAL that
    has to be looked at cannot be had or is damaged on every target.
    """
    found = resolve(target, ground)
    chain = tuple(whole(link) for link in facts(found.base).chain)
    first, last = start_of(found.base) // ground.size, (found.read_until - 1) // ground.size
    sources = [part.source for part in found.stretch.run.parts if first <= part.number <= last]
    segments = tuple(source for source in sources if isinstance(source, Segment))
    partial = next((source for source in sources if isinstance(source, PartialSegment)), None)
    archives = ground.archives
    stored = sum(min(form.size for form in artifact.stored.values()) for link in chain for artifact in link.artifacts)
    stored += archives.stored_bytes(segments) + (archives.stored_bytes_of_partial(partial) if partial else 0)
    return RecoveryPlan(
        target=target,
        chain=chain,
        timeline=found.lineage.timeline,
        ancestors=found.lineage.ancestors,
        stop=found.stop,
        end_lsn=found.end_lsn,
        last_commit_at=found.last_commit_at,
        noted_at=found.noted_at,
        segments=segments,
        partial=partial,
        histories=ground.histories(found.lineage, found.base),
        stored_bytes=stored,
        lost=found.lost,
        vanished=ground.vanished,
        warnings=(*ground.warnings, *found.warnings),
    )
