"""What is recorded of runs, whatever becomes of them."""

from __future__ import annotations

import itertools
import sqlite3
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import dagster as dg
import pytest

from twist_dr.catalog import AttemptRow, Catalog, CatalogUnavailable, VerificationRow
from twist_dr.catalog.notes import Watched
from twist_dr.orchestrator.around import MATERIALIZED, attempt_of, settle_attempts
from twist_dr.redaction import leaving
from twist_dr.repository.manifest import new_backup_id
from twist_dr.restore.from_settings import RestoreLog, end_killed
from twist_dr.restore.journal import FileJournals, Journal
from twist_dr.restore.record import RestoreRecord
from twist_dr.settings import Actor, Application, Settings, parse_settings
from twist_dr.system.events import Begun, Ended, Proven
from twist_dr.system.progress import Lines, Report
from twist_dr.watch.alerts.reconcile import reconcile
from twist_dr.watch.runs import ROUTINE_JOB, Heartbeat, listeners
from twist_dr.watch.status import metrics
from twist_dr.watch.status.collect import collect
from twist_dr_tests.apps import application
from twist_dr_tests.catalog.examples import record
from twist_dr_tests.watch.alerts.mailbox import Webhook, webhook

NOW = datetime.now(timezone.utc)


def _settings(folder: Path, more: str = "") -> Settings:
    text = f"""
application: erp
database: {{url: "postgresql://erp:pass%40word@db.example/erp"}}
storage_targets: {{office: {{type: local, path: office}}}}
encryption: {{keyring: keyring.yaml}}
work_dir: work
{more}
"""
    return parse_settings(text, folder / "twist-dr.yaml", {})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return _settings(tmp_path)


def _attempt(run_id: str = "r1", job: str = "backup_full") -> AttemptRow:
    return AttemptRow(run_id, "erp", job, None, None, "someone", NOW)


def _run(app: Application, attempt: AttemptRow) -> Report:
    return Report(*listeners(app, attempt))


def _states(settings: Settings) -> dict[str, str]:
    return {row.run_id: row.state for row in Catalog(settings.catalog_url).attempts("erp")}


def test_a_run_with_several_steps_has_succeeded_when_its_last_one_has(settings: Settings) -> None:
    first, second = (_run(application(settings), _attempt()) for _ in range(2))
    first.emit(Begun("a job"))
    first.emit(Ended("a job", "succeeded", last=False))
    assert _states(settings) == {"r1": "running"}
    second.emit(Begun("a job"))
    second.emit(Ended("a job", "succeeded"))
    assert _states(settings) == {"r1": "succeeded"}


def test_a_run_that_failed_once_stays_failed_and_tells_no_secret(settings: Settings) -> None:
    recorder = _run(application(settings), _attempt())
    recorder.emit(Begun("a job"))
    recorder.emit(
        Ended("a job", "failed", last=False, step="full_backup", error="could not connect: password pass@word refused")
    )
    recorder.emit(Ended("a job", "succeeded"))
    (row,) = Catalog(settings.catalog_url).attempts("erp")
    assert (row.state, row.step) == ("failed", "full_backup")
    assert row.error is not None and "pass@word" not in row.error
    assert "pass@word" not in str(Catalog(settings.catalog_url).audit("erp"))


@pytest.mark.parametrize(
    ("who", "error_code", "state"),
    [
        ("ops@host", "restore_refused", "refused"),
        ("ops@host", "launch_refused", "refused"),
        ("ops@host", "restore_failed", "failed"),
        ("schedule full_schedule", "settings_error", "failed"),
        ("sensor after_backups", "busy", "failed"),
    ],
)
def test_what_somebody_asked_for_in_vain_is_no_failed_run(
    settings: Settings, who: str, error_code: str, state: str
) -> None:
    recorder = _run(application(settings), replace(_attempt(job="drill"), who=who))
    recorder.emit(Begun("a job"))
    recorder.emit(Ended("a job", "failed", last=False, step="drill", error="it cannot be", error_code=error_code))
    catalog = Catalog(settings.catalog_url)
    assert [row.state for row in catalog.attempts("erp")] == [state]
    assert catalog.audit("erp")[-1].result == f"{state}: it cannot be"
    status = collect(application(settings, catalog=catalog), datetime.now(timezone.utc))
    assert (status.success_rate, [each.state for each in status.attempts]) == (
        None if state == "refused" else 0,
        [state],
    )
    assert any(alert.cause == "job_failed:drill" for alert in status.alerts) == (state == "failed")
    samples = metrics.text(application(settings, catalog=catalog))
    assert f'twist_dr_attempts{{application="erp",job="drill",state="{state}"}} 1.0' in samples


def test_a_restore_that_was_killed_is_told_until_it_is_settled_and_not_later(settings: Settings) -> None:
    catalog, journals = Catalog(settings.catalog_url), FileJournals(settings.restores_dir)
    note = RestoreLog(application(settings, Actor("someone", run_id="r1")), verified=True).note
    note(RestoreRecord("cut", "restore", "replace", "why", "b"))
    journal = Journal(restore_id="cut", kind="restore", application="erp", began_at=NOW, phase="switching")
    journals.save(journal)
    catalog.begin_attempt(_attempt(job="restore"))
    catalog.end_attempt("r1", state="killed")

    def told() -> list[str]:
        reconcile(application(settings), datetime.now(timezone.utc))
        return [row.cause for row in catalog.open_alerts("erp") if row.kind.startswith("restore_")]

    assert told() == ["restore_interrupted:cut"]
    journals.save(journal.model_copy(update={"phase": "reverted"}))
    assert told() == []
    end_killed(application(settings))
    assert told() == []


def test_a_run_that_began_while_the_catalog_did_not_answer_is_recorded_when_it_ends(settings: Settings) -> None:
    _run(application(settings), _attempt()).emit(Ended("a job", "failed", error="it broke"))
    assert _states(settings) == {"r1": "failed"}


@pytest.mark.promise(11)
@pytest.mark.parametrize("job", ["backup_full", ROUTINE_JOB])
def test_without_a_daemon_a_run_tells_that_the_catalog_is_gone_and_why_it_failed_itself(
    tmp_path: Path, job: str
) -> None:
    with webhook() as hook:
        settings = _settings(
            tmp_path,
            f'alerts: {{channels: {{chat: {{url: "{hook.url}"}}}}}}\nmetrics: {{textfile: {tmp_path}/erp.prom}}',
        )
        file = tmp_path / "work" / "catalog.db"
        file.parent.mkdir()
        file.write_bytes(b"this is no database" * 1000)
        for run in ("r1", "r2"):
            recorder = _run(application(settings), _attempt(run, job))
            recorder.emit(Begun("a job"))
            recorder.emit(Ended("a job", "failed", last=False, step="full_backup", error="pass@word was refused"))
        (call,) = hook.calls
        assert call.json["title"] == "[erp] CRITICAL: catalog unavailable"
        assert f"The catalog {file} is damaged" in call.json["message"]
        assert f"{job} failed in step full_backup: *** was refused." in call.json["message"]
    assert 'twist_dr_up{application="erp"} 0' in (tmp_path / "erp.prom").read_text()


def test_a_run_that_failed_because_the_catalog_is_gone_says_so_once(tmp_path: Path) -> None:
    with webhook() as hook:
        settings = _settings(tmp_path, f'alerts: {{channels: {{chat: {{url: "{hook.url}"}}}}}}')
        (tmp_path / "work").mkdir()
        (tmp_path / "work" / "catalog.db").write_bytes(b"this is no database" * 1000)
        with pytest.raises(CatalogUnavailable) as gone:
            Catalog(settings.catalog_url).target_tests()
        _run(application(settings), _attempt()).emit(Ended("a job", "failed", error=str(gone.value)))
        assert hook.calls[0].json["message"].count("is damaged") == 1


def test_the_catalog_that_was_away_when_a_run_began_has_its_alerts_looked_after_when_it_ends(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "work").write_text("a file in the place of the folder")
    recorder = _run(application(settings), _attempt())
    recorder.emit(Begun("a job"))
    (tmp_path / "work").unlink()
    recorder.emit(Ended("a job", "failed", error="it broke"))
    causes = {row.cause for row in Catalog(settings.catalog_url).open_alerts("erp")}
    assert "backup_failed:backup_full" in causes


def test_shipping_every_minute_leaves_a_line_only_when_it_fails_otherwise_and_when_it_works_again(
    settings: Settings,
) -> None:
    minutes = itertools.count()

    def ended(run_id: str, state: str, error: str | None = None) -> None:
        at = NOW + timedelta(minutes=next(minutes))
        recorder = _run(application(settings), replace(_attempt(run_id, ROUTINE_JOB), started_at=at))
        recorder.emit(Begun("a job"))
        recorder.emit(Ended("a job", state, error=error))  # type: ignore[arg-type]

    for number in range(3):
        ended(f"good {number}", "succeeded")
    for number in range(3):
        ended(f"bad {number}", "failed", "office is away")
    ended("other", "failed", "office is full")
    for number in range(3):
        ended(f"again {number}", "succeeded")
    assert set(_states(settings)) == {"bad 0", "other", "again 0"}


def test_runs_that_the_catalog_calls_running_are_settled_by_what_dagster_knows(settings: Settings) -> None:
    catalog = Catalog(settings.catalog_url)
    with dg.DagsterInstance.ephemeral() as instance:
        ids = {}
        for status in ("SUCCESS", "FAILURE", "CANCELED", "STARTED"):
            ids[status] = instance.create_run_for_job(_nothing, status=dg.DagsterRunStatus(status)).run_id
            catalog.begin_attempt(_attempt(ids[status]))
        catalog.begin_attempt(_attempt("lost today"))
        catalog.begin_attempt(replace(_attempt("lost long ago"), started_at=NOW - timedelta(days=3)))
        told = settle_attempts(application(settings), instance)
    states = _states(settings)
    assert {status: states[run_id] for status, run_id in ids.items()} == {
        "SUCCESS": "succeeded", "FAILURE": "failed", "CANCELED": "cancelled", "STARTED": "running",
    }  # fmt: skip
    assert (states["lost today"], states["lost long ago"]) == ("running", "killed")
    assert len(told) == 4


@dg.job
def _nothing() -> None:
    pass


def test_what_is_materialized_by_hand_belongs_to_no_job() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(_nothing)
    assert attempt_of(run, "erp").job == "_nothing"
    by_hand = run._replace(job_name="__ASSET_JOB")  # type: ignore[attr-defined]
    assert attempt_of(by_hand, "erp").job == MATERIALIZED


@pytest.mark.promise(11)
def test_the_heart_beats_only_while_a_proven_backup_is_young_enough(tmp_path: Path) -> None:
    with webhook() as hook:
        settings = _settings(tmp_path, f"alerts: {{heartbeat: {{url: '{hook.http_url}'}}}}")
        catalog = Catalog(settings.catalog_url)
        lines: list[str] = []
        beat = Heartbeat(application(settings, catalog=catalog, report=Report(Lines(warning=lines.append))))
        beat(Proven("b"))
        assert not hook.calls and "older than objectives.recovery_point" in lines[-1]
        _proven(catalog, NOW - timedelta(days=30))
        beat(Proven("b"))
        assert not hook.calls, "an old backup that is proven again is no sign of life"
        _proven(catalog, NOW - timedelta(hours=2))
        beat(Proven("b"))
        assert _beats(hook) == 1


def test_no_proof_fails_because_it_cannot_be_told_how_old_what_is_proven_is(tmp_path: Path) -> None:
    settings = _settings(tmp_path, "alerts: {heartbeat: {url: 'https://beats.example/1'}}")
    catalog, lines = Catalog(settings.catalog_url), list[str]()
    catalog.leave_note("erp", Watched(since=NOW))
    with sqlite3.connect(tmp_path / "work" / "catalog.db") as connection:
        connection.execute("UPDATE marks SET document = '{}'")
    Heartbeat(application(settings, catalog=catalog, report=Report(Lines(warning=lines.append))))(Proven("b"))
    assert lines and "no heartbeat is sent" in lines[0]


def _proven(catalog: Catalog, at: datetime) -> None:
    backup_id = record(catalog, backup_id=new_backup_id("full", at), started_at=at, finished_at=at)
    catalog.record_copy(backup_id, "office", state="checked", form="zstd+enc")
    catalog.record_verification(VerificationRow(backup_id, "office", state="verified", started_at=NOW, seconds=1))


def _beats(hook: Webhook) -> int:
    return len(hook.calls)


def test_secrets_of_the_settings_are_hidden_in_what_others_wrote(settings: Settings) -> None:
    url = settings.database.url.get_secret_value()
    text = leaving(f"no connection to {url}; tried pass%40word and pass@word")
    assert text == f"no connection to {url.replace('pass%40word', '***')}; tried *** and ***"
