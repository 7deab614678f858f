"""What can be recovered, from the names of what is archived: only those at an end, which anybody could have put there, are authenticated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from twist_dr.backup.base.summary import PlannedBase
from twist_dr.errors import WalError
from twist_dr.postgres.lsn import format_lsn
from twist_dr.recovery.archives import Archives
from twist_dr.recovery.lineage import Lineage, Run, facts, start_of, stop_of
from twist_dr.wal.names import Segment


@dataclass(frozen=True)
class Range:
    """A stretch without a gap. From ``from_at`` (the end of the base backup ``base``, at the LSN ``from_lsn``) up to ``until_lsn``;
    up to ``until_at`` it is known to hold every commit; None when nothing tells."""

    from_at: datetime
    from_lsn: int
    until_lsn: int
    until_at: datetime | None
    timeline: int
    base: str

    def document(self) -> dict[str, Any]:
        """For JSON: times in ISO 8601, LSNs as PostgreSQL writes them."""
        return {
            "timeline": self.timeline,
            "from": self.from_at.isoformat(),
            "from_lsn": format_lsn(self.from_lsn),
            "until": self.until_at.isoformat() if self.until_at else None,
            "until_lsn": format_lsn(self.until_lsn),
            "base": self.base,
        }


@dataclass(frozen=True)
class Stretch:
    """Base backups, oldest first, and the WAL from the first of them on, without a gap."""

    bases: tuple[PlannedBase, ...]
    run: Run
    claim: datetime | None

    @property
    def oldest(self) -> PlannedBase:
        return self.bases[0]


def whole_chains(bases: Sequence[PlannedBase], archives: Archives) -> tuple[list[PlannedBase], list[str]]:
    """The base backups of the archives' cluster all of whose chain is there, by their stop; and a sentence for each other one."""
    known = {base.backup_id: base for base in bases if base.base is not None}
    whole, told = [], []
    for base in known.values():
        if base.postgres is None or base.postgres.system_identifier != archives.system_identifier:
            continue
        lacking = [link for link in facts(base).chain if link not in known]
        if lacking:
            told.append(f"{base.backup_id} is not used: {', '.join(lacking)}, on which it builds, is missing.")
        else:
            whole.append(base)
    return sorted(whole, key=lambda base: (stop_of(base), base.backup_id)), told


def lineage_of(timeline: int, archives: Archives) -> Lineage:
    """Raises ``WalMissing`` without a history file, ``WalConflict`` when there are two."""
    return Lineage(timeline, archives.ancestors(timeline), archives)


def stretches(lineage: Lineage, bases: Sequence[PlannedBase], archives: Archives) -> list[Stretch]:
    """What can be replayed on a lineage, oldest first. ``bases`` by their stop; one whose own WAL is not all there begins none."""
    found: list[Stretch] = []
    for base in (base for base in bases if lineage.holds(facts(base))):
        if found and start_of(base) < found[-1].run.end:
            run = found[-1].run
            if stop_of(base) <= run.end:
                found[-1] = Stretch((*found[-1].bases, base), run, found[-1].claim)
            continue
        run = lineage.run(start_of(base))
        if stop_of(base) <= run.end and run.parts:
            found.append(Stretch((base,), run, _claim(lineage, run, archives)))
    return found


def _claim(lineage: Lineage, run: Run, archives: Archives) -> datetime | None:
    """Up to when a run is known to hold every commit, by the claims of the partial segments in it."""
    claims = [
        (partial.claim, partial)
        for partial in archives.partials
        if partial.claim is not None
        and run.start < partial.end <= run.end
        and lineage.holds_timeline(partial.segment.timeline, partial.end - 1)
    ]
    latest_first = sorted(claims, key=lambda each: each[0], reverse=True)
    # The claim stands in the name, so whoever can write there can write one.
    return next((claim for claim, partial in latest_first if archives.is_genuine(partial)), None)


def recoverable(bases: Sequence[PlannedBase], archives: Archives) -> list[Range]:
    """All that can be recovered, on every timeline: those of the newest timeline last. A timeline without its history file has none."""
    whole, _ = whole_chains(bases, archives)
    found: list[Range] = []
    newer: list[Lineage] = []
    for timeline in reversed(timelines(bases, archives)):
        try:
            lineage = lineage_of(timeline, archives)
        except WalError:
            continue
        for stretch in stretches(lineage, whole, archives):
            last = stretch.run.end - 1
            # What timelines have in common is told once, with the newest.
            if not any(each.holds_timeline(lineage.timeline_at(last), last) for each in newer):
                found.append(_range(stretch, timeline))
        newer.append(lineage)
    return sorted(found, key=lambda each: (each.timeline, each.from_lsn))


def _range(stretch: Stretch, timeline: int) -> Range:
    times = [facts(base).stopped_at for base in stretch.bases[1:]]
    until = max([*times, *([stretch.claim] if stretch.claim else [])], default=None)
    base = stretch.oldest
    return Range(facts(base).stopped_at, stop_of(base), stretch.run.end, until, timeline, base.backup_id)


def gaps(
    bases: Sequence[PlannedBase], archives: Archives, *, since: datetime | None = None
) -> list[tuple[int, Segment, Segment]]:
    """WAL that is missing between what is archived, on the newest timeline's lineage: timeline, first and last missing segment.

    What is older than every base backup is of no use, and no gap. With ``since``, the moment from which on any second is wanted, neither
    is what lies before the base backup that leads to it: of older ones retention keeps no more WAL than each needs for its own end.
    Raises what :func:`lineage_of` raises.
    """
    whole, _ = whole_chains(bases, archives)
    known = timelines(bases, archives)
    if not whole or not known:
        return []
    lineage = lineage_of(known[-1], archives)
    mine = [base for base in whole if lineage.holds(facts(base))]
    before = [] if since is None else [base for base in mine if facts(base).stopped_at <= since]
    starts = [start_of(base) for base in (before[-1:] or mine)]
    last, found = lineage.last_number(), []
    number = min(starts, default=(last + 1) * lineage.size) // lineage.size
    while number <= last:
        run = lineage.run(number * lineage.size)
        missing = run.missing
        if missing.number > last or (run.parts and run.parts[-1].number >= last):
            break
        number = missing.number + 1
        while number <= last and lineage.part(number) is None:
            number += 1
        found.append((missing.timeline, missing, Segment(missing.timeline, number - 1, lineage.size)))
    return found


def gap_words(timeline: int, first: Segment, last: Segment) -> str:
    """A gap, as :func:`gaps` gives it, in a sentence without its stop."""
    return (
        f"on timeline {timeline} the WAL from {first.name} to {last.name} ({format_lsn(first.start)} to {format_lsn(last.end)}) is missing: "
        "no recovery leads across"
    )


def timelines(bases: Sequence[PlannedBase], archives: Archives) -> list[int]:
    """Every timeline of which there is WAL, a history or a base backup, the oldest first."""
    taken = {facts(base).timeline for base in bases if base.base is not None}
    return sorted(taken | {each for each in archives.timelines if each in taken or archives.has_genuine(each)})
