"""Timeline histories: PostgreSQL's own after promotions, and what only looks like one."""

from __future__ import annotations

import pytest

from twist_dr.errors import WalInvalid
from twist_dr.wal.history import Ancestor, parse_history

SECOND = b"1\t0/3000198\tno recovery target specified\n"
THIRD = SECOND + b"\n2\t0/5000000\tbefore 2026-11-21 12:00:00+00\n"


def test_each_ancestor_is_told_with_the_place_where_it_was_left() -> None:
    assert parse_history(SECOND, 2, "it") == [Ancestor(1, 0x3000198)]
    assert parse_history(b"# by hand\n" + THIRD, 3, "it") == [Ancestor(1, 0x3000198), Ancestor(2, 0x5000000)]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\n\n", b"# nothing\n", bytes(100), b"\xff\xfe\n", b"one\t0/3000198\tx\n", b"1\n", b"1\t3000198\tx\n",
        SECOND[:10], THIRD, b"2" + SECOND[1:], b"0" + SECOND[1:], SECOND + SECOND, SECOND * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_whole_history_of_that_timeline_is_refused(data: bytes) -> None:
    with pytest.raises(WalInvalid, match=r"00000002\.history"):
        parse_history(data, 2, "00000002.history")
