"""A scrub's rotation reaches everything in time, and its bandwidth is bounded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest

from twist_dr.errors import Cancelled
from twist_dr.retention.wal_plan import plan_wal
from twist_dr.scrub.rotation import CopyToRead, KeyedObject, copies_due, elapsed_since, objects_due
from twist_dr.scrub.throttle import Throttle
from twist_dr.scrub.wal_reading import leave_deleted, lost_wal
from twist_dr_tests.retention.wal_story import SIZE, Story

NOON = datetime(2026, 11, 21, 12, tzinfo=timezone.utc)
DAY = timedelta(days=1)
PERIOD = timedelta(days=30)


def copy(number: int, size: int, checked_at: datetime | None, *, damaged: bool = False) -> CopyToRead:
    return CopyToRead(f"20260101T{number:06d}Z-full-0000", "zstd+enc", size, checked_at, damaged)


# -- the rotation ------------------------------------------------------------------------------------------------------


def simulated(days: int, missed: Callable[[int], bool], *, nightly: int = 0) -> tuple[timedelta, list[int]]:
    """So many days of scrubs, but for the missed ones. Gives the highest age that a copy reached, and the bytes of each run."""
    checked = {number: (10 + 7 * (number % 13), NOON - DAY * (number % 20)) for number in range(40)}
    last: datetime | None = NOON - DAY
    oldest, read = timedelta(0), []
    for day in range(days):
        now = NOON + DAY * day
        if nightly:
            checked[1000 + day] = (nightly, now - DAY / 4)
        if not missed(day):
            copies = [copy(number, size, at) for number, (size, at) in checked.items()]
            due = copies_due(copies, now=now, period=PERIOD, elapsed=elapsed_since(last, now, PERIOD))
            read.append(sum(each.size for each in due))
            for each in due:
                number = int(each.backup_id[9:15])
                checked[number] = (checked[number][0], now)
            last = now
        oldest = max([oldest, *(now - at for _, at in checked.values())])
    return oldest, read


def test_every_copy_is_read_within_the_period_and_no_day_reads_it_all() -> None:
    oldest, read = simulated(400, lambda day: False)
    total = sum(10 + 7 * (number % 13) for number in range(40))
    assert oldest <= PERIOD
    assert max(read) < total / 5, "the load is spread"


@pytest.mark.parametrize(
    "missed", [lambda day: day % 7 >= 5, lambda day: day % 30 in (3, 4, 5), lambda day: day % 2 == 1]
)
def test_missed_days_are_made_up_for(missed: Callable[[int], bool]) -> None:
    oldest, _ = simulated(400, missed)
    assert oldest <= PERIOD
    oldest, _ = simulated(200, missed, nightly=50)
    assert oldest <= PERIOD


def test_never_read_copies_come_first_and_damaged_ones_in_any_case() -> None:
    never, old, damaged = copy(1, 100, None), copy(2, 100, NOON - 20 * DAY), copy(3, 5000, NOON, damaged=True)
    fresh = [copy(10 + number, 100, NOON - DAY) for number in range(20)]
    due = copies_due([*fresh, old, never, damaged], now=NOON, period=PERIOD, elapsed=DAY)
    assert due == [damaged, never]


def test_after_a_rebuilt_catalog_not_everything_is_read_in_one_night() -> None:
    copies = [copy(number, 100, None) for number in range(100)]
    due = copies_due(copies, now=NOON, period=PERIOD, elapsed=DAY)
    assert 3 <= len(due) <= 5


def test_what_would_be_overdue_by_the_next_run_is_read_however_much_it_is() -> None:
    copies = [copy(number, 1000, NOON - PERIOD + DAY / 2) for number in range(10)] + [copy(20, 1, NOON - DAY)]
    assert len(copies_due(copies, now=NOON, period=PERIOD, elapsed=DAY)) == 10


def test_a_clock_that_was_wrong_hides_no_copy_and_stops_no_rotation() -> None:
    future = copy(1, 100, NOON + 3000 * DAY)
    others = [copy(number, 100, NOON - DAY) for number in range(2, 30)]
    assert copies_due([*others, future], now=NOON, period=PERIOD, elapsed=DAY)[0] == future
    assert elapsed_since(NOON + 3000 * DAY, NOON, PERIOD) == DAY
    assert elapsed_since(NOON - 3000 * DAY, NOON, PERIOD) == PERIOD


def test_nothing_to_read_is_nothing_due() -> None:
    assert copies_due([], now=NOON, period=PERIOD, elapsed=DAY) == []
    assert objects_due([], after=None, period=PERIOD, elapsed=DAY) == []


def test_objects_of_a_growing_and_shrinking_archive_are_all_read_within_the_period() -> None:
    """WAL is added at the end and removed at the beginning; every object that stays for the period is read in it."""
    read: dict[str, int] = {}
    after: str | None = None
    for day in range(120):
        objects = [KeyedObject(f"{number:08d}", 100) for number in range(day * 10, day * 10 + 450)]
        due = objects_due(objects, after=after, period=PERIOD, elapsed=DAY)
        after = due[-1].key
        assert len(due) < len(objects) / 10
        for each in due:
            read.setdefault(each.key, day)
    # An object is there from the day on which it is within 450 of the first, for 45 days.
    for number in range(500, 700):
        came = max(0, (number - 449 + 9) // 10)
        assert read[f"{number:08d}"] - came <= PERIOD / DAY


# -- the bandwidth -----------------------------------------------------------------------------------------------------


class Clock:
    """Time that passes only by waiting."""

    def __init__(self) -> None:
        self.now = 0.0

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return False


@pytest.mark.parametrize("chunk", [1000, 300_000, 5_000_000])
def test_the_bandwidth_bound_is_kept(chunk: int) -> None:
    clock = Clock()
    throttle = Throttle(1_000_000, threading.Event(), clock=lambda: clock.now, wait=clock.wait)
    for _ in range(60_000_000 // chunk):
        throttle(chunk)
    assert throttle.bytes == 60_000_000
    assert 58 <= clock.now <= 61


def test_a_pause_is_not_saved_up_for_a_burst() -> None:
    clock = Clock()
    throttle = Throttle(1000, threading.Event(), clock=lambda: clock.now, wait=clock.wait)
    throttle(1000)
    clock.now += 3600
    begun = clock.now
    for _ in range(100):
        throttle(100)
    assert clock.now - begun >= 8.9


def test_without_a_bound_nobody_waits() -> None:
    clock = Clock()
    throttle = Throttle(None, threading.Event(), clock=lambda: clock.now, wait=clock.wait)
    throttle(1 << 40)
    assert clock.now == 0


def test_an_interrupt_ends_the_longest_wait() -> None:
    stop = threading.Event()
    throttle = Throttle(1, stop)
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(Cancelled):
        throttle(1 << 30)


# -- write-ahead log that was lost -----------------------------------------------------------------------------------


def test_a_hole_that_a_cleanup_made_stays_one_and_another_is_filled() -> None:
    story = Story(NOON)
    story.base("monthly")
    story.write(6 * SIZE, hours=24 * 20)
    story.base("weekly")
    story.write(6 * SIZE, hours=24 * 8)
    other = story.cluster()
    plan = plan_wal([other], timedelta(days=7), story.now)
    deleted = {each.key for each in plan.deleted}
    kept = [segment for segment, each in story.segments.items() if each.key not in deleted]
    assert deleted and kept[0].number < len(kept) - 1 < kept[-1].number, "the monthly base's own, and a stretch later"
    story.segments = {segment: story.segments[segment] for segment in kept if segment != kept[-3]}
    ours = story.cluster()
    lost = lost_wal(ours, [other.holdings], None)
    assert len(lost.segments) == len(deleted) + 1
    leave_deleted([lost], [ours], timedelta(days=7), story.now)
    assert list(lost.segments) == [kept[-3]]
