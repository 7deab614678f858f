"""A drill restores from each storage target in its turn, measures, and holds the time against the objective."""

from __future__ import annotations

import shutil
from datetime import datetime, timezone
from typing import Any

import dagster as dg
import pytest

from twist_dr.catalog import VerificationRow, notes
from twist_dr.orchestrator.around import APPLICATION
from twist_dr.orchestrator.jobs.drill import drill_job
from twist_dr_tests.orchestrator.jobs.test_backup_base import back_up, source
from twist_dr_tests.orchestrator.jobs.test_backup_base import site as with_wal
from twist_dr_tests.orchestrator.jobs.test_scrub import rot, site, states
from twist_dr_tests.site import Site

__all__ = ["site", "source", "with_wal"]


class Drilled:
    """What a drill came to. ``error`` is what its run failed of; ``shown`` the numbers and texts on its page."""

    def __init__(self, result: dg.ExecuteInProcessResult) -> None:
        failures = [event.step_failure_data for event in result.all_events if event.is_step_failure]
        self.error = "".join(str(each.user_failure_data and each.user_failure_data.description) for each in failures)
        assert bool(self.error) != result.success, failures
        outputs = [event for event in result.all_events if event.is_successful_output]
        self.shown: dict[str, Any] = {
            name: getattr(value, "value", None)
            for event in outputs
            for name, value in event.step_output_data.metadata.items()
        }


def drill(site: Site, **config: Any) -> Drilled:
    """The job, in this process."""
    app = site.app()
    with dg.DagsterInstance.ephemeral() as instance:
        run_config = {"ops": {"drill": {"config": config}}}
        job = drill_job(app.settings)
        done = job.execute_in_process(run_config, instance, resources={APPLICATION: app}, raise_on_error=False)
        return Drilled(done)


def note(site: Site) -> dict[str, Any]:
    noted = site.catalog().note("erp", notes.Drilled)
    return noted.model_dump() if noted else {}


def test_each_target_has_its_turn_and_every_phase_is_measured(site: Site) -> None:
    first = drill(site)
    assert first.error == "" and first.shown["target"] == "office"
    for phase in ("fetch", "restore", "compare"):
        assert first.shown[f"restore_{phase}_seconds"] > 0
    assert first.shown["restore_total_seconds"] == pytest.approx(
        sum(first.shown[f"restore_{phase}_seconds"] for phase in ("fetch", "restore", "compare")), abs=0.01
    )
    way = note(site)["ways"]["restore"]
    assert way["backup_id"] == site.latest().backup_id and way["seconds"] == first.shown["restore_total_seconds"]
    assert note(site)["ok"] is True and note(site)["target"] == "office"
    proven = site.latest().last_verification
    assert proven is not None and (proven.target, proven.verified) == ("office", True)
    used = [row.result for row in site.catalog().audit("erp") if row.action == "use key"]
    assert used[-1] == "verify"
    assert drill(site).shown["target"] == "archive"
    assert drill(site).shown["target"] == "office"
    assert drill(site, target="office").shown["target"] == "office"


def test_a_drill_that_takes_too_long_fails_with_both_times_and_is_recorded(site: Site) -> None:
    site.set(objectives={"recovery_time": "0 seconds"})
    error = drill(site).error
    assert f"the restore of {site.latest().backup_id} took" in error and "objectives.recovery_time is 0 ms" in error
    assert note(site)["ok"] is False and note(site)["ways"]["restore"]["seconds"] > 0
    proven = site.latest().last_verification
    assert proven is not None and proven.verified, "it is slow, and good"
    site.set(objectives={"recovery_time": "1 hour"})
    assert drill(site).error == "" and note(site)["objective_seconds"] == 3600


def test_a_bad_copy_fails_the_drill_and_the_next_one_takes_the_next_target(site: Site) -> None:
    rot(site.stored("office", "database.dump"))
    error = drill(site).error
    assert "its copy of" in error and "is bad" in error and "job scrub" in error
    assert states(site)["office"] == "corrupt" and note(site)["ok"] is False
    assert drill(site).shown["target"] == "archive"


def test_a_target_without_backups_is_passed_over_and_said(site: Site) -> None:
    shutil.rmtree(site.folder / "targets" / "office" / "erp")
    # One that held backups and holds none does not pass for one that never had any.
    assert (
        "The drill from archive went well, but office has no good copy of a full backup, and no other"
        in drill(site).error
    )
    assert note(site)["target"] == "archive" and note(site)["ways"]["restore"]["seconds"] > 0
    site.catalog().record_copy(site.latest().backup_id, "office", state="deleted", form="zstd+enc")
    drilled = drill(site)
    assert drilled.shown["target"] == "archive" and "office holds no full backup" in drilled.shown["notes"]
    assert "no enabled storage target" in drill(site, target="nowhere").error


def test_the_job_runs_as_a_script_runs_it_and_leaves_the_live_database_alone(site: Site) -> None:
    before, databases = site.query("SELECT count(*), sum(hashtext(i::text)) FROM billing_invoice i"), site.databases()
    site.job("drill").expect(0)
    assert site.query("SELECT count(*), sum(hashtext(i::text)) FROM billing_invoice i") == before
    assert site.databases() == databases
    site.stored("archive", "database.dump").unlink()
    assert "The drill from archive failed" in site.job("drill").expect(1).text


def test_with_wal_the_newest_base_is_recovered_to_the_latest_point_too(with_wal: Site) -> None:
    with_wal.backup(targets="office").expect(0)
    back_up(with_wal, targets="office").expect(0)
    drilled = drill(with_wal)
    assert drilled.error == ""
    assert drilled.shown["recovery_fetch_seconds"] > 0 and drilled.shown["recovery_replay_seconds"] > 0
    way = note(with_wal)["ways"]["recovery"]
    assert "-base-" in way["backup_id"] and way["phases"]["replay"] > 0
    catalog = with_wal.catalog()
    (proof,) = catalog.verifications(way["backup_id"])
    assert (proof.verified, proof.target) == (True, "office")
    assert any("none are compared" in line for line in proof.notes)
    now = datetime.now(timezone.utc)
    catalog.record_verification(
        VerificationRow(
            way["backup_id"], "office", state="unverified", started_at=now, seconds=1, differences=("rows",)
        )
    )
    again = drill(with_wal)
    assert again.error == "" and "its last verification found it bad" in again.shown["notes"]
    assert not catalog.verifications(way["backup_id"])[0].verified, "what compares less took back what compares rows"
    assert "recovery" not in (drill(with_wal, recovery=False) and note(with_wal)["ways"])
    targets = with_wal.document["storage_targets"]
    with_wal.set(storage_targets={**targets, "office": {**targets["office"], "wal": False}})
    assert drill(with_wal, target="office").error == ""
    newest = catalog.verifications(way["backup_id"])[0]
    assert newest.verified and not any("none are compared" in line for line in newest.notes), (
        "to its own end, by its rows"
    )
