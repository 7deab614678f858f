"""The life of an alert, with a real catalog, and real servers that messages arrive at."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml

from twist_dr.catalog import AlertRow, AttemptRow, Catalog, SpaceRow, VerificationRow
from twist_dr.settings import Application, Settings, parse_settings
from twist_dr.system.progress import Lines, Report
from twist_dr.watch.alerts import channels
from twist_dr.watch.alerts.reconcile import Reconciled, reconcile
from twist_dr.watch.alerts.telling import telling
from twist_dr.watch.alerts.words import kind_in_words
from twist_dr_tests.apps import application
from twist_dr_tests.catalog.examples import record
from twist_dr_tests.watch.alerts.mailbox import Mailbox, Webhook, mailbox, send_here, silent_server, webhook

START = datetime(2026, 11, 21, 5, 0, tzinfo=timezone.utc)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


class Place:
    """An installation whose clock we turn by hand. Its last backup is as old as we say, and proven."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.document: dict[str, Any] = {
            "application": "erp",
            "database": {"url": "postgresql://erp@db.example/erp"},
            "storage_targets": {"office": {"type": "local", "path": "office"}},
            "encryption": {"keyring": "keyring.yaml"},
            "alerts": {"channels": {}, "staging_free": 0},
            "objectives": {"recovery_point": "900 days"},
            "work_dir": "work",
        }
        self.now = START
        self.said: list[str] = []
        self.catalog = Catalog(self.settings.catalog_url)
        self.runs = 0

    @property
    def settings(self) -> Settings:
        return parse_settings(yaml.safe_dump(self.document), self.folder / "twist-dr.yaml", {})

    def channel(self, name: str, url: str, **options: Any) -> None:
        self.document["alerts"]["channels"][name] = {"url": url, "timeout_seconds": 5, **options}

    def app(self, catalog: Catalog | None = None) -> Application:
        report = Report(Lines(self.said.append, self.said.append))
        return application(self.settings, catalog=catalog or self.catalog, report=report)

    def tick(self, after: timedelta = MINUTE) -> Reconciled:
        self.now += after
        return reconcile(self.app(), self.now)

    def ran(
        self, state: Any = "failed", job: str = "cleanup", error: str = "The disk is gone; look.", **changes: Any
    ) -> str:
        """A run of a job that has just ended."""
        self.runs += 1
        run = f"run-{self.runs}"
        row = AttemptRow(
            run, "erp", job, None, None, "ops", self.now - MINUTE, state, self.now, "step", error, "storage_error"
        )
        self.catalog.begin_attempt(replace(row, **changes))
        return run

    def alerts(self) -> dict[str, AlertRow]:
        """The open ones, without that nothing was ever backed up."""
        return {row.cause: row for row in self.catalog.open_alerts("erp") if row.cause != "no_recovery_point"}


@pytest.fixture(autouse=True)
def _sent_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "_run_sender", send_here)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def hook(place: Place) -> Iterator[Webhook]:
    with webhook() as hook:
        place.channel("chat", hook.url)
        yield hook


def subject(state: str, kind: str, what: str = "", end: str = "") -> str:
    return f"[erp] {state}: {kind_in_words(kind)}" + (f" ({what})" if what else "") + end


def titles(hook: Webhook) -> list[str]:
    return [call.json["title"] for call in hook.calls]


@contextmanager
def written(catalog: Path) -> Iterator[list[int]]:
    """How many transactions changed the catalog meanwhile."""
    with sqlite3.connect(catalog) as connection:
        before = connection.execute("PRAGMA data_version").fetchone()[0]
        changes: list[int] = []
        yield changes
        changes.append(connection.execute("PRAGMA data_version").fetchone()[0] - before)


@pytest.mark.promise(11)
def test_what_goes_wrong_is_told_once_by_mail_and_chat_and_when_it_is_over(place: Place, hook: Webhook) -> None:
    with mailbox() as box:
        place.channel("mail", box.url)
        place.tick()
        run = place.ran()
        outcome = place.tick()
        for _ in range(3):
            place.tick()
        assert [row.cause for row in outcome.raised] == ["job_failed:cleanup"]
        assert titles(hook) == [subject("WARNING", "job_failed", "cleanup")] == [mail.subject for mail in box.mails]
        body = box.mails[0].body
        assert "cleanup failed in step step: The disk is gone; look." in body
        assert "What to do: Look at the run" in body and run in body
        alert = place.alerts()["job_failed:cleanup"]
        assert (alert.state, alert.told_at, alert.told_severity, alert.run_id) == (
            "active",
            place.now - 3 * MINUTE,
            "warning",
            run,
        )

        place.ran("succeeded")
        outcome = place.tick()
        assert place.alerts() == {}
        assert [(row.state, row.resolved_by, row.resolved_at) for row in outcome.resolved] == [
            ("resolved", "itself", place.now)
        ]
        assert (
            titles(hook)[1:]
            == [subject("RESOLVED", "job_failed", "cleanup")]
            == [mail.subject for mail in box.mails][1:]
        )
        assert len(place.tick().told) == 0


def test_the_same_cause_later_is_another_alert(place: Place, hook: Webhook) -> None:
    place.tick()
    for state in ("failed", "succeeded", "failed"):
        place.ran(state)
        place.tick()
    assert len(titles(hook)) == 3
    assert [row.state for row in place.catalog.alerts("erp") if row.kind == "job_failed"] == ["active", "resolved"]


def test_what_gets_worse_is_told_again_although_somebody_has_acknowledged_it(place: Place, hook: Webhook) -> None:
    place.tick()
    place.ran(scheduled_for=START)
    place.tick()
    row = place.alerts()["job_failed:cleanup"]
    place.catalog.save_alert(replace(row, state="acknowledged", acknowledged_at=place.now, acknowledged_by="ops"))
    place.tick()
    assert len(hook.calls) == 1
    place.ran(scheduled_for=START + MINUTE)
    outcome = place.tick()
    assert [row.severity for row in outcome.told["worse"]] == ["error"]
    assert titles(hook)[1] == subject("ERROR", "job_failed", "cleanup")
    worse = place.alerts()["job_failed:cleanup"]
    assert (worse.state, worse.acknowledged_by, worse.told_severity) == ("active", None, "error")


def test_an_acknowledged_alert_is_not_told_again_and_another_one_is_each_day(place: Place, hook: Webhook) -> None:
    place.tick()
    place.ran()
    place.ran(job="test_storage_targets")
    place.tick()
    row = place.alerts()["job_failed:cleanup"]
    place.catalog.save_alert(replace(row, state="acknowledged", acknowledged_at=place.now, acknowledged_by="ops"))
    hook.calls.clear()
    for _ in range(9):
        place.tick(6 * HOUR)
    assert titles(hook) == [subject("WARNING", "job_failed", "test_storage_targets", " (still)")] * 2
    assert "told again" in hook.calls[0].json["message"]


def test_an_alert_that_a_person_closed_comes_back_while_its_cause_lasts(place: Place, hook: Webhook) -> None:
    place.tick()
    place.ran()
    place.tick()
    closed = place.alerts()["job_failed:cleanup"]
    place.catalog.save_alert(replace(closed, state="resolved", resolved_at=place.now, resolved_by="ops"))
    place.tick()
    assert place.alerts()["job_failed:cleanup"].id != closed.id
    assert len(hook.calls) == 2


def test_a_failed_restore_that_a_person_closed_stays_closed(place: Place, hook: Webhook) -> None:
    place.tick()
    place.ran(job="restore")
    place.tick()
    (alert,) = place.alerts().values()
    assert alert.kind == "restore_failed"
    place.catalog.save_alert(replace(alert, state="resolved", resolved_at=place.now, resolved_by="ops"))
    place.tick()
    assert place.alerts() == {} and len(hook.calls) == 1
    place.ran(job="restore")
    place.tick()
    assert len(place.alerts()) == 1 and len(hook.calls) == 2


def test_what_swings_between_two_severities_is_told_once(place: Place, hook: Webhook) -> None:
    place.tick()
    for free in (40, 90, 40, 90, 40):
        place.catalog.record_space(SpaceRow("office", place.now, 0, free, 1000))
        place.tick()
    assert titles(hook) == [subject("ERROR", "capacity", "office")]
    place.catalog.record_space(SpaceRow("office", place.now, 0, 500, 1000))
    place.tick()
    assert titles(hook)[1:] == [subject("RESOLVED", "capacity", "office")]


def test_a_pager_that_heard_of_an_error_hears_of_its_end_although_it_was_milder_then(place: Place) -> None:
    with webhook() as pager:
        place.channel("pager", pager.url, at_least="error")
        place.tick()
        for free in (40, 90, 500):
            place.catalog.record_space(SpaceRow("office", place.now, 0, free, 1000))
            place.tick()
        assert [title.split(":")[0] for title in titles(pager)] == ["[erp] ERROR", "[erp] RESOLVED"]


def test_what_no_channel_wants_is_kept_and_not_told(place: Place) -> None:
    with webhook() as pager:
        place.channel("pager", pager.url, at_least="critical", resolved=False)
        place.tick()
        place.ran()
        place.tick()
        assert place.alerts()["job_failed:cleanup"].told_at is None
        place.ran("succeeded")
        place.tick()
        assert place.alerts() == {} and pager.calls == []


def test_without_channels_alerts_are_kept_all_the_same(place: Place) -> None:
    place.tick()
    place.ran()
    place.tick()
    assert place.alerts()["job_failed:cleanup"].told_at is None


def test_what_reached_nobody_is_tried_again_until_it_has(place: Place, hook: Webhook) -> None:
    place.tick()
    hook.status = 500
    place.ran()
    outcome = place.tick()
    assert [each.ok for each in outcome.deliveries] == [False]
    alerts = place.alerts()
    assert alerts["job_failed:cleanup"].told_at is None
    failed = len(hook.calls)
    place.tick()
    place.tick()
    assert place.alerts()["channel:chat"].severity == "error"
    hook.status = 200
    place.tick(6 * MINUTE)
    assert titles(hook)[failed:] == [subject("WARNING", "job_failed", "cleanup")]
    place.tick()
    assert place.alerts().keys() == {"job_failed:cleanup"}
    assert place.catalog.deliveries("erp")[0].ok


def test_a_channel_that_fails_is_told_through_the_others_and_since_when(place: Place, hook: Webhook) -> None:
    with webhook(500) as broken:
        place.channel("pager", broken.url)
        place.tick()
        place.ran()
        place.tick()
        first = place.now
        place.tick()
        assert titles(hook) == [subject("WARNING", "job_failed", "cleanup"), subject("ERROR", "channel", "pager")]
        place.ran(job="scrub")
        place.tick()
        (row,) = [row for row in place.catalog.deliveries("erp") if row.channel == "pager"]
        assert (row.ok, row.since) == (False, first) and row.at > first and "500" in (row.error or "")
        for _ in range(20):
            place.tick()
        assert len(hook.calls) == 3


def test_a_mail_server_that_hangs_holds_nothing_up_for_long_however_much_is_to_be_told(
    place: Place, hook: Webhook
) -> None:
    with silent_server() as port:
        place.channel("mail", f"mailto://127.0.0.1:{port}?from=a@b.example&to=c@d.example", timeout_seconds=2)
        place.tick()
        for job in ("cleanup", "scrub", "drill", "restore", "backup_full"):
            place.ran(job=job)
        begun = time.monotonic()
        outcome = place.tick()
        assert time.monotonic() - begun < 15
        assert len(outcome.told["raised"]) == 5 == len(hook.calls)


@pytest.mark.promise(11)
def test_of_two_that_look_at_once_one_tells(place: Place, hook: Webhook) -> None:
    place.tick()
    place.ran()
    place.ran(job="scrub")
    place.now += MINUTE
    outcomes: list[Reconciled] = []
    together = threading.Barrier(4)

    def look() -> None:
        together.wait()
        catalog = Catalog(place.settings.catalog_url)
        outcomes.append(reconcile(place.app(catalog), place.now))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(titles(hook)) == [
        subject("ERROR", "job_failed", "scrub"),
        subject("WARNING", "job_failed", "cleanup"),
    ]
    assert sum(len(outcome.raised) for outcome in outcomes) == 2
    assert [outcome.problem for outcome in outcomes] == [None] * 4


def test_while_another_process_tells_nothing_is_told_beside_it_and_nothing_is_lost(place: Place, hook: Webhook) -> None:
    place.tick()
    place.ran()
    with telling(place.app()):
        assert place.tick() == Reconciled()
    assert hook.calls == []
    place.tick()
    assert len(hook.calls) == 1


def test_a_hundred_looks_at_what_is_known_write_nothing(place: Place, hook: Webhook) -> None:
    for night in range(20):
        record(place.catalog, night, started_at=START - (20 - night) * DAY)
    for job in ("cleanup", "scrub"):
        place.ran(job=job)
    place.tick()
    file = place.folder / "work" / "catalog.db"
    before, calls = file.stat().st_mtime_ns, len(hook.calls)
    with written(file) as changes:
        for _ in range(100):
            place.tick(timedelta(seconds=30))
    assert changes == [0] and file.stat().st_mtime_ns == before
    assert len(hook.calls) == calls


def test_what_lasts_is_noted_now_and_then(place: Place) -> None:
    place.tick()
    place.ran()
    place.tick()
    for _ in range(12):
        place.tick(10 * MINUTE)
    row = place.alerts()["job_failed:cleanup"]
    assert (row.times, row.seen_at) == (3, place.now)


def test_a_clock_that_is_set_back_and_forth_raises_nothing_twice(place: Place, hook: Webhook) -> None:
    place.tick()
    place.ran()
    place.tick()
    place.tick(-400 * DAY)
    place.tick(400 * DAY)
    assert len(place.alerts()) == 1
    assert next(title for title in titles(hook) if "RESOLVED" not in title) == subject(
        "WARNING", "job_failed", "cleanup"
    )
    assert len(hook.calls) <= 4


# -- what is gathered --------------------------------------------------------------------------------------------------


def proven(place: Place, night: int, **changes: Any) -> str:
    """The backup of a night, stored, checked and verified."""
    backup_id = record(place.catalog, night, **changes)
    place.catalog.record_copy(backup_id, "office", state="checked", form="zstd+enc", stored_bytes=35)
    began = changes.get("started_at", START)
    place.catalog.record_verification(
        VerificationRow(backup_id, "office", state="verified", started_at=began, seconds=60)
    )
    return backup_id


@pytest.mark.promise(11)
def test_a_schedule_is_watched_from_when_it_was_written_down_and_anew_when_it_is_changed(
    place: Place, hook: Webhook
) -> None:
    nothing_else = {"configuration": None, "drill": None, "scrub": None, "test_targets": None}
    place.document["schedules"] = {"full": "0 2 * * *", **nothing_else}
    place.tick()
    place.tick(20 * HOUR)
    assert place.alerts() == {}
    place.document["schedules"] = {"full": "0 1 * * *", **nothing_else}
    place.tick(HOUR)
    place.tick(20 * HOUR)
    assert place.alerts() == {}
    place.tick(10 * HOUR)
    assert titles(hook) == [subject("ERROR", "missed", "full")]
    place.ran("succeeded", job="backup_full")
    place.tick()
    assert place.alerts() == {}


def test_a_proof_that_is_older_than_many_backups_without_one_is_still_known(place: Place) -> None:
    proven(place, 0, started_at=START - 40 * DAY)
    for night in range(1, 30):
        record(place.catalog, night, started_at=START - (40 - night) * DAY)
    place.document["objectives"] = {"recovery_point": "45 days"}
    place.tick()
    assert "no_recovery_point" not in {row.cause for row in place.catalog.open_alerts("erp")}
    place.document["objectives"] = {"recovery_point": "35 days"}
    place.tick()
    causes = {row.cause: row.message for row in place.catalog.open_alerts("erp")}
    assert "is 40 days old" in causes["no_recovery_point"]
    assert "its newest checked copy is 40 days old" in causes["objective:office"]


def test_runs_that_ship_write_ahead_log_every_minute_do_not_hide_a_backup_that_failed(place: Place) -> None:
    place.ran(job="backup_full", started_at=START - HOUR)
    for minute in range(310):
        place.ran("succeeded", job="ship_wal", started_at=START - HOUR + (minute + 1) * timedelta(seconds=10))
    place.tick()
    assert "backup_failed:backup_full" in place.alerts()


def test_a_clock_that_was_years_ahead_is_told_and_hides_nothing_from_before(place: Place) -> None:
    proven(place, 0, started_at=START - DAY)
    for night in range(1, 20):
        proven(place, night, started_at=START + (400 + night) * DAY)
    place.ran(started_at=START + 400 * DAY)
    place.tick()
    assert set(place.alerts()) == {"clock"}
    place.document["objectives"] = {"recovery_point": "20 hours"}
    place.tick()
    assert "no_recovery_point" in {row.cause for row in place.catalog.open_alerts("erp") if row.severity == "critical"}


def test_tables_that_lost_rows_are_told_from_what_the_manifests_counted(place: Place) -> None:
    for night, rows in enumerate((9000, 9010, 40)):
        proven(place, night, started_at=START - (3 - night) * DAY, tables={"public.invoice": rows, "public.site": 1})
    place.tick()
    assert "public.invoice 9,010 rows before, 40 now" in place.alerts()["row_drop:full"].message


def acknowledge(place: Place, cause: str) -> None:
    row = place.alerts()[cause]
    place.catalog.save_alert(replace(row, state="acknowledged", acknowledged_at=place.now, acknowledged_by="ops"))


def counted(place: Place, night: int, **rows: int) -> str:
    """The backup of a night, seen at once, with so many rows in its tables."""
    place.now = START + night * DAY
    tables = {f"public.{name}": count for name, count in rows.items()}
    backup_id = proven(place, night, started_at=place.now - 10 * MINUTE, tables=tables)
    place.tick()
    return backup_id


@pytest.mark.promise(11)
def test_another_table_that_loses_its_rows_is_told_although_the_first_was_acknowledged(
    place: Place, hook: Webhook
) -> None:
    for night in range(3):
        counted(place, night, session=9000, invoice=9000)
    counted(place, 3, session=0, invoice=9000)
    acknowledge(place, "row_drop:full")
    place.tick(30 * HOUR)
    assert len(hook.calls) == 1
    counted(place, 4, session=0, invoice=5000)
    assert titles(hook)[1:] == [subject("ERROR", "row_drop", "full")]
    assert "public.invoice 9,000 rows before, 5,000 now" in hook.calls[1].json["message"]
    row = place.alerts()["row_drop:full"]
    assert (row.state, row.told_about) == ("active", ("public.invoice", "public.session", "public.session, nearly all"))
    acknowledge(place, "row_drop:full")
    place.tick(30 * HOUR)
    assert len(hook.calls) == 2
    counted(place, 5, session=0, invoice=3)
    assert len(hook.calls) == 3, "it lost a part, and now nearly all"


def test_another_corrupt_copy_is_told_although_the_first_was_acknowledged_and_one_that_was_repaired_and_rots_again(
    place: Place, hook: Webhook
) -> None:
    place.document["storage_targets"]["cloud"] = {"type": "local", "path": "cloud"}
    ids = [proven(place, night, started_at=START - night * HOUR) for night in range(3)]

    def state(backup_id: str, now: Any) -> None:
        place.catalog.record_copy(backup_id, "office", state=now, form="zstd+enc")
        place.tick()

    for backup_id in ids:
        place.catalog.record_copy(backup_id, "cloud", state="checked", form="zstd+enc", stored_bytes=35)
    place.tick()
    state(ids[0], "corrupt")
    acknowledge(place, "integrity:office")
    state(ids[1], "corrupt")
    assert titles(hook) == [subject("ERROR", "integrity", "office")] * 2
    assert "It has become worse" in hook.calls[1].json["message"] and ids[1] in hook.calls[1].json["message"]
    acknowledge(place, "integrity:office")
    state(ids[0], "checked")
    assert len(hook.calls) == 2
    state(ids[0], "corrupt")
    assert len(hook.calls) == 3


def test_what_grows_by_the_minute_is_told_by_the_hour(place: Place, hook: Webhook) -> None:
    ids = [proven(place, night, started_at=START - night * MINUTE) for night in range(50)]
    for backup_id in ids[:-1]:
        place.catalog.record_copy(backup_id, "office", state="corrupt", form="zstd+enc")
        place.tick()
    assert len(hook.calls) == 1
    place.tick(HOUR)
    assert len(hook.calls) == 2
    assert "49 corrupt copies" in hook.calls[1].json["message"]
    for _ in range(10):
        place.tick(HOUR)
    assert len(hook.calls) == 2


def test_what_was_told_of_an_alert_by_an_older_version_is_not_told_anew(place: Place, hook: Webhook) -> None:
    for night in range(3):
        counted(place, night, session=9000)
    counted(place, 3, session=0)
    for state in ("active", "acknowledged"):
        row = place.alerts()["row_drop:full"]
        place.catalog.save_alert(replace(row, about=None, told_about=(), state=state))  # type: ignore[arg-type]
        for _ in range(5):
            place.tick(2 * HOUR)
        assert len(hook.calls) == 1
        assert place.alerts()["row_drop:full"].about == ("public.session", "public.session, nearly all")


@pytest.mark.promise(11)
def test_lost_rows_are_not_called_over_while_they_are_gone_and_are_when_they_are_back(
    place: Place, hook: Webhook
) -> None:
    whole = [counted(place, night, invoice=9000, site=1) for night in range(3)]
    counted(place, 3, invoice=0, site=1)
    for night in range(4, 20):
        proven(place, night, started_at=START + night * DAY, tables={"public.invoice": 0, "public.site": 1})
    counted(place, 20, invoice=0, site=1)
    row = place.alerts()["row_drop:full"]
    assert "public.invoice 9,000 rows before, 0 now" in row.message
    assert f"twist-dr hold {whole[-1]} " in row.advice
    assert not [title for title in titles(hook) if "RESOLVED" in title]
    counted(place, 21, invoice=8900, site=1)
    assert place.alerts() == {}
    assert titles(hook)[-1] == subject("RESOLVED", "row_drop", "full")


def test_lost_rows_that_somebody_knows_of_are_over_when_what_followed_looks_the_same(place: Place) -> None:
    for night in range(3):
        counted(place, night, invoice=9000)
    counted(place, 3, invoice=0)
    acknowledge(place, "row_drop:full")
    for night in range(4, 6):
        counted(place, night, invoice=0)
        assert "row_drop:full" in place.alerts()
    counted(place, 6, invoice=0)
    assert place.alerts() == {}


def test_a_table_that_lost_rows_long_ago_is_not_told_again_beside_another_one(place: Place, hook: Webhook) -> None:
    for night in range(3):
        counted(place, night, session=9000, invoice=9000)
    counted(place, 3, session=0, invoice=100)
    acknowledge(place, "row_drop:full")
    for night in range(4, 7):
        counted(place, night, session=0, invoice=9000)
    assert place.alerts() == {}
    counted(place, 7, session=0, invoice=0)
    for night in range(8, 12):
        counted(place, night, session=0, invoice=0)
    assert "session" not in place.alerts()["row_drop:full"].message


def test_an_alert_about_a_target_ends_when_the_target_is_switched_off(place: Place, hook: Webhook) -> None:
    place.document["storage_targets"]["cloud"] = {"type": "local", "path": "cloud"}
    place.catalog.record_target_test("cloud", ok=False, location="cloud", seconds=1, error="it does not answer")
    place.tick()
    assert list(place.alerts()) == ["unreachable:cloud"]
    place.document["storage_targets"]["cloud"]["enabled"] = False
    place.tick()
    assert place.alerts() == {} and len(hook.calls) == 2


# -- without a catalog ------------------------------------------------------------------------------------------------


@pytest.mark.promise(11)
def test_a_catalog_that_cannot_be_read_is_told_at_most_once_an_hour_and_when_it_is_back(
    place: Place, hook: Webhook
) -> None:
    place.tick()
    file = place.folder / "work" / "catalog.db"
    shutil.copy(file, file.with_suffix(".good"))
    file.write_bytes(b"this is no database" * 1000)
    outcome = place.tick()
    assert outcome.problem is not None and "damaged" in outcome.problem
    for _ in range(30):
        place.tick()
    assert titles(hook) == [subject("CRITICAL", "catalog_unavailable")]
    assert str(file) in hook.calls[0].json["message"]
    place.tick(HOUR)
    assert titles(hook)[1:] == [subject("CRITICAL", "catalog_unavailable", "still")]
    shutil.copy(file.with_suffix(".good"), file)
    place.tick()
    place.tick()
    assert titles(hook)[2:] == [subject("RESOLVED", "catalog_unavailable")]


def test_a_catalog_that_is_locked_for_a_moment_is_not_told(
    place: Place, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twist_dr.catalog.database.LOCK_SECONDS", 0.2)
    place.tick()
    place.catalog = Catalog(place.settings.catalog_url)
    place.ran()
    with ExitStack() as stack:
        connection = stack.enter_context(sqlite3.connect(place.folder / "work" / "catalog.db"))
        connection.execute("BEGIN EXCLUSIVE")
        outcome = place.tick()
        assert outcome.problem is not None and "locked by another process" in outcome.problem
        place.tick()
        assert hook.calls == []
        place.tick(6 * MINUTE)
        assert titles(hook) == [subject("CRITICAL", "catalog_unavailable")]
    place.tick()
    assert titles(hook)[1:] == [subject("WARNING", "job_failed", "cleanup"), subject("RESOLVED", "catalog_unavailable")]


def test_where_nothing_can_be_written_it_is_told_all_the_same(place: Place, hook: Webhook) -> None:
    place.tick()
    shutil.rmtree(place.folder / "work")
    (place.folder / "work").write_text("a file in the place of the folder")
    place.catalog = Catalog(place.settings.catalog_url)
    outcome = place.tick()
    assert outcome.problem is not None
    place.tick()
    assert titles(hook) == [subject("CRITICAL", "catalog_unavailable")]


def test_a_mailbox_gets_no_secret_of_another_channel(place: Place) -> None:
    with mailbox() as box, webhook(500) as broken:
        assert isinstance(box, Mailbox)
        place.channel("mail", box.url)
        place.channel("pager", broken.url.replace("json://", "json://user:hunter2-and-more@"))
        place.tick()
        place.ran()
        place.tick()
        place.tick()
        assert len(box.mails) == 2
        said = " ".join(
            [
                *(mail.body for mail in box.mails),
                *place.said,
                *(row.error or "" for row in place.catalog.deliveries("erp")),
            ]
        )
        assert "hunter2" not in said
