"""The examples of docs/retention.md, by their numbers, and what else a person would notice of a plan."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

import twist_dr
from twist_dr.retention.model import Hold
from twist_dr.settings.policy import Policy
from twist_dr_tests.retention.facts import DAY, NOW, backup, chain, gone, kept, nights, planned, reason

ABSURD = [
    Policy(max_count=0),
    Policy(max_age=timedelta(0)),
    Policy(max_bytes=0),
    Policy(last={"scheduled": 0, "manual": 0, "pre-update": 0, "pre-restore": 0}),
    Policy(daily=1, max_count=0, max_age=timedelta(0), max_bytes=0),
    Policy(max_count=-5, max_bytes=-1, max_age=timedelta(days=-999_999_999)),
]


def test_example_1_without_a_policy_everything_stays() -> None:
    plan = planned(nights(30))
    assert not plan.deleted
    assert reason(plan, "d29") == "no policy applies to it"


def test_example_2_seven_days_are_the_last_seven_that_have_a_backup() -> None:
    with_a_hole = [each for each in nights(12) if each.id not in ("d2", "d3")]
    assert kept(planned(with_a_hole, Policy(daily=7))) == {"d0", "d1", "d4", "d5", "d6", "d7", "d8"}


def test_example_3_the_newest_of_a_day_takes_its_slot() -> None:
    twice = [backup("morning", 0.2), backup("evening", 0), backup("yesterday", 1)]
    assert gone(planned(twice, Policy(daily=7))) == {"morning"}


def test_example_4_weeks_months_and_years_keep_the_newest_of_each() -> None:
    plan = planned(nights(800), Policy(daily=2, weekly=2, monthly=2, yearly=2))
    # 21 November 2026 is a Saturday: week 46 ended on the 15th, October on the 31st, 2025 on 31 December.
    assert kept(plan) == {"d0", "d1", "d6", "d21", "d325"}
    assert reason(plan, "d325") == "yearly: the newest of 2025"


def test_example_5_days_are_those_of_the_settings_time_zone() -> None:
    berlin, two = ZoneInfo("Europe/Berlin"), datetime(2026, 10, 25, tzinfo=timezone.utc)
    # 23:30 and 22:30 UTC of the 24th: in Berlin the 25th at 01:30 and 00:30. The clocks go back that night: its day has 25 hours.
    times = {"a": -1.5, "b": -0.5, "c": 22.5, "d": 23.5}
    held = [backup(name, (NOW - two) / DAY - hours / 24) for name, hours in times.items()]
    assert kept(planned(held, Policy(daily=9), now=two + 2 * DAY, time_zone=berlin)) == {"c", "d"}
    assert kept(planned(held, Policy(daily=9), now=two + 2 * DAY)) == {"b", "d"}


def test_example_6_the_last_three_of_a_label_and_nothing_said_of_others() -> None:
    updates = [backup(f"u{age}", age + 0.5, label="pre-update") for age in range(5)]
    plan = planned(nights(5) + updates, Policy(last={"pre-update": 3}))
    assert gone(plan) == {"u3", "u4"}
    assert reason(plan, "u2") == "among the last 3 labelled pre-update"


def test_example_7_age_count_and_size_say_what_goes() -> None:
    assert gone(planned(nights(4), Policy(max_age=2 * DAY))) == {"d3"}
    assert gone(planned(nights(4), Policy(max_count=2))) == {"d2", "d3"}
    assert gone(planned(nights(4), Policy(max_bytes=350))) == {"d3"}
    assert reason(planned(nights(4), Policy(max_age=2 * DAY)), "d3") == "older than 2 days"


def test_example_8_caps_take_away_from_what_rules_keep() -> None:
    assert kept(planned(nights(400), Policy(monthly=12, max_age=90 * DAY))) == {"d0", "d21", "d52", "d82"}


def test_example_9_what_any_policy_keeps_stays() -> None:
    policies = [Policy(daily=2), Policy(labels=frozenset({"manual"}), max_age=365 * DAY)]
    held = [*nights(4), backup("mine", 100, label="manual")]
    assert gone(planned(held, *policies)) == {"d2", "d3"}


def test_example_10_a_policy_of_nothing_but_a_wal_window_says_nothing_of_backups() -> None:
    assert gone(planned(nights(4), Policy(daily=2), Policy(wal=7 * DAY))) == {"d2", "d3"}


def test_example_11_each_kind_counts_for_itself() -> None:
    settings = [backup(f"c{age}", age, kind="configuration", verified=None) for age in range(4)]
    assert gone(planned(nights(4) + settings, Policy(max_count=3))) == {"d3", "c3"}


def test_example_12_links_of_a_kept_chain_stay() -> None:
    plan = planned(chain("f", "i1", "i2", age=0), Policy(daily=1))
    assert not plan.deleted
    assert reason(plan, "f") == "i2 builds upon it"


def test_example_13_a_chain_counts_as_one() -> None:
    chains = chain("f1", "i1", age=4) + chain("f2", "i2", age=2) + chain("f3", "i3", age=0)
    plan = planned(chains, Policy(max_count=2), max_delete_fraction=1)
    assert gone(plan) == {"f1", "i1"}
    assert [each.backup.id for each in plan.deleted] == ["i1", "f1"], "what builds upon another goes first"


def test_example_14_bad_ones_take_no_slot_of_good_ones() -> None:
    held = [backup("bad", 0, state="corrupt"), backup("unproven", 0.1, verified=False), *nights(6)[1:]]
    assert gone(planned(held, Policy(max_count=3))) == {"d4", "d5"}, "the newest stays although it is bad"
    assert {"d1", "d2", "d3"} <= kept(planned(held, Policy(daily=3)))


def test_example_15_a_bad_one_stays_where_it_would_be_kept_if_it_were_good() -> None:
    held = [each if each.id != "d2" else backup("d2", 2, state="corrupt") for each in nights(8)]
    plan = planned(held, Policy(daily=4))
    assert kept(plan) == {"d0", "d1", "d2", "d3", "d4"}
    assert reason(plan, "d2") == "daily: would be kept if it were good"


@pytest.mark.promise(5)
@pytest.mark.parametrize("policy", ABSURD, ids=repr)
def test_example_16_the_last_verified_stays_whatever_the_policy(policy: Policy) -> None:
    unproven = [backup(f"u{age}", age, verified=None) for age in range(3)]
    held = unproven + [backup(f"v{age}", age) for age in range(3, 6)] + chain("f", "i1", "i2", age=3)
    plan = planned(held, policy)
    assert kept(plan) == {"u0", "v3", "f", "i1", "i2"}
    assert "the last verified full backup" in reason(plan, "v3")
    assert "the last verified base backup" in reason(plan, "i2")


@pytest.mark.promise(5)
def test_example_17_what_is_held_in_use_or_locked_stays() -> None:
    held = [backup("locked", 9, locked_until=NOW + DAY), *nights(9), *chain("f", "i", age=5), *chain("f2", "i2", age=0)]
    holds = [
        Hold("d7", "anna", "the auditors want it", NOW + DAY),
        Hold("d6", "anna", "over", NOW - DAY),
        Hold("i", "ben", "evidence"),
    ]
    plan = planned(held, Policy(max_count=0), holds=holds, in_use={"d4": "restore r1 reads it"})
    assert kept(plan) == {"d0", "d4", "d7", "i", "f", "i2", "f2", "locked"}
    assert reason(plan, "d7") == "held by anna until 2026-11-22 06:00 UTC: the auditors want it"
    assert reason(plan, "i") == "held by ben for ever: evidence"
    assert reason(plan, "d4") == "restore r1 reads it"
    assert reason(plan, "locked") == "locked by the store (Object Lock) until 2026-11-22 06:00 UTC"
    assert gone(planned([each for each in held if each.id != "locked"], Policy(max_count=0))) >= {"d6", "d7"}


def test_example_18_what_is_being_copied_stays() -> None:
    plan = planned([backup("p", 3, state="pending"), *nights(5)], Policy(max_count=0))
    assert kept(plan) == {"d0", "p"}


def test_example_19_the_wal_window_keeps_the_base_before_it_and_the_one_that_follows() -> None:
    bases = [backup(f"b{age}", age, kind="base", chain=(f"b{age}",)) for age in range(0, 60, 2)]
    policy = Policy(kinds=frozenset({"base"}), daily=3, wal=30 * DAY)
    plan = planned(bases, policy, max_delete_fraction=1)
    assert kept(plan) == {"b0", "b2", "b4", "b28", "b30"}
    assert reason(plan, "b30") == "needed to recover the beginning of the WAL window of 30 days"


def test_a_base_that_was_not_finished_when_the_window_began_does_not_carry_it() -> None:
    slow = backup("slow", 7.1, kind="base", finished_at=NOW - 6.9 * DAY)
    held = [backup("new", 0, kind="base"), slow, backup("early", 8, kind="base")]
    assert "early" in kept(planned(held, Policy(max_count=0, wal=7 * DAY)))


def test_example_20_the_newest_from_a_future_does_not_stand_for_the_newest_of_today() -> None:
    plan = planned([backup("future", -700), *nights(5)], Policy(max_count=1))
    assert kept(plan) == {"future", "d0"}
    assert "clock" in {doubt.about for doubt in plan.forbidden_by()} <= {"clock", "fraction"}
    assert "2028-10-21 06:00 UTC" in str(plan.doubts[0])
    assert {doubt.about for doubt in plan.forbidden_by(allow_clock=True)} <= {"fraction"}


def test_example_21_a_clock_that_leapt_is_doubted_until_three_days_follow_each_other() -> None:
    policy = Policy(max_age=30 * DAY)
    for since in (0, 1, 2):
        leapt = nights(since) + [backup(f"o{age}", age + 400) for age in range(9)]
        assert [doubt.about for doubt in planned(leapt, policy, max_delete_fraction=1).doubts] == ["clock"], since
    assert not planned(nights(3) + leapt[2:], policy, max_delete_fraction=1).doubts


def test_example_22_three_days_of_silence_are_no_doubt() -> None:
    after_a_pause = [backup("back", 0), *[backup(f"o{age}", age + 4) for age in range(40)]]
    plan = planned(after_a_pause, Policy(max_age=30 * DAY))
    assert plan.deleted and not plan.doubts


def test_a_leap_is_no_doubt_while_nothing_goes_by_age() -> None:
    leapt = nights(1) + [backup(f"o{age}", age + 400) for age in range(9)]
    assert not planned(leapt, Policy(max_count=6)).doubts
    assert planned(leapt, Policy(max_count=6, wal=7 * DAY)).doubts, "WAL goes by age"
    over = [Hold("o8", "anna", "until the audit", NOW - 100 * DAY)]
    assert planned(leapt, Policy(max_count=6), holds=over).doubts, "a hold that ran out did so by the clock"


def test_example_23_more_than_the_fraction_stops_and_asks() -> None:
    plan = planned(nights(10), Policy(max_count=4))
    assert [doubt.about for doubt in plan.doubts] == ["fraction"]
    assert "6 of 10 backups" in str(plan.doubts[0]) and "600 of 1,000 bytes" in str(plan.doubts[0])
    assert not planned(nights(10), Policy(max_count=5)).doubts
    assert {doubt.about for doubt in plan.forbidden_by()} <= {"fraction"}


def test_example_24_what_was_made_by_hand_stays_a_week_and_a_night_keeps_its_place() -> None:
    mine = [backup(f"m{place}", 0.02 - place / 100, label="manual") for place in range(2)]
    replaced = [backup(f"r{place}", place / 1000, label="pre-restore") for place in range(5)]
    template = Policy(daily=7, weekly=4, last={"pre-update": 3, "pre-restore": 3}, max_age=30 * DAY)
    plan = planned([*nights(9), *mine, *replaced], template)
    assert gone(plan) == {"d7", "d8", "r3", "r4"} - {"d6"}
    assert reason(plan, "d0").startswith("daily: the newest of 2026-11-21")
    assert reason(plan, "m1") == "manual, and younger than the grace of 7 days"
    assert reason(plan, "r2") == "among the last 3 labelled pre-restore"
    later = [*nights(1), *(backup(f"m{place}", 7 + place / 100, label="manual") for place in range(3))]
    assert kept(planned(later, Policy(max_count=0))) == {"d0"}, "7 days are over at their end"


def test_example_25_a_day_without_a_night_is_that_of_what_was_made_by_hand() -> None:
    held = [each for each in nights(5) if each.id != "d2"]
    by_hand = [backup("instead", 2, label="manual"), backup("beside", 2.9, label="manual")]
    plan = planned([*held, *by_hand], Policy(daily=9, grace=timedelta(0)))
    assert gone(plan) == {"beside"}, "a night stands for its day, however much later something was made by hand"
    assert reason(plan, "instead") == "daily: the newest of 2026-11-19"


def test_example_26_what_was_made_before_a_change_has_no_place_and_a_week() -> None:
    before = [backup("just now", 0.1, label="pre-restore"), backup("long ago", 8.1, label="pre-update")]
    policy = Policy(daily=9, weekly=9, monthly=9, yearly=9)
    assert gone(planned([*nights(8), *before], policy)) == {"long ago"}
    assert gone(planned([*nights(8), *before], policy, Policy(last={"pre-update": 1}))) == set()
    alone = [backup("p0", 0, label="pre-restore"), *nights(3)[1:]]
    assert {"d1", "d2"} <= kept(planned(alone, Policy(daily=2))), "it takes no day from a night"


def test_example_27_a_night_that_went_bad_takes_no_day_from_a_good_one() -> None:
    held = [*nights(4), backup("d1 again", 0.8, state="corrupt"), backup("d2 again", 1.8, verified=False)]
    plan = planned(held, Policy(daily=3))
    assert {"d0", "d1", "d2"} <= kept(plan)
    assert reason(plan, "d1 again") == "daily: would be kept if it were good"
    only_by_hand = [*nights(1), backup("d1", 1, state="corrupt"), backup("mine", 1.1, label="manual")]
    assert "mine" in kept(planned(only_by_hand, Policy(daily=2, grace=timedelta(0))))


@pytest.mark.promise(5)
@pytest.mark.parametrize("policy", [*ABSURD, Policy(last={"pre-restore": 3}, daily=1, max_age=2 * DAY)], ids=repr)
def test_example_28_the_last_verified_one_of_a_night_outlives_what_a_restore_replaced(policy: Policy) -> None:
    held = [backup("r", 0.5, label="pre-restore"), *nights(9)[6:]]
    plan = planned(held, policy)
    assert {"r", "d6"} <= kept(plan) and "d7" in gone(plan)
    assert "the last verified full backup" in reason(plan, "d6")


def test_example_29_what_was_made_every_hour_or_by_hand_pushes_no_night_out() -> None:
    hours = [backup(f"h{hour}", hour / 24, label="manual", partial=True, verified=None) for hour in range(1, 9 * 24)]
    mine = backup("mine", 0.1, label="manual")
    plan = planned([*nights(4), *hours, mine], Policy(max_count=3), max_delete_fraction=1)
    assert {each for each in kept(plan) if not each.startswith("h")} == {"d0", "d1", "d2", "mine"}
    assert {int(each[1:]) // 24 for each in gone(plan) if each.startswith("h")} == {7, 8}
    by_size = planned([*nights(4), *hours, mine], Policy(max_bytes=350), max_delete_fraction=1)
    assert {"d0", "d1", "d2"} <= kept(by_size) and "d3" in gone(by_size)


def test_example_30_a_differential_frees_the_increments_before_it() -> None:
    bases = [*chain("f", "i1", "i2", age=1), backup("d", 0, kind="base", chain=("f", "d"))]
    plan = planned(bases, Policy(daily=1), max_delete_fraction=1)
    assert (kept(plan), gone(plan)) == ({"f", "d"}, {"i1", "i2"})
    assert reason(plan, "f") == "d builds upon it"


def test_one_huge_backup_is_a_fraction_by_its_bytes() -> None:
    held = [*nights(9), backup("huge", 20, stored_bytes=10**9)]
    assert "bytes" in str(planned(held, Policy(max_age=15 * DAY)).doubts[0])


def test_copies_that_are_deleted_are_not_planned_and_carry_nothing() -> None:
    links = chain("f", "i", age=0)
    held = [backup("f", 1, kind="base", chain=("f",), state="deleted"), links[1], *chain("f0", age=4)]
    plan = planned(held, Policy(max_count=0))
    assert kept(plan) == {"i", "f0"}, "a chain with a link missing is not the last good one"


def test_a_plan_at_the_ends_of_the_calendar_is_still_a_plan() -> None:
    first, last = (datetime(year, 1, 1, tzinfo=timezone.utc) for year in (1, 9999))
    held = [backup("old", 0), backup("older", 1)]
    forever = Policy(daily=3, max_age=timedelta.max, wal=timedelta.max)
    for now in (first, last):
        assert kept(planned(held, forever, now=now, time_zone=ZoneInfo("Pacific/Kiritimati"))) == {"old", "older"}


def test_every_example_of_the_documentation_is_a_test() -> None:
    page = (Path(twist_dr.__file__).parent.parent / "docs" / "retention.md").read_text()
    written = {int(number) for number in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    here = {int(number) for number in re.findall(r"def test_example_(\d+)_", Path(__file__).read_text())}
    assert written == here and written


def test_a_backup_without_some_parts_stands_for_no_whole_one() -> None:
    noon = backup("noon", 0.5, label="manual", partial=True)
    cap = Policy(max_count=0, grace=timedelta(0))
    assert gone(planned([noon, *nights(3)[1:]], cap)) == {"d2"}, "the last whole one that is verified stays"
    by_hand = [backup("noon of d1", 1.1, label="manual", partial=True), backup("mine", 1.2, label="manual")]
    plan = planned([*nights(1), *by_hand], Policy(daily=2, grace=timedelta(0)))
    assert (kept(plan), gone(plan)) == ({"d0", "mine"}, {"noon of d1"})
