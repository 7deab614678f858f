"""What we lean on in Dagster, much of which is not public: when an upgrade breaks one of these, look before raising the bound."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from twist_dr.orchestrator.around import reap_dead_runs
from twist_dr_tests.site import ROOT, Site


@pytest.fixture
def definitions(site: Site, monkeypatch: pytest.MonkeyPatch) -> dg.Definitions:
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    site.set(wal={"source": "receive"})
    # The module reads the settings when it is first imported.
    from twist_dr.definitions import build_definitions

    return build_definitions(site.app())


def test_a_repository_can_be_made_of_the_definitions(definitions: dg.Definitions) -> None:
    # Names of steps, jobs and graphs share one space, and only this finds a clash: the page loads a repository.
    dg.Definitions.validate_loadable(definitions)
    repository = definitions.get_repository_def()
    assert {job.name for job in repository.get_all_jobs()} >= {"backup_full", "verify_backup", "test_storage_targets"}


def test_lineage_runs_from_the_application_over_the_copies_to_the_proof(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    backup = dg.AssetKey(["erp", "full_backup"])
    assert {key.path[-1] for key in graph.get(backup).parent_keys} == {"database", "media", "configuration"}
    assert graph.get(backup).child_keys == {dg.AssetKey(["erp", "copies", name]) for name in ("office", "archive")}
    assert graph.get(dg.AssetKey(["erp", "copies", "office"])).child_keys == {dg.AssetKey(["erp", "verification"])}


def test_every_asset_has_a_group_and_a_place_in_the_lineage(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    groups: dict[str, set[str]] = {}
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        groups.setdefault(node.group_name, set()).add(key.path[1])
        assert node.parent_keys or node.child_keys, key
    assert groups.pop("application") == {"database", "media", "configuration"} and groups.pop("status") == {"report"}
    assert groups.pop("full_backups") == {"full_backup", "copies", "verification"}
    for name, assets in groups.items():  # of what the settings say
        kind = name.removesuffix("_backups")
        assert assets == ({"wal_archive"} if name == "write_ahead_log" else {f"{kind}_backup", f"{kind}_copies"})


def test_every_definition_names_the_permission_that_launching_it_needs(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    allowed = {f"team:system_{right}_backup" for right in ("run", "download", "restore", "configure")}
    for key in graph.materializable_asset_keys:
        assert set(graph.get(key).owners) <= allowed and graph.get(key).owners, key
    jobs = [job for job in definitions.resolve_all_job_defs() if not job.name.startswith("__")]
    assert len(jobs) >= 6
    for job in jobs:
        assert job.owners and set(job.owners) <= allowed, job.name
        # Nothing is ever launched again by itself, a restore least of all.
        assert job.tags["dagster/max_retries"] == "0", job.name
    assert definitions.resolve_job_def("restore").owners == ["team:system_restore_backup"]
    assert definitions.resolve_job_def("undo_restore").owners == ["team:system_restore_backup"]
    assert definitions.resolve_job_def("restore_to_time").owners == ["team:system_restore_backup"]
    for sensor in definitions.sensors or ():
        assert sensor.owners and set(sensor.owners) <= allowed, sensor.name


def test_recovery_to_a_point_is_there_exactly_where_wal_is_archived(definitions: dg.Definitions, site: Site) -> None:
    from twist_dr.definitions import build_definitions

    def names(of: dg.Definitions) -> set[str]:
        return {job.name for job in of.resolve_all_job_defs()}

    del site.document["wal"]
    site.save()
    without = build_definitions(site.app())
    assert names(definitions) - names(without) == {"backup_base", "ship_wal", "restore_to_time"}
    archived = {key for key in definitions.resolve_asset_graph().materializable_asset_keys if "wal_archive" in key.path}
    assert archived == {dg.AssetKey(["erp", "wal_archive", name]) for name in ("office", "archive")}


def test_run_config_cannot_redirect_a_backup(site: Site) -> None:
    elsewhere = site.folder / "elsewhere"
    site.resources["application"] = {"config": {"path": str(elsewhere), "catalog_url": "sqlite:////tmp/elsewhere"}}
    site.backup(reason="redirected?").expect(0)
    assert len(site.held("office")) == 1 and not elsewhere.exists()


def test_the_launchpad_is_prefilled_with_every_setting(definitions: dg.Definitions) -> None:
    job = definitions.resolve_job_def("backup_full")
    config = dg.validate_run_config(job, {})
    assert config["ops"]["full_backup"]["config"] == {"label": "manual", "reason": "", "parts": "all", "targets": "all"}
    restore = dg.validate_run_config(definitions.resolve_job_def("restore"), {})["ops"]["restore"]["config"]
    assert (restore["mode"], restore["backup"], restore["source"]) == ("plan", "latest-verified", "any")
    recovery = dg.validate_run_config(definitions.resolve_job_def("restore_to_time"), {})["ops"]["restore_to_time"][
        "config"
    ]
    assert (recovery["mode"], recovery["to"], recovery["confirm"]) == ("plan", "latest", "")
    assert (restore["allow_unverified"], restore["pre_restore_backup"], restore["confirm"]) == (False, True, "")


@pytest.mark.parametrize("path", sorted((ROOT / "deploy" / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_the_example_run_configs_are_valid(definitions: dg.Definitions, path: Path) -> None:
    # Each begins with the command that uses it.
    named = re.search(r"-j (\w+) -c (\S+)", path.read_text())
    assert named is not None and named[2] == f"deploy/examples/{path.name}"
    job = definitions.resolve_job_def(named[1])
    assert dg.validate_run_config(job, yaml.safe_load(path.read_text()))


def test_loading_touches_neither_database_nor_targets_nor_keyring(site: Site) -> None:
    site.keyring_path.unlink()
    site.database_url = "postgresql://nobody@127.0.0.1:1/none"
    before = sorted(site.folder.rglob("*"))
    program = "import twist_dr.definitions as d; d.defs.get_repository_def()"
    subprocess.run([sys.executable, "-c", program], env={**os.environ, **site.environment}, check=True, cwd=site.folder)
    assert sorted(path for path in site.folder.rglob("*") if "__pycache__" not in path.parts) == before


@pytest.mark.usefixtures("as_commands")
def test_mistakes_in_the_settings_are_what_a_script_sees(site: Site) -> None:
    site.document["storage_targets"]["office"]["pfad"] = "typo"
    site.document["database"] = {}
    site.save()
    text = site.backup().expect(1).text
    assert (
        "storage_targets.office.pfad: unknown key" in text and "database.url: expected a value, found nothing" in text
    )


def test_a_run_whose_process_is_gone_is_marked_and_one_at_work_is_left_alone() -> None:
    from twist_dr.orchestrator.around import _PROCESS_TAG, _process_mark

    machine, process, started = _process_mark().rsplit(" ", 2)
    gone = subprocess.Popen(["true"])
    gone.wait()
    marks = {
        "alive": f"{machine} {process} {started}",
        "elsewhere": f"another-host boot namespace {gone.pid} 1",
        "other container": f"{machine.rsplit(' ', 1)[0]} pid:[1] {gone.pid} 1",
        "dead": f"{machine} {gone.pid} 1",
        "its id used again": f"{machine} {process} 1",
        "rebooted": f"{machine.split()[0]} another-boot pid:[1] 1 1",
    }
    with dg.DagsterInstance.ephemeral() as instance:
        status = dg.DagsterRunStatus.STARTED
        runs = {
            name: instance.create_run_for_job(_nothing, status=status, tags={_PROCESS_TAG: mark})
            for name, mark in marks.items()
        }
        reap_dead_runs(instance)
        found = {name: instance.get_run_by_id(run.run_id) for name, run in runs.items()}
        failed = {name for name, run in found.items() if run and run.status == dg.DagsterRunStatus.FAILURE}
    assert failed == {"dead", "its id used again", "rebooted"}


@dg.job
def _nothing() -> None:
    pass


def test_the_instance_file_is_one_that_dagster_accepts(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_bytes((ROOT / "dagster.yaml").read_bytes())
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        # The queued one would let a launch from the page wait for ever where no daemon runs.
        assert "Queued" not in type(instance.run_coordinator).__name__
        assert not instance.run_retries_enabled and not instance.telemetry_enabled
