"""From a request and storage targets to a plan: which cluster, which base backup, and what is said when the answer lies elsewhere."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from twist_dr.errors import RecoveryPointInvalid
from twist_dr.postgres.lsn import format_lsn
from twist_dr.recovery.planning import RecoveryRequest
from twist_dr.repository.manifest import Manifest
from twist_dr.wal.names import Segment
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.primaries import MB, Primary
from twist_dr_tests.recovery.material import Material, base_manifest, between, ended, facts_of_base
from twist_dr_tests.recovery.test_plan import FIRST, SECOND, Story

INCREMENTAL, OF_UPGRADED = "20261121T040000Z-base-0003", "20261121T090000Z-base-0009"


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return Story(max(TOOLS), tmp_path_factory.mktemp("wished"))


@pytest.fixture
def material(story: Story, tmp_path: Path) -> Material:
    """The story's archive with its base backups, to change."""
    copied = story.material.copied(tmp_path / "archive")
    copied.store_bases(*story.bases)
    return copied


def stopped(base: Manifest) -> datetime:
    assert base.base is not None
    return base.base.stopped_at


class Upgraded:
    """The cluster that came after the story's: a base backup, a row, and all of it archived below ``wal``."""

    def __init__(self, folder: Path) -> None:
        with Primary(TOOLS[max(TOOLS)], folder / "server") as primary:
            self.identifier = primary.identifier
            self.base = facts_of_base(primary, OF_UPGRADED)
            primary.record([0])
            primary.archived()
            self.wal = folder / "wal"
            shutil.copytree(primary.archive, self.wal)

    def ship(self, material: Material) -> None:
        Material(material.folder, material.tools, self.identifier).ship(self.wal)


@pytest.fixture(scope="module")
def upgraded(story: Story, tmp_path_factory: pytest.TempPathFactory) -> Upgraded:
    return Upgraded(tmp_path_factory.mktemp("upgraded"))


# -- a target that is down --------------------------------------------------------------------------------------------


@pytest.fixture
def behind(material: Material, story: Story) -> Material:
    """``nas`` lacks the last segments that ``office`` has, and ``office`` is gone."""
    shutil.copytree(material.folder / "office", material.folder / "nas")
    last = Segment.holding(1, story.rows[40].before, MB)
    for segment in material.archives().segments:
        if segment.number > last.number:
            material.object(segment.name, "nas").unlink()
    (material.folder / "office").rename(material.folder / "away")
    return material


def test_the_latest_state_is_refused_while_a_target_that_may_be_ahead_is_down(behind: Material) -> None:
    with pytest.raises(RecoveryPointInvalid, match=r"name in source.*office could not be listed and may hold more"):
        behind.requested(RecoveryRequest("latest"), "office", "nas")
    # Down for good: the other one is named, and nobody is asked who cannot answer.
    alone = behind.requested(RecoveryRequest("latest"), "nas")
    assert alone.base.backup_id == SECOND and not alone.lost.at_least


def test_the_latest_of_a_name_is_refused_while_a_target_that_may_be_ahead_is_down(behind: Material) -> None:
    with pytest.raises(
        RecoveryPointInvalid, match=r"'twice' is the latest.*name in source.*office could not be listed"
    ):
        behind.requested(RecoveryRequest("name:twice"), "office", "nas")


def test_what_a_target_that_is_down_may_hold_is_not_said_to_be_nothing(behind: Material, story: Story) -> None:
    plan = behind.requested(RecoveryRequest(between(story.rows[35], story.rows[36])), "office", "nas")
    ended(plan, story.rows[35], story.rows[36])
    assert "at least" in plan.sentence()
    assert any("office could not be listed and may hold more" in warning for warning in plan.warnings)


# -- another cluster --------------------------------------------------------------------------------------------------


def test_a_time_between_the_old_cluster_and_the_first_base_of_the_new_says_where_to_begin(
    material: Material, upgraded: Upgraded
) -> None:
    material.store_bases(upgraded.base)
    upgraded.ship(material)
    with pytest.raises(RecoveryPointInvalid, match=f"another cluster, {upgraded.identifier}.*begin with {OF_UPGRADED}"):
        material.requested(RecoveryRequest((stopped(upgraded.base) - timedelta(milliseconds=1)).isoformat()))


@pytest.mark.parametrize("with_wal", [True, False], ids=["with-wal", "without-wal"])
def test_a_point_of_the_old_cluster_is_refused_in_the_new_with_how_to_get_it(
    material: Material, story: Story, upgraded: Upgraded, with_wal: bool
) -> None:
    material.store_bases(upgraded.base)
    if with_wal:
        upgraded.ship(material)
    for to in ("name:before_import", f"xid:{story.rows[45].xid}", f"lsn:{format_lsn(story.rows[45].after)}"):
        with pytest.raises(
            RecoveryPointInvalid,
            match=f"another cluster, {material.identifier}, was backed up.*name the base to begin with.*{FIRST}",
        ) as refused:
            material.requested(RecoveryRequest(to))
        assert "Nothing can be recovered" not in str(refused.value)
    assert material.requested(RecoveryRequest("name:before_import", base=FIRST)).end_lsn == story.point


def test_the_latest_state_is_refused_while_a_newer_cluster_has_wal_and_no_base(
    material: Material, story: Story, upgraded: Upgraded
) -> None:
    upgraded.ship(material)
    newer = f"WAL of a newer cluster, {upgraded.identifier}.*job backup_base"
    with pytest.raises(RecoveryPointInvalid, match=f"name the base {SECOND}.*{newer}"):
        material.requested(RecoveryRequest("latest"))
    with pytest.raises(RecoveryPointInvalid, match=newer):
        material.requested(RecoveryRequest((stopped(upgraded.base)).isoformat()))
    last = material.requested(RecoveryRequest("latest", base=SECOND))
    ended(last, story.rows[49])
    assert "nothing in the archive was committed after it" not in last.sentence()


def test_wal_that_an_older_cluster_left_behind_keeps_nothing_from_being_the_latest(
    material: Material, story: Story
) -> None:
    Material(material.folder, material.tools, "7000000000000000001").ship(story.wal)
    ended(material.requested(RecoveryRequest("latest")), story.rows[49])


# -- a base that somebody names ---------------------------------------------------------------------------------------


def test_a_base_that_is_named_is_the_one_to_begin_with_or_nothing(material: Material, story: Story) -> None:
    facts = story.bases[1].base
    assert facts is not None
    child = base_manifest(
        INCREMENTAL, material.identifier, 1, facts.start_lsn, facts.stop_lsn, facts.started_at, facts.stopped_at, MB,
        max(TOOLS), parent=story.bases[0],
    )  # fmt: skip
    material.store_bases(child)
    before = {
        between(story.rows[15], story.rows[16]): f"before the end of {INCREMENTAL}",
        f"lsn:{format_lsn(story.rows[15].after)}": f"before the end of {INCREMENTAL}",
        "name:before_import": "no restore point 'before_import'",
        f"xid:{story.rows[15].xid}": "No COMMIT or ABORT",
    }
    for to, why in before.items():
        with pytest.raises(RecoveryPointInvalid, match=f"{why}.*Nothing but {INCREMENTAL} was looked at.*name no base"):
            material.requested(RecoveryRequest(to, base=INCREMENTAL))
    for to in (between(story.rows[35], story.rows[36]), "latest"):
        plan = material.requested(RecoveryRequest(to, base=INCREMENTAL))
        assert [link.backup_id for link in plan.chain] == [FIRST, INCREMENTAL]


def test_a_gap_behind_a_named_base_is_told_with_the_next_base_behind_it(material: Material, story: Story) -> None:
    material.object(Segment.holding(1, story.rows[25].before, MB).name).unlink()
    with pytest.raises(RecoveryPointInvalid, match=f"next base backup behind the gap is {SECOND}"):
        material.requested(RecoveryRequest("latest", base=FIRST))


def test_recovery_begins_with_the_base_that_was_complete_last_whatever_it_is_called(
    story: Story, tmp_path: Path
) -> None:
    first, second = (
        base.model_copy(update={"backup_id": name, "base": base.base.model_copy(update={"chain": [name]})})
        for base, name in zip(story.bases, ("20300101T000000Z-base-0001", "20200101T000000Z-base-0002"), strict=True)
        if base.base is not None
    )
    material = story.material.copied(tmp_path / "archive")
    material.store_bases(first, second)
    assert material.requested(RecoveryRequest("latest")).base == second
    assert material.requested(RecoveryRequest(between(story.rows[25], story.rows[26]))).base == first
