"""The archives of several targets as one."""

from __future__ import annotations

import os
import shutil
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO

import pytest

from twist_dr.errors import Cancelled, WalMissing
from twist_dr.recovery.archives import Archives
from twist_dr.storage.local import LocalTarget
from twist_dr.system.progress import Lines, Report
from twist_dr.wal.names import Segment
from twist_dr.wal.objects import WalArchive
from twist_dr.wal.partial_segment import PartialSegment
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.helpers import KEYRING
from twist_dr_tests.primaries import MB, Primary
from twist_dr_tests.recovery.material import Material


class Pair:
    """The same WAL on two targets, office and nas."""

    def __init__(self, folder: Path) -> None:
        with Primary(TOOLS[max(TOOLS)], folder / "server") as primary:
            primary.record(range(5), 400_000)
            primary.archived()
            self.material = Material(folder / "archive", primary.tools, primary.identifier)
            self.material.folder.mkdir()
            self.wal = folder / "wal"
            shutil.copytree(primary.archive, self.wal)
        self.material.ship(self.wal)
        shutil.copytree(self.material.folder / "office", self.material.folder / "nas")
        self.segment = max(self.material.archives().segments)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("pair"))


def test_a_segment_comes_back_as_it_was(pair: Pair, tmp_path: Path) -> None:
    archives = pair.material.archives("office", "nas")
    archives.fetch_segment(pair.segment, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == (pair.wal / pair.segment.name).read_bytes()
    assert archives.used == ["office"]
    assert archives.stored_bytes([pair.segment]) == pair.material.object(pair.segment.name).stat().st_size


class _Counting(LocalTarget):
    """How often each object is opened."""

    opened: Counter[str]

    def open(self, key: str) -> BinaryIO:
        self.opened[key.rpartition("/")[2]] += 1
        return super().open(key)


def test_a_bundle_is_fetched_once_for_all_of_its_segments(pair: Pair, tmp_path: Path) -> None:
    material = Material(tmp_path / "archive", pair.material.tools, pair.material.identifier)
    material.folder.mkdir()
    material.ship_bundled(pair.wal, count=3)
    target = _Counting("office", material.folder / "office")
    target.opened = Counter()
    archives = Archives([WalArchive(target, "erp")], KEYRING, Report(), material.identifier, MB)
    segments = sorted(archives.segments)
    assert len(segments) > 3
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(archives.fetch_segment, each, tmp_path / each.name) for each in segments]:
            done.result()
    for each in segments:
        assert (tmp_path / each.name).read_bytes() == (pair.wal / each.name).read_bytes()
    assert set(target.opened.values()) == {1} and sum(target.opened.values()) == -(-len(segments) // 3)
    assert {path.name for path in tmp_path.iterdir()} == {"archive", *(each.name for each in segments)}, (
        "nothing is left"
    )
    # Asked for again, and in any order: it comes again.
    archives.fetch_segment(segments[1], tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (pair.wal / segments[1].name).read_bytes()
    wanted = archives.stored_bytes(segments)
    assert wanted == sum(path.stat().st_size for path in (material.folder / "office").rglob("*.enc"))


def test_a_bundle_with_one_bad_byte_gives_no_segment_and_other_targets_do(pair: Pair, tmp_path: Path) -> None:
    material = pair.material.copied(tmp_path)
    material.ship_bundled(pair.wal, "drive", count=3)
    name = next((tmp_path / "drive").rglob("*.tar.zst.enc"))
    data = bytearray(name.read_bytes())
    data[-100] ^= 1
    name.write_bytes(data)
    told: list[str] = []
    archives = material.archives("drive", "nas", report=Report(Lines(warning=told.append)))
    for segment in sorted(archives.segments)[:3]:
        archives.fetch_segment(segment, tmp_path / segment.name)
        assert (tmp_path / segment.name).read_bytes() == (pair.wal / segment.name).read_bytes()
    assert archives.used == ["nas"] and len(told) == 1 and name.name in told[0], "it is read once, and not for each"
    with pytest.raises(WalMissing):
        material.archives("drive").fetch_segment(min(archives.segments), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_corrupt_segment_is_taken_from_the_next_target_and_said(pair: Pair, tmp_path: Path) -> None:
    material = pair.material.copied(tmp_path)
    path = material.object(pair.segment.name)
    os.truncate(path, path.stat().st_size // 2)
    told: list[str] = []
    archives = material.archives("office", "nas", report=Report(Lines(warning=told.append)))
    archives.fetch_segment(pair.segment, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == (pair.wal / pair.segment.name).read_bytes()
    ((target, key),) = archives.corrupt
    assert (
        target == "office"
        and key.startswith("erp/wal/")
        and pair.segment.name in key
        and archives.used == ["nas"]
        and told
    )


def test_right_sized_zeros_and_swapped_segments_never_come_back(pair: Pair, tmp_path: Path) -> None:
    material = pair.material.copied(tmp_path)
    others = sorted(material.archives().segments)
    (tmp_path / "wal").mkdir()
    (tmp_path / "wal" / pair.segment.name).write_bytes(bytes(MB))
    material.object(pair.segment.name).unlink()
    material.ship(tmp_path / "wal")
    swapped = others[0]
    shutil.copyfile(pair.wal / others[1].name, tmp_path / "wal" / swapped.name)
    material.object(swapped.name).unlink()
    (tmp_path / "wal" / pair.segment.name).unlink()
    material.ship(tmp_path / "wal")
    archives = material.archives("office")
    for segment in (pair.segment, swapped):
        with pytest.raises(WalMissing, match=segment.name):
            archives.fetch_segment(segment, tmp_path / "got")
        assert not (tmp_path / "got").exists()
    assert len(archives.corrupt) == 2


def test_what_no_target_has_is_missing_and_an_unreachable_target_named(pair: Pair, tmp_path: Path) -> None:
    gone = WalArchive(LocalTarget("gone", tmp_path / "not" / "there"), "erp")
    archives = Archives([gone, pair.material.archive()], KEYRING, Report(), pair.material.identifier, MB)
    assert list(archives.unreachable) == ["gone"]
    with pytest.raises(WalMissing, match="gone could not be asked"):
        archives.fetch_segment(Segment(1, 9999, MB), tmp_path / "got")
    with pytest.raises(WalMissing, match=r"00000002\.history"):
        archives.fetch_history(2, tmp_path / "got")


def test_a_target_that_goes_away_is_passed_over(pair: Pair, tmp_path: Path) -> None:
    material = pair.material.copied(tmp_path / "archive")
    archives = material.archives("office", "nas")
    (material.folder / "office").rename(material.folder / "away")
    archives.fetch_segment(pair.segment, tmp_path / "got")
    assert "nas" in archives.used and "office" not in archives.used
    assert "office" in archives.passed_over or any(target == "office" for target, _ in archives.corrupt)


def test_a_target_that_goes_away_before_it_is_asked_which_clusters_it_has_is_unreachable(
    pair: Pair, tmp_path: Path
) -> None:
    material = pair.material.copied(tmp_path / "archive")
    material.archive("cellar")
    Material(material.folder, material.tools, "7000000000000000001").ship(pair.wal, "cellar")
    archives = material.archives("office", "cellar")
    assert archives.clusters() == {material.identifier, "7000000000000000001"}
    (material.folder / "office").rename(material.folder / "away")
    assert archives.clusters() == {"7000000000000000001"}
    assert list(archives.unreachable) == ["office"]


def test_a_partial_is_filled_up_with_zeros(pair: Pair, tmp_path: Path) -> None:
    material = pair.material.copied(tmp_path / "archive")
    claim = datetime.now(timezone.utc)
    for size in (8192 * 3 + 100, 8192 * 7):
        material.put_partial(pair.wal / pair.segment.name, PartialSegment(pair.segment, size, claim))
    archives = material.archives()
    partial = archives.partials[-1]
    assert partial.size == 8192 * 7
    archives.fetch_partial(partial, tmp_path / "got")
    whole = (pair.wal / pair.segment.name).read_bytes()
    assert (tmp_path / "got").read_bytes() == whole[: partial.size] + bytes(MB - partial.size)


def test_several_threads_fetch_at_once(pair: Pair, tmp_path: Path) -> None:
    archives = pair.material.archives("office", "nas")
    segments = sorted(archives.segments)
    barrier = threading.Barrier(min(4, len(segments)))

    def fetch(segment: Segment) -> bool:
        if segment in segments[: barrier.parties]:
            barrier.wait(10)
        archives.fetch_segment(segment, tmp_path / segment.name)
        return (tmp_path / segment.name).read_bytes() == (pair.wal / segment.name).read_bytes()

    with ThreadPoolExecutor(barrier.parties) as pool:
        assert all(pool.map(fetch, segments))


def test_a_stop_is_heard(pair: Pair, tmp_path: Path) -> None:
    report = Report()
    archives = pair.material.archives("office", report=report)
    report.stop.set()
    with pytest.raises(Cancelled):
        archives.fetch_segment(pair.segment, tmp_path / "got")
    assert not (tmp_path / "got").exists()
