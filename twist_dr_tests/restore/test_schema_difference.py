"""A schema is compared by what is authentic, within bounds, or it is said why not."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from twist_dr.backup.storing import store_copy
from twist_dr.backup.take import BackupPlan, take_full_backup
from twist_dr.postgres.cluster import Cluster
from twist_dr.repository.repository import Repository
from twist_dr.repository.sources import Sources
from twist_dr.repository.staging import StagingArea
from twist_dr.repository.streams import Form
from twist_dr.restore import schema_difference
from twist_dr.restore.schema_difference import SchemaDifference, backup_schema, compared, live_schema
from twist_dr.storage.local import LocalTarget
from twist_dr.system.progress import Lines, Report
from twist_dr_tests.helpers import KEYRING
from twist_dr_tests.servers import PostgresServer

FORMS = {"plain": Form("zstd", False), "sealed": Form("zstd", True)}


class Shop:
    """A live database, and a backup of it on a target that encrypts and one that does not."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.said: list[str] = []
        self.run("CREATE TABLE invoice AS SELECT generate_series(1, 1000) AS id")
        staging = StagingArea(folder / "staging" / "erp")
        plan = BackupPlan("erp", parts=("database",), targets=FORMS)
        self.manifest = take_full_backup(plan, cluster, KEYRING, staging, Report())
        with staging.using(self.manifest.backup_id) as staged:
            for name, form in FORMS.items():
                store_copy(self.manifest, staged, self.repository(name), form, Report())
        self.run("ALTER TABLE invoice ADD COLUMN note text")

    def run(self, statement: str) -> None:
        with self.cluster.connect() as connection:
            connection.execute(statement.encode())

    def repository(self, name: str) -> Repository:
        return Repository(LocalTarget(name, self.folder / name), "erp")

    def spoil(self, name: str, place: int) -> None:
        """Change one byte of a target's dump."""
        (path,) = (self.folder / name / "erp" / "backups" / self.manifest.backup_id).glob("database.dump*")
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)

    def compared(self, *names: str) -> SchemaDifference:
        places = [self.repository(name) for name in names]
        sources = Sources(self.manifest.backup_id, places, KEYRING, Report(Lines(warning=self.said.append)))
        return compared(lambda: backup_schema(sources), lambda: live_schema(self.cluster, [], 0))


@pytest.fixture
def shop(newest_server: PostgresServer, tmp_path: Path) -> Iterator[Shop]:
    yield Shop(newest_server.create_database("compared"), tmp_path)


@pytest.mark.promise(4)
@pytest.mark.parametrize(("spoilt", "good", "place"), [("plain", "sealed", -1), ("sealed", "plain", 1000)])
def test_of_a_copy_that_is_not_genuine_nothing_is_used(shop: Shop, spoilt: str, good: str, place: int) -> None:
    (change,) = shop.compared(spoilt).changes
    assert (change.what, change.name, change.after) == ("came", "public.invoice.note", "text")
    shop.spoil(spoilt, place)
    assert [each.name for each in shop.compared(spoilt, good).changes] == ["public.invoice.note"]
    assert shop.said and f"passed over {spoilt}" in shop.said[0]
    alone = shop.compared(spoilt)
    assert alone.changes == () and "could not be compared" in alone.doubts[0]


def test_a_large_copy_that_is_not_encrypted_is_not_read_whole_to_compare(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_difference, "_MOST_STORED", 100)
    assert "is not encrypted" in shop.compared("plain").doubts[0]
    assert shop.compared("sealed").changes


def test_a_live_schema_that_is_locked_or_large_is_given_up_in_time_and_said(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop.cluster.connect(autocommit=False) as migration:
        migration.execute("LOCK TABLE invoice IN ACCESS EXCLUSIVE MODE")
        with monkeypatch.context() as patched:
            patched.setattr(schema_difference, "_LOCK_WAIT_SECONDS", 1)
            assert "could not be compared: pg_dump failed" in shop.compared("sealed").doubts[0]
        with monkeypatch.context() as patched:
            patched.setattr(schema_difference, "_MOST_SECONDS", 0.5)
            patched.setattr(schema_difference, "_LOCK_WAIT_SECONDS", 600)
            assert "could not be read within" in shop.compared("sealed").doubts[0]
        migration.rollback()
    monkeypatch.setattr(schema_difference, "_MOST_DEFINITIONS", 100)
    assert "too large to be compared" in shop.compared("sealed").doubts[0]


def test_a_live_server_that_hangs_is_given_up_too(
    shop: Shop, newest_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pg_dump that is asked to end tells the server so, and waits for an answer. Here it ends only when it is made to."""
    monkeypatch.setattr(schema_difference, "_MOST_SECONDS", 1.0)
    monkeypatch.setattr(schema_difference, "_GRACE_SECONDS", 0.5)
    monkeypatch.setattr(schema_difference, "_LOCK_WAIT_SECONDS", 600)
    postmaster = int((newest_server.data / "postmaster.pid").read_text().split()[0])
    ended: list[int | None] = []
    end = schema_difference._end

    def ending(process: subprocess.Popen[bytes], late: threading.Event) -> None:
        os.kill(postmaster, signal.SIGSTOP)
        try:
            end(process, late)
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            ended.append(process.returncode)
        finally:
            os.kill(postmaster, signal.SIGCONT)

    monkeypatch.setattr(schema_difference, "_end", ending)
    with shop.cluster.connect(autocommit=False) as migration:
        migration.execute("LOCK TABLE invoice IN ACCESS EXCLUSIVE MODE")
        assert "could not be read within" in shop.compared("sealed").doubts[0]
    assert ended == [-signal.SIGKILL]
