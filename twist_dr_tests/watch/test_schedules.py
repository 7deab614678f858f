"""When what the settings schedule is due, across summer time, ends of months and years, and as the orchestrator has it."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from itertools import takewhile
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pytest
import yaml

from twist_dr.errors import SettingsError
from twist_dr.orchestrator.automation.schedules import _run_config
from twist_dr.watch.schedules import ScheduleEntry, dues_before, entries, label_of, last_due, next_due, period
from twist_dr_tests.apps import application
from twist_dr_tests.settings.test_settings import good, parsed

UTC = timezone.utc


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def full(cron: str = "0 2 * * *", zone: str = "UTC") -> ScheduleEntry:
    return ScheduleEntry("full", "backup_full", cron, zone)


def test_without_the_section_nothing_is_scheduled() -> None:
    assert entries(parsed(good())) == []


def test_the_section_alone_schedules_everything_but_base_backups() -> None:
    names = [entry.name for entry in entries(parsed(good(schedules={})))]
    assert names == ["full", "configuration", "drill", "scrub", "test_targets"]


def test_with_write_ahead_log_base_backups_are_scheduled_too_and_tenants_are_only_a_name() -> None:
    found = {entry.name: entry.job for entry in entries(parsed(good(schedules={"drill": None}, wal={})))}
    assert found == {
        "full": "backup_full", "configuration": "backup_configuration", "base": "backup_base",
        "base_incremental": "backup_base", "scrub": "scrub", "test_targets": "test_storage_targets",
    }  # fmt: skip


def several(*full: object) -> list[ScheduleEntry]:
    return [each for each in entries(parsed(good(schedules={"full": list(full)}))) if each.kind == "full"]


def test_full_backups_may_have_several_schedules_each_with_its_parts_targets_and_label() -> None:
    target = next(iter(good()["storage_targets"]))
    night, noon, evening = several(
        {"cron": "0 2 * * *"},
        {"cron": "0 12 * * 1-5", "parts": ["database"], "targets": [target]},
        {"cron": "0 20 * * *", "name": "evening"},
    )
    assert [each.schedule for each in (night, noon, evening)] == [
        "full_schedule", "full_database_schedule", "full_evening_schedule",
    ]  # fmt: skip
    first = at("2026-12-01T02:00")
    assert [label_of(each, first) for each in (night, noon, evening)] == ["monthly", "manual", "scheduled"]
    assert (noon.told, next_due(noon, first)) == ({"parts": ["database"], "targets": [target]}, at("2026-12-01T12:00"))
    assert _run_config(noon, "manual") == {
        "ops": {"full_backup": {"config": {"label": "manual", "parts": "database", "targets": target}}}
    }
    assert _run_config(night, "scheduled") == {"ops": {"full_backup": {"config": {"label": "scheduled"}}}}


TARGET = next(iter(good()["storage_targets"]))


#: Of each kind an entry, and what its job is told by it.
EACH: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("full", {"parts": ["media"], "label": "manual"}, {"full_backup": {"label": "manual", "parts": "media"}}),
    ("base", {"type": "incremental", "targets": [TARGET]}, {"base_backup": {"label": "scheduled", "type": "incremental", "targets": TARGET}}),
    ("base", {"type": "differential"}, {"base_backup": {"label": "scheduled", "type": "differential"}}),
    ("base", {"label": "monthly"}, {"base_backup": {"label": "monthly", "type": "full"}}),
    ("configuration", {"targets": [TARGET]}, {"configuration_backup": {"label": "scheduled", "targets": TARGET}}),
    ("drill", {"target": TARGET, "recovery": False}, {"drill": {"target": TARGET, "recovery": False}}),
    ("scrub", {"targets": [TARGET], "all": True}, {"scrub": {"targets": TARGET, "all": True}}),
    ("test_targets", {}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "entry", "step"), EACH)
def test_each_kind_may_have_several_schedules_and_each_tells_its_job_what_that_takes(
    kind: str, entry: dict[str, Any], step: dict[str, Any]
) -> None:
    document = good(schedules={kind: [{"cron": "0 1 * * 0"}, {"cron": "30 1 * * *", "name": "often", **entry}]}, wal={})
    plain, often = (each for each in entries(parsed(document)) if each.kind == kind)
    assert (plain.name, often.name, often.place) == (kind, f"{kind}_often", f"schedules.{kind} (often)")
    given = _run_config(often, label_of(often, at("2026-12-01T01:30")))
    assert given == ({"ops": {name: {"config": config} for name, config in step.items()}} if step else {})


def test_every_job_takes_what_its_schedules_tell_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import dagster as dg

    (tmp_path / "twist-dr.yaml").write_text(yaml.safe_dump(good()))
    monkeypatch.setenv("TWIST_DR_CONFIG", str(tmp_path / "twist-dr.yaml"))
    from twist_dr.definitions import build_definitions

    schedules: dict[str, Any] = {}
    for number, (kind, entry, _) in enumerate(EACH):
        schedules.setdefault(kind, []).append({"cron": "0 1 * * 0", "name": f"n{number}", **entry})
    settings = parsed(good(schedules=schedules, wal={}))
    defs = build_definitions(application(settings))
    assert len(entries(settings)) == len(EACH)
    for each in entries(settings):
        assert dg.validate_run_config(defs.resolve_job_def(each.job), _run_config(each, "scheduled"))


def test_a_list_of_base_backups_says_all_of_them() -> None:
    def crons(**schedules: Any) -> dict[str, str]:
        found = entries(parsed(good(schedules=schedules, wal={})))
        return {each.name: each.cron for each in found if each.kind == "base"}

    night = {"cron": "0 2 * * *", "type": "auto"}
    assert crons() == {"base": "0 1 * * 0", "base_incremental": "0 1 * * 1-6"}
    assert crons(base="0 3 * * 0", base_incremental=None) == {"base": "0 3 * * 0"}
    assert crons(base=[{"cron": "0 3 * * 0"}, night]) == {"base": "0 3 * * 0", "base_incremental": "0 2 * * *"}
    with pytest.raises(SettingsError, match=r"schedules\.base"):
        crons(base=[night], base_incremental="0 5 * * *")


@pytest.mark.parametrize(
    ("kind", "entry"),
    [
        ("drill", {"label": "manual"}),
        ("scrub", {"targets": ["nowhere"]}),
        ("drill", {"target": "nowhere"}),
        ("configuration", {"parts": ["database"]}),
        ("base", {"type": "decremental"}),
    ],
)
def test_what_a_job_cannot_be_told_is_refused_in_its_schedule(kind: str, entry: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=re.escape(f"schedules.{kind}[0].")):
        parsed(good(schedules={kind: [{"cron": "0 1 * * 0", **entry}]}, wal={}))


@pytest.mark.parametrize(
    ("full", "told"),
    [
        ([{"cron": "0 2 * * *"}, {"cron": "0 3 * * *"}], "schedules.full"),
        ([{"cron": "0 2 * * *", "parts": []}], "schedules.full[0].parts"),
        ([{"cron": "tomorrow"}], "schedules.full[0].cron"),
        ([{"cron": "0 2 * * *", "targets": ["nowhere"]}], "schedules.full[0].targets"),
        ([{"cron": "0 2 * * *", "parts": ["database"], "label": "weekly"}], "schedules.full[0].label"),
        ("tomorrow", "schedules.full"),
    ],
)
def test_a_wrong_schedule_is_refused_with_its_place(full: object, told: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(told)):
        parsed(good(schedules={"full": full}))


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


#: Once a day at times that clocks skip and repeat, and with rules of their own in the orchestrator: weekly, monthly, every hour, several a day.
CRONS = (
    *("0 0 * * *", "0 2 * * *", "30 2 * * *", "59 23 * * *", "0 1 * * 0", "0 1 * * 1-6", "0 5 29 * *", "30 2 1-31/2 * 0"),
    *("0 * * * *", "*/30 * * * *", "15 * * * 0-5", "0 */2 * * *", "30 0,12 * * *", "*/20 1-3 * * *", "0 2 */2 * 0"),
)  # fmt: skip


def changes(zone: ZoneInfo) -> list[datetime]:
    """When a zone's clock is put forward or back in 2026 and 2027, to the hour; one moment for a zone that never does."""
    hours = [at("2026-01-01") + timedelta(hours=6 * step) for step in range(2 * 365 * 4)]
    offsets = [hour.astimezone(zone).utcoffset() for hour in hours]
    return [later for later, old, new in zip(hours[1:], offsets, offsets[1:], strict=False) if old != new] or hours[:1]


def kinds_of_zones() -> dict[tuple[object, ...], str]:
    """One zone of each kind: those whose clocks show the same are one."""
    kinds: dict[tuple[object, ...], str] = {}
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        found = changes(zone)
        around = [
            each.astimezone(zone).utcoffset() for change in found for each in (change - timedelta(days=1), change)
        ]
        kinds.setdefault((*found, *around), name)
    return kinds


def test_the_orchestrator_launches_exactly_when_we_say_that_it_is_due_in_every_zone_at_every_change_of_its_clock() -> (
    None
):
    from dagster._utils.schedules import cron_string_iterator

    zones = kinds_of_zones()
    assert len(zones) > 50
    wrong = []
    for name in zones.values():
        for change in changes(ZoneInfo(name))[:4]:
            for cron in CRONS:
                # Where a clock moves by two hours, the orchestrator says one thing or another, or fails, by when it is asked.
                if name == "Antarctica/Troll" and cron in ("15 * * * 0-5", "0 1 * * 0"):
                    continue
                entry, begin, end = full(cron, name), change - timedelta(hours=9), change + timedelta(hours=5)
                ours = list(takewhile(lambda due: due > begin, dues_before(entry, end)))[::-1]  # noqa: B023
                theirs, now = [], begin
                # Asked anew after each launch, as the daemon does.
                while (due := next(cron_string_iterator(now.timestamp() + 1, cron, name)).astimezone(UTC)) <= end:
                    theirs.append(now := due)
                if ours != theirs or next_due(entry, begin) != (theirs or [due])[0]:
                    wrong.append((name, cron, ours, theirs))
    assert wrong == []


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
        label_of(ScheduleEntry("configuration", "backup_configuration", "0 4 * * *", "UTC"), at("2026-11-01T04:00"))
        == "scheduled"
    )


def test_loading_it_loads_no_orchestrator() -> None:
    program = "import sys, twist_dr.watch.schedules; print({'dagster', 'cronsim'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
