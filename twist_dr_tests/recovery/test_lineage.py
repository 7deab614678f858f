"""Timelines: one that was left with rows on it, one that goes on, and what may be recovered of each."""

from __future__ import annotations

import shutil
from datetime import datetime, timezone
from pathlib import Path

import pytest

from twist_dr.errors import RecoveryPointInvalid, WalConflict
from twist_dr.postgres.lsn import format_lsn
from twist_dr.recovery.coverage import gaps, recoverable
from twist_dr.wal.history import Ancestor
from twist_dr.wal.names import Segment
from twist_dr.wal.partial_segment import PartialSegment
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.helpers import wait_until
from twist_dr_tests.primaries import MB, Primary, Row
from twist_dr_tests.recovery.material import Material, between, ended, facts_of_base

FIRST, SECOND = "20261121T020000Z-base-0001", "20261121T030000Z-base-0002"


class Branches:
    """Rows 0 to 19 on timeline 1; it was left behind row 14 (15 to 19 are lost) for timeline 2, with rows 100 to 109 and a base of its own."""

    def __init__(self, major: int, folder: Path) -> None:
        with Primary(TOOLS[major], folder / "one") as one:
            self.rows: list[Row] = one.record(range(5))
            copy = one.copy_of_data(one.base / "copy")
            bases = [facts_of_base(one, FIRST)]
            self.rows += one.record(range(5, 15), 200_000)
            self.left = self.rows[14].after
            self.rows += one.record(range(15, 20), 300_000)
            self.point = one.point("given_up")
            one.archived()
            self.rows += one.record([20])
            source, segment, written = one.open_segment()
            self.material = Material(folder / "archive", one.tools, one.identifier, bases=bases)
            self.material.folder.mkdir()
            self.wal = folder / "wal"
            shutil.copytree(one.archive, self.wal)
            kept = folder / "copy"
            shutil.move(copy, kept)
            self.material.put_partial(source, PartialSegment(segment, written, datetime.now(timezone.utc)))
            archive = one.base / "archive"
            (kept / "recovery.signal").touch()
            with Primary(
                TOOLS[major], folder / "two", data=kept, password=one.password,
                restore_command=f"cp {archive}/%f %p", recovery_target_lsn=format_lsn(self.left),
                recovery_target_inclusive="off", recovery_target_action="promote",
            ) as two:  # fmt: skip
                wait_until(lambda: two.one("SELECT pg_is_in_recovery()") == "False", "promotion")
                self.later = two.record(range(100, 105), 100_000)
                bases.append(facts_of_base(two, SECOND))
                self.later += two.record(range(105, 110), 100_000)
                two.archived()
                for path in two.archive.iterdir():
                    assert not (self.wal / path.name).exists()
                    shutil.copyfile(path, self.wal / path.name)
        self.history = self.wal / "00000002.history"
        self.material.ship(self.wal)


@pytest.fixture(scope="session", params=sorted(TOOLS, reverse=True), ids=lambda major: f"pg{major}")
def branches(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Branches:
    return Branches(request.param, tmp_path_factory.mktemp("branches"))


def test_the_newest_timeline_is_followed_from_a_base_on_the_older(branches: Branches) -> None:
    plan = branches.material.plan("latest", bases=branches.material.bases[:1])
    ended(plan, branches.later[-1])
    assert (plan.timeline, plan.histories, plan.base.backup_id) == (2, (2,), FIRST)
    (ancestor,) = plan.ancestors
    assert ancestor.timeline == 1 and branches.rows[14].after <= ancestor.switched_at < branches.rows[15].after
    switch = ancestor.switched_at // MB
    # The segment in which timeline 2 begins is read from timeline 2, what is before from 1.
    assert [segment.timeline for segment in plan.segments] == [
        1 if segment.number < switch else 2 for segment in plan.segments
    ]
    assert [segment.number for segment in plan.segments] == list(
        range(plan.segments[0].number, plan.segments[-1].number + 1)
    )


def test_points_before_and_behind_the_switch_are_found(branches: Branches) -> None:
    rows = branches.rows
    plan = branches.material.plan(between(rows[9], rows[10]))
    ended(plan, rows[9], rows[10])
    plan = branches.material.plan(between(branches.later[1], branches.later[2]), bases=branches.material.bases[:1])
    ended(plan, branches.later[1], branches.later[2])
    assert plan.timeline == 2
    ended(branches.material.plan(f"xid:{rows[12].xid}"), rows[12], rows[13])


def test_a_time_on_the_timeline_that_was_left_is_refused_unless_it_is_named(branches: Branches) -> None:
    to = between(branches.rows[17], branches.rows[18])
    with pytest.raises(
        RecoveryPointInvalid, match=r"on timeline 1, which was given up.*timeline: 1.*What can be recovered"
    ):
        branches.material.plan(to)
    plan = branches.material.plan(to, timeline=1)
    ended(plan, branches.rows[17], branches.rows[18])
    assert plan.timeline == 1 and plan.histories == () and plan.ancestors == ()
    assert {segment.timeline for segment in plan.segments} == {1}


def test_a_moment_between_the_last_common_commit_and_the_first_lost_one_is_no_dead_one(branches: Branches) -> None:
    plan = branches.material.plan(between(branches.rows[14], branches.rows[15]))
    ended(plan, branches.rows[14], branches.later[0])
    assert plan.timeline == 2


def test_an_lsn_that_only_the_left_timeline_has_is_refused(branches: Branches, tmp_path: Path) -> None:
    material = branches.material.copied(tmp_path)
    beyond = branches.rows[18].after
    for segment in [segment for segment in material.archives().segments if segment.timeline == 2]:
        if segment.start > branches.left:
            material.object(segment.name).unlink()
    (fork,) = [segment for segment in material.archives().segments if segment.timeline == 2]
    assert beyond > fork.end
    with pytest.raises(RecoveryPointInvalid, match=r"on timeline 1, which was given up"):
        material.plan(f"lsn:{format_lsn(beyond)}")


def test_an_lsn_that_both_have_is_the_newer_one_and_said(branches: Branches) -> None:
    lsn = format_lsn(branches.later[0].after)
    plan = branches.material.plan(f"lsn:{lsn}", bases=branches.material.bases[:1])
    ended(plan, branches.later[0])
    assert any("timeline 1 too" in warning for warning in plan.warnings)
    old = branches.material.plan(f"lsn:{lsn}", timeline=1)
    assert old.timeline == 1 and branches.rows[14].after <= old.end_lsn and not old.warnings


def test_a_name_or_transaction_that_only_the_left_timeline_has_is_found_there(branches: Branches) -> None:
    plan = branches.material.plan("name:given_up")
    assert (plan.timeline, plan.end_lsn) == (1, branches.point)
    assert any("on timeline 1 only" in warning for warning in plan.warnings)
    latest = branches.material.plan("latest", timeline=1)
    ended(latest, branches.rows[20])
    assert latest.partial is not None and latest.timeline == 1


def test_before_anything_of_the_new_timeline_is_archived_the_old_one_leads_to_the_switch(
    branches: Branches, tmp_path: Path
) -> None:
    material = branches.material.copied(tmp_path)
    for segment in material.archives().segments:
        if segment.timeline == 2:
            material.object(segment.name).unlink()
    plan = material.plan("latest", bases=material.bases[:1])
    ended(plan, branches.rows[14], branches.rows[15])
    assert plan.timeline == 2 and {segment.timeline for segment in plan.segments} == {1}


def test_a_missing_history_is_refused_by_its_name(branches: Branches, tmp_path: Path) -> None:
    material = branches.material.copied(tmp_path)
    material.object("00000002.history").unlink()
    with pytest.raises(
        RecoveryPointInvalid, match=r"00000002\.history.*timeline: 1.*What can be recovered: .*timeline 1"
    ):
        material.plan("latest")
    ended(material.plan("latest", timeline=1), branches.rows[20])


def test_two_timelines_of_one_number_are_refused(branches: Branches, tmp_path: Path) -> None:
    material = branches.material.copied(tmp_path)
    shutil.copytree(material.folder / "office", material.folder / "nas")
    ended(material.plan("latest", "office", "nas"), branches.later[-1])
    material.object("00000002.history", "nas").unlink()
    other = tmp_path / "other"
    other.write_text(branches.history.read_text().replace(format_lsn(branches.left)[:4], "0/9"))
    assert other.read_bytes() != branches.history.read_bytes()
    material.put_history(2, other, "nas")
    with pytest.raises(WalConflict, match=r"00000002\.history differs between office and nas"):
        material.plan("latest", "office", "nas")


def test_a_gap_across_the_switch_is_found(branches: Branches, tmp_path: Path) -> None:
    material = branches.material.copied(tmp_path)
    switch = Segment.holding(2, branches.material.archives().ancestors(2)[0].switched_at, MB)
    material.object(switch.name).unlink()
    with pytest.raises(
        RecoveryPointInvalid, match=f"{switch.name} is on no storage target.*behind the gap is {SECOND}|{switch.name}"
    ):
        material.plan(between(branches.later[1], branches.later[2]), bases=material.bases[:1])
    assert gaps(material.bases, material.archives()) == [(2, switch, switch)]


def test_what_can_be_recovered_is_told_for_both_timelines(branches: Branches) -> None:
    ranges = recoverable(branches.material.bases, branches.material.archives())
    assert {(each.timeline, each.base) for each in ranges} == {(1, FIRST), (2, FIRST)}
    assert gaps(branches.material.bases, branches.material.archives()) == []
    assert branches.material.archives().ancestors(2) == [
        Ancestor(1, branches.material.archives().ancestors(2)[0].switched_at)
    ]
