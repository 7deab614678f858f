"""What people write in ``to:``."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from twist_dr.errors import RecoveryPointInvalid
from twist_dr.recovery.target import moment, parse_target

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-01-31T12:00:00+00:00", NOW),
        ("2026-01-31T12:00:00Z", NOW),
        (" 2026-01-31 12:00:00+00 ", NOW),
        ("2026-01-31 14:00:00 +02:00", NOW),
        ("2026-01-31T17:30+0530", NOW),
        ("2026-01-31T07:30-04:30", NOW),
        ("20260131T120000Z", NOW),
        ("2026-01-31t11:59:59.25z", NOW - timedelta(seconds=0.75)),
        ("2026-01-31T11:59:59,123456789Z", NOW - timedelta(seconds=1) + timedelta(microseconds=123456)),
    ],
)
def test_a_time_is_read_in_its_own_zone(text: str, time: datetime) -> None:
    assert parse_target(text, now=NOW).time == time


@pytest.mark.parametrize("text", ["2026-01-31T12:00:00", "2026-01-31 12:00", "20260131T120000"])
def test_a_time_without_a_zone_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(RecoveryPointInvalid, match=r"says no time zone.*\+00:00 for UTC"):
        parse_target(text, now=NOW)


def test_a_time_in_the_future_is_refused() -> None:
    with pytest.raises(RecoveryPointInvalid, match=r"2026-01-31 12:00:00.000001 UTC is in the future"):
        parse_target("2026-01-31T13:00:00.000001+01:00", now=NOW)


def test_all_other_forms_are_read() -> None:
    assert parse_target("latest", now=NOW).kind == "latest"
    assert parse_target("lsn:A/3000028", now=NOW).lsn == (10 << 32) + 0x3000028
    assert parse_target("xid:1234", now=NOW).xid == 1234
    assert parse_target(f"xid:{(3 << 32) + 1234}", now=NOW).xid == 1234
    assert parse_target("name:before import: 2", now=NOW).name == "before import: 2"
    assert parse_target("name:" + "ä" * 31, now=NOW).name == "ä" * 31


@pytest.mark.parametrize(
    "text",
    [
        "", "yesterday", "Latest", "lsn:", "lsn:3000000", "lsn:0/123456789", "xid:", "xid:-5", "xid:0x10", "xid:2", f"xid:{1 << 64}",
        "name:", "name:" + "ä" * 32, "2026-02-30T12:00:00Z", "2026-01-31T25:00:00Z", "2026-01-31T12:00:00+99:00", "2026-1-31T12:00:00Z",
        "0001-01-01T00:00:00+10:00", "2026-01-31T12:00:00 Europe/Berlin", "2026-01-31", "1769860800", "٢٠٢٦-01-31T12:00:00Z",
    ],
)  # fmt: skip
def test_what_is_none_of_them_is_refused(text: str) -> None:
    with pytest.raises(RecoveryPointInvalid):
        parse_target(text, now=NOW)


def test_moments_are_told_in_utc() -> None:
    assert (
        moment(datetime(2026, 1, 31, 13, 0, 0, 250_000, timezone(timedelta(hours=1)))) == "2026-01-31 12:00:00.25 UTC"
    )
