"""Names and numbers of write-ahead log, against what PostgreSQL itself says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from twist_dr.postgres.lsn import format_lsn, parse_lsn
from twist_dr.wal.names import Segment, is_segment_size, kind_of, timeline_of
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.wal.wal_files import MB, one

SIZES = some.sampled_from([MB, 16 * MB, 64 * MB, 1024 * MB])


@given(SIZES, some.integers(1, 0xFFFFFFFF), some.integers(0, (1 << 64) - 1))
def test_a_segments_name_gives_the_segment_back_whatever_its_size(size: int, timeline: int, lsn: int) -> None:
    segment = Segment.holding(timeline, lsn, size)
    assert segment.start <= lsn < segment.end == segment.start + size
    assert Segment.named(segment.name, size) == segment
    assert kind_of(segment.name) == "segment" and timeline_of(segment.name) == timeline


@given(SIZES, some.integers(0, (1 << 32) - 2))
def test_the_archive_reads_the_segment_size_and_the_next_name_depends_on_it(size: int, group: int) -> None:
    last = Segment.holding(1, (group << 32) + (1 << 32) - 1, size)
    assert last.name[16:] == f"{(1 << 32) // size - 1:08X}"
    assert last.next.name == f"00000001{group + 1:08X}00000000"
    assert last.next.start == last.end


@given(some.integers(0, (1 << 64) - 1))
def test_an_lsn_is_written_and_read_as_postgresql_does(lsn: int) -> None:
    assert parse_lsn(format_lsn(lsn)) == lsn


@pytest.mark.parametrize("text", ["", "0", "0/", "/1", "0/100000000", "g/0", "0/1/2", "0/-1"])
def test_what_is_no_lsn_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_lsn(text)


@pytest.mark.parametrize("name", ["0000000100000000000000FG", "00000001000000000000000", "00000001000000000000FFFF"])
def test_what_is_no_segment_of_that_size_is_refused(name: str) -> None:
    with pytest.raises(ValueError):
        Segment.named(name, 16 * MB)


def test_the_archive_has_four_kinds_of_file() -> None:
    name = "00000001000000000000000A"
    assert [kind_of(each) for each in (name, "00000002.history", f"{name}.00000028.backup", f"{name}.partial")] == [
        "segment", "history", "backup", "partial",
    ]  # fmt: skip
    for other in (f"{name}.tmp", f"archtemp.{name}", f"{name}\n", "state.json", f"{name}.gz", name.lower()):
        assert kind_of(other) is None, other


def test_sizes_that_initdb_takes_are_segment_sizes() -> None:
    assert [size for size in range(1025) if is_segment_size(size * MB)] == [1 << power for power in range(11)]


def test_names_are_those_that_the_server_gives(
    server: PostgresServer, small_servers: dict[int, PostgresServer]
) -> None:
    for asked, size in ((server, 16 * MB), (small_servers[server.major], MB)):
        for lsn in ("0/1", "0/FFFFFFFF", "1/0", "2/12345678", "AB/FFF00000"):
            # pg_walfile_name gives the segment before at its very beginning: the one that was written last.
            position = parse_lsn(lsn) | 1
            name = one(asked, f"SELECT pg_walfile_name('{format_lsn(position)}')")
            assert Segment.holding(1, position, size).name == name
