"""Three years of nights, each with a plan that is carried out: what is promised holds every morning."""

from __future__ import annotations

from datetime import timedelta

import pytest

from twist_dr.retention.model import BackupFacts, TargetPlan
from twist_dr.settings.policy import Policy, longest_window
from twist_dr_tests.retention.facts import DAY, gone, kept
from twist_dr_tests.retention.oracle import Oracle
from twist_dr_tests.retention.wal_story import reached, recoverable
from twist_dr_tests.retention.years import Years

NIGHTS = 3 * 365


@pytest.mark.promise(5)
@pytest.mark.parametrize("seed", [1, 2])
def test_three_years_of_failures_clock_jumps_and_policy_changes(seed: int) -> None:
    years, deleted, doubted, most_wal = Years(seed), 0, 0, 0
    for night in range(NIGHTS):
        years.night()
        in_use = {years._any(): "restore r1 reads it"} if years.chance(5) else {}
        plan, wal, needed = years.plan(in_use)
        _is_doubted_under_a_wrong_clock(years, plan)
        if night % 30 == 0:
            _is_that_of_the_oracle(years, plan, in_use, needed)
        if not years.allowed_by_a_person(plan.forbidden_by() + wal.forbidden_by()):
            doubted += 1
            continue
        before, cluster = dict(years.backups), years.cluster()
        window = longest_window(years.policies)
        points = [
            (timeline, lsn)
            for timeline, lsn, at in years.story.moments[-30:]
            if night % 7 == 0
            and window
            and timedelta(0) <= years.now_of_the_plan - at <= window
            and recoverable(cluster, timeline, lsn)
        ]
        years.carry_out(plan, wal)
        deleted += len(plan.deleted)
        most_wal = max(most_wal, len(years.story.segments))
        _keeps_the_promise(before, years.backups)
        left = years.cluster()
        for timeline, lsn in points:
            assert recoverable(left, timeline, lsn), night
        if night % 7 == 0:
            for base in left.bases:
                assert reached(left, base, base.timeline) >= base.stop_lsn, (night, base.id)
        again, wal_again, _ = years.plan(in_use)
        assert not again.deleted and not wal_again.deleted
    assert deleted > 2000, "much was deleted"
    assert 5 < doubted < NIGHTS / 10, "doubts were there, and passed"
    assert len(years.backups) < 400 and most_wal < 1000, "nothing grows for ever"


def _is_doubted_under_a_wrong_clock(years: Years, plan: TargetPlan) -> None:
    if years.offset < timedelta(0):
        assert [doubt for doubt in plan.doubts if doubt.about == "clock"]
    elif years.offset > timedelta(0):
        by_age = [each for each in plan.deleted if "older than" in each.reason]
        assert not by_age or [doubt for doubt in plan.doubts if doubt.about == "clock"]


def _is_that_of_the_oracle(years: Years, plan: TargetPlan, in_use: dict[str, str], needed: dict[str, str]) -> None:
    used = {**in_use, **needed}
    oracle = Oracle(years.backups.values(), years.policies, years.now_of_the_plan, years.true.tzinfo, years.holds, used)
    assert kept(plan) == oracle.kept()


def _keeps_the_promise(before: dict[str, BackupFacts], left: dict[str, BackupFacts]) -> None:
    for kind in ("full", "base", "configuration"):
        held = sorted(
            (each for each in before.values() if each.kind == kind), key=lambda each: (each.taken_at, each.id)
        )
        for last in ([each for each in held if each.verified], [each for each in held if each.state == "checked"]):
            assert not last or last[-1].id in left
    for each in left.values():
        assert all(link in left for link in each.links if link in before)


def test_the_generations_of_a_policy_are_there_every_morning() -> None:
    """What the rules name is found from all good backups that were ever made: cleanup every night loses no generation."""
    years, ever = Years(3), dict[str, BackupFacts]()
    policy = Policy(daily=7, weekly=5, monthly=12, yearly=3)
    for _ in range(NIGHTS):
        years.true += DAY * (3 if years.chance(3) else 1)
        name = years._back_up("full", "scheduled")
        if years.backups[name].state == "pending":
            del years.backups[name]
            continue
        ever[name] = years.backups[name]
        years.policies = [policy]
        plan, wal, _ = years.plan({})
        assert {doubt.about for doubt in plan.forbidden_by()} <= {"fraction"}
        years.carry_out(plan, wal)
        good = [each for each in ever.values() if each.state in ("checked", "stored") and each.verified is not False]
        for form, count in {"%Y-%m-%d": 7, "%G-%V": 5, "%Y-%m": 12, "%Y": 3}.items():
            newest = {each.taken_at.strftime(form): each.id for each in good}  # oldest first: the last one stays
            assert set(list(newest.values())[-count:]) <= set(years.backups)
        assert not gone(plan) & set(years.backups)
    assert len(years.backups) < 7 + 5 + 12 + 3 + 20


def test_whatever_people_make_between_the_nights_takes_nothing_from_them() -> None:
    """A year of the template's retention, with backups by hand and restores on any day: the nights are there, and a week of what was made by hand."""
    years = Years(4)
    years.policies = [Policy(daily=7, weekly=4, last={"pre-update": 3, "pre-restore": 3}, max_age=30 * DAY)]
    ever, deleted = list[BackupFacts](), 0
    for _ in range(365):
        years.true += DAY * (3 if years.chance(3) else 1)
        ever.append(years.backups[years._back_up("full", "scheduled")])
        night = years.true
        for _ in range(years.random.randint(0, 3)):
            years.true += timedelta(hours=2)
            label = years.random.choice(("manual", "manual", "pre-restore", "pre-update"))
            ever.append(years.backups[years._back_up("full", label)])
        years.true = night
        plan, wal, _ = years.plan({})
        years.carry_out(plan, wal)
        deleted += len(plan.deleted)
        good = [each for each in ever if each.state in ("checked", "stored") and each.verified is not False]
        countable = [each for each in good if each.label in ("scheduled", "manual")]
        # Of a day it is the night; where none is good, what was made by hand last.
        countable.sort(key=lambda each: (each.label == "scheduled", each.taken_at))
        for form, count in {"%Y-%m-%d": 7, "%G-%V": 4}.items():
            newest = {each.taken_at.strftime(form): each for each in countable}
            for period in sorted(newest)[-count:]:
                old = years.now_of_the_plan - newest[period].taken_at > 30 * DAY
                assert old or newest[period].id in years.backups, (period, newest[period])
        by_hand = [each for each in ever if each.label == "manual" and years.now_of_the_plan - each.taken_at < 7 * DAY]
        assert all(each.id in years.backups for each in by_hand)
        for label in ("pre-update", "pre-restore"):
            left = [each for each in good if each.label == label and each.id in years.backups]
            assert len(left) <= 4, "three, and the last verified one"
    assert deleted > 400
