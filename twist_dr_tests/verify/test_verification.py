"""A good backup is proven wherever it was taken and whichever tools took it, and a long restore tells how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from twist_dr.backup import take as backup
from twist_dr.backup.storing import store_copy
from twist_dr.backup.take import BackupPlan, take_full_backup
from twist_dr.postgres.cluster import Cluster
from twist_dr.postgres.comparison import compare_database
from twist_dr.postgres.tools import Tools
from twist_dr.postgres.verification_place import VerificationPlan
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.repository import Repository
from twist_dr.repository.sources import OneCopy
from twist_dr.repository.staging import StagingArea
from twist_dr.repository.streams import Form
from twist_dr.restore.pipeline import restore_progress
from twist_dr.storage.local import LocalTarget
from twist_dr.system import progress
from twist_dr.system.progress import Lines, Report
from twist_dr.verify.verification import VerificationResult, restore_and_compare
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.helpers import KEYRING, wait_until
from twist_dr_tests.postgres.test_dump_internals import keeps_internals
from twist_dr_tests.servers import PostgresServer

FORM = Form("zstd", True)
NEWEST = TOOLS[max(TOOLS)]


def taken(cluster: Cluster, folder: Path) -> tuple[Manifest, Repository]:
    """A backup of the database, stored."""
    staging = StagingArea(folder / "staging" / "erp")
    plan = BackupPlan("erp", parts=("database",), targets={"office": FORM})
    manifest = take_full_backup(plan, cluster, KEYRING, staging, Report())
    repository = Repository(LocalTarget("office", folder / "office"), "erp")
    with staging.using(manifest.backup_id) as staged:
        store_copy(manifest, staged, repository, FORM, Report())
    return manifest, repository


def verified(cluster: Cluster, manifest: Manifest, repository: Repository, folder: Path) -> VerificationResult:
    plan = VerificationPlan(scratch=folder / "scratch", live=cluster)
    return restore_and_compare(plan, OneCopy(manifest, repository, KEYRING), Report())


def test_a_backup_taken_by_newer_tools_than_its_server_is_verified(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = server.create_database("newer_tools")
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE t AS SELECT generate_series(1, 10) AS id")

    def only_the_newest(folders: Sequence[Path] = ()) -> list[Tools]:
        return [NEWEST]

    with monkeypatch.context() as patched:
        patched.setattr(backup, "find_tools", only_the_newest)
        manifest, repository = taken(cluster, tmp_path)
    assert manifest.postgres is not None and manifest.postgres.client_version == NEWEST.version
    result = verified(cluster, manifest, repository, tmp_path)
    assert result.differences == []
    assert bool([note for note in result.notes if "pg_attver was left out" in note]) == keeps_internals(server)
    assert result.server_version is not None and result.server_version.startswith(str(NEWEST.major))


def test_a_backup_of_a_standby_is_verified_though_unlogged_tables_come_back_empty(
    newest_server: PostgresServer, tmp_path: Path
) -> None:
    cluster = newest_server.create_database("unlogged")
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS id; CREATE UNLOGGED TABLE cache (k text)")
    manifest, _ = taken(cluster, tmp_path)
    facts = manifest.postgres
    assert facts is not None
    without = manifest.model_copy(update={"tables": {"public.kept": 1}})
    standby = without.model_copy(update={"postgres": facts.model_copy(update={"in_recovery": True})})
    with cluster.connect() as connection:
        assert compare_database(connection, standby, Report()).differences == []
        differences = compare_database(connection, without, Report()).differences
    assert differences == ["table public.cache was restored but not recorded"]


def test_a_long_restore_tells_how_far_it_is_and_never_fails_for_it(
    newest_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY_SECONDS", 0.0)
    lines: list[str] = []
    cluster = newest_server.cluster()
    with restore_progress(cluster, "postgres", 4_000_000_000, Report(Lines(lines.append)), every=0.01):
        wait_until(lambda: len(lines) > 1, "two lines of progress")
    assert lines[0].startswith("restoring: ") and " MB of about 4.0 GB, about " in lines[0] and " left, " in lines[0]
    said = len(lines)
    with restore_progress(
        replace(cluster, url="postgresql://x@127.0.0.1:1/x"), "x", 1, Report(Lines(lines.append)), every=0
    ):
        pass
    assert len(lines) == said


def test_a_whole_verification_tells_how_far_the_restore_is(
    newest_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = newest_server.create_database("progress")
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE t AS SELECT generate_series(1, 200000) AS id; CREATE INDEX ON t (id)")
    manifest, repository = taken(cluster, tmp_path)
    lines: list[str] = []
    monkeypatch.setattr(progress, "LOG_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(restore_progress.__wrapped__, "__defaults__", (0.01,))
    plan = VerificationPlan(scratch=tmp_path / "scratch", live=cluster)
    restore_and_compare(plan, OneCopy(manifest, repository, KEYRING), Report(Lines(lines.append)))
    assert any(line.startswith("restoring: ") for line in lines)
