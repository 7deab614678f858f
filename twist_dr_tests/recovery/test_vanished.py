"""Archived WAL that is gone is missed, and WAL that only a name claims is not believed."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from twist_dr.errors import RecoveryPointInvalid, WalVanished
from twist_dr.postgres.lsn import format_lsn
from twist_dr.recovery.coverage import gaps, recoverable
from twist_dr.recovery.planning import RecoveryRequest
from twist_dr.wal.archived import Known
from twist_dr.wal.names import Segment
from twist_dr.wal.partial_segment import PartialSegment
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.primaries import MB
from twist_dr_tests.recovery.material import Material, between, ended
from twist_dr_tests.recovery.test_plan import SECOND, Story


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return Story(max(TOOLS), tmp_path_factory.mktemp("vanished"))


@pytest.fixture
def material(story: Story, tmp_path: Path) -> Material:
    """All of the story with its base backups, the open segment too, to take away from."""
    copied = story.with_partial(tmp_path / "archive")
    copied.store_bases(*story.bases)
    return copied


def _known(story: Story) -> list[Known]:
    partial = story.partial
    return [Known("by the catalog office", story.material.identifier, 1, partial.end, partial.claim)]


def _remove_end(material: Material, story: Story) -> int:
    """The last two whole segments and the open one go; where the rest ends."""
    material.object(f"{story.partial.segment.name}.").unlink()
    last = max(material.archives().segments)
    for number in (last.number - 1, last.number):
        material.object(Segment(1, number, MB).name).unlink()
    return (last.number - 1) * MB


@pytest.mark.promise(10)
def test_the_latest_state_is_refused_when_more_was_known_to_be_archived_and_said_in_words_when_accepted(
    material: Material, story: Story
) -> None:
    known = _known(story)
    ended(material.requested(RecoveryRequest("latest"), known=known), story.rows[54])
    end = _remove_end(material, story)
    with pytest.raises(
        WalVanished, match=rf"vanished: by the catalog office reached {format_lsn(story.partial.end)}.*"
    ) as no:
        material.requested(RecoveryRequest("latest"), known=known)
    words = re.search(r"accept that loss: accept_loss: (lsn:\S+?)\. ", str(no.value))
    assert words is not None and words[1] == f"lsn:{format_lsn(end)}"
    assert re.search(r"what was committed in between is lost, [\d.]+ m?s of it", str(no.value))
    plan = material.requested(RecoveryRequest("latest", accept_loss=words[1]), known=known)
    assert (
        plan.end_lsn <= end
        and "has vanished" in plan.sentence()
        and any("has vanished" in each for each in plan.warnings)
    )
    assert plan.last_commit_at is not None and plan.last_commit_at < story.rows[49].at
    # A time will do as well: everything until then is there. A later one is not, nor what ends further on.
    material.requested(RecoveryRequest("latest", accept_loss=plan.last_commit_at.isoformat()), known=known)
    for not_enough in (story.rows[54].at.isoformat(), f"lsn:{format_lsn(end + 1)}"):
        with pytest.raises(WalVanished):
            material.requested(RecoveryRequest("latest", accept_loss=not_enough), known=known)
    with pytest.raises(RecoveryPointInvalid, match="does not say how far"):
        material.requested(RecoveryRequest("latest", accept_loss="latest"), known=known)
    # Of a target that was left aside nobody knows that it lost anything; one that was asked did.
    aside = [replace(each, asked=False) for each in known]
    with pytest.raises(WalVanished, match=r"A storage target that is not asked may have more: .* Let source be any"):
        material.requested(RecoveryRequest("latest"), known=aside)
    with pytest.raises(WalVanished, match="has vanished: by the catalog office"):
        material.requested(RecoveryRequest("latest"), known=[*aside, *known])
    # What lies before is as it was.
    row = story.rows[25]
    ended(material.requested(RecoveryRequest(between(row, story.rows[26])), known=known), row)


def test_a_named_point_that_may_have_come_again_in_what_vanished_is_refused(material: Material, story: Story) -> None:
    _remove_end(material, story)
    with pytest.raises(WalVanished):
        material.requested(RecoveryRequest("name:twice"), known=_known(story))


def test_without_a_catalog_the_base_backups_say_how_far_the_archive_reached(material: Material, story: Story) -> None:
    facts = story.bases[1].base
    assert facts is not None
    for segment in list(material.archives().segments):
        if segment.number >= int(facts.start_lsn.partition("/")[2], 16) // MB:
            material.object(segment.name).unlink()
    material.object(f"{story.partial.segment.name}.").unlink()
    with pytest.raises(WalVanished, match=f"{SECOND}, which needs it, reached {facts.stop_lsn}"):
        material.requested(RecoveryRequest("latest"))


def test_a_newer_timeline_or_cluster_that_is_known_and_is_nowhere_is_missed(material: Material, story: Story) -> None:
    (first,) = _known(story)
    later = Known("by the catalog office", first.system_identifier, 2, first.lsn, None)
    with pytest.raises(WalVanished, match="on timeline 2"):
        material.requested(RecoveryRequest("latest"), known=[later])
    ended(material.requested(RecoveryRequest("latest", timeline=1), known=[later]), story.rows[54])
    newer = Known("by the catalog office", str(int(first.system_identifier) + (1 << 33)), 1, MB, None)
    with pytest.raises(
        WalVanished, match=f"newer cluster, {newer.system_identifier}, has vanished.*name the base {SECOND}"
    ):
        material.requested(RecoveryRequest("latest"), known=[newer])
    ended(material.requested(RecoveryRequest("latest", base=SECOND), known=[newer]), story.rows[54])


# -- names that anybody may write -------------------------------------------------------------------------------------


def _forge(material: Material, story: Story) -> None:
    """Names of what does not exist, with a real object's bytes: far and near segments, longer and later partial segments, timelines, a cluster."""
    real = material.object(f"{story.partial.segment.name}.")
    end, tomorrow = story.partial.segment, datetime.now(timezone.utc) + timedelta(days=1)
    names = [
        PartialSegment(end, MB - 8192, tomorrow).name,
        PartialSegment(end, story.partial.size, tomorrow).name,
        PartialSegment(Segment(1, end.number - 1, MB), 0, tomorrow).name,
        end.name,
        end.next.name,
        Segment(1, end.number + 5, MB).name,
        "00000001FFFFFFFF00000FFF",
    ]
    for name in names:
        shutil.copyfile(real, real.with_name(f"{name}.zst.enc"))
    wal = real.parent.parent
    (wal / "0000FFFF").mkdir()
    shutil.copyfile(real, wal / "0000FFFF" / f"{Segment(0xFFFF, end.number, MB).name}.zst.enc")
    (wal / "0000FFFE.history.enc").write_bytes(real.read_bytes())
    newer = wal.parent / str(int(material.identifier) + (1 << 40)) / "00000001"
    newer.mkdir(parents=True)
    shutil.copyfile(real, newer / f"{end.name}.zst.enc")


@pytest.mark.promise(4)
def test_names_that_nobody_authenticated_move_neither_the_latest_state_nor_what_can_be_recovered(
    material: Material, story: Story
) -> None:
    before = recoverable(story.bases, material.archives())
    _forge(material, story)
    assert recoverable(story.bases, material.archives()) == before
    assert gaps(story.bases, material.archives()) == []
    ended(material.requested(RecoveryRequest("latest"), known=_known(story)), story.rows[54])
    with pytest.raises(RecoveryPointInvalid, match="The archive is known to hold everything until"):
        material.requested(
            RecoveryRequest((datetime.now(timezone.utc) + timedelta(hours=1)).isoformat()), known=_known(story)
        )


def test_where_nothing_was_recorded_what_is_not_authentic_may_have_been_damaged_and_is_missed(
    material: Material, story: Story
) -> None:
    _forge(material, story)
    shutil.rmtree(next((material.folder / "office" / "erp" / "wal").glob(str(int(material.identifier) + (1 << 40)))))
    with pytest.raises(WalVanished, match="which is not authentic, reached"):
        material.requested(RecoveryRequest("latest"))
    accepted = RecoveryRequest("latest", accept_loss=f"lsn:{format_lsn(story.partial.end)}")
    ended(material.requested(accepted), story.rows[54])
