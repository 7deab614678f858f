"""One table of what can be launched: jobs derive from it, scripts call it without the orchestrator, and each asks who may."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import dagster as dg
import pytest

from twist_dr.cli import wal
from twist_dr.cli.output import report
from twist_dr.errors import KeyringInvalid, PermissionMissing
from twist_dr.operations.restoring import recorded
from twist_dr.operations.table import JOBS, OPERATIONS, REBUILD_CATALOG, RECEIVE_WAL
from twist_dr.orchestrator.around import _safely
from twist_dr.restore.from_settings import RestoreLog
from twist_dr.restore.record import RestoreRecord
from twist_dr.settings import Actor
from twist_dr.settings.actor import ALL_PERMISSIONS
from twist_dr.system.events import Event, Shown
from twist_dr_tests.site import Site


@pytest.fixture
def bare_site(tmp_path: Path) -> Site:
    """A site whose database nobody asks."""
    (tmp_path / "media").mkdir()
    return Site(tmp_path, "postgresql://nobody@127.0.0.1:1/erp", tmp_path / "media")


def definitions(site: Site, monkeypatch: pytest.MonkeyPatch, actor: Actor | None = None) -> dg.Definitions:
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    site.set(wal={"source": "receive"})
    from twist_dr.definitions import build_definitions

    return build_definitions(site.app(actor))


def test_every_job_has_the_name_the_permission_and_the_settings_of_its_operation(
    bare_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    defs = definitions(bare_site, monkeypatch)
    jobs = {job.name: job for job in defs.resolve_all_job_defs() if not job.name.startswith("__")}
    assert set(jobs) == {operation.name for operation in JOBS}
    for operation in JOBS:
        name = operation.name
        assert jobs[name].owners == [f"team:{operation.permission}"], name
        assert jobs[name].description == operation.does, name
        told = dg.validate_run_config(jobs[name], {})["ops"]
        steps = told.values()
        taken = [step["config"] for step in steps if step["config"]]
        assert taken == [operation.config().model_dump()] * bool(operation.config.model_fields), name
        if not jobs[name].asset_layer.executable_asset_keys:
            assert list(told) == [name]


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_nobody_launches_what_the_own_permissions_do_not_allow(bare_site: Site, name: str) -> None:
    operation = OPERATIONS[name]
    lesser = Actor("eva", ALL_PERMISSIONS - {operation.permission})
    before = sorted(bare_site.folder.rglob("*"))
    with pytest.raises(PermissionMissing, match=f"eva may not launch {name}; ask somebody .* {operation.permission}"):
        operation(bare_site.app(lesser), operation.config())
    assert sorted(bare_site.folder.rglob("*")) == before


def test_a_run_on_behalf_of_somebody_who_may_not_is_refused_and_audited(
    bare_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    defs = definitions(bare_site, monkeypatch, Actor("eva", ALL_PERMISSIONS - {"system_restore_backup"}))
    with dg.DagsterInstance.ephemeral() as instance:
        done = defs.resolve_job_def("restore").execute_in_process(instance=instance, raise_on_error=False)
    assert not done.success
    (attempt,) = bare_site.catalog().attempts("erp")
    assert (attempt.state, attempt.error_code) == ("refused", "permission_missing")
    assert "may not launch restore" in bare_site.catalog().audit("erp")[-1].result


@pytest.mark.promise(9)
def test_a_script_backs_up_and_proves_without_the_orchestrator(site: Site) -> None:
    program = (
        "import sys; sys.modules['dagster'] = None\n"
        "from twist_dr.system.progress import Lines, Report\n"
        "from twist_dr.operations.table import OPERATIONS\n"
        "from twist_dr.settings import open_application\n"
        "app = open_application(Report(Lines(print, print)))\n"
        "def launch(name, **told):\n"
        "    operation = OPERATIONS[name]\n"
        "    return operation(app, operation.config(**told))\n"
        "made = launch('backup_full', targets='office', reason='by a script')\n"
        "found = launch('verify_backup', backup=made.backup_id)\n"
        "rehearsed = launch('drill', target='office')\n"
        "print('proven:', found.result.verified, list(rehearsed.ways))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **site.environment}, capture_output=True, text=True
    )
    assert "proven: True ['restore']" in done.stdout, done.stdout + done.stderr
    (row,) = site.catalog().backups(application="erp")
    assert row.reason == "by a script" and row.last_verification is not None and row.last_verification.verified
    assert site.held("office") == [row.backup_id] and site.held("archive") == []


def test_what_is_launched_on_the_terminal_alone_leaves_its_lines_in_the_audit_log(bare_site: Site) -> None:
    bare_site.set(wal={"source": "receive"})
    app = bare_site.app()
    app.report.stop.set()  # received is nothing, for it is stopped before it begins
    RECEIVE_WAL(app, RECEIVE_WAL.config())
    REBUILD_CATALOG(app, REBUILD_CATALOG.config(target="office"))
    bare_site.keyring_path.unlink()
    with pytest.raises(KeyringInvalid):
        REBUILD_CATALOG(bare_site.app(), REBUILD_CATALOG.config(target="office"))
    assert [(line.action, line.subject, line.result) for line in bare_site.catalog().audit("erp")] == [
        ("receive WAL", "twist_dr_erp", "begun"),
        ("receive WAL", "twist_dr_erp", "done"),
        ("rebuild catalog", "from office", "done"),
        ("rebuild catalog", "from office", "failed: KeyringInvalid"),
    ]


def test_nobody_ships_on_the_terminal_whom_the_own_permissions_do_not_allow_to(
    bare_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare_site.set(wal={"source": "receive"})
    lesser = bare_site.app(Actor("eva", ALL_PERMISSIONS - {"system_run_backup"}))
    monkeypatch.setattr("twist_dr.settings.open_application", lambda report: lesser)
    with pytest.raises(PermissionMissing, match="eva may not launch ship_wal"):
        wal._ship(Namespace(follow=False))


def test_a_restore_that_is_interrupted_is_in_the_audit_log_and_on_the_page(bare_site: Site) -> None:
    app, told = bare_site.app(), list[Event]()
    app.report.add(told.append)
    record = RestoreRecord("20261121T020000Z-restore-0001", "restore", "replace", "a try")
    with pytest.raises(KeyboardInterrupt), recorded(app, record, RestoreLog(app, verified=True)):
        raise KeyboardInterrupt
    assert [(line.action, line.subject, line.result) for line in bare_site.catalog().audit("erp")] == [
        ("restore", record.restore_id, "failed: ended by KeyboardInterrupt")
    ]
    assert told[-1] == Shown(record)


@pytest.mark.parametrize("wrong", [OSError(errno.ENOSPC, "No space left on device"), BrokenPipeError(), UnicodeError()])
def test_a_line_that_cannot_be_written_ends_nothing_that_was_begun_on_the_terminal(
    monkeypatch: pytest.MonkeyPatch, wrong: Exception
) -> None:
    def write(text: str) -> int:
        raise wrong

    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "write", write)
    told = report(Namespace())
    told.info("reverted")
    told.warning("a file is left")

    def log(line: str) -> None:
        raise wrong

    _safely(log)("reverted")
