"""What a status says of each situation, and with which exit status."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import dagster as dg
import pytest

from twist_dr.catalog import AlertRow, RestoreRow, SpaceRow, WalPositionRow
from twist_dr.orchestrator.automation.watch import watch_sensor
from twist_dr.postgres.lsn import Gap
from twist_dr.settings import Settings
from twist_dr.watch.alerts.daemon import note_daemon
from twist_dr.watch.alerts.rules_common import STATES
from twist_dr.watch.runs import look_after
from twist_dr.watch.status import metrics, report
from twist_dr.watch.status.text import render_status
from twist_dr_tests.apps import application
from twist_dr_tests.watch.status.conftest import HOUR, TARGETS, Story


def healthy(story: Story) -> None:
    story.backup(20)
    story.backup(2)
    story.attempt()


def old_verified(story: Story) -> None:
    story.backup(60)
    story.backup(2, verified=None)


def target_failing(story: Story) -> None:
    story.backup(20)
    story.backup(2, copies={"office": "checked", "archive": "failed"})


def corrupt(story: Story) -> None:
    story.backup(20, copies={"office": "corrupt", "archive": "checked"})
    story.backup(2)


def never(story: Story) -> None:
    story.attempt("test_storage_targets")


def nothing_left(story: Story) -> None:
    story.backup(2, copies={"office": "deleted", "archive": "corrupt"})


def clock_was_ahead(story: Story) -> None:
    story.backup(-24 * 365 * 3)


def target_beyond_its_objective(story: Story) -> None:
    story.backup(40)
    story.backup(2, copies={"office": "checked"})


def target_asks_for_more_than_is_made(story: Story) -> None:
    healthy(story)
    story.site.document["storage_targets"]["office"]["objective"] = "1 hour"
    story.site.set()


def archive_gets_old_ones_alone(story: Story) -> None:
    story.site.document["storage_targets"]["office"]["archive"] = {"after": "1 year", "to": "archive"}
    story.site.set()
    story.backup(2, copies={"office": "checked"})
    story.backup(24 * 400, copies={"office": "deleted", "archive": "checked"})


def target_is_new(story: Story) -> None:
    healthy(story)
    story.site.document["storage_targets"]["attic"] = {"type": "local", "path": "targets/attic"}
    story.site.set()


def newest_was_deleted(story: Story) -> None:
    healthy(story)
    story.backup(
        3, kind="configuration", parts=["configuration"], verified=None, copies=dict.fromkeys(TARGETS, "deleted")
    )


def newest_is_nowhere(story: Story) -> None:
    healthy(story)
    for hours, state in ((4, "failed"), (3, "corrupt")):
        copies = {"office": "deleted", "archive": "deleted", "attic": state}
        story.backup(hours, kind="configuration", parts=["configuration"], verified=None, copies=copies)


def much_is_corrupt_where_nobody_looks_any_more(story: Story) -> None:
    story.backup(21, copies={"office": "corrupt", "archive": "checked"})
    for _ in range(101):
        story.backup(20, copies={"office": "checked", "archive": "checked", "attic": "corrupt"}, verified=None)
    healthy(story)


def restore_failed(story: Story) -> None:
    healthy(story)
    story.catalog.record_restore(restore_row(story, "failed"))


def failed_verification(story: Story) -> None:
    story.backup(20)
    story.backup(2, verified=False)


def restore_row(story: Story, state: str) -> RestoreRow:
    return RestoreRow(
        "20261121T020000Z-restore-0001", "erp", "restore", "replace", "ops@host", "accident", None, None, ("office",), (), True, ("database",),
        1, 7, 0, state, story.now - HOUR, story.now, {}, 0.05, "erp", (), "", "the dump is damaged" if state == "failed" else None, "r1",
    )  # type: ignore[arg-type]  # fmt: skip


SITUATIONS: list[tuple[Callable[[Story], None], int, str]] = [
    (healthy, 0, "a verified recovery point is 2 h 00 min old, on archive, office"),
    (old_verified, 2, "newest verified recovery point is 3 days old"),
    (target_failing, 1, "archive"),
    (corrupt, 1, "office holds 1 corrupt copy"),
    (never, 2, "no backup was ever made"),
    (nothing_left, 2, "no enabled storage target holds a checked copy"),
    (clock_was_ahead, 2, "clock"),
    (target_beyond_its_objective, 1, "archive"),
    (target_asks_for_more_than_is_made, 1, "office: its newest checked copy is 2 h 00 min old"),
    (archive_gets_old_ones_alone, 0, "a verified recovery point is 2 h 00 min old, on office"),
    (target_is_new, 1, "attic holds no checked copy of a full or base backup yet"),
    (newest_was_deleted, 1, "the newest configuration backup, is on no storage target"),
    (newest_is_nowhere, 1, "the newest configuration backup, is on no storage target"),
    (much_is_corrupt_where_nobody_looks_any_more, 1, "office holds 1 corrupt copy"),
    (restore_failed, 1, "the dump is damaged"),
    (failed_verification, 1, "verification"),
]


@pytest.mark.promise(11)
@pytest.mark.parametrize(("happens", "exit_status", "told"), SITUATIONS, ids=lambda each: getattr(each, "__name__", ""))
def test_each_situation_has_its_exit_status_and_says_why(
    story: Story, happens: Callable[[Story], None], exit_status: int, told: str
) -> None:
    happens(story)
    text = story.site.cli("status").expect(exit_status).text
    assert text.startswith(("SAFE", "DEGRADED", "UNSAFE")[exit_status])
    assert told in text
    document = json.loads(story.site.cli("status", "--json").expect(exit_status).text)
    assert document["state"] == ("safe", "degraded", "unsafe")[exit_status]
    assert bool(document["reasons"]) == (exit_status > 0)
    # Nothing is judged beside the rules: what is a reason is an alert.
    wrong = [each for each in document["alerts"] if each["state"] != "safe"]
    assert {each["text"] for each in document["reasons"]} == {each["message"].rstrip(".") for each in wrong}
    assert document["state"] == max(("safe", *(each["state"] for each in wrong)), key=STATES.index)


@pytest.mark.promise(11)
def test_what_a_restore_was_about_to_replace_is_nothing_to_be_safe_with(story: Story) -> None:
    damaged = story.backup(2, label="pre-restore")
    unsafe = story.status()
    assert (unsafe.state, unsafe.recovery_point, unsafe.last_verified) == ("unsafe", None, None)
    assert any(damaged in reason.text and "about to replace" in reason.text for reason in unsafe.reasons)
    assert "no enabled storage target holds a checked copy" in " ".join(reason.text for reason in unsafe.reasons)
    story.attempt()
    night = story.backup(20)
    safe = story.status()
    assert safe.state == "safe" and safe.recovery_point is not None
    assert safe.recovery_point.backup_id == night
    assert {target.newest_backup_id for target in safe.targets} == {night}


@pytest.mark.promise(11)
def test_a_lost_catalog_is_unsafe_and_not_made_anew(story: Story) -> None:
    healthy(story)
    shutil.rmtree(story.site.folder / "work")
    text = story.site.cli("status").expect(2).text
    assert text.startswith("UNSAFE") and "catalog rebuild" in text
    assert not (story.site.folder / "work" / "catalog.db").exists()
    assert json.loads(story.site.cli("status", "--json").expect(2).text)["state"] == "unsafe"


def test_a_damaged_catalog_and_wrong_settings_are_unsafe(story: Story) -> None:
    healthy(story)
    (story.site.folder / "work" / "catalog.db").write_bytes(b"no database at all" * 1000)
    for extra in (story.site.folder / "work").glob("catalog.db-*"):
        extra.unlink()
    assert story.site.cli("status").expect(2).text.startswith("UNSAFE  The catalog")
    story.site.set(objectives={"recovery_point": "soon"})
    assert "objectives.recovery_point" in story.site.cli("status").expect(2).text


@pytest.mark.promise(11)
def test_wal_that_ends_too_long_ago_degrades_and_young_wal_over_a_verified_base_is_a_recovery_point(
    story: Story,
) -> None:
    story.site.set(wal={})
    healthy(story)
    position = WalPositionRow("erp", "office", "7", 1, "0/5000000", story.now - 2 * HOUR, story.now, 0, 0.0, 0)
    story.catalog.record_wal_position(position)
    story.catalog.record_wal_position(replace(position, target="archive", at=story.now))
    behind = story.status()
    assert behind.state != "safe"
    assert any(
        ("office" in reason.text and "write-ahead" in reason.text) or "office holds everything" in reason.text
        for reason in behind.reasons
    )
    assert {target.name: target.wal.age for target in behind.targets if target.wal} == {
        "office": 7200.0,
        "archive": 0.0,
    }


def test_a_base_with_wal_gives_a_younger_recovery_point_unless_a_gap_lies_between(story: Story) -> None:
    story.site.set(wal={})
    story.backup(20)
    base = based(story, 10)
    position = WalPositionRow(
        "erp", "office", "7", 1, "0/5000000", story.now - timedelta(minutes=1), story.now, 0, 0.0, 0
    )
    story.catalog.record_wal_position(position)
    point = story.status().recovery_point
    assert point is not None
    assert (point.through, point.backup_id, point.targets, point.age) == ("wal", base, ("office",), 60.0)
    old_gap = Gap(1, 0x1000000, 0x2000000)
    story.catalog.record_wal_position(replace(position, gaps=(old_gap,)))
    assert story.status().recovery_point == point
    story.catalog.record_wal_position(replace(position, gaps=(old_gap, Gap(1, 0x4000000, 0x4100000))))
    point = story.status().recovery_point
    assert point is not None and point.through == "backup"
    story.catalog.record_wal_position(replace(position, system_identifier="8"))
    point = story.status().recovery_point
    assert point is not None and point.through == "backup"


@pytest.mark.promise(11)
def test_a_base_that_was_proven_long_ago_is_a_recovery_point_however_many_followed(story: Story) -> None:
    story.site.set(wal={}, objectives={"recovery_point": "1 hour"})
    base = based(story, 24 * 20)
    for night in range(19):
        story.backup(24 * (19 - night) - 1, kind="base", parts=["cluster"], verified=None)
    at = story.now - timedelta(minutes=1)
    for target in ("office", "archive"):
        story.catalog.record_wal_position(WalPositionRow("erp", target, "7", 1, "0/5000000", at, story.now, 0, 0.0, 0))
    point = story.status().recovery_point
    assert point is not None
    assert (point.through, point.backup_id, point.age, point.targets) == ("wal", base, 60.0, ("archive", "office"))
    story.catalog.record_copy(base, "archive", state="corrupt", form="zstd+enc")
    point = story.status().recovery_point
    assert point is not None and point.targets == ("office",)


@pytest.mark.promise(11)
def test_a_base_whose_rows_nobody_counted_is_nothing_to_be_safe_with(story: Story) -> None:
    story.site.set(wal={})
    based(story, 2, point=None)
    at = story.now - timedelta(minutes=1)
    story.catalog.record_wal_position(WalPositionRow("erp", "office", "7", 1, "0/5000000", at, story.now, 0, 0.0, 0))
    unsafe = story.status()
    assert (unsafe.state, unsafe.recovery_point) == ("unsafe", None), "an earlier version called it verified"


@pytest.mark.promise(11)
def test_an_archive_that_is_said_to_reach_into_the_future_has_no_age(story: Story) -> None:
    story.site.set(wal={})
    healthy(story)
    ahead = story.now + timedelta(days=300)
    position = WalPositionRow("erp", "office", "7", 1, "0/5000000", ahead, story.now - 120 * HOUR, 0, 0.0, 0)
    story.catalog.record_wal_position(position)
    story.catalog.record_wal_position(replace(position, target="archive", at=story.now, updated_at=story.now))
    status = story.status()
    assert status.state == "unsafe"
    assert {target.name: target.wal.age for target in status.targets if target.wal} == {"office": None, "archive": 0.0}
    assert any("office" in reason.text and "a clock is wrong" in reason.text for reason in status.reasons)


def based(story: Story, age: float, point: str | None = "twist_dr_1") -> str:
    """A verified base backup that needs WAL from 0/3000000 on."""

    from twist_dr.repository.manifest import BaseFacts, PostgresFacts

    at: datetime = story.now - age * HOUR
    backup_id = f"{at:%Y%m%dT%H%M%SZ}-base-00ff"
    server = PostgresFacts(
        version="18.0", version_number=180000, system_identifier="7", lsn="0/3000000", timeline=1, in_recovery=False, database="erp",
        database_size=1, encoding="UTF8", collate="C", ctype="C", locale_provider="c", locale=None, extensions=[], bootstrap_role="postgres",
        dumped_as="postgres", client_version="18.0",
    )  # fmt: skip
    base = BaseFacts(
        parent=None, chain=[backup_id], timeline=1, start_lsn="0/3000000", stop_lsn="0/3000100", started_at=at, stopped_at=at,
        wal_segment_size=1 << 24, data_checksums=True, from_standby=False, tablespaces=[], restore_point=point, restore_point_lsn=point and "0/3000200",
        cluster_settings={},
    )  # fmt: skip
    return story.backup(age, kind="base", backup_id=backup_id, parts=["cluster"], postgres=server, base=base)


def test_a_restore_that_a_person_saw_to_does_not_degrade_for_ever(story: Story) -> None:
    restore_failed(story)
    found = next(alert for alert in story.status().alerts if alert.kind == "restore_failed")
    row = AlertRow(
        None, "erp", found.cause, found.kind, found.severity, "resolved", found.message, found.advice, story.now, story.now,
        resolved_at=story.now, resolved_by="ops@host", run_id="r1",
    )  # fmt: skip
    story.catalog.save_alert(row)
    assert story.status().state == "safe"


def test_an_alert_is_found_without_anybody_looking_after_alerts_and_shows_who_acknowledged_it(story: Story) -> None:
    corrupt(story)
    assert story.catalog.open_alerts("erp") == []
    found = next(alert for alert in story.status().alerts if alert.cause == "integrity:office")
    assert (found.id, found.acknowledged_by) == (None, None)
    row = AlertRow(
        None, "erp", found.cause, found.kind, found.severity, "acknowledged", found.message, found.advice, story.now, story.now,
        acknowledged_at=story.now, acknowledged_by="eve@host",
    )  # fmt: skip
    number = story.catalog.save_alert(row).id
    again = next(alert for alert in story.status().alerts if alert.cause == "integrity:office")
    assert (again.id, again.acknowledged_by) == (number, "eve@host")
    text = story.site.cli("status").expect(1).text
    assert "acknowledged by eve@host" in text


def test_growth_and_the_day_on_which_a_target_is_full(story: Story) -> None:
    healthy(story)
    for day in range(10, -1, -1):
        used = (20 - day) * 10**9
        story.catalog.record_space(
            SpaceRow("office", story.now - timedelta(days=day), used, 50 * 10**9 - used, 50 * 10**9)
        )
    office = next(target for target in story.status().targets if target.name == "office")
    assert office.bytes_per_day == pytest.approx(10**9)
    assert office.days_until_full == pytest.approx(30)
    # As it fills now, a disk of this size would do so in 960 years.
    story.catalog.record_space(SpaceRow("office", story.now, 20 * 10**9, 350 * 10**12, 400 * 10**12))
    (office, _) = story.status().targets
    assert office.bytes_per_day == pytest.approx(10**9, rel=0.01) and office.days_until_full is None
    assert (office.used_bytes, office.copies, office.corrupt) == (20 * 10**9, 2, 0)


def test_a_disabled_target_neither_saves_nor_degrades(story: Story) -> None:
    targets = dict(story.site.document["storage_targets"])
    story.site.set(storage_targets={**targets, "old": {"type": "local", "path": "targets/old", "enabled": False}})
    healthy(story)
    assert story.status().state == "safe"
    story.site.set(
        storage_targets={
            "old": {"type": "local", "path": "targets/old"},
            "office": {**targets["office"], "enabled": False},
        }
    )
    assert story.status().state == "unsafe"


def test_next_runs_come_from_the_schedules_and_a_running_job_is_named(story: Story) -> None:
    story.site.set(
        schedules={"full": "0 2 * * *", "configuration": None, "drill": None, "scrub": None, "test_targets": None}
    )
    healthy(story)
    story.attempt("verify_backup", "running", age=0.1)
    note_daemon(story.site.app(catalog=story.catalog), story.now, ())
    status = story.status()
    assert [(run.name, run.job) for run in status.next_runs] == [("full", "backup_full")]
    assert status.now < status.next_runs[0].at <= status.now + timedelta(days=1)
    assert [run.job for run in status.running] == ["verify_backup"]


def test_what_nobody_will_launch_is_not_promised(story: Story) -> None:
    story.site.set(
        schedules={
            "full": "0 2 * * *",
            "configuration": None,
            "drill": None,
            "test_targets": None,
            "scrub": "0 6 * * *",
        }
    )
    healthy(story)

    def said() -> str:
        status = story.status()
        assert status.state == "safe"
        (table,) = [rows for title, _, rows in report._tables(status) if title == "Next runs"]
        assert all(why in str(table) for why in status.next_not)
        return render_status(status).partition("\nnext:")[2].strip()

    assert said() == "no: the daemon does not run (and never did)"
    note_daemon(story.site.app(catalog=story.catalog), story.now - HOUR, ())
    assert said() == f"no: the daemon does not run (last seen {story.now - HOUR:%Y-%m-%d %H:%M} UTC)"
    # A clock that was ahead when it was seen last does not make it run.
    note_daemon(story.site.app(catalog=story.catalog), story.now + HOUR, ())
    assert said().startswith("no: the daemon does not run")
    note_daemon(story.site.app(catalog=story.catalog), story.now, ["full_schedule"])
    first, second = said().splitlines()
    assert first.endswith("06:00 UTC  scrub") and second == "  not full: somebody switched it off (page: Automation)"
    samples = metrics.text(story.site.app(catalog=story.catalog))
    assert 'twist_dr_daemon_seen_timestamp_seconds{application="erp"} ' in samples


def test_what_the_code_location_has_not_loaded_is_said_until_it_is_reloaded(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    from twist_dr.doctor import _Examination

    instance = dg.DagsterInstance.local_temp(str(story.site.folder / "dagster"))

    def ticked(settings: Settings) -> None:
        watch_sensor(application(settings)).evaluate_tick(dg.build_sensor_context(instance=instance))

    story.site.set(schedules={"full": "0 2 * * *"})
    healthy(story)
    loaded = story.site.settings()
    ticked(loaded)
    assert story.status().state == "safe"
    story.site.set(schedules={"full": "0 3 * * *"})
    status = story.status()
    assert status.state == "degraded"
    (alert,) = status.alerts
    assert (
        alert.cause == "stale:settings"
        and "twist-dr.yaml was changed since the code location loaded it" in alert.message
    )
    assert "Deployment -> Code locations -> Reload" in alert.advice
    assert "this is not sure" in render_status(status)
    # A script loads afresh: what it looks after does not end the alert.
    for look in (lambda: ticked(loaded), lambda: look_after(story.site.app())):
        look()
        assert [row.cause for row in story.catalog.open_alerts("erp")] == ["stale:settings"]
    told = [each for each in _Examination(story.site.app(), {})._unattended() if each.check == "code location"]
    assert [each.remedy for each in told] == [alert.advice]
    ticked(story.site.settings())
    assert story.status().state == "safe" and not story.catalog.open_alerts("erp")
    # The package was upgraded beneath a code server that runs.
    with monkeypatch.context() as patch:
        patch.setattr("twist_dr.__version__", "0.0.9")
        note_daemon(story.site.app(catalog=story.catalog), story.now, ())
    (alert,) = story.status().alerts
    assert alert.cause == "stale:version" and "still runs 0.0.9" in alert.message


def test_the_success_rate_leaves_out_what_was_cancelled_and_what_runs_every_minute(story: Story) -> None:
    healthy(story)
    for _ in range(2):
        story.attempt("verify_backup", "succeeded", age=30)
    story.attempt("cleanup", "failed", age=200, error="no space")
    story.attempt("cleanup", "succeeded", age=100)
    story.attempt("backup_full", "cancelled", age=50)
    for _ in range(5):
        story.attempt("ship_wal", "failed", age=3)
    assert story.status().success_rate == pytest.approx(4 / 5)


def test_the_score_is_the_sum_of_its_parts_and_never_says_other_than_the_state(story: Story) -> None:
    healthy(story)
    status = story.status()
    assert status.score == int(sum(part.points for part in status.score_parts)) == 100
    assert sum(part.most for part in status.score_parts) == 100
    story.backup(1, copies={"office": "checked", "archive": "failed"})
    assert 49 < story.status().score <= 89
    story.site.set(objectives={"recovery_point": "30 minutes"})
    unsafe = story.status()
    assert unsafe.state == "unsafe" and unsafe.score <= 49


def test_it_starts_without_dagster_and_matplotlib(story: Story) -> None:
    healthy(story)
    program = (
        "import sys; from twist_dr.__main__ import main; status = main(['status']); "
        "print(status, [name for name in ('dagster', 'matplotlib', 'psycopg', 'apprise', 'prometheus_client') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**story.site.environment, "PATH": "/usr/bin"}, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "0 []"


@pytest.mark.promise(6)
def test_no_secret_of_the_settings_is_told(story: Story) -> None:
    story.site.database_url = "postgresql://nobody:sesame@127.0.0.1:1/erp"
    healthy(story)
    for arguments in (["status"], ["status", "--json"], ["metrics"]):
        assert "sesame" not in story.site.cli(*arguments).expect(0).text
