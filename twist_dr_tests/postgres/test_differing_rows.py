"""Rows of a dump and of a restored table are held against each other as a bag, and the first that differs is found."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from twist_dr.postgres.differing_rows import RowSource, at_utc, copy_statement, first_difference

LOAD = b'COPY "od.d"."T a;b" (id, "c, ""d") FROM stdin;\n'


def rows(*found: bytes) -> RowSource:
    def give() -> Iterator[bytes]:
        return iter(found)

    return give


def numbered(count: int, **other: bytes) -> list[bytes]:
    return [other.get(f"row{number}", b"%d\tx%d" % (number, number % 7)) for number in range(1, count + 1)]


def test_the_same_rows_in_any_order_are_the_same_and_one_that_is_there_twice_is_not_there_once() -> None:
    mixed = numbered(5000)
    random.Random(1).shuffle(mixed)
    assert first_difference(rows(*numbered(5000)), rows(*mixed), LOAD) is None
    found = first_difference(rows(b"1\ta", b"1\ta", b"2\tb"), rows(b"1\ta", b"2\tb", b"2\tb"), LOAD)
    assert found is not None and (found.number, found.dumped, found.count) == (2, b"1\ta", 1)


@pytest.mark.parametrize("differ", [1, 4000])
def test_the_first_row_that_differs_is_paired_with_what_it_became(differ: int) -> None:
    after = numbered(5000, **{f"row{number}": b"%d\tchanged" % number for number in range(900, 900 + differ)})
    random.Random(2).shuffle(after)
    found = first_difference(rows(*numbered(5000)), rows(*after), LOAD)
    assert found is not None
    assert found.number in range(900, 900 + differ)
    assert (found.dumped, found.restored) == (numbered(5000)[found.number - 1], b"%d\tchanged" % found.number)
    assert found.columns == (b'"c, ""d"',) and found.count == (1 if differ == 1 else None)


def test_a_missing_and_an_added_row_are_told_apart() -> None:
    missing = first_difference(rows(b"1\ta", b"2\tb"), rows(b"1\ta"), LOAD)
    assert missing is not None and (missing.number, missing.dumped, missing.restored) == (2, b"2\tb", None)
    added = first_difference(rows(b"1\ta"), rows(b"1\ta", b"2\tb"), LOAD)
    assert added is not None and (added.number, added.dumped, added.restored) == (2, None, b"2\tb")


def test_moments_are_the_same_in_every_time_zone_and_dates_are_not() -> None:
    here, there = (
        b'1\t2024-03-31 00:30:00.5+14\t{"2024-01-01 00:00:00-03:30"}',
        b'1\t2024-03-30 10:30:00.5+00\t{"2024-01-01 03:30:00+00"}',
    )
    assert at_utc(here) == at_utc(there) == there
    assert at_utc(b"2024-03-31\t2024-03-31 00:30:00") == b"2024-03-31\t2024-03-31 00:30:00"


def test_what_reads_a_table_is_made_of_what_loads_it_and_of_nothing_else() -> None:
    assert copy_statement(LOAD) == b'COPY "od.d"."T a;b" (id, "c, ""d") TO stdout'
    assert copy_statement(b"COPY public.no_columns  FROM stdin;\n") == b"COPY public.no_columns  TO stdout"
    assert copy_statement(b"COPY (SELECT 1) FROM stdin;") is None
