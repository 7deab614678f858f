"""The log of restores: nothing in it goes on for ever, and nothing about it comes in the way of a restore."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from twist_dr.catalog import Catalog
from twist_dr.restore.from_settings import RestoreLog, end_killed
from twist_dr.restore.journal import FileJournals, Journal, Journals, Phase
from twist_dr.restore.record import RestoreRecord
from twist_dr.settings import Application
from twist_dr.system.progress import Lines, Report
from twist_dr_tests.site import Site

NOW = datetime(2026, 11, 21, 14, 0, tzinfo=timezone.utc)


def running(app: Application, restore_id: str, mode: str = "replace") -> None:
    record = RestoreRecord(restore_id, "restore", mode, "why", "b")  # type: ignore[arg-type]
    RestoreLog(app, verified=True).note(record)


def journal(journals: Journals, restore_id: str, phase: Phase) -> None:
    journals.save(Journal(restore_id=restore_id, kind="restore", application="erp", began_at=NOW, phase=phase))


@pytest.fixture
def app(tmp_path: Path) -> Application:
    (tmp_path / "media").mkdir()
    return Site(tmp_path, "postgresql://nobody@127.0.0.1:1/erp", tmp_path / "media").app()


def test_a_killed_restore_does_not_run_for_ever_in_the_log(app: Application) -> None:
    journals, catalog = FileJournals(app.settings.restores_dir), app.catalog
    for restore_id, mode in (("switched", "replace"), ("taken-back", "replace"), ("early", "sandbox"), ("plan", "plan"), ("ours", "replace")):  # fmt: skip
        running(app, restore_id, mode)
    journal(journals, "switched", "done")
    journal(journals, "taken-back", "reverted")
    end_killed(app, but="ours")
    states = {row.restore_id: row.state for row in catalog.restores("erp")}
    assert states == {"switched": "done", "taken-back": "settled", "early": "settled", "plan": "running", "ours": "running"}  # fmt: skip
    row = catalog.restore("erp", "taken-back")
    assert (
        row is not None
        and row.finished_at is not None
        and "what was live stayed live" in row.result
        and row.error is None
    )


def test_whatever_the_catalog_raises_stops_no_restore(app: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a cutover and its health check above all."""

    def fail(*arguments: object) -> None:
        raise RuntimeError("a defect of the index")

    monkeypatch.setattr(Catalog, "record_restore", fail)
    warnings: list[str] = []
    app.__dict__["report"] = Report(Lines(warning=warnings.append))
    log = RestoreLog(app, verified=True)
    record = RestoreRecord("r", "restore", "replace", "why", "b")
    log.note(record)
    log.note(record)
    assert warnings == ["the log of restores was not written: a defect of the index"]
