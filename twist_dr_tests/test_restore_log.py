"""The log of restores: nothing in it goes on for ever, and nothing about it comes in the way of a restore."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from twist_dr.catalog import Catalog
from twist_dr.engine.progress import Report
from twist_dr.engine.restore.journal import Journal, Journals, Phase
from twist_dr.engine.restore.record import Record
from twist_dr.restores import RestoreLog, end_killed

NOW = datetime(2026, 11, 21, 14, 0, tzinfo=timezone.utc)


def running(catalog: Catalog, restore_id: str, mode: str = "replace") -> None:
    record = Record(restore_id, "restore", mode, "why", "b")  # type: ignore[arg-type]
    RestoreLog(catalog, "erp", None, Report(), verified=True).note(record)


def journal(journals: Journals, restore_id: str, phase: Phase) -> None:
    journals.save(Journal(restore_id=restore_id, kind="restore", application="erp", began_at=NOW, phase=phase))


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(f"sqlite:///{tmp_path}/catalog.db")


def test_a_killed_restore_does_not_run_for_ever_in_the_log(catalog: Catalog, tmp_path: Path) -> None:
    journals = Journals(tmp_path / "journals")
    for restore_id, mode in (("switched", "replace"), ("taken-back", "replace"), ("early", "sandbox"), ("plan", "plan"), ("ours", "replace")):  # fmt: skip
        running(catalog, restore_id, mode)
    journal(journals, "switched", "done")
    journal(journals, "taken-back", "reverted")
    end_killed(catalog, "erp", journals, Report(), but="ours")
    states = {row.restore_id: row.state for row in catalog.restores("erp")}
    assert states == {"switched": "done", "taken-back": "settled", "early": "settled", "plan": "running", "ours": "running"}  # fmt: skip
    row = catalog.restore("erp", "taken-back")
    assert (
        row is not None
        and row.finished_at is not None
        and "what was live stayed live" in row.result
        and row.error is None
    )


def test_whatever_the_catalog_raises_stops_no_restore(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a cutover and its health check above all."""

    def fail(*arguments: object) -> None:
        raise RuntimeError("a defect of the index")

    monkeypatch.setattr(Catalog, "record_restore", fail)
    warnings: list[str] = []
    log = RestoreLog(catalog, "erp", None, Report(warning=warnings.append), verified=True)
    record = Record("r", "restore", "replace", "why", "b")
    log.note(record)
    log.note(record)
    assert warnings == ["the log of restores was not written: a defect of the index"]
