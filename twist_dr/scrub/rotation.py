"""What to read now, so that everything that a storage target holds is read within a period. Pure functions; times are UTC, sizes bytes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

#: So much more than the bare share of the period is read: a few missed days then need no hurry.
MARGIN = 1.2
#: How long ago the last scrub was taken to be when nothing is known of one: the pace of the schedule.
PACE = timedelta(days=1)

Keyed = TypeVar("Keyed", bound="KeyedObject")


@dataclass(frozen=True)
class CopyToRead:
    """A copy of a target that may be read. ``checked_at``: when its bytes were last found right.

    ``damaged``: it is known to be bad or was never stored, so it is looked at in any case.
    """

    backup_id: str
    form: str
    size: int
    checked_at: datetime | None
    damaged: bool = False


@dataclass(frozen=True)
class KeyedObject:
    """An object by its key."""

    key: str
    size: int


def elapsed_since(last: datetime | None, now: datetime, period: timedelta) -> timedelta:
    """For how long a run makes up: the time since the last one, at most the period. A clock that was set back tells nothing."""
    return PACE if last is None or last > now else min(now - last, period)


def copies_due(
    copies: Sequence[CopyToRead], *, now: datetime, period: timedelta, elapsed: timedelta
) -> list[CopyToRead]:
    """What to read of one target: all that is damaged; then never-read copies and those longest unread, as many bytes as ``elapsed`` is of the
    period, one at least; and whatever would be overdue by the next run.
    """
    damaged = [copy for copy in copies if copy.damaged]
    due = sorted((copy for copy in copies if not copy.damaged), key=lambda copy: (_age_key(copy, now), copy.backup_id))
    budget = _share(sum(copy.size for copy in due), period, elapsed)
    chosen: list[CopyToRead] = []
    for copy in due:
        checked_at = _checked_at(copy, now)
        overdue = checked_at is not None and checked_at + period <= now + max(elapsed, PACE)
        if chosen and budget <= 0 and not overdue:
            break
        chosen.append(copy)
        budget -= copy.size
    return damaged + chosen


def objects_due(objects: Sequence[Keyed], *, after: str | None, period: timedelta, elapsed: timedelta) -> list[Keyed]:
    """What to read of objects that have no dates of their own: in the order of their keys, from behind the key ``after``, and around again."""
    ordered = sorted(objects, key=lambda each: each.key)
    begin = bisect_right([each.key for each in ordered], after) if after is not None else 0
    budget = _share(sum(each.size for each in ordered), period, elapsed)
    chosen: list[Keyed] = []
    for each in ordered[begin:] + ordered[:begin]:
        if chosen and budget <= 0:
            break
        chosen.append(each)
        budget -= each.size
    return chosen


def _share(total: int, period: timedelta, elapsed: timedelta) -> float:
    return total * min(1.0, elapsed / period * MARGIN) if period else total


def _checked_at(copy: CopyToRead, now: datetime) -> datetime | None:
    """None for a time to come, too: the clock was wrong then, and nobody knows when it was."""
    return None if copy.checked_at is None or copy.checked_at > now else copy.checked_at


def _age_key(copy: CopyToRead, now: datetime) -> float:
    checked_at = _checked_at(copy, now)
    return checked_at.timestamp() if checked_at else float("-inf")
