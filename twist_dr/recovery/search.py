"""Finding a recovery point in a run of WAL.

Commit times mostly grow with the WAL, so a time is found by bisection over the segments, and exactly by a look at all that
lies near. PostgreSQL itself stops before the *first* record with a later time, even where a clock that went backwards
repeats times. So when anything seen says that the clock did, every segment is looked at; runs that are not long are
looked at whole at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from twist_dr.errors import RecoveryPointInvalid
from twist_dr.postgres.lsn import format_lsn
from twist_dr.recovery.reader import Reader
from twist_dr.recovery.scan import Ending, NamedPoint, Running
from twist_dr.recovery.target import moment
from twist_dr.system.words import counted

#: Runs of at most so many segments are looked at whole.
EXACT_SEGMENTS = 64
#: Transactions that end together take their times before they have their place in the WAL: so much disorder is no clock's.
_DISORDER = timedelta(seconds=1)
#: Before a bisection's finding, segments are looked at until the times in them are so much older than the one sought.
_MARGIN = timedelta(seconds=10)
_HALF_OF_ALL_XIDS = 1 << 31


@dataclass(frozen=True)
class FirstLater:
    """``ending``: the first with a later time; None when there is none. ``unseen``: segments that bisection left out."""

    ending: Ending | None
    unseen: int
    warnings: tuple[str, ...] = ()


def first_later(reader: Reader, start: int, time: datetime, marks: Sequence[datetime]) -> FirstLater:
    """The first COMMIT or ABORT behind ``start`` (LSN) with a time later than ``time``.

    ``marks``: times known of the same stretch, in the order of the WAL; where they go backwards the clock did.
    """
    first, last = start // reader.size, reader.run.parts[-1].number

    def within(begin: int, end: int) -> Ending | None:
        for events in reader.sweep(begin, end):
            for ending in events.endings:
                if ending.lsn >= start and ending.at > time:
                    return ending
        return None

    if last - first < EXACT_SEGMENTS:
        return FirstLater(within(first, last), 0)
    seen: dict[int, list[Ending]] = {}
    near = _bisect(reader, first, last, time, seen)
    begin = _margin(reader, first, near, time, seen)
    times = [ending.at for number in sorted(seen) for ending in seen[number]]
    if _went_back(marks) or _went_back(times):
        warning = f"The server's clock went backwards in the archived WAL: each of its {near - first + 1:,} segments was looked at to find the first record later than {moment(time)}."
        return FirstLater(within(first, last), 0, (warning,))
    return FirstLater(within(begin, last), begin - first)


def _bisect(reader: Reader, first: int, last: int, time: datetime, seen: dict[int, list[Ending]]) -> int:
    """The number of the first segment in which something ends later than ``time``, if times grow; else of the last one."""

    def latest(number: int) -> datetime | None:
        seen[number] = reader.probe(number).endings
        return max((ending.at for ending in seen[number]), default=None)

    low, high = first, last
    while low < high:
        middle = at = (low + high) // 2
        while (found := latest(at)) is None and at < high:
            at += 1
        if found is None or found > time:
            high = middle
        else:
            low = at + 1
    return min(low, last)


def _margin(reader: Reader, first: int, near: int, time: datetime, seen: dict[int, list[Ending]]) -> int:
    """Where to begin looking at everything: a record that goes on in the next segment is not seen by a single look, either."""
    for number in range(near - 1, first, -1):
        seen[number] = reader.probe(number).endings
        if seen[number] and max(ending.at for ending in seen[number]) <= time - _MARGIN:
            return number
    return first


def _went_back(times: Sequence[datetime]) -> bool:
    newest: datetime | None = None
    for time in times:
        if newest is not None and time < newest - _DISORDER:
            return True
        newest = time if newest is None else max(newest, time)
    return False


# -- transactions -------------------------------------------------------------------------------------------------------


def ending_of(reader: Reader, start: int, xid: int) -> tuple[Ending | None, tuple[str, ...]]:
    """The COMMIT or ABORT of a transaction behind ``start``, with warnings. Every so often WAL tells which transactions run:
    these snapshots say where the transaction cannot have ended yet, and where it must have."""
    first, last = start // reader.size, reader.run.parts[-1].number
    if last - first < EXACT_SEGMENTS:  # looked at together, which is faster than one by one
        deque(reader.sweep(first, last), maxlen=0)
    oldest = _snapshot(reader, first, last)
    newest = _snapshot(reader, last, first)
    warnings: list[str] = []
    if oldest and newest and newest.next < oldest.next:
        warnings.append(
            f"Transaction ids went round within the archived WAL, from {oldest.next} on to {newest.next}: an id may name two transactions that are two thousand million apart. See that {xid} is the one you mean."
        )

    def before(snapshot: Running | None) -> bool:
        return snapshot is not None and _precedes_or_is(snapshot.next, xid)

    low, high = first, last
    while low < high:
        middle = (low + high + 1) // 2
        if before(_snapshot(reader, middle, low)):
            low = middle
        else:
            high = middle - 1
    # The snapshot that told lies in ``low`` or before it, so nothing of the transaction does: one look from there on.
    low = _home(reader, low, first)
    for events in reader.sweep(low, last):
        for ending in events.endings:
            if ending.xid == xid and ending.lsn >= start:
                return ending, tuple(warnings)
        if any(not _precedes_or_is(running.oldest, xid) for running in events.running if running.lsn >= start):
            break
    return None, tuple(warnings)


def _home(reader: Reader, number: int, first: int) -> int:
    """The segment at or before ``number`` in which a snapshot lies."""
    while number > first and not reader.probe(number).running:
        number -= 1
    return number


def _snapshot(reader: Reader, number: int, towards: int) -> Running | None:
    """The snapshot nearest to a segment, looking from there towards another."""
    step = 1 if towards >= number else -1
    for each in range(number, towards + step, step):
        if running := reader.probe(each).running:
            return running[0]
    return None


def _precedes_or_is(xid: int, other: int) -> bool:
    """Transaction ids go round: of two, the one less than half the circle ahead is later (TransactionIdPrecedes)."""
    return xid == other or (other - xid) % (1 << 32) < _HALF_OF_ALL_XIDS


# -- names --------------------------------------------------------------------------------------------------------------


def points_named(
    reader: Reader, start: int, name: str, tell: Callable[[int], None]
) -> tuple[list[NamedPoint], set[str]]:
    """The restore points of that name behind ``start``, oldest first, and the names of all. Every segment is looked at."""
    found: list[NamedPoint] = []
    names: set[str] = set()
    for events in reader.sweep(start // reader.size, reader.run.parts[-1].number, tell):
        for point in events.points:
            if point.lsn >= start:
                names.add(point.name)
                if point.name == name:
                    found.append(point)
    return found, names


# -- around a stop ------------------------------------------------------------------------------------------------------


def last_ending(reader: Reader, before: int) -> Ending | None:
    """The last COMMIT or ABORT whose record begins before ``before`` (LSN)."""
    if not reader.run.parts:
        return None
    last = min(before // reader.size, reader.run.parts[-1].number)
    for events in reader.sweep_back(max(reader.run.first_number, last - EXACT_SEGMENTS), last):
        for ending in reversed(events.endings):
            if ending.lsn < before:
                return ending
    return None


def endings_from(reader: Reader, lsn: int) -> tuple[list[Ending], bool]:
    """All endings that begin at ``lsn`` or behind in the next segments, and whether these were all segments there are."""
    first, last = lsn // reader.size, reader.run.parts[-1].number
    to = min(last, first + EXACT_SEGMENTS - 1)
    found = [ending for events in reader.sweep(first, to) for ending in events.endings if ending.lsn >= lsn]
    return found, to == last


def clock_warning(endings: Sequence[Ending], time: datetime) -> str | None:
    """Whether times at or before ``time`` come again behind a later one: the clock went backwards just here."""
    again = [ending for ending in endings if ending.at <= time]
    if not again or not endings or endings[0].at - min(ending.at for ending in again) <= _DISORDER:
        return None
    return (
        f"The server's clock went backwards: behind {format_lsn(endings[0].lsn)}, the first record later than {moment(time)}, {counted(len(again), 'transaction')} ended "
        f"with an earlier time, the last at {format_lsn(again[-1].lsn)}. They are left out, as PostgreSQL does; aim at an LSN to have them."
    )


def unknown_name(name: str, names: set[str], instead: str) -> RecoveryPointInvalid:
    """The refusal of a name that no restore point has; near ones are named."""
    from difflib import get_close_matches

    near = get_close_matches(name, sorted(names), 3, 0.5)
    hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    return RecoveryPointInvalid(f"There is no restore point {name!r} in the archived WAL. {hint}{instead}")
