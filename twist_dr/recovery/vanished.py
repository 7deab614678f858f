"""Archived WAL that was known to be there and is not: the latest state is then an older one than somebody may think."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from twist_dr.backup.base.summary import PlannedBase
from twist_dr.errors import RecoveryPointInvalid
from twist_dr.postgres.lsn import format_lsn, parse_lsn
from twist_dr.recovery.lineage import Lineage, facts
from twist_dr.recovery.target import RecoveryTarget, moment, parse_target
from twist_dr.system.progress import human_seconds
from twist_dr.wal.archived import Known


@dataclass(frozen=True)
class Vanished:
    """``known`` lies beyond what is there, which ends at ``end`` (LSN) and is known to hold what was committed until ``until``."""

    known: Known
    end: int
    until: datetime | None

    def sentence(self) -> str:
        known = self.known
        committed = f", with all that was committed until {moment(known.at)}" if known.at else ""
        held = f", with what was committed until {moment(self.until)}" if self.until else ""
        lost = "what was committed in between is lost"
        if known.at is not None and self.until is not None and known.at > self.until:
            lost += f", {human_seconds((known.at - self.until).total_seconds())} of it"
        what = (
            "Archived write-ahead log has vanished"
            if known.asked
            else "A storage target that is not asked may have more"
        )
        return (
            f"{what}: {known.by} reached {format_lsn(known.lsn)} on timeline {known.timeline}{committed}; what is there "
            f"ends at {format_lsn(self.end)}{held}: {lost}."
        )

    @property
    def remedy(self) -> str:
        found = "Find out who removed it, and whether another storage target, a copy of one or the spool still has it."
        return (
            f"{found if self.known.asked else 'Let source be any, so that it is asked.'} To go to the end of what is there all the "
            f"same, accept that loss: accept_loss: lsn:{format_lsn(self.end)}"
        )

    def is_accepted(self, accepted: RecoveryTarget | None) -> bool:
        """Whether what is there reaches as far as somebody said will do."""
        if accepted is None:
            return False
        if accepted.lsn is not None:
            return self.end >= accepted.lsn
        return accepted.time is not None and self.until is not None and self.until >= accepted.time


def parse_accepted(text: str, *, now: datetime) -> RecoveryTarget | None:
    """What somebody wrote as the loss that he accepts; None for nothing. Raises ``RecoveryPointInvalid``."""
    if not text.strip():
        return None
    accepted = parse_target(text, now=now)
    if accepted.lsn is None and accepted.time is None:
        raise RecoveryPointInvalid(
            f"accept_loss: {text!r} does not say how far what is there must reach",
            remedy="write the LSN that the refusal names (lsn:0/3000000), or a time",
        )
    return accepted


def known_by_bases(bases: Iterable[PlannedBase]) -> list[Known]:
    """A base backup was sealed only when the WAL up to its end was archived beside it."""
    return [
        Known(
            f"{base.backup_id}, which needs it,",
            str(base.postgres.system_identifier),
            facts(base).timeline,
            parse_lsn(facts(base).last_lsn),
            facts(base).stopped_at,
        )
        for base in bases
        if base.base is not None and base.postgres is not None
    ]


def furthest_beyond(known: Sequence[Known], system_identifier: str, lineage: Lineage, end: int) -> Known | None:
    """Of what was known of a cluster, the furthest that lies beyond ``end`` (LSN) of a line of timelines; None when all of it is there."""
    beyond = [each for each in known if each.system_identifier == system_identifier and _is_beyond(each, lineage, end)]
    return max(beyond, key=lambda each: (each.asked, each.timeline, each.lsn), default=None)


def _is_beyond(known: Known, lineage: Lineage, end: int) -> bool:
    for timeline, _, left in lineage.stretches:
        if timeline == known.timeline:
            # What a timeline had behind the point where it was left was given up.
            return (known.lsn if left is None else min(known.lsn, left)) > end
    return known.timeline > lineage.timeline
