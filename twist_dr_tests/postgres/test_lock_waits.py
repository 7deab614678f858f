"""A lock that a backup or a recovery waits for is named with who holds it, and given up in time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import twist_dr.postgres.lock_waits as lock_waits
from twist_dr.backup.take import BackupPlan, take_full_backup
from twist_dr.errors import DatabaseError, LockTimeout
from twist_dr.postgres.cluster import Cluster, count_rows, named_errors, read_tables
from twist_dr.postgres.lock_waits import watched_locks
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.staging import StagingArea
from twist_dr.repository.streams import Form
from twist_dr.system.progress import Lines, Report
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.helpers import KEYRING, wait_until
from twist_dr_tests.servers import PostgresServer


@pytest.fixture(scope="module", params=sorted(TOOLS, reverse=True), ids=lambda major: f"pg{major}")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server that takes prepared transactions."""
    settings = {"fsync": "off", "max_prepared_transactions": "5"}
    with PostgresServer(TOOLS[request.param], tmp_path_factory.mktemp("locks"), settings=settings) as running:
        yield running


@pytest.fixture
def shop(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(lock_waits, "_LOOK_SECONDS", 0.1)
    cluster = server.create_database("shop")
    with cluster.connect() as connection:
        connection.execute('CREATE TABLE "an invoice" AS SELECT 1 AS id')
    return cluster


def back_up(cluster: Cluster, folder: Path, lock_timeout: float, report: Report) -> Manifest:
    plan = BackupPlan(
        application="shop", targets={"office": Form("zstd", True)}, parts=("database",), lock_timeout=lock_timeout
    )
    return take_full_backup(plan, cluster, KEYRING, StagingArea(folder / "staging"), report)


def test_a_backup_names_the_session_that_locks_a_table_and_gives_up_in_time(shop: Cluster, tmp_path: Path) -> None:
    told: list[str] = []
    with shop.connect(autocommit=False) as other:
        other.execute('LOCK TABLE "an invoice"')
        with pytest.raises(LockTimeout) as given_up:
            back_up(shop, tmp_path, 1, Report(Lines(warning=told.append)))
        holder = other.info.backend_pid
    named = [line for line in told if "held by" in line]
    for words in (*named, str(given_up.value)):
        assert f"public.an invoice (AccessShareLock) is held by session {holder} (role postgres, twist-dr" in words
        assert "idle in transaction, in a transaction for" in words
        assert f"SELECT pg_terminate_backend({holder})" in words
    assert len(named) == 1 and "Given up after 1.0 s" in str(given_up.value)
    assert not list((tmp_path / "staging").glob("*full*"))


def test_a_lock_that_is_given_up_soon_costs_a_backup_no_more_than_the_wait(shop: Cluster, tmp_path: Path) -> None:
    told: list[str] = []
    other = shop.connect(autocommit=False)
    other.execute('LOCK TABLE "an invoice"')

    def told_of(line: str) -> None:
        told.append(line)
        # Ended by the one who was told of it.
        if "held by" in line:
            other.rollback()

    try:
        manifest = back_up(shop, tmp_path, 60, Report(Lines(warning=told_of)))
    finally:
        other.close()
    assert list(manifest.tables.values()) == [1]
    assert [line for line in told if "held by" in line]


def test_a_prepared_transaction_that_holds_a_lock_is_named_with_how_to_end_it(shop: Cluster) -> None:
    told: list[str] = []
    with shop.connect(autocommit=False) as other:
        other.execute('ALTER TABLE "an invoice" ADD COLUMN paid bool')
        other.execute("PREPARE TRANSACTION 'month''s end'")
    try:
        with (
            pytest.raises(LockTimeout, match="ROLLBACK PREPARED 'month''s end'"),
            watched_locks(shop, Report(Lines(warning=told.append)), timeout=0.5),
            shop.connect() as connection,
        ):
            tables = read_tables(connection)
            try:
                count_rows(connection, tables)
            except Exception as error:
                raise DatabaseError("counting ended") from error
    finally:
        with shop.connect() as connection:
            connection.execute("ROLLBACK PREPARED 'month''s end'")
    assert "held by the prepared transaction month's end of postgres, pending for" in told[0]


def test_a_watch_without_a_session_tries_again(shop: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks on must not make fail what it looks at, and what it could not see at first it sees later."""
    told: list[str] = []
    connect, refused = Cluster.connect, [True, True]

    def sometimes(cluster: Cluster, *of: object, **how: object) -> object:
        if threading.current_thread().name == "lock waits" and refused:
            refused.pop()
            raise DatabaseError("too many connections")
        return connect(cluster, *of, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Cluster, "connect", sometimes)
    with (
        shop.connect(autocommit=False) as other,
        watched_locks(shop, Report(Lines(warning=told.append)), timeout=60),
        shop.connect() as waiting,
    ):
        other.execute('LOCK TABLE "an invoice"')
        thread = threading.Thread(target=lambda: waiting.execute('SELECT * FROM "an invoice"').fetchall())
        thread.start()
        wait_until(lambda: bool(told), "the wait is told")
        other.rollback()
        thread.join()
    assert not refused


def test_what_waited_before_a_watch_began_is_not_given_up_with_it(shop: Cluster) -> None:
    """A backup that waits has its own patience, whoever asks the doctor meanwhile, and somebody's own pg_dump is not ours to end."""
    rows: list[object] = []
    with shop.connect(autocommit=False) as other, shop.connect() as backup:
        other.execute('LOCK TABLE "an invoice"')
        thread = threading.Thread(target=lambda: rows.extend(backup.execute('SELECT * FROM "an invoice"').fetchall()))
        thread.start()
        with (
            pytest.raises(LockTimeout),
            watched_locks(shop, Report(), timeout=0.5),
            shop.connect() as connection,
            named_errors("to look"),
        ):
            connection.execute('SELECT * FROM "an invoice"')
        other.rollback()
        thread.join()
    assert rows == [(1,)]
