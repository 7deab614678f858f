"""When what the settings schedule is due, across summer time, ends of months and years, and as the orchestrator has it."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest

from twist_dr.schedules import Entry, entries, label_of, last_due, next_due, period
from twist_dr_tests.test_settings import good, parsed

UTC = timezone.utc


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def full(cron: str = "0 2 * * *", zone: str = "UTC") -> Entry:
    return Entry("full", "backup_full", cron, zone)


def test_without_the_section_nothing_is_scheduled() -> None:
    assert entries(parsed(good())) == []


def test_the_section_alone_schedules_everything_but_base_backups() -> None:
    names = [entry.name for entry in entries(parsed(good(schedules={})))]
    assert names == ["full", "configuration", "drill", "scrub"]


def test_with_write_ahead_log_base_backups_are_scheduled_too_and_tenants_are_only_a_name() -> None:
    found = {entry.name: entry.job for entry in entries(parsed(good(schedules={"drill": None}, wal={})))}
    assert found == {
        "full": "backup_full", "configuration": "backup_configuration", "base": "backup_base",
        "base_incremental": "backup_base", "scrub": "scrub",
    }  # fmt: skip


def test_a_moment_that_is_due_is_its_own_last_and_not_its_next() -> None:
    due = at("2026-11-21T02:00")
    assert last_due(full(), due) == due
    assert next_due(full(), due) == due + timedelta(days=1)
    assert last_due(full(), due - timedelta(microseconds=1)) == due - timedelta(days=1)
    assert last_due(full(), due + timedelta(microseconds=1)) == due
    assert next_due(full(), due - timedelta(microseconds=1)) == due


def test_two_in_the_morning_stays_two_in_the_morning_when_summer_begins_and_ends() -> None:
    berlin = full("30 1 * * *", "Europe/Berlin")
    assert last_due(berlin, at("2026-03-28T12:00")) == at("2026-03-28T00:30")
    assert last_due(berlin, at("2026-03-30T12:00")) == at("2026-03-29T23:30")


def test_a_time_that_summer_skips_is_made_up_for_at_the_next_full_hour() -> None:
    assert last_due(full("30 2 * * *", "Europe/Berlin"), at("2026-03-29T12:00")) == at("2026-03-29T01:00")


def test_a_time_that_comes_twice_is_due_once() -> None:
    berlin = full("30 2 * * *", "Europe/Berlin")
    assert next_due(berlin, at("2026-10-24T12:00")) == at("2026-10-25T01:30")
    assert next_due(berlin, at("2026-10-25T01:30")) == at("2026-10-26T01:30")
    # In between, the first time that the clock shows 02:45.
    assert last_due(berlin, at("2026-10-25T00:45")) == at("2026-10-24T00:30")
    assert last_due(berlin, at("2026-10-25T01:45")) == at("2026-10-25T01:30")


CHANGES = {
    "America/New_York": ("2026-03-06T12:01", "2026-10-30T12:01"),
    "Europe/Berlin": ("2026-03-27T12:01", "2026-10-23T12:01"),
    "Australia/Adelaide": ("2026-04-03T12:01", "2026-10-02T12:01"),
}


@pytest.mark.parametrize("zone", CHANGES)
@pytest.mark.parametrize(
    "cron", ["30 1 * * *", "0 2 * * *", "30 2 * * *", "*/30 * * * *", "0 */6 * * *", "0 1 * * 1-6"]
)
def test_the_orchestrator_launches_exactly_when_we_say_that_it_is_due(zone: str, cron: str) -> None:
    from dagster._utils.schedules import cron_string_iterator

    entry = full(cron, zone)
    for start in map(at, CHANGES[zone]):
        now, before = start, last_due(entry, start)
        theirs = cron_string_iterator(start.timestamp(), cron, zone)
        while (due := next_due(entry, now)) is not None and due < start + timedelta(days=4):
            assert next(theirs).astimezone(UTC) == due
            assert (last_due(entry, due - timedelta(seconds=1)), last_due(entry, due)) == (before, due)
            now = before = due


def test_the_period_is_the_time_between_the_last_and_the_next() -> None:
    assert period(full(), at("2026-11-21T12:00")) == timedelta(days=1)
    assert period(full("* * * * *"), at("2026-11-21T12:00")) == timedelta(minutes=1)
    assert period(full("0 5 1 * *"), at("2026-02-10T12:00")) == timedelta(days=28)
    assert period(full(zone="Europe/Berlin"), at("2026-10-24T12:00")) == timedelta(hours=25)


def test_the_first_full_backup_of_a_month_is_monthly_and_of_a_week_weekly() -> None:
    days = [at(f"2026-11-{day:02}T02:00") for day in range(1, 17)]
    labels = [label_of(full(), due) for due in days]
    # 1 November 2026 is a Sunday; weeks begin on Monday.
    assert labels == ["monthly", "weekly", *["scheduled"] * 6, "weekly", *["scheduled"] * 6, "weekly"]


def test_a_week_that_spans_the_new_year_is_one_week() -> None:
    assert label_of(full(), at("2026-12-28T02:00")) == "weekly"
    assert label_of(full(), at("2026-12-31T02:00")) == "scheduled"
    assert label_of(full(), at("2027-01-01T02:00")) == "monthly"
    assert label_of(full(), at("2027-01-03T02:00")) == "scheduled"


def test_the_month_is_that_of_the_schedules_own_calendar() -> None:
    tokyo = full("0 2 * * *", "Asia/Tokyo")
    assert label_of(tokyo, at("2026-10-31T17:00")) == "monthly"
    assert label_of(tokyo, at("2026-11-01T17:00")) == "weekly"


def test_several_full_backups_a_day_give_one_weekly() -> None:
    often = full("0 */6 * * *")
    labels = [label_of(often, at("2026-11-09T00:00") + timedelta(hours=6 * step)) for step in range(8)]
    assert labels == ["weekly", *["scheduled"] * 7]


def test_only_full_backups_have_labels_of_their_own() -> None:
    assert (
        label_of(Entry("configuration", "backup_configuration", "0 4 * * *", "UTC"), at("2026-11-01T04:00"))
        == "scheduled"
    )


def test_loading_it_loads_no_orchestrator() -> None:
    program = "import sys, twist_dr.schedules; print({'dagster', 'cronsim'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
