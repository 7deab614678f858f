"""What people read of an alert."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from twist_dr.catalog import AlertRow
from twist_dr.watch.alerts.words import LONGEST_SUBJECT, compose, run_link

BEGAN = datetime(2026, 11, 21, 2, 0, tzinfo=timezone.utc)
NOW = BEGAN + timedelta(hours=3, minutes=20)
PAGE = "https://dagster.example/base/"


def told(**changes: Any) -> AlertRow:
    """An alert as the catalog gives it."""
    row = AlertRow(
        12, "erp", "backup_failed", "backup_failed", "critical", "active", "The dump ended: no space left.",
        "Free some space, then launch backup_full.", BEGAN, BEGAN, times=2, run_id="0f3c",
    )  # fmt: skip
    return replace(row, **changes)


def test_a_message_says_what_since_when_what_to_do_and_where_to_look() -> None:
    said = compose(told(), "raised", now=NOW, dagster_url=PAGE)
    assert (said.subject, said.severity, said.event) == ("[erp] CRITICAL: backup failed", "critical", "raised")
    assert said.body == (
        "The dump ended: no space left.\n\n"
        "What to do: Free some space, then launch backup_full.\n\n"
        "Application: erp\nSeverity: critical\nSince: 2026-11-21 02:00 UTC (3 h 20 min ago)\nSeen: 2 times\n"
        "Run: https://dagster.example/base/runs/0f3c\n\n"
        "To have it quiet while you see to it: twist-dr alerts acknowledge 12\n"
    )


def test_what_is_over_says_how_long_it_lasted_and_asks_nothing() -> None:
    ended = BEGAN + timedelta(days=3, hours=4)
    said = compose(told(resolved_at=ended, resolved_by="twist-dr"), "resolved", now=ended + timedelta(hours=1))
    assert said.subject == "[erp] RESOLVED: backup failed"
    assert "Resolved: 2026-11-24 06:00 UTC, after 3 days 4 h by twist-dr" in said.body
    assert "no space left" in said.body
    assert "What to do" not in said.body and "acknowledge" not in said.body


def test_why_it_is_told_now_is_said() -> None:
    assert "worse" in compose(told(), "worse", now=NOW).body
    again = compose(told(), "again", now=NOW)
    assert again.subject.endswith("(still)") and "told again" in again.body


def test_an_acknowledged_one_names_who_knows_and_asks_nobody_else() -> None:
    said = compose(told(acknowledged_at=NOW, acknowledged_by="anna"), "worse", now=NOW).body
    assert "Acknowledged: 2026-11-21 05:20 UTC by anna" in said and "alerts acknowledge" not in said


def test_the_subject_names_what_it_happened_to() -> None:
    said = compose(told(kind="capacity", cause="capacity:office"), "raised", now=NOW)
    assert said.subject == "[erp] CRITICAL: storage target is filling up (office)"


@pytest.mark.parametrize("nasty", ["a\r\nBcc: thief@evil.example", "a\0b\x1b[31m", "Größe 日本 \udcff", "x" * 500])
def test_the_subject_is_one_bounded_line_of_ascii_whatever_the_alert_holds(nasty: str) -> None:
    said = compose(told(application=nasty, cause="c:" + nasty, kind=nasty, message=nasty), "raised", now=NOW)
    assert said.subject.isascii() and said.subject.isprintable() and len(said.subject) <= LONGEST_SUBJECT
    assert "\r" not in said.body and "\0" not in said.body and "\x1b" not in said.body
    said.body.encode()


def test_a_message_of_megabytes_is_cut_and_the_rest_of_the_body_is_there() -> None:
    said = compose(replace(told(), message="x" * 5_000_000, advice="y" * 5_000_000), "raised", now=NOW)
    assert len(said.body) < 7000 and " ..." in said.body and "acknowledge 12" in said.body


def test_the_link_to_a_run_carries_no_login_and_no_foreign_path() -> None:
    assert (
        run_link("https://anna:hunter2@dagster.example:3000", "a/../b")
        == "https://dagster.example:3000/runs/a%2F..%2Fb"
    )
    assert run_link(None, "0f3c") is None
    assert "Run: 0f3c" in compose(told(), "raised", now=NOW).body


def test_a_clock_that_was_set_back_shows_no_negative_time() -> None:
    assert "(0 ms ago)" in compose(told(), "raised", now=BEGAN - timedelta(days=400)).body
