"""What can be recovered, told without reading a segment."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from twist_dr.recovery.coverage import gaps, recoverable
from twist_dr.recovery.lineage import stop_of
from twist_dr.wal.names import Segment
from twist_dr.wal.partial_segment import PartialSegment
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.primaries import MB, Primary
from twist_dr_tests.recovery.material import Material, facts_of_base

IDS = [f"20261121T0{hour}0000Z-base-000{hour}" for hour in range(3)]


class Days:
    """Three base backups with some segments behind each."""

    def __init__(self, folder: Path) -> None:
        with Primary(TOOLS[max(TOOLS)], folder / "server") as primary:
            bases = []
            for backup_id in IDS:
                bases.append(facts_of_base(primary, backup_id))
                self.rows = primary.record([1])
                primary.fill(4)
            primary.archived()
            self.material = Material(folder / "archive", primary.tools, primary.identifier, bases=bases)
            self.material.folder.mkdir()
            self.material.ship(primary.archive)
            self.wal = folder / "wal"
            shutil.copytree(primary.archive, self.wal)
        self.last = max(self.material.archives().segments)


@pytest.fixture(scope="session")
def days(tmp_path_factory: pytest.TempPathFactory) -> Days:
    return Days(tmp_path_factory.mktemp("days"))


def test_one_range_from_the_end_of_the_oldest_base_to_the_end_of_the_wal(days: Days) -> None:
    (found,) = recoverable(days.material.bases, days.material.archives())
    first, last = days.material.bases[0].base, days.material.bases[2].base
    assert first is not None and last is not None
    assert (found.from_at, found.base, found.timeline) == (first.stopped_at, IDS[0], 1)
    assert (found.from_lsn, found.until_lsn) == (stop_of(days.material.bases[0]), days.last.end)
    assert found.until_at == last.stopped_at
    assert gaps(days.material.bases, days.material.archives()) == []


def test_a_claim_says_until_when(days: Days, tmp_path: Path) -> None:
    material = days.material.copied(tmp_path)
    claim = days.rows[0].at + timedelta(minutes=5)
    material.put_partial(days.wal / days.last.name, PartialSegment(days.last.next, 0, claim))
    (found,) = recoverable(material.bases, material.archives())
    assert found.until_at == claim


def test_gaps_divide_what_can_be_recovered(days: Days, tmp_path: Path) -> None:
    material = days.material.copied(tmp_path)
    second = stop_of(material.bases[1]) // MB
    lost = [Segment(1, second + 1, MB), Segment(1, second + 2, MB)]
    for segment in lost:
        material.object(segment.name).unlink()
    archives = material.archives()
    assert gaps(material.bases, archives) == [(1, lost[0], lost[1])]
    ranges = recoverable(material.bases, archives)
    assert [(each.base, each.until_lsn) for each in ranges] == [(IDS[0], lost[0].start), (IDS[2], days.last.end)]


def test_what_is_missing_before_the_oldest_base_is_no_gap(days: Days, tmp_path: Path) -> None:
    material = days.material.copied(tmp_path)
    segments = sorted(material.archives().segments)
    material.object(segments[1].name).unlink()
    assert gaps(material.bases[1:], material.archives()) == []
    assert len(recoverable(material.bases[1:], material.archives())) == 1


def test_a_base_without_the_wal_of_its_own_time_is_no_beginning(days: Days, tmp_path: Path) -> None:
    material = days.material.copied(tmp_path)
    material.object(Segment.holding(1, stop_of(material.bases[2]) - 1, MB).name).unlink()
    (found,) = recoverable(material.bases, material.archives())
    assert found.base == IDS[0]


def test_nothing_is_no_range(days: Days, tmp_path: Path) -> None:
    empty = Material(tmp_path, days.material.tools, days.material.identifier)
    assert recoverable(days.material.bases, empty.archives()) == []
    assert recoverable([], days.material.archives()) == []
    assert gaps([], days.material.archives()) == []
