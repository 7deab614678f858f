"""Is a file the segment that its name says? PostgreSQL itself promotes on zeros and on other segments' bytes, and calls it success."""

from __future__ import annotations

import struct

import pytest

from twist_dr.errors import WalInvalid
from twist_dr.wal.names import Segment
from twist_dr.wal.pages import PageCheck, pages_written, read_first_page
from twist_dr_tests.helpers import chunked
from twist_dr_tests.wal.wal_files import MB, Wal, changed, check_segment

PAGE = 8192


def check(wal: Wal, data: bytes, place: int = 1, *, whole: bool = True) -> None:
    check_segment(data, wal.segment(place), wal.identifier, wal.paths[place].name, whole=whole)


def test_real_segments_of_every_version_are_accepted(any_wal: Wal) -> None:
    for place, path in enumerate(any_wal.paths):
        check(any_wal, path.read_bytes(), place)
    first = read_first_page(any_wal.paths[0].read_bytes(), "it")
    assert (first.major, first.segment_size, first.page_size) == (any_wal.major, MB, PAGE)
    assert first.system_identifier == any_wal.identifier


@pytest.mark.parametrize("sizes", [(1,), (7, 8192, 3), (8191,), (8193, 1), (100_000, 19)])
def test_a_segment_may_come_in_chunks_of_any_size(wal: Wal, sizes: tuple[int, ...]) -> None:
    data = wal.paths[1].read_bytes()
    good = PageCheck(wal.segment(1), wal.identifier, "it")
    for chunk in chunked(data[: 100 * PAGE] if sizes == (1,) else data, sizes):
        good.update(chunk)
    if sizes != (1,):
        good.finish()
    bad = PageCheck(wal.segment(1), wal.identifier, "it")
    spoilt = changed(data, lambda copy: copy.__setitem__(5 * PAGE + 8, copy[5 * PAGE + 8] ^ 1))
    with pytest.raises(WalInvalid, match="the page at"):
        for chunk in chunked(spoilt, sizes):
            bad.update(chunk)


def test_a_right_size_file_of_zeros_is_not_the_wal_that_its_name_says(any_wal: Wal) -> None:
    with pytest.raises(WalInvalid, match="does not begin with the header"):
        check(any_wal, bytes(MB))


@pytest.mark.parametrize("size", [0, 1, 39, 40, PAGE, PAGE + 5, MB - PAGE, MB - 1])
def test_a_truncated_segment_is_refused(wal: Wal, size: int) -> None:
    with pytest.raises(WalInvalid, match="it holds"):
        check(wal, wal.paths[1].read_bytes()[:size])


def test_a_segment_that_is_too_long_is_refused(wal: Wal) -> None:
    with pytest.raises(WalInvalid, match=r"it holds|says that it is"):
        check(wal, wal.paths[1].read_bytes() + bytes(PAGE))


def test_another_segments_bytes_are_refused(any_wal: Wal) -> None:
    with pytest.raises(WalInvalid, match="says that it is"):
        check(any_wal, any_wal.paths[2].read_bytes())


def test_another_clusters_bytes_are_refused(wals: dict[int, Wal]) -> None:
    one, other = wals[15], wals[18]
    with pytest.raises(WalInvalid, match=f"belongs to the cluster {other.identifier}"):
        check_segment(other.paths[1].read_bytes(), other.segment(1), one.identifier, "it")


def test_the_middle_of_another_segment_is_noticed(wal: Wal) -> None:
    mine, other = wal.paths[1].read_bytes(), wal.paths[2].read_bytes()
    with pytest.raises(WalInvalid, match="says that it is"):
        check(wal, mine[: 20 * PAGE] + other[20 * PAGE : 30 * PAGE] + mine[30 * PAGE :])


def test_bytes_after_zeros_are_refused(wal: Wal) -> None:
    data = wal.paths[1].read_bytes()
    with pytest.raises(WalInvalid, match="the page at"):
        check(wal, data[: 20 * PAGE] + bytes(10 * PAGE) + data[30 * PAGE :])


def test_another_segment_size_is_refused(wal: Wal) -> None:
    data = wal.paths[1].read_bytes()
    with pytest.raises(WalInvalid, match="segments of"):
        check_segment(data, Segment.named(wal.paths[1].name, 16 * MB), wal.identifier, "it")
    odd = changed(data, lambda copy: struct.pack_into("<I", copy, 32, 3 * MB))
    with pytest.raises(WalInvalid, match="segments of"):
        check(wal, odd)


def test_a_page_of_a_later_timeline_or_of_an_earlier_one_after_it_is_refused(wal: Wal) -> None:
    data = wal.paths[1].read_bytes()
    later = changed(data, lambda copy: struct.pack_into("<I", copy, 3 * PAGE + 4, 2))
    with pytest.raises(WalInvalid, match="timeline 2"):
        check(wal, later)
    second = Segment(2, wal.segment(1).number, MB)
    begun = changed(data, lambda copy: [struct.pack_into("<I", copy, page * PAGE + 4, 2) for page in range(3, 60)])
    with pytest.raises(WalInvalid, match="timeline 1"):
        check_segment(begun, second, wal.identifier, "it")


def test_a_partial_may_end_anywhere_after_the_first_header(wal: Wal) -> None:
    data = wal.paths[1].read_bytes()
    for size in (40, 100, PAGE, PAGE + 3, 10 * PAGE + 24):
        check(wal, data[:size], whole=False)
    with pytest.raises(WalInvalid, match="it holds 39 bytes"):
        check(wal, data[:39], whole=False)


def test_what_a_dead_writer_left_ends_at_its_last_page_and_not_in_the_files_earlier_life(wal: Wal) -> None:
    segment, data, earlier = wal.segment(1), wal.paths[1].read_bytes(), wal.paths[0].read_bytes()
    assert pages_written(data[: 7 * PAGE] + earlier[7 * PAGE :], segment) == 7 * PAGE
    cut = data[: 7 * PAGE + 808] + bytes(MB - 7 * PAGE - 808)
    # The end of a record may be zeros: a few more are taken along, all of them zero.
    assert 7 * PAGE + 800 <= pages_written(cut, segment) <= 7 * PAGE + 808 + 32
    assert pages_written(earlier, segment) == 0 == pages_written(bytes(MB), segment)
