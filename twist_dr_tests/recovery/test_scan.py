"""What pg_waldump says, of PostgreSQL 15 and 18."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from twist_dr.postgres.lsn import format_lsn, parse_lsn
from twist_dr.recovery.scan import Scanner, end_of
from twist_dr.wal.names import Segment
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.primaries import MB, Primary


class Told:
    """All kinds of endings and names, and what the server said of them."""

    def __init__(self, major: int, folder: Path, segment_mb: int) -> None:
        self.size = segment_mb * MB
        with Primary(TOOLS[major], folder / "server", segment_mb=segment_mb) as primary:
            self.start = parse_lsn(primary.one("SELECT pg_current_wal_insert_lsn()"))
            self.rows = primary.record(range(3), 50_000)
            self.points = {
                name: primary.point(name.replace("'", "''")) for name in ("plain", "it's: lsn, ä", "two\nlines")
            }
            with primary.cluster().connect() as connection:
                for statement in (
                    "BEGIN; INSERT INTO log VALUES (50); PREPARE TRANSACTION 'good'", "COMMIT PREPARED 'good'",
                    "BEGIN; INSERT INTO log VALUES (51); PREPARE TRANSACTION 'bad'", "ROLLBACK PREPARED 'bad'",
                    "BEGIN; INSERT INTO log VALUES (52); ROLLBACK",
                    "BEGIN; CREATE TABLE made (a int PRIMARY KEY, b text); DROP TABLE made; COMMIT",
                ):  # fmt: skip
                    connection.execute(statement)
                self.end = parse_lsn(connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()[0])  # type: ignore[index]
            self.last = primary.archived()
            self.folder = folder / "wal"
            shutil.copytree(primary.archive, self.folder)
            self.tools = primary.tools
        self.scanner = Scanner(self.tools, self.folder, 1, self.size)
        self.until = Segment.named(self.last, self.size).end


@pytest.fixture(
    scope="session",
    params=[*((major, 1) for major in sorted(TOOLS, reverse=True)), (max(TOOLS), 16)],
    ids=lambda each: f"pg{each[0]}-{each[1]}MB",
)
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    folder = tmp_path_factory.mktemp("told")
    yield Told(request.param[0], folder, request.param[1])


def test_every_ending_is_found_with_its_time_to_the_microsecond(told: Told) -> None:
    endings = [each for each in told.scanner.events(told.start, told.until).endings if each.lsn < told.end]
    by_xid = {each.xid: each for each in endings}
    for row in told.rows:
        assert by_xid[row.xid].at == row.at and by_xid[row.xid].committed
        assert row.before <= by_xid[row.xid].lsn < row.after
    # Prepared and committed, prepared and rolled back, rolled back, committed.
    assert [each.committed for each in endings[-4:]] == [True, False, False, True]
    assert 0 not in by_xid and [each.lsn for each in endings] == sorted(each.lsn for each in endings)


def test_restore_points_are_found_whatever_their_names_hold(told: Told) -> None:
    points = told.scanner.events(told.start, told.until).points
    assert [point.name for point in points] == list(told.points)
    for point in points:
        record = told.scanner.first_record(point.lsn, told.until)
        assert record is not None and record.kind == "RESTORE_POINT"
        assert record.end(told.size) == told.points[point.name]
        assert told.rows[-1].at <= point.at


def test_the_end_of_every_record_is_where_the_next_one_begins(told: Told) -> None:
    from twist_dr.recovery.scan import behind_header

    before = None
    for record in told.scanner._records(told.start, told.until):
        if before is not None:
            assert behind_header(before.end(told.size), told.size) == record.lsn, format_lsn(record.lsn)
            assert record.previous == before.lsn
        before = record
    assert before is not None


def test_the_last_record_is_the_last_that_is_all_there(told: Told) -> None:
    whole = list(told.scanner._records(told.start, told.until))
    for record in (whole[len(whole) // 2], whole[-3]):
        end = record.end(told.size)
        assert told.scanner.last_record(told.start, end) == record
        found = told.scanner.last_record(told.start, end - 8)
        assert found is not None and found.lsn == record.previous


def test_the_end_of_the_wal_is_no_failure_and_comes_at_once(told: Told, tmp_path: Path) -> None:
    segment = Segment.holding(1, told.start, told.size)
    shutil.copyfile(told.folder / segment.name, tmp_path / segment.name)
    cut = told.start - segment.start + 5000
    data = (tmp_path / segment.name).read_bytes()
    (tmp_path / segment.name).write_bytes(data[:cut] + bytes(told.size - cut))
    scanner = Scanner(told.tools, tmp_path, 1, told.size)
    last = scanner.last_record(segment.start, segment.end)
    assert last is not None and last.end(told.size) <= segment.start + cut
    assert scanner.events(segment.start, segment.end).invalid_after == last.lsn
    assert scanner.first_record(last.end(told.size) + 8, segment.end) is None


@pytest.mark.parametrize(
    ("lsn", "size", "end"),
    [
        (0x1000028, 34, 0x1000050),
        (0x1001FE0, 32, 0x1002000),
        (0x1001FE0, 33, 0x1002020),
        (0x1001FF8, 8 + 8168 + 8, 0x1004020),
        (0x1FFFF8, 40, 0x200048),
    ],
)
def test_where_a_record_ends_counts_the_headers_of_pages(lsn: int, size: int, end: int) -> None:
    assert end_of(lsn, size, MB) == end
