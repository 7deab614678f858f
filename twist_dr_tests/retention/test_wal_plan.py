"""Which WAL stays: what is recoverable must stay recoverable, asked of the code that recovers."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twist_dr.retention.model import ClusterWal, Doubt, WalPlan
from twist_dr.retention.wal_plan import bases_of_window, plan_wal
from twist_dr.wal.history import Ancestor
from twist_dr.wal.names import Segment
from twist_dr_tests.retention.facts import DAY, NOW
from twist_dr_tests.retention.wal_story import SIZE, Story, names, reached, recoverable

WEEK = 7 * DAY


def _days(story: Story, count: int, per_day: int = 2) -> None:
    for _ in range(count):
        story.write(per_day * SIZE, 24)


def _reasons(plan: WalPlan, keep: bool) -> list[str]:
    return [each.reason for each in plan.stretches if each.keep is keep]


def _carried_out(cluster: ClusterWal, plan: WalPlan) -> ClusterWal:
    gone = set(plan.deleted)
    holdings = cluster.holdings
    for found in (holdings.segments, holdings.partials):
        for each in [each for each, stored in found.items() if stored in gone]:
            del found[each]  # type: ignore[attr-defined]
    return cluster


def test_wal_before_the_base_of_the_window_goes_and_all_after_it_stays() -> None:
    story = Story(NOW)
    _days(story, 3)
    story.base("old")
    _days(story, 10)
    base = story.base("b1")
    _days(story, 8)
    story.base("b2")
    _days(story, 1)
    cluster = story.cluster()
    assert set(bases_of_window([cluster], WEEK, story.now)) == {"b1", "b2"}
    plan = plan_wal([cluster.keeping(["b1", "b2"])], WEEK, story.now)
    first = Segment.holding(1, base.start_lsn, SIZE)
    assert plan.deleted and all(name < first.name for name in names(plan.deleted))
    assert _reasons(plan, True) == ["follows b1: the WAL window of 7 days begins with it"]
    assert _reasons(plan, False) == ["older than the WAL window of 7 days, and no kept base needs it"]


@pytest.mark.promise(5)
@pytest.mark.parametrize("count", [2, 5, 12])
def test_a_bundle_goes_when_all_of_its_segments_may_and_stays_for_any_that_a_base_needs(count: int) -> None:
    story = Story(NOW)
    _days(story, 3)
    story.base("old")
    _days(story, 10)
    base = story.base("b1")
    _days(story, 8)
    line = sorted(story.segments)
    whole = [line[place : place + count] for place in range(0, len(line), count)]
    for of in whole:  # stored when the last of them was
        for each in of:
            story.segments[each] = replace(story.segments[each], modified=story.segments[of[-1]].modified)
    cluster = story.cluster()
    singly = {each.key for each in plan_wal([cluster.keeping(["old", "b1"])], WEEK, story.now).deleted}
    bundles = {each: replace(story.segments[of[0]], key=f"bundle{of[0].name}") for of in whole for each in of}
    # One by itself too, as a repair left it: it goes when nobody needs it, whatever its bundle does.
    again = line[1]
    holdings = replace(cluster.holdings, segments=bundles, again=[(again, story.segments[again])])
    bundled = replace(cluster, holdings=holdings)
    plan = plan_wal([bundled.keeping(["old", "b1"])], WEEK, story.now)
    gone = [each.key for each in plan.deleted]
    may_go = {bundles[of[0]].key for of in whole if all(story.segments[each].key in singly for each in of)}
    assert set(gone) - {story.segments[again].key} == may_go and len(set(gone)) == len(gone)
    assert may_go and any(story.segments[each].key in singly for each in line if bundles[each].key not in may_go), (
        "one stays for the others of its bundle"
    )
    assert (story.segments[again].key in gone) == (story.segments[again].key in singly)
    kept = {each for each in line if bundles[each].key not in may_go}
    assert kept >= {each for each in line if each.start >= base.start_lsn}
    assert sum(len(each.objects) for each in plan.stretches) == len(whole) + 1, "each object once"


@pytest.mark.promise(5)
def test_an_older_base_that_is_kept_can_still_be_restored_to_its_own_end() -> None:
    story = Story(NOW)
    _days(story, 2)
    year = story.base("year", size=5 * SIZE)
    _days(story, 300)
    story.base("b1")
    _days(story, 8)
    cluster = story.cluster()
    plan = plan_wal([cluster], WEEK, story.now)
    assert "needed to restore year to its own end" in _reasons(plan, True)
    assert len(plan.deleted) > 500
    left = _carried_out(cluster, plan)
    assert year.stop_lsn <= reached(left, year, 1) < year.stop_lsn + 2 * SIZE


def test_without_a_window_wal_stays_from_the_oldest_kept_base_on() -> None:
    story = Story(NOW)
    _days(story, 5)
    story.base("b1")
    _days(story, 400)
    story.base("b2")
    cluster = story.cluster()
    assert bases_of_window([cluster], None, story.now) == {}
    assert len(plan_wal([cluster], None, story.now).deleted) == 10
    assert len(plan_wal([cluster.keeping(["b2"])], None, story.now).deleted) == 810


def test_a_base_that_is_not_good_does_not_carry_the_window() -> None:
    story = Story(NOW)
    story.base("b1")
    _days(story, 5)
    story.base("broken", good=False)
    _days(story, 8)
    cluster = story.cluster()
    assert "broken" not in bases_of_window([cluster], WEEK, story.now)
    assert not plan_wal([cluster], WEEK, story.now).deleted


@pytest.mark.promise(5)
def test_after_a_gap_in_the_wal_the_first_base_behind_it_is_needed_too() -> None:
    story = Story(NOW)
    story.base("before")
    _days(story, 10)
    del story.segments[Segment.holding(1, story.lsn - 5 * SIZE, SIZE)]
    story.base("behind")
    _days(story, 1)
    story.base("later")
    _days(story, 1)
    cluster = story.cluster()
    assert set(bases_of_window([cluster], WEEK, story.now)) == {"before", "behind"}
    left = _carried_out(cluster.keeping(["before", "behind"]), plan_wal([cluster], WEEK, story.now))
    assert recoverable(left, 1, story.bases[1].stop_lsn) and recoverable(left, 1, story.lsn // SIZE * SIZE)


def test_a_base_whose_own_wal_is_missing_does_not_carry_the_window() -> None:
    story = Story(NOW)
    story.base("whole")
    _days(story, 5)
    lame = story.base("lame", size=3 * SIZE)
    del story.segments[Segment.holding(1, lame.start_lsn + SIZE, SIZE)]
    _days(story, 9)
    assert "whole" in bases_of_window([story.cluster()], WEEK, story.now)


@pytest.mark.promise(5)
def test_a_base_of_a_stretch_that_was_left_does_not_stand_for_the_line_that_lives() -> None:
    story = Story(NOW)
    story.base("a")
    _days(story, 2)
    before = len(story.moments) - 1
    _days(story, 2)
    story.base("left behind")  # newer than "a", but nothing of timeline 2 can be recovered from it
    story.back_to(before)
    _days(story, 10)
    cluster = story.cluster()
    assert "a" in bases_of_window([cluster], WEEK, story.now)
    plan = plan_wal([cluster], WEEK, story.now)
    left = _carried_out(cluster, plan)
    assert recoverable(left, 2, story.lsn // SIZE * SIZE)


def test_what_a_restore_left_behind_goes_when_it_is_older_than_the_window() -> None:
    story = Story(NOW)
    story.base("a")
    _days(story, 2)
    before = len(story.moments) - 1
    _days(story, 3)
    story.back_to(before)
    story.base("b")
    story.write(SIZE, 6 * 24)
    left_behind = {segment.name for segment in story.segments if segment.timeline == 1 and segment.start > story.lsn}
    assert left_behind
    assert not left_behind & set(names(plan_wal([story.cluster()], WEEK, story.now).deleted))
    story.write(SIZE, 10 * 24)
    gone = names(plan_wal([story.cluster().keeping(["b"])], WEEK, story.now).deleted)
    assert left_behind <= set(gone)
    assert all(name.startswith("00000001") for name in gone)


def test_nothing_of_a_cluster_goes_while_a_history_is_missing() -> None:
    story = Story(NOW)
    story.base("a")
    _days(story, 20)
    story.base("b")
    story.back_to(-1)
    _days(story, 20)
    story.ancestors.clear()
    cluster = story.cluster()
    plan = plan_wal([cluster], WEEK, story.now)
    assert not plan.deleted
    assert _reasons(plan, True)[0] == "the history of timeline 2 is not there, so nobody can tell what it needs"
    assert set(bases_of_window([cluster], WEEK, story.now)) == {"a", "b"}


def test_a_partial_stays_and_goes_with_its_segment() -> None:
    story = Story(NOW)
    story.write(SIZE // 2)
    early = story.partial()
    _days(story, 10)
    story.base("b")
    _days(story, 10)
    story.write(SIZE // 3)
    late = story.partial()
    gone = plan_wal([story.cluster()], WEEK, story.now).deleted
    assert story.partials[early] in gone and story.segments[early.segment] in gone
    assert story.partials[late] not in gone


def test_wal_of_a_cluster_without_bases_goes_by_age_unless_it_is_the_one_in_use() -> None:
    old, new = Story(NOW, identifier="1"), Story(NOW + 30 * DAY, identifier="2")
    _days(old, 30)
    _days(new, 10)
    clusters = [old.cluster(), new.cluster()]
    assert not plan_wal(clusters, WEEK, new.now).deleted, "no base is kept at all"
    with_base = Story(NOW - 50 * DAY, identifier="3")
    with_base.base("b")
    plan = plan_wal([*clusters, with_base.cluster()], WEEK, new.now)
    assert {each.system_identifier for each in plan.stretches if not each.keep} == {"1"}
    assert "it is of the cluster that is in use, of which no base is kept here" in _reasons(plan, True)
    assert not plan_wal([*clusters, with_base.cluster()], None, new.now).deleted


def test_nothing_that_is_younger_than_the_window_goes() -> None:
    story = Story(NOW)
    _days(story, 5)
    story.base("first")
    _days(story, 1)
    plan = plan_wal([story.cluster()], WEEK, story.now)
    assert not plan.deleted
    assert "younger than the WAL window of 7 days" in _reasons(plan, True)


def test_doubts_about_the_clock_hold_for_wal_too() -> None:
    story = Story(NOW)
    story.base("b")
    _days(story, 30)
    back = plan_wal([story.cluster()], WEEK, NOW)
    assert [doubt.about for doubt in back.forbidden_by()] == ["clock"]
    given = plan_wal([story.cluster()], WEEK, story.now, [Doubt("fraction", "much"), Doubt("clock", "leapt")])
    assert [str(doubt) for doubt in given.doubts] == ["leapt"]
    assert not given.forbidden_by(allow_clock=True)


def test_without_anything_there_is_a_plan_of_nothing() -> None:
    assert plan_wal([], WEEK, NOW).stretches == ()
    empty = Story(NOW).cluster()
    assert plan_wal([empty], WEEK, NOW).stretches == ()
    lone = ClusterWal(empty.holdings, (), {2: [Ancestor(1, SIZE)]})
    assert bases_of_window([lone], WEEK, NOW) == {}


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(1, 5 * SIZE), st.integers(1, 72)),
        st.tuples(st.just("base"), st.integers(1, 2 * SIZE), st.integers(1, 9)),
        st.tuples(st.just("bad base"), st.integers(1, 2 * SIZE), st.integers(1, 9)),
        st.tuples(st.just("back"), st.integers(0, 99), st.just(0)),
        st.tuples(st.just("lost"), st.integers(0, 99), st.just(0)),
    ),
    max_size=30,
)


def _told(events: list[tuple[str, int, int]]) -> Story:
    story = Story(NOW)
    story.write(10)
    for what, size, hours in events:
        if what == "write":
            story.write(size, hours)
        elif what == "back":
            story.back_to(size % len(story.moments))
        elif what == "lost":
            if story.segments:
                del story.segments[sorted(story.segments)[size % len(story.segments)]]
        else:
            story.base(f"b{len(story.bases)}", size, hours, good=what == "base")
    story.partial()
    return story


@pytest.mark.promise(5)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(EVENTS, st.integers(0, 15), st.integers(0, 2**12), st.booleans())
def test_what_was_recoverable_stays_so(
    events: list[tuple[str, int, int]], window_days: int, wanted: int, with_window: bool
) -> None:
    story = _told(events)
    window = timedelta(days=window_days) if with_window else None
    cluster = story.cluster()
    needed = bases_of_window([cluster], window, story.now)
    kept_ids = {base.id for place, base in enumerate(story.bases) if wanted >> place & 1 or base.id in needed}
    kept = cluster.keeping(kept_ids)
    points = [
        (timeline, lsn)
        for timeline, lsn, at in story.moments
        if (window is None or story.now - at <= window)
        and recoverable(kept if window is None else cluster, timeline, lsn)
    ]
    ends = [base for base in kept.bases if reached(kept, base, base.timeline) >= base.stop_lsn]
    left = _carried_out(kept, plan_wal([kept], window, story.now))
    for timeline, lsn in points:
        assert recoverable(left, timeline, lsn), (timeline, lsn)
    for base in ends:
        assert reached(left, base, base.timeline) >= base.stop_lsn, base.id
    assert not plan_wal([left], window, story.now).deleted, "carried out once, it is done"
