"""A catalog that cannot be used says so soon, in one sentence, without its password."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from twist_dr.catalog import Catalog, CatalogLocked, CatalogUnavailable, CatalogUnreachable
from twist_dr.errors import SettingsError
from twist_dr_tests.catalog.examples import record
from twist_dr_tests.servers import PostgresServer, free_port

PASSWORD = "hunter2%2Fsesame"
SECRETS = ("hunter2/sesame", "hunter2%2Fsesame")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twist_dr.catalog.database.LOCK_SECONDS", 0.5)


@contextmanager
def soon(seconds: float = 5) -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


@contextmanager
def holding(path: str, statement: str) -> Iterator[None]:
    """Another user of the SQLite file, in the middle of something."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(statement)
        yield


def test_locked_sqlite_refuses_writing_soon_and_still_reads(sqlite_url: str) -> None:
    catalog = Catalog(sqlite_url)
    backup_id = record(catalog)
    fresh = Catalog(sqlite_url)
    with holding(catalog.place, "BEGIN IMMEDIATE"):
        with soon(), pytest.raises(CatalogLocked, match=f"{catalog.place} is locked by another process") as caught:
            fresh.record_copy(backup_id, "nas", state="stored", form="zstd")
        assert caught.value.retryable
        assert len(fresh.backups(application="erp")) == 1
    fresh.record_copy(backup_id, "nas", state="stored", form="zstd")


def test_locked_sqlite_at_its_first_use(sqlite_url: str) -> None:
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    path.parent.mkdir()
    with holding(str(path), "BEGIN EXCLUSIVE"), soon(), pytest.raises(CatalogLocked):
        Catalog(sqlite_url).target_tests()
    Catalog(sqlite_url).target_tests()


def test_writer_waits_for_a_short_lock(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twist_dr.catalog.database.LOCK_SECONDS", 20)
    catalog = Catalog(sqlite_url)
    backup_id = record(catalog)
    held = threading.Event()

    def other() -> None:
        with holding(catalog.place, "BEGIN IMMEDIATE"):
            held.set()
            time.sleep(0.5)

    thread = threading.Thread(target=other)
    thread.start()
    held.wait(10)
    catalog.record_copy(backup_id, "nas", state="stored", form="zstd")
    thread.join()
    assert catalog.copies(backup_id)[0].state == "stored"


def test_locked_postgres(postgres_url: str) -> None:
    catalog = Catalog(postgres_url)
    backup_id = record(catalog)
    with psycopg.connect(postgres_url) as other:
        other.execute("LOCK TABLE copies")
        with soon(), pytest.raises(CatalogLocked, match="is locked by another process") as caught:
            catalog.record_copy(backup_id, "nas", state="stored", form="zstd")
    assert caught.value.retryable
    catalog.record_copy(backup_id, "nas", state="stored", form="zstd")


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    old = os.umask(0)
    try:
        catalog = Catalog(f"sqlite:///{folder}/catalog.db")
        backup_id = record(catalog)
        # Another reader keeps the journal's files from going away.
        with closing(sqlite3.connect(catalog.place)) as other:
            other.execute("SELECT * FROM backups").fetchall()
            catalog.record_copy(backup_id, "nas", state="stored", form="zstd")
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
            assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    finally:
        os.umask(old)
    assert modes == dict.fromkeys(("catalog.db", "catalog.db-wal", "catalog.db-shm"), 0o600)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    path.write_bytes(b"this is no database, but long enough to be taken for one" * 100)
    with pytest.raises(CatalogUnavailable, match=r"is damaged .*move it away and run: twist-dr catalog rebuild"):
        Catalog(f"sqlite:///{path}").target_tests()


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CatalogUnavailable, match=r"cannot be opened .*see that its folder exists"):
        Catalog(f"sqlite:///{tmp_path}/file/catalog.db").target_tests()


def test_it_works_again_once_repaired(tmp_path: Path) -> None:
    blocker = tmp_path / "folder"
    blocker.touch()
    catalog = Catalog(f"sqlite:///{blocker}/catalog.db")
    with pytest.raises(CatalogUnavailable):
        catalog.target_tests()
    blocker.unlink()
    assert catalog.target_tests() == []


def test_a_file_that_is_lost_is_made_anew_for_its_owner_alone(sqlite_url: str) -> None:
    catalog = Catalog(sqlite_url)
    record(catalog)
    file = Path(catalog.place)
    for path in file.parent.glob("catalog.db*"):
        path.unlink()
    old = os.umask(0)
    try:
        assert catalog.backups(application="erp") == []
    finally:
        os.umask(old)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_no_server(tmp_path: Path) -> None:
    url = f"postgresql://erp:{PASSWORD}@127.0.0.1:{free_port()}/catalog"
    _assert_named(url, CatalogUnreachable, "does not answer")


def test_wrong_password(newest_server: PostgresServer) -> None:
    url = f"postgresql://postgres:{PASSWORD}@127.0.0.1:{newest_server.port}/postgres"
    _assert_named(url, CatalogUnavailable, "refuses us")


def test_password_in_the_query(newest_server: PostgresServer) -> None:
    url = f"postgresql+psycopg:///postgres?user=postgres&host=127.0.0.1&port={newest_server.port}&password={PASSWORD}"
    _assert_named(url, CatalogUnavailable, "refuses us")


def test_no_such_database(newest_server: PostgresServer) -> None:
    with pytest.raises(CatalogUnavailable, match=r"refuses us \(.*nowhere.*; correct catalog.url") as caught:
        Catalog(newest_server.url("nowhere")).target_tests()
    assert not caught.value.retryable


def test_tables_of_another_role(newest_server: PostgresServer, postgres_url: str) -> None:
    record(Catalog(postgres_url))
    with psycopg.connect(newest_server.url(), autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS stranger")
        connection.execute("CREATE ROLE stranger LOGIN PASSWORD 'x'")
    url = newest_server.url(postgres_url.rpartition("/")[2], user="stranger", password="x")
    with pytest.raises(CatalogUnavailable, match=r"permission denied .*owns its tables"):
        Catalog(url).target_tests()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "sesame",
        "sqlite://",
        "sqlite:///catalog.db",
        "sqlite:///:memory:",
        "mysql://erp:sesame@db/catalog",
        "postgresql+psycopg2://erp:sesame@db/catalog",
        "postgresql://erp:pass@sesame@db/catalog",
        "postgresql://erp:sesame@db:port/catalog",
    ],
)
def test_url_that_is_none_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(SettingsError, match=r"catalog\.url") as caught:
        Catalog(url)
    assert "sesame" not in str(caught.value)


def _assert_named(url: str, kind: type[CatalogUnavailable], words: str) -> None:
    catalog = Catalog(url)
    with soon(), pytest.raises(kind, match=words) as caught:
        catalog.target_tests()
    told = "".join(traceback.format_exception(caught.value)) + repr(catalog) + str(vars(catalog)) + catalog.place
    assert not any(secret in told for secret in SECRETS)
    assert "\n" not in str(caught.value)
