"""Arbitrary backups, policies, holds and clocks: promise 5, and the same answer as a slow oracle written apart."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twist_dr.retention.model import BackupFacts, Hold, TargetPlan
from twist_dr.retention.plan import plan_target
from twist_dr.settings.policy import Policy
from twist_dr_tests.retention.facts import gone, kept
from twist_dr_tests.retention.oracle import Oracle

START = datetime(2025, 12, 20, tzinfo=timezone.utc)
KINDS, LABELS = ("full", "base", "configuration"), ("scheduled", "scheduled", "manual", "pre-update", "pre-restore")
STATES = ("checked", "checked", "checked", "stored", "corrupt", "failed", "pending", "deleted")
#: Havana puts its clocks back at midnight: there the same day comes twice.
ZONES = [ZoneInfo(name) for name in ("UTC", "Europe/Berlin", "America/Havana", "Pacific/Kiritimati")]
MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

#: Hours since START: nights apart, or months.
HOURS = st.one_of(st.integers(0, 24 * 12), st.integers(0, 24 * 800))
SPANS = st.none() | st.integers(-10, 24 * 400).map(lambda hours: timedelta(hours=hours))
FEW = st.integers(0, 4)


@st.composite
def _backups(draw: st.DrawFn) -> list[BackupFacts]:
    found: list[BackupFacts] = []
    for place, hours in enumerate(draw(st.lists(HOURS, max_size=14))):
        kind = draw(st.sampled_from(KINDS))
        taken, name = START + timedelta(hours=hours), f"{kind}{place}"
        parents: list[BackupFacts] = [each for each in found if each.kind == "base"]
        parent = draw(st.none() | st.sampled_from(parents)) if kind == "base" and parents else None
        found.append(
            BackupFacts(
                id=name,
                kind=kind,
                label=draw(st.sampled_from(LABELS)),
                taken_at=taken,
                state=draw(st.sampled_from(STATES)),
                verified=None if kind == "configuration" else draw(st.sampled_from((True, None, None, False))),
                stored_bytes=draw(st.none() | st.integers(0, 9)),
                chain=(*(parent.chain if parent else ()), name) if kind == "base" else (),
                finished_at=draw(st.none() | st.just(taken + timedelta(hours=3))),
                locked_until=draw(st.none() | st.none() | HOURS.map(lambda hours: START + timedelta(hours=hours))),
            )
        )
    return draw(st.permutations(found))


POLICIES = st.lists(
    st.builds(
        Policy,
        kinds=st.none() | st.frozensets(st.sampled_from(KINDS)),
        labels=st.none() | st.frozensets(st.sampled_from(LABELS)),
        daily=FEW,
        weekly=FEW,
        monthly=FEW,
        yearly=FEW,
        last=st.dictionaries(st.sampled_from(LABELS), FEW, max_size=2),
        max_age=SPANS,
        max_count=st.none() | st.integers(-1, 5),
        max_bytes=st.none() | st.integers(-1, 40),
        grace=st.sampled_from((0, 0, 7, 30)).map(lambda days: timedelta(days=days)),
        wal=st.none() | st.none() | st.integers(0, 24 * 100).map(lambda hours: timedelta(hours=hours)),
    )
    | st.sampled_from([Policy(), Policy(daily=3), Policy(max_count=0), Policy(last={"pre-update": 1})]),
    max_size=3,
)
NAMES = st.integers(0, 13).flatmap(lambda place: st.sampled_from([f"{kind}{place}" for kind in KINDS]))
WHENS = HOURS.map(lambda hours: START + timedelta(hours=hours))
HOLDS = st.lists(st.builds(Hold, NAMES, st.just("anna"), st.just("audit"), st.none() | WHENS), max_size=2)
IN_USE = st.dictionaries(NAMES, st.just("restore r1 reads it"), max_size=2)


def _plan(
    backups: list[BackupFacts],
    policies: list[Policy],
    holds: list[Hold],
    in_use: dict[str, str],
    now: datetime,
    zone: ZoneInfo,
) -> TargetPlan:
    return plan_target("office", backups, policies, now=now, time_zone=zone, holds=holds, in_use=in_use)


@MANY
@given(_backups(), POLICIES, HOLDS, IN_USE, WHENS, st.sampled_from(ZONES))
def test_the_plan_is_that_of_the_oracle(
    backups: list[BackupFacts],
    policies: list[Policy],
    holds: list[Hold],
    in_use: dict[str, str],
    now: datetime,
    zone: ZoneInfo,
) -> None:
    plan = _plan(backups, policies, holds, in_use, now, zone)
    assert kept(plan) == Oracle(backups, policies, now, zone, holds, in_use).kept()
    assert [each.backup.id for each in plan.decisions] == [
        each.id
        for each in sorted(backups, key=lambda each: (each.taken_at, each.id), reverse=True)
        if each.state != "deleted"
    ]
    assert all(each.reason for each in plan.decisions)


@pytest.mark.promise(5)
@MANY
@given(_backups(), POLICIES, HOLDS, IN_USE, WHENS, st.sampled_from(ZONES))
def test_no_policy_takes_what_is_promised(
    backups: list[BackupFacts],
    policies: list[Policy],
    holds: list[Hold],
    in_use: dict[str, str],
    now: datetime,
    zone: ZoneInfo,
) -> None:
    plan = _plan(backups, policies, holds, in_use, now, zone)
    staying, going = kept(plan), gone(plan)
    assert not staying & going
    for kind in KINDS:
        held = sorted(
            (each for each in backups if each.kind == kind and each.state != "deleted"),
            key=lambda each: (each.taken_at, each.id),
        )
        for last in ([each for each in held if each.verified], [each for each in held if each.state == "checked"]):
            assert not last or last[-1].id in staying
        verified = [each for each in held if each.verified]
        assert not verified or not set(verified[-1].links) & going
    for each in backups:
        assert each.id not in staying or not set(each.links) & going, "a link of a kept chain goes"
        assert each.locked_until is None or each.locked_until <= now or each.id not in going
    for hold in holds:
        assert (hold.until is not None and hold.until <= now) or hold.backup_id not in going
    assert not set(in_use) & going
    assert policies or not going


@MANY
@given(_backups(), POLICIES, HOLDS, IN_USE, WHENS, st.sampled_from(ZONES))
def test_a_plan_that_was_carried_out_leaves_nothing_to_the_next(
    backups: list[BackupFacts],
    policies: list[Policy],
    holds: list[Hold],
    in_use: dict[str, str],
    now: datetime,
    zone: ZoneInfo,
) -> None:
    staying = kept(_plan(backups, policies, holds, in_use, now, zone))
    left = [each for each in backups if each.id in staying]
    assert not gone(_plan(left, policies, holds, in_use, now, zone))


@MANY
@given(_backups(), POLICIES, WHENS, st.sampled_from(ZONES))
def test_a_plan_can_be_cut_short_after_any_deletion_without_a_chain_losing_a_link(
    backups: list[BackupFacts], policies: list[Policy], now: datetime, zone: ZoneInfo
) -> None:
    there = {each.id: each for each in backups if each.state != "deleted"}
    broken = {each.id for each in there.values() if not set(each.links) <= set(there)}
    for each in _plan(backups, policies, [], {}, now, zone).deleted:
        del there[each.backup.id]
        assert {other.id for other in there.values() if not set(other.links) <= set(there)} <= broken
