"""Finding a point among more segments than anybody looks at, and where the clock went backwards."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from twist_dr.postgres.lsn import format_lsn
from twist_dr.recovery import reader
from twist_dr.recovery.ground import ClusterArchive
from twist_dr.recovery.plan import make_plan
from twist_dr.recovery.target import parse_target
from twist_dr.system.progress import Report
from twist_dr.wal.names import Segment
from twist_dr.wal.partial_segment import PartialSegment
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.primaries import MB, Primary
from twist_dr_tests.recovery.material import Material, between, ended, facts_of_base, set_clock

FIRST = "20261121T020000Z-base-0001"


class Long:
    """A hundred and some segments, a row in every third: more than is looked at whole."""

    def __init__(self, folder: Path) -> None:
        with Primary(TOOLS[max(TOOLS)], folder / "server", max_wal_size="1GB") as primary:
            self.material = Material(folder / "archive", primary.tools, primary.identifier)
            self.material.folder.mkdir()
            primary.record([0])
            self.material.bases = [facts_of_base(primary, FIRST)]
            self.rows = []
            for number in range(1, 40):
                self.rows += primary.record([number])
                primary.fill(3)
                if number % 10 == 0:
                    facts_of_base(primary, FIRST)  # a checkpoint, which tells which transactions run
            self.archived = primary.archived()
            shutil.copytree(primary.archive, folder / "wal")
            self.wal = folder / "wal"
        # A minute between any two, as they are over a longer time.
        begin = datetime.now(timezone.utc)
        for place, row in enumerate(self.rows):
            segment = Segment.holding(1, row.after - 40, MB)
            self.rows[place] = set_clock(self.wal / segment.name, row, begin + timedelta(minutes=place))
        self.material.ship(self.wal)


@pytest.fixture(scope="session")
def long(tmp_path_factory: pytest.TempPathFactory) -> Long:
    return Long(tmp_path_factory.mktemp("long"))


def test_a_time_among_many_segments_is_found_by_looking_at_few(long: Long, tmp_path: Path) -> None:
    for number in (3, 20, 37):
        plan = long.material.plan(between(long.rows[number], long.rows[number + 1]))
        ended(plan, long.rows[number], long.rows[number + 1])
    archives = long.material.archives()
    fetch, names = archives.fetch_segment, set()

    def noted(segment: Segment, path: Path, *, durable: bool = True) -> None:
        names.add(segment)
        fetch(segment, path, durable=durable)

    archives.fetch_segment = noted  # type: ignore[method-assign]
    target = parse_target(between(long.rows[36], long.rows[37]), now=long.rows[-1].at)
    taken = {base.backup_id: base for base in long.material.bases}
    plan = make_plan(
        target,
        ClusterArchive(long.material.bases, archives, long.material.tools, tmp_path, Report()),
        taken.__getitem__,
    )
    assert len(names) < len(plan.segments) / 2 and any("bisection" in warning for warning in plan.warnings)
    plan = long.material.plan(between(long.rows[2], long.rows[3]))
    assert plan.lost.at_least and 10 < plan.lost.transactions < 36


def test_a_second_in_the_middle_of_a_bundle_is_found_as_any_other(long: Long, tmp_path: Path) -> None:
    material = Material(
        tmp_path / "archive", long.material.tools, long.material.identifier, bases=list(long.material.bases)
    )
    material.folder.mkdir()
    material.ship_bundled(long.wal, count=10)
    assert len(list(material.folder.rglob("*.tar.zst.enc"))) > 10
    for number in (5, 30):
        moment = between(long.rows[number], long.rows[number + 1])
        plan = material.plan(moment)
        ended(plan, long.rows[number], long.rows[number + 1])
        assert plan.segments == long.material.plan(moment).segments


def test_planning_unpacks_a_segment_once(long: Long, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Segments of 1 MB here: as many as of the usual 16 MB are looked at together and kept.
    monkeypatch.setattr(reader, "_BATCH_BYTES", 8 * MB)
    monkeypatch.setattr(reader, "_ASIDE_BYTES", 16 * MB)
    rows, taken = long.rows, {base.backup_id: base for base in long.material.bases}
    for to in (
        between(rows[36], rows[37]),
        between(rows[2], rows[3]),
        "latest",
        f"lsn:{format_lsn(rows[20].after)}",
    ):
        archives, unpacked = long.material.archives(), Counter[str]()
        for name in ("fetch_segment", "fetch_partial"):
            monkeypatch.setattr(archives, name, _counted(getattr(archives, name), unpacked))
        target = parse_target(to, now=rows[-1].at + timedelta(days=1))
        make_plan(
            target,
            ClusterArchive(long.material.bases, archives, long.material.tools, tmp_path, Report()),
            taken.__getitem__,
        )
        assert set(unpacked.values()) == {1}, to


def _counted(fetch: Callable[..., None], unpacked: Counter[str]) -> Callable[..., None]:
    def counting(source: Segment | PartialSegment, path: Path, *, durable: bool = True) -> None:
        unpacked[source.name] += 1
        fetch(source, path, durable=durable)

    return counting


def test_a_transaction_among_many_segments_is_found(long: Long) -> None:
    for number in (20, 38):
        plan = long.material.plan(f"xid:{long.rows[number].xid}")
        ended(plan, long.rows[number], long.rows[number + 1] if number < 38 else None)


def wrong_clock(long: Long, folder: Path, numbers: range, minutes: int) -> Material:
    """The archive as it is when the server's clock was wrong by so many minutes while these rows were written."""
    material = long.material.copied(folder)
    wal = folder / "wal"
    wal.mkdir()
    for row in (long.rows[number] for number in numbers):
        segment = Segment.holding(1, row.after - 40, MB)
        if not (wal / segment.name).exists():
            shutil.copyfile(long.wal / segment.name, wal / segment.name)
            material.object(segment.name).unlink()
        set_clock(wal / segment.name, row, row.at + timedelta(minutes=minutes))
    material.ship(wal)
    return material


def test_a_clock_that_was_ahead_for_a_while_stops_at_the_first_later_record_and_says_so(
    long: Long, tmp_path: Path
) -> None:
    material = wrong_clock(long, tmp_path, range(17, 22), 60)
    plan = material.plan(between(long.rows[28], long.rows[29]))
    ended(plan, long.rows[16], long.rows[17])
    assert any(
        "clock went backwards" in warning and "transactions ended with an earlier time" in warning
        for warning in plan.warnings
    )
    # Where times are not told twice, nothing is to be said.
    early = material.plan(between(long.rows[5], long.rows[6]))
    ended(early, long.rows[5], long.rows[6])


def test_a_point_before_the_clock_was_put_right_is_still_exact(long: Long, tmp_path: Path) -> None:
    material = wrong_clock(long, tmp_path, range(35, 39), -60)
    plan = material.plan(between(long.rows[10], long.rows[11]))
    ended(plan, long.rows[10], long.rows[11])


def test_when_a_single_look_shows_that_the_clock_went_back_every_segment_is_looked_at(
    long: Long, tmp_path: Path
) -> None:
    # The first look, in the middle, sees a time before the one sought; those after it, earlier ones.
    material = wrong_clock(long, tmp_path, range(16, 23), 8)
    plan = material.plan(between(long.rows[28], long.rows[29]))
    ended(plan, long.rows[20], long.rows[21])
    assert any("each of its" in warning for warning in plan.warnings)
