"""``dagster job execute -j backup_configuration``, as a script runs it, and the way back that docs/configuration-backup.md tells."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from twist_dr.catalog import RestoreRow, SealedBackup
from twist_dr.repository.secrets_file import SecretsFile
from twist_dr.system.processes import run
from twist_dr_tests.helpers import python
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import ROOT, Outcome, Site

#: Restores that go on being recorded, as fast as they can, until killed.
RECORDER = """
import sys
from datetime import datetime, timezone
from twist_dr.catalog import Catalog
from twist_dr_tests.orchestrator.jobs.test_backup_configuration import restore_row
catalog, number = Catalog(sys.argv[1]), 1000
while True:
    catalog.record_restore(restore_row(number))
    number += 1
    if number == 1020:
        print("ready", flush=True)
"""


def restore_row(number: int) -> RestoreRow:
    """A restore that ended well."""
    at = datetime(2026, 11, 20, tzinfo=timezone.utc)
    return RestoreRow(
        restore_id=f"restore-{number:05}", application="erp", kind="restore", mode="sandbox", who="ops@host", reason="drill",
        backup_id=None, undone_id=None, parts=("database",), state="done", started_at=at, finished_at=at, sources=(), passed_over=(),
        verified=True, tables=3, rows=7, files=0, database=None, replaced=(), result="it worked", error=None, seconds={},
        seconds_locked_out=None, recovery_point=None, run_id=None,
    )  # fmt: skip


def back_up(site: Site, **config: Any) -> Outcome:
    return site.job("backup_configuration", {"configuration_backup": {"config": config}} if config else None)


def latest(site: Site) -> SealedBackup:
    row = site.catalog().latest("erp", kind="configuration")
    assert row is not None
    return row


def recover(site: Site, *arguments: str, target: str = "office") -> Outcome:
    return site.cli("recover", "--from-target", f"targets/{target}", "--keyring", "keyring.yaml", *arguments)


def listed(site: Site) -> list[str]:
    """Backups and restores, as ``twist-dr`` tells them."""
    backups = json.loads(site.cli("list", "--json").expect(0).text)
    restores = json.loads(site.cli("restores", "--json", "--limit", "100000").expect(0).text)
    return [each["backup_id"] for each in backups] + [each["restore_id"] for each in restores]


def assert_one_moment(before: list[str], after: list[str]) -> None:
    """What a catalog that came back tells is what it told until some moment of the backup: all of that, and no more."""
    restores = sorted(each for each in after if each.startswith("restore-"))
    assert (
        len(restores) > 20
        and restores == sorted(each for each in before if each.startswith("restore-"))[: len(restores)]
    )
    assert [each for each in after if "-full-" in each] == [each for each in before if "-full-" in each]
    assert not [each for each in after if "-configuration-" in each], "it was recorded only when it was sealed"


@contextmanager
def recording(site: Site) -> Iterator[None]:
    """Another process that writes to the catalog beside the block."""
    with python(RECORDER, site.settings().catalog_url) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield
        assert process.poll() is None


@pytest.mark.usefixtures("as_commands")
@pytest.mark.promise(1, 2)
def test_it_is_encrypted_on_every_target_whatever_the_target_says(site: Site) -> None:
    site.document["storage_targets"]["office"]["encrypt"] = False
    site.document["storage_targets"]["archive"] |= {"encrypt": False, "compression": "none"}
    site.save()
    back_up(site, label="scheduled", reason="every night").expect(0)
    row = latest(site)
    assert (row.kind, row.label, row.reason, row.parts) == (
        "configuration",
        "scheduled",
        "every night",
        ("configuration",),
    )
    assert {copy.target: copy.state for copy in row.copies} == {"office": "checked", "archive": "checked"}
    for target in ("office", "archive"):
        assert site.held(target) == [row.backup_id]
        stored = [path for path in site.stored(target).iterdir() if path.name != "manifest.json"]
        assert len(stored) == 6 and {path.suffix for path in stored} == {".enc"}
        for path in stored:
            content = path.read_bytes()
            assert b"SQLite format 3" not in content and b"SECRET_KEY" not in content and b"k1" not in content[:4]
    assert site.staged() == [], "staging is cleared once every target has its copy"
    assert row.manifest.warnings == []
    assert row.backup_id in site.cli("list").expect(0).text
    shown = site.cli("show", row.backup_id).expect(0).text
    assert "configuration, scheduled, every night" in shown and "catalog.sqlite" in shown
    # The targets are the truth about it, too.
    (site.folder / "work" / "catalog.db").unlink()
    assert "1 backup read from office" in site.cli("catalog", "rebuild", "--from", "office").expect(0).text
    assert row.backup_id in site.cli("list").expect(0).text


@pytest.mark.usefixtures("as_commands")
def test_catalog_history_and_files_come_back_in_a_new_place(site: Site, tmp_path: Path) -> None:
    """The steps of docs/configuration-backup.md, with all lost but a target and the keyring."""
    (site.folder / "workspace.yaml").write_text("load_from: []\n")
    site.settings().secrets_file.set("MAIL", "the-value-of-it")
    site.backup().expect(0)
    site.catalog().record_restore(restore_row(1))
    with recording(site):
        back_up(site).expect(0)
    before = listed(site)
    folder = site.folder / "back"
    told = recover(site, "--backup", "latest-configuration", "--configuration-to", str(folder)).expect(0).text
    assert "docs/configuration-backup.md" in told and folder.stat().st_mode & 0o777 == 0o700
    contents = json.loads((folder / "contents.json").read_text())
    assert contents["catalog"] == str(site.folder / "work" / "catalog.db") and contents["run_logs"] == 2

    files = folder / "files" / str(site.folder).lstrip("/")
    assert (files / "site.conf").read_text() == "SECRET_KEY=configured\n"
    assert (files / "twist-dr.yaml").read_text() == (site.folder / "twist-dr.yaml").read_text()
    assert (files / "dagster" / "dagster.yaml").read_bytes() == (ROOT / "dagster.yaml").read_bytes()
    assert (files / "workspace.yaml").read_text() == "load_from: []\n"
    assert SecretsFile(files / "secrets.yaml", "erp", str(site.keyring_path)).reader()("MAIL") == "the-value-of-it"
    assert not list(folder.rglob("keyring*")), "under its own lock it would be of no use"

    # The catalog: what happened until then is there, in one piece.
    shutil.rmtree(site.folder / "work")
    (site.folder / "work").mkdir()
    shutil.copyfile(folder / "catalog.sqlite", site.folder / "work" / "catalog.db")
    after = listed(site)
    assert_one_moment(before, after)

    # Dagster: the runs, and what they told.
    home = tmp_path / "new-home"
    shutil.copytree(folder / "dagster", home)
    shutil.copyfile(files / "dagster" / "dagster.yaml", home / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        runs = {each.job_name: each.run_id for each in instance.get_runs()}
        assert set(runs) == {"backup_full", "backup_configuration"}
        assert instance.get_run_stats(runs["backup_full"]).steps_succeeded == 2
        assert instance.get_latest_materialization_event(dg.AssetKey(["erp", "full_backup"])) is not None
    site.variables["DAGSTER_HOME"] = str(home)
    back_up(site).expect(0)


@pytest.mark.usefixtures("as_commands")
def test_a_catalog_and_a_history_in_postgresql_come_back(site: Site, newest_server: PostgresServer) -> None:
    names = {what: f"{what}_{os.getpid()}" for what in ("kept", "kept_back", "history", "history_back")}
    for name in names.values():
        newest_server.create_database(name)
    site.set(catalog={"url": "${CATALOG_URL}"})
    site.variables["CATALOG_URL"] = newest_server.url(names["kept"])
    document = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    url = newest_server.url(names["history"]).replace("postgresql://", "postgresql+psycopg2://")
    document["storage"] = {"postgres": {"postgres_url": {"env": "HISTORY_URL"}}}
    site.variables["HISTORY_URL"] = url
    (site.folder / "dagster" / "dagster.yaml").write_text(yaml.safe_dump(document))
    site.catalog().record_restore(restore_row(1))
    with recording(site):
        log = back_up(site).expect(0).text
    password = url.split(":")[2].split("@")[0]
    assert password not in log
    names_of = {artifact.name for artifact in latest(site).manifest.artifacts}
    assert {"catalog.dump", "dagster.dump"} <= names_of and not names_of & {"catalog.sqlite", "dagster.tar"}
    assert latest(site).manifest.warnings == []
    before = listed(site)

    folder = site.folder / "back"
    recover(site, "--backup", "latest-configuration", "--configuration-to", str(folder)).expect(0)
    assert password not in (folder / "contents.json").read_text()
    for dump, name in (("catalog.dump", "kept_back"), ("dagster.dump", "history_back")):
        run(
            [newest_server.tools.program("pg_restore"), "--exit-on-error", f"--dbname={names[name]}", folder / dump],
            environment=newest_server.cluster().environment(),
        )
    site.variables["CATALOG_URL"] = newest_server.url(names["kept_back"])
    after = listed(site)
    assert_one_moment(before, after)
    site.variables["HISTORY_URL"] = url.replace(names["history"], names["history_back"])
    back_up(site).expect(0)
    with newest_server.cluster(names["history_back"]).connect() as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchall() == [(2,)]
    for name in names.values():
        with newest_server.cluster().connect() as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.mark.promise(7)
def test_a_target_that_fails_stops_no_other_and_is_repaired_by_itself(site: Site) -> None:
    (site.folder / "targets" / "archive").write_text("in the way")
    failed = back_up(site).expect(1).text
    assert (
        "is missing on 1 of 2 storage targets. archive:" in failed and "key:erp/configuration_copies/archive" in failed
    )
    row = latest(site)
    assert {copy.target: copy.state for copy in row.copies} == {"office": "checked", "archive": "failed"}
    assert site.held("office") == [row.backup_id] and site.staged() == [row.backup_id]
    (site.folder / "targets" / "archive").unlink()
    site.materialize("erp", "configuration_copies", "archive").expect(0)
    assert site.held("archive") == [row.backup_id] and site.staged() == []


@pytest.mark.promise(10)
def test_a_configured_file_that_cannot_be_read_is_no_backup(site: Site) -> None:
    site.set(configuration=[str(site.folder / "site.conf"), "/proc/self/mem"])
    assert "/mem cannot be read (Input/output error)" in back_up(site).expect(1).text
    assert site.held("office") == [] and site.staged() == []


def test_it_is_never_taken_for_a_full_backup(site: Site) -> None:
    back_up(site).expect(0)
    row = latest(site)
    assert "No storage target that answers holds a full backup" in site.verify().expect(1).text
    assert "knows no full backup of erp" in site.replace().expect(1).text
    refused = site.replace(backup=row.backup_id).expect(1).text
    assert "is a configuration backup, and this job restores full ones" in refused
    assert "--configuration-to FOLDER" in refused
    assert "holds no full backup of erp" in recover(site, "--check", "latest").expect(1).text
    assert "holds no database" in recover(site, "--backup", row.backup_id, "--dump-to", "dump").expect(1).text
    assert "Configuration backups:" in recover(site).expect(0).text


@pytest.mark.usefixtures("as_commands")
@pytest.mark.promise(4)
def test_a_copy_gone_bad_is_found_and_passed_over(site: Site) -> None:
    back_up(site).expect(0)
    row = latest(site)
    site.verify(backup="latest-configuration").expect(0)
    stored = site.stored("office", "dagster.tar")
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 1
    stored.write_bytes(content)
    assert "dagster.tar" in recover(site, "--check", "latest-configuration").expect(1).text
    assert "is good" in recover(site, "--check", "latest-configuration", target="archive").expect(0).text
    told = site.verify(backup="latest-configuration").expect(1).text
    assert (
        "is verified from archive, but its copy on office is bad" in told
        and "key:erp/configuration_copies/office" in told
    )
    states = {copy.target: copy.state for copy in site.catalog().copies(row.backup_id)}
    assert states == {"office": "corrupt", "archive": "checked"}
    verified = site.catalog().verifications(row.backup_id)[0]
    assert (verified.state, verified.target, verified.files) == (
        "verified",
        "archive",
        sum(row.manifest.files.values()),
    )
    # It proves nothing about the data.
    assert site.catalog().latest_verified("erp") is None
    with dg.DagsterInstance.from_config(str(site.folder / "dagster")) as instance:
        assert instance.get_latest_materialization_event(dg.AssetKey(["erp", "verification"])) is None


def test_a_history_in_memory_is_a_warning_and_no_failure(site: Site) -> None:
    environment = {**os.environ, **site.environment}
    del environment["DAGSTER_HOME"]
    program = (
        "from twist_dr.definitions import defs; import dagster as dg, sys; "
        "done = defs.get_job_def('backup_configuration').execute_in_process(instance=dg.DagsterInstance.ephemeral()); "
        "sys.exit(not done.success)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment, cwd=site.folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    row = latest(site)
    assert ["keeps its history in memory" in warning for warning in row.manifest.warnings] == [True]
    assert (
        "warning: dagster: the instance keeps its history in memory" in site.cli("show", row.backup_id).expect(0).text
    )
