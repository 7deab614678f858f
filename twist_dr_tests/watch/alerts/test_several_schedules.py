"""The database every hour and media at night: each schedule is watched by itself, and so is the age of media."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from twist_dr.backup.from_settings import plan_backup
from twist_dr.catalog import AlertRow, AttemptRow, BackupRow, Catalog, VerificationRow
from twist_dr.doctor import _Examination
from twist_dr.doctor.unattended import check_media_age
from twist_dr.orchestrator.automation.after_backups import _requests
from twist_dr.settings import Settings
from twist_dr.watch.alerts import facts as facts_module
from twist_dr.watch.alerts.facts import DiskSpace, Facts, gather
from twist_dr.watch.proving import allowed_media_age
from twist_dr_tests.apps import application
from twist_dr_tests.catalog.examples import record
from twist_dr_tests.doctor.test_doctor import drain
from twist_dr_tests.watch.alerts.scenes import (
    DAY,
    HOUR,
    MB,
    MINUTE,
    NOW,
    attempt,
    backup,
    found,
    healthy,
    proof,
    settings,
    with_copy,
)

NIGHT, HOURLY = "schedule full_schedule", "schedule full_hourly_schedule"
TONIGHT = NOW - 3 * HOUR


def by_the_hour(night: str = "0 2 * * *", **changes: Any) -> Settings:
    hourly = {"cron": "0 * * * *", "name": "hourly", "parts": ["database"]}
    schedules = {
        "full": [{"cron": night}, hourly],
        "drill": None,
        "scrub": None,
        "test_targets": None,
        "configuration": None,
        "patience": "5 minutes",
    }
    return settings(**{"schedules": schedules, "media": {"media": "/srv/media"}, **changes})


def of_night(at: Any = TONIGHT, state: Any = "succeeded", **changes: Any) -> AttemptRow:
    return attempt(at=at, state=state, who=NIGHT, run_id=f"night {at}", **changes)


def of_hour(at: Any, state: Any = "succeeded", **changes: Any) -> AttemptRow:
    return attempt(at=at, state=state, who=HOURLY, run_id=f"hour {at}", **changes)


def hours(count: int, last: Any = NOW - HOUR) -> list[AttemptRow]:
    return [replace(of_hour(at), finished_at=at + 2 * MINUTE) for at in (last - each * HOUR for each in range(count))]


def without_media(at: Any, **changes: Any) -> BackupRow:
    return backup(at, parts=("database",), label="manual", plain_bytes=90 * MB, **changes)


def told(rows: Sequence[BackupRow], attempts: Sequence[AttemptRow] = (), **changes: Any) -> Facts:
    rows = sorted(rows, key=lambda row: row.started_at, reverse=True)
    runs = sorted(attempts, key=lambda row: row.started_at, reverse=True)
    since = dict.fromkeys(("full", "full_hourly"), NOW - 60 * DAY)
    facts = healthy(schedules_since=since, tables={})
    return replace(facts, backups={"full": rows}, attempts={"backup_full": runs}, **changes)


def usual(hourly: int = 12, nightly: int = 5) -> list[BackupRow]:
    return [
        *(without_media(NOW - HOUR - each * HOUR) for each in range(hourly)),
        *(backup(TONIGHT + MINUTE - each * DAY) for each in range(nightly)),
    ]


def test_a_run_is_as_slow_as_those_of_its_own_schedule() -> None:
    nights = [
        replace(of_night(TONIGHT - each * DAY), finished_at=TONIGHT - each * DAY + 3 * HOUR) for each in (1, 2, 3, 4)
    ]
    going_on = of_night(TONIGHT, "running")
    assert not [
        cause for cause in found(told(usual(), [going_on, *nights, *hours(12)]), by_the_hour()) if "running" in cause
    ]
    slow = of_hour(NOW - HOUR, "running")
    facts = told(usual(), [slow, *nights, *hours(12, NOW - 2 * HOUR)])
    assert found(facts, by_the_hour())["running:backup_full:hourly"].message.endswith("2 min 00 s is usual.")


def test_what_a_schedule_could_not_store_is_told_until_the_same_one_stored_it() -> None:
    failed = of_night(TONIGHT, "failed", error_code="copy_failed", error="cloud: no answer")
    before = [row for row in usual() if row.started_at < TONIGHT]
    facts = told(before, [failed, *hours(3, NOW - HOUR)])
    assert found(facts, by_the_hour())["partial:backup_full"].severity == "warning"
    assert "partial:backup_full" not in found(told(before, [of_night(NOW), failed, *hours(3)]), by_the_hour())


def test_the_night_that_a_target_lacks_is_not_forgotten_an_hour_later() -> None:
    rows = usual()
    tonight = next(row for row in rows if "media" in row.parts)
    rows = [with_copy(row, "cloud", "failed", "cloud: no answer") if row is tonight else row for row in rows]
    assert tonight.backup_id in found(told(rows), by_the_hour())["partial:backup_full"].message
    hour = with_copy(rows[0], "cloud", "failed", "cloud: no answer")
    assert set(found(told([hour, *usual()[1:]]), by_the_hour())) >= {"partial:backup_full_without_media"}


def test_backups_without_media_are_not_compared_with_those_that_have_them() -> None:
    assert not [cause for cause in found(told(usual()), by_the_hour()) if "size" in cause or "duration" in cause]
    rows = usual()
    shrunk = [replace(row, plain_bytes=100 * MB) if row.started_at == TONIGHT + MINUTE else row for row in rows]
    assert found(told(shrunk), by_the_hour())["size_deviation:full"].severity == "critical"


@pytest.mark.promise(11)
def test_the_age_of_media_is_watched_while_the_database_is_backed_up_every_hour() -> None:
    hourly = usual(hourly=12, nightly=0)

    def causes(age: timedelta, **changes: Any) -> dict[str, str]:
        facts = told([*hourly, backup(NOW - age)])
        return {
            cause: each.severity for cause, each in found(facts, by_the_hour(**changes)).items() if cause == "media_age"
        }

    assert causes(47 * HOUR) == {}
    assert causes(49 * HOUR) == {"media_age": "error"}
    assert causes(49 * HOUR, objectives={"media": "3 days"}) == {}
    assert causes(5 * HOUR, objectives={"media": "4 hours"}) == {"media_age": "error"}
    # Verified with media means restored with them: another one that nobody has verified counts for nothing.
    unproven = replace(backup(NOW - 2 * HOUR), last_verification=None)
    finding = found(told([*hourly, unproven, backup(NOW - 3 * DAY)]), by_the_hour())["media_age"]
    assert (
        finding.message
        == f"The newest verified backup with media is 3 days old ({backup(NOW - 3 * DAY).backup_id} on office, cloud); 2 days is the objective."
    )
    # Without any that is proven the whole is told, once.
    assert "media_age" not in found(told([backup(NOW - 3 * DAY)]), by_the_hour())
    assert "media_age" not in found(told(hourly), settings())


def test_media_that_were_just_scheduled_are_given_time() -> None:
    facts = told(usual(nightly=0))
    for since, severity in ((NOW - HOUR, "info"), (NOW - 3 * DAY, "error")):
        young = replace(facts, schedules_since={**facts.schedules_since, "full": since})
        assert found(young, by_the_hour())["media_age"].severity == severity


def test_over_a_weekend_media_may_be_as_old_as_the_schedule_makes_them() -> None:
    workdays = by_the_hour(night="0 2 * * 1-5")
    monday = NOW.replace(day=23, hour=2, minute=30)
    assert allowed_media_age(workdays, monday) == timedelta(days=6)
    assert allowed_media_age(workdays, monday + DAY) == timedelta(days=2)
    assert allowed_media_age(by_the_hour(verification={"when": "weekly"}), NOW) == timedelta(days=9)
    assert allowed_media_age(settings(media={"media": "/srv/media"}, schedules=None), NOW) is None


def test_the_doctor_says_how_old_media_are() -> None:
    for row, status in ((backup(NOW - DAY), "ok"), (backup(NOW - 3 * DAY), "warning"), (None, "warning")):
        findings, _ = drain(check_media_age(row, 2 * DAY, NOW))
        assert [each.status for each in findings] == [status]


# -- what the catalog is asked ---------------------------------------------------------------------------------------


def kept(folder: Path, **changes: Any) -> tuple[Settings, Catalog]:
    given = by_the_hour(work_dir=str(folder), **changes)
    return given, Catalog(given.catalog_url)


def noted(catalog: Catalog, *rows: AttemptRow) -> None:
    for row in rows:
        catalog.begin_attempt(row)
        catalog.end_attempt(row.run_id, state=row.state)


def test_the_runs_and_backups_of_the_night_are_not_pushed_out_by_those_of_every_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts_module, "_ATTEMPTS", 14)
    given, catalog = kept(tmp_path)
    noted(catalog, of_night(NOW - DAY), *hours(20))
    whole = record(catalog, 1, started_at=NOW - DAY)
    for each in range(20):
        record(catalog, 2 + each, started_at=NOW - HOUR - each * HOUR, parts=["database"], label="manual")
    facts = gather(application(given, catalog=catalog), NOW)
    assert NIGHT in {row.who for row in facts.attempts["backup_full"]}
    assert whole in {row.backup_id for row in facts.backups["full"]}


def test_the_time_that_a_proof_takes_is_that_of_the_schedule_s_own_backups(tmp_path: Path) -> None:
    given, catalog = kept(tmp_path, verification={"when": "each"})
    for number, seconds, parts in ((1, 15 * 3600.0, ["database", "media"]), (2, 1.0, ["database"])):
        made = record(catalog, number, started_at=NOW - DAY + number * HOUR, parts=parts)
        catalog.record_copy(made, "office", state="checked", form="zstd+enc", stored_bytes=1)
        catalog.record_verification(
            VerificationRow(made, "office", state="verified", started_at=NOW - 20 * HOUR, seconds=seconds)
        )
    examined = _Examination(application(given, catalog=catalog), {})
    found = [each for each in examined._daemon(["full"], verified=True, kept=[]) if each.check == "verification time"]
    assert {each.status for each in found if "15 h" in each.found} == {"warning"}
    assert {each.status for each in found if "took 1 s" in each.found or "1.0 s" in each.found} == {"ok"}


def test_the_newest_of_each_schedule_is_verified(tmp_path: Path) -> None:
    given, catalog = kept(tmp_path, verification={"when": "daily"})
    assert given.schedules is not None
    noted(catalog, of_night(TONIGHT), of_hour(NOW - HOUR))
    night = record(catalog, 1, started_at=TONIGHT, run_id=of_night().run_id)
    hour = record(
        catalog, 2, started_at=NOW - HOUR, run_id=of_hour(NOW - HOUR).run_id, parts=["database"], label="manual"
    )
    for backup_id in (night, hour):
        catalog.record_copy(backup_id, "office", state="checked", form="zstd+enc", stored_bytes=1)
    keys = {request.run_key for request in _requests(application(given, catalog=catalog), given.schedules)}
    assert keys == {f"verify_backup {night}", f"verify_backup {hour}"}
    # What was proven today without media proves nothing of them.
    catalog.record_verification(VerificationRow(hour, "office", state="verified", started_at=NOW, seconds=1, restore_seconds=1, tables=1, rows=1, differences=()))  # fmt: skip
    assert f"verify_backup {night}" in {
        request.run_key for request in _requests(application(given, catalog=catalog), given.schedules)
    }


# -- what one of every hour must not hide -----------------------------------------------------------------------------


def test_proofs_are_as_slow_as_those_of_backups_with_the_same_parts() -> None:
    rows = [
        replace(row, last_verification=proof(row, seconds=60 if "media" not in row.parts else 1200)) for row in usual()
    ]
    assert not [cause for cause in found(told(rows), by_the_hour()) if "duration" in cause]
    slow = [replace(row, last_verification=proof(row, seconds=900)) if row is rows[0] else row for row in rows]
    assert found(told(slow), by_the_hour())["duration:verification_full_without_media"].severity == "warning"
    proofs = [
        attempt("verify_backup", at, finished_at=at + MINUTE * (20 if at.hour == 2 else 1), run_id=f"proof {at}")
        for at in (NOW - each * HOUR for each in range(2, 30))
    ]
    going_on = attempt("verify_backup", NOW - 15 * MINUTE, "running", scheduled_for=None, run_id="now")
    facts = told(usual())
    facts = replace(facts, attempts={**facts.attempts, "verify_backup": [going_on, *proofs]})
    assert "running:verify_backup" not in found(facts, by_the_hour())


def test_a_night_that_was_proven_bad_is_told_until_one_with_media_is_good() -> None:
    rows = usual()
    rows = [
        replace(row, last_verification=proof(row, verified=False)) if row.started_at == TONIGHT + MINUTE else row
        for row in rows
    ]
    assert set(found(told(rows), by_the_hour())) >= {"verification_failed:full"}
    assert "verification_failed:full" not in found(told([backup(NOW - HOUR / 2), *rows]), by_the_hour())


def test_staging_has_space_for_the_next_night_and_not_for_the_next_hour_alone() -> None:
    rows = [replace(row, staged_bytes=MB) if "media" not in row.parts else row for row in usual()]
    facts = told(rows, staging=DiskSpace(200 * MB, 1000 * MB))
    assert found(facts, by_the_hour())["staging_disk"].severity == "error"
    assert "staging_disk" not in found(replace(facts, staging=DiskSpace(400 * MB, 1000 * MB)), by_the_hour())


@pytest.mark.parametrize("cause", ["size_deviation:full", "size_deviation:full_without_media"])
def test_a_loss_is_measured_by_what_was_before_it_with_the_same_parts(tmp_path: Path, cause: str) -> None:
    given, catalog = kept(tmp_path)
    nights = {record(catalog, each, started_at=TONIGHT - each * DAY) for each in range(5)}
    hour = {
        record(catalog, 10 + each, started_at=NOW - each * HOUR, parts=["database"], label="manual")
        for each in range(1, 21)
    }
    told_of: Any = (None, "erp", cause, "size_deviation", "critical", "active", "gone", "see", NOW, NOW)
    catalog.save_alert(AlertRow(*told_of))
    before = {row.backup_id for row in gather(application(given, catalog=catalog), NOW).before[cause]}
    assert before == nights if cause == "size_deviation:full" else before & hour


def test_media_that_are_gone_at_night_are_missed_though_the_database_was_backed_up_an_hour_ago(tmp_path: Path) -> None:
    given, catalog = kept(tmp_path)
    record(catalog, 1, started_at=TONIGHT, parts=["database", "media"], files={"media": 7})
    record(catalog, 2, started_at=NOW - HOUR, parts=["database"], label="manual", files={})
    app = application(given, catalog=catalog)
    # Nor is it forgotten where targets take other forms from now on.
    plan = plan_backup(app, label="scheduled", reason="", parts=("database", "media"), targets={})
    assert plan.last_files == {"media": 7}
