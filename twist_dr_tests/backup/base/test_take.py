"""Taking base backups of real servers: what comes out can be recovered from, and what cannot be taken is said by name."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from twist_dr.backup.base import restore_point
from twist_dr.backup.base.restore_point import make_restore_point
from twist_dr.backup.base.take import Parent
from twist_dr.backup.storing import store_copy
from twist_dr.doctor.findings import DoctorFinding
from twist_dr.doctor.wal import check_wal_server
from twist_dr.errors import (
    BackupError,
    ClientToolsMissing,
    DatabaseRefused,
    DatabaseRightsMissing,
    DatabaseUnreachable,
    WalNotShipped,
)
from twist_dr.postgres.checksums import compare_checksums
from twist_dr.postgres.cluster import Cluster
from twist_dr.postgres.lsn import parse_lsn
from twist_dr.postgres.tools import Tools
from twist_dr.postgres.unprivileged import unprivileged
from twist_dr.repository.repository import Repository
from twist_dr.system.progress import Report
from twist_dr_tests.backup.base.clusters import PLAIN, Bases, started, verify
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.helpers import KEYRING, next_line, python, runs, wait_until
from twist_dr_tests.primaries import Primary
from twist_dr_tests.servers import PostgresServer


@pytest.fixture
def bases(open_folder: Path) -> Bases:
    return Bases(open_folder)


@pytest.fixture(scope="module", params=sorted(TOOLS, reverse=True), ids=lambda major: f"pg{major}")
def archiving(request: pytest.FixtureRequest) -> Iterator[Primary]:
    """A server with segments as they usually are, and checksums where its version has them by itself."""
    folder = Path(tempfile.mkdtemp(prefix="twist-dr-archiving-"))
    folder.chmod(0o755)
    with Primary(
        TOOLS[request.param], folder, segment_mb=16, checksums=False, max_prepared_transactions="0"
    ) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def erp(archiving: Primary) -> Cluster:
    """A database with a table that holds rows."""
    cluster = archiving.create_database("erp")
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE invoice (id bigserial PRIMARY KEY, note text)")
        connection.execute("INSERT INTO invoice (note) SELECT 'invoice' FROM generate_series(1, 1000)")
    return cluster


def recovered(server: Primary, data: Path, point: str) -> PostgresServer:
    """A server that replayed the archive up to a restore point and stands there."""
    (data / "recovery.signal").touch()
    return started(
        server, data, archive_mode="off", restore_command=f"cp {server.archive}/%f %p",
        recovery_target_name=point, recovery_target_action="pause",
    )  # fmt: skip


def count(cluster: Cluster, table: str = "invoice") -> int:
    with cluster.connect() as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchall()[0][0])


def test_what_comes_back_out_of_the_artifacts_is_what_postgresql_verifies(
    archiving: Primary, erp: Cluster, bases: Bases
) -> None:
    manifest = bases.take(erp)
    assert verify(archiving, bases.unpack(manifest, "restored")) == ""
    base, facts = manifest.base, manifest.postgres
    assert base is not None and facts is not None
    assert (manifest.kind, manifest.parts) == ("base", ["cluster"])
    assert {artifact.name for artifact in manifest.artifacts} == {"base.tar", "backup_manifest", "server.json"}
    assert (base.chain, base.parent) == ([manifest.backup_id], None)
    assert parse_lsn(base.start_lsn) < parse_lsn(base.stop_lsn) < parse_lsn(base.restore_point_lsn or "")
    assert base.started_at < base.stopped_at
    assert (base.timeline, base.wal_segment_size, base.from_standby) == (1, 16 << 20, False)
    assert base.data_checksums == (archiving.major >= 18)
    assert base.cluster_settings["max_connections"] == 100
    assert bases.warnings == manifest.warnings == []


def test_base_backups_are_encrypted_even_for_a_target_that_asks_for_none(erp: Cluster, bases: Bases) -> None:
    manifest = bases.take(erp)
    folder = bases.folder / "office" / "erp" / "backups" / manifest.backup_id
    names = {path.name for path in folder.iterdir()}
    assert names == {"base.tar.zst.enc", "backup_manifest.zst.enc", "server.json.zst.enc", "manifest.json"}


def test_the_recorded_rows_and_checksums_are_exactly_those_at_the_restore_point_while_others_write(
    archiving: Primary, erp: Cluster, bases: Bases
) -> None:
    with writing(erp, sessions=3):
        manifest = bases.take(erp, checksums=True)
    assert manifest.warnings == []
    base = manifest.base
    assert base is not None and base.restore_point is not None
    data = bases.unpack(manifest, "restored")
    with recovered(archiving, data, base.restore_point) as server:
        with server.cluster("erp").connect() as connection:
            replayed = connection.execute("SELECT pg_last_wal_replay_lsn()::text").fetchall()[0][0]
            # While it is paused, a server hides what was being committed when the base began; promoted, it shows all.
            connection.execute("SELECT pg_promote()")
        assert 1000 < count(server.cluster("erp")) == manifest.tables["public.invoice"] < count(erp)
        with server.cluster("erp").connect() as connection:
            assert base.checksums.keys() == manifest.tables.keys()
            assert compare_checksums(connection, base.checksums) == []
            connection.execute("UPDATE invoice SET id = -1 WHERE id = (SELECT max(id) FROM invoice)")
            differences = compare_checksums(connection, base.checksums)
        assert differences == ["table public.invoice: its rows are not those of the restore point, though as many"]
    assert parse_lsn(replayed) == parse_lsn(base.restore_point_lsn or "")


def test_a_commit_that_is_in_the_log_and_not_yet_seen_is_never_miscounted(
    archiving: Primary, erp: Cluster, bases: Bases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that waits for a standby is in the WAL before the restore point, and in no snapshot: a recovery would have its row."""
    monkeypatch.setattr(restore_point, "_SECONDS", 0.5)
    with waiting_for_a_standby(archiving, erp):
        manifest = bases.take(erp)
    assert manifest.base is not None and manifest.base.restore_point is None
    assert manifest.tables == {}
    assert len(manifest.warnings) == 1 and "no rows are recorded" in manifest.warnings[0]


def test_a_transaction_that_was_left_open_does_not_keep_rows_from_being_counted(erp: Cluster, bases: Bases) -> None:
    with erp.connect(autocommit=False) as forgotten:
        forgotten.execute("INSERT INTO invoice (note) VALUES ('never committed')")
        manifest = bases.take(erp)
        forgotten.rollback()
    assert manifest.tables == {"public.invoice": 1000}


def test_an_unlogged_table_is_not_counted_and_named(erp: Cluster, bases: Bases) -> None:
    with erp.connect() as connection:
        connection.execute("CREATE UNLOGGED TABLE cache AS SELECT 1 AS id")
    manifest = bases.take(erp)
    assert manifest.tables == {"public.invoice": 1000}
    assert manifest.warnings == ["cluster: public.cache is unlogged, so it comes back empty from a base backup"]


def test_a_role_that_may_not_make_restore_points_is_told_and_the_base_is_good(
    archiving: Primary, erp: Cluster, bases: Bases
) -> None:
    with role(archiving, "replicator", "REPLICATION") as cluster:
        manifest = bases.take(cluster)
    assert verify(archiving, bases.unpack(manifest, "restored")) == ""
    assert manifest.tables == {}
    told = [warning for warning in manifest.warnings if "GRANT EXECUTE ON FUNCTION pg_create_restore_point" in warning]
    assert len(told) == 1 and "in the database postgres" in told[0]


def test_grants_in_the_maintenance_database_outlive_every_restore_and_are_enough(
    archiving: Primary, erp: Cluster, bases: Bases
) -> None:
    rights = "REPLICATION BYPASSRLS IN ROLE pg_read_all_data, pg_monitor"
    functions = "pg_create_restore_point(text), pg_switch_wal()"
    with role(archiving, "archiver", rights) as cluster, archiving.cluster("postgres").connect() as superuser:
        superuser.execute(f"GRANT EXECUTE ON FUNCTION {functions} TO archiver".encode())
        assert [each.found for each in _about_grants(cluster)] == []
        archiving.create_database("erp")  # as a restore leaves it: another database of that name
        with archiving.cluster("erp").connect() as connection:
            connection.execute("CREATE TABLE invoice AS SELECT n FROM generate_series(1, 7) AS n")
        manifest = bases.take(cluster)
        superuser.execute(f"REVOKE EXECUTE ON FUNCTION {functions} FROM archiver".encode())
        assert manifest.tables == {"public.invoice": 7} and not manifest.warnings
        assert manifest.base is not None and manifest.base.restore_point is not None
        # Where earlier versions asked for it: used as long as it lasts, and said.
        with archiving.cluster("erp").connect() as connection:
            connection.execute(f"GRANT EXECUTE ON FUNCTION {functions} TO archiver".encode())
            assert make_restore_point(cluster, "old place", "18", print) is not None
            told = [each.found for each in _about_grants(cluster)]
            assert len(told) == 2 and all("application's database alone" in each for each in told)
            connection.execute(f"REVOKE EXECUTE ON FUNCTION {functions} FROM archiver".encode())


def _about_grants(cluster: Cluster) -> list[DoctorFinding]:
    findings = check_wal_server(cluster, "archive", "slot", [], "database.url")
    return [each for each in findings if "GRANT EXECUTE" in (each.remedy or "")]


def test_server_json_says_what_the_files_do_not(archiving: Primary, erp: Cluster, bases: Bases) -> None:
    manifest = bases.take(erp)
    document = json.loads(bases.repository.read_small(manifest, "server.json", KEYRING))
    settings = {each["name"]: each["setting"] for each in document["settings"]}
    assert settings["archive_mode"] == "on" and "fsync" in settings
    extensions = {each["name"]: each.get("extensions") for each in document["databases"]}
    assert [extension["name"] for extension in extensions["erp"]] == ["plpgsql"]
    assert "template0" in extensions and extensions["template0"] is None
    assert document["files"] == [], "what lies in the data directory is in base.tar"


def test_configuration_files_outside_the_data_directory_are_recorded(
    newest_server: PostgresServer, bases: Bases
) -> None:
    folder = bases.folder / "etc"
    folder.mkdir()
    (folder / "pg_hba.conf").write_text("host all,replication all 127.0.0.1/32 scram-sha-256\n# from etc\n")
    with PostgresServer(newest_server.tools, bases.folder / "pg", settings={"fsync": "off", "hba_file": str(folder / "pg_hba.conf")}) as server:  # fmt: skip
        manifest = bases.take(server.create_database("erp"))
    document = json.loads(bases.repository.read_small(manifest, "server.json", KEYRING))
    assert [(each["path"], "# from etc" in each["text"]) for each in document["files"]] == [
        (str(folder / "pg_hba.conf"), True)
    ]


def test_a_tablespace_becomes_a_tar_of_its_own(archiving: Primary, erp: Cluster, bases: Bases) -> None:
    with tablespace(archiving, bases.folder / "far") as oid:
        with erp.connect() as connection:
            connection.execute("CREATE TABLE archive TABLESPACE far AS SELECT generate_series(1, 5000) AS id")
        manifest = bases.take(erp)
        with erp.connect() as connection:
            connection.execute("DROP TABLE archive")
    assert {artifact.name for artifact in manifest.artifacts} == {
        "base.tar",
        f"{oid}.tar",
        "backup_manifest",
        "server.json",
    }
    assert verify(archiving, bases.unpack(manifest, "restored")) == ""
    assert manifest.base is not None
    (recorded,) = manifest.base.tablespaces
    assert (recorded.oid, recorded.name, recorded.location) == (oid, "far", str(bases.folder / "far"))
    assert (recorded.size or 0) > 100_000
    assert manifest.tables["public.archive"] == 5000
    staged = {path.name for path in bases.staging.folder(manifest.backup_id).iterdir()}
    assert "plain" not in staged, "what lay plain in staging is gone"


@pytest.mark.promise(1)
def test_a_copy_whose_target_lacks_the_log_is_no_backup_and_goes_on_later(
    newest_server: PostgresServer, bases: Bases
) -> None:
    def lacks(repository: Repository) -> None:
        raise WalNotShipped(f"{repository.target.name} does not hold the WAL yet")

    manifest = bases.take(newest_server.create_database("unshipped"), stored=False)
    with bases.staging.using(manifest.backup_id) as staged:
        with pytest.raises(WalNotShipped):
            store_copy(manifest, staged, bases.repository, PLAIN, Report(), before_sealed=lacks)
        assert not bases.repository.has_manifest(manifest.backup_id)
        store_copy(manifest, staged, bases.repository, PLAIN, Report(), before_sealed=lambda repository: None)
    assert bases.repository.has_manifest(manifest.backup_id)


# -- incremental -------------------------------------------------------------------------------------------------------


def test_an_incremental_base_holds_what_changed_and_combines_with_its_parent(
    archiving: Primary, erp: Cluster, bases: Bases
) -> None:
    if archiving.major < 17:
        pytest.skip("incremental base backups came with version 17")
    first = bases.take(erp)
    with erp.connect() as connection:
        connection.execute("INSERT INTO invoice (note) SELECT 'later' FROM generate_series(1, 500)")
    second = bases.take(erp, type="auto", parent=Parent(first, bases.fetched_manifest(first, "parent")))
    assert second.warnings == []
    assert second.base is not None and first.base is not None
    assert (second.base.parent, second.base.chain) == (first.backup_id, [first.backup_id, second.backup_id])
    assert second.plain_bytes < first.plain_bytes / 2
    assert second.tables["public.invoice"] == 1500
    links = [bases.unpack(manifest, manifest.backup_id) for manifest in (first, second)]
    combined = bases.folder / "combined"
    subprocess.run(
        [archiving.tools.program("pg_combinebackup"), *links, "-o", combined, "--manifest-checksums=CRC32C"],
        check=True, capture_output=True,
    )  # fmt: skip
    assert verify(archiving, combined) == ""


def test_a_differential_base_builds_upon_the_full_one_alone_and_an_incremental_one_upon_it(
    archiving: Primary, erp: Cluster, bases: Bases
) -> None:
    def add(rows: int) -> None:
        with erp.connect() as connection:
            connection.execute("INSERT INTO invoice (note) SELECT 'later' FROM generate_series(1, %s)", (rows,))

    full = bases.take(erp)
    parent = Parent(full, bases.fetched_manifest(full, "full"))
    if archiving.major < 17:
        asked = bases.take(erp, type="differential", parent=parent)
        assert asked.base is not None and asked.base.sort == "full"
        assert len(asked.warnings) == 1 and "takes no incremental ones" in asked.warnings[0]
        return
    add(10)
    first = bases.take(erp, type="incremental", parent=parent)
    add(200)
    differential = bases.take(erp, type="differential", parent=parent)
    add(3000)
    on_it = Parent(differential, bases.fetched_manifest(differential, "differential"))
    last = bases.take(erp, type="incremental", parent=on_it)
    chains = [(full,), (full, first), (full, differential), (full, differential, last)]
    for chain, sort in zip(chains, ("full", "incremental", "differential", "incremental"), strict=True):
        newest = chain[-1]
        assert newest.base is not None and newest.base.sort == sort and not newest.warnings
        assert newest.base.chain == [each.backup_id for each in chain]
        assert newest.base.parent == (chain[-2].backup_id if chain[:-1] else None)
    for number, chain in enumerate(chains[1:]):
        links = [bases.unpack(each, f"{number}/{each.backup_id}") for each in chain]
        combined = bases.folder / f"combined-{number}" / "data"
        combined.parent.mkdir()
        subprocess.run(
            [archiving.tools.program("pg_combinebackup"), *links, "-o", combined, "--manifest-checksums=CRC32C"],
            check=True, capture_output=True,
        )  # fmt: skip
        assert verify(archiving, combined) == ""
        assert chain[-1].base is not None and chain[-1].base.restore_point is not None
        with recovered(archiving, combined, chain[-1].base.restore_point) as server:
            assert count(server.cluster("erp")) == chain[-1].tables["public.invoice"] == (1010, 1210, 4210)[number]


def test_without_the_summaries_that_the_parent_needs_a_full_one_is_taken_and_said(
    archiving: Primary, erp: Cluster, bases: Bases
) -> None:
    if archiving.major < 17:
        pytest.skip("incremental base backups came with version 17")
    first = bases.take(erp)
    with erp.connect() as connection:
        connection.execute("INSERT INTO invoice (note) VALUES ('later')")
        connection.execute("CHECKPOINT")
    bases.take(erp)
    for summary in (archiving.base / "data" / "pg_wal" / "summaries").iterdir():
        summary.unlink()
    second = bases.take(erp, type="incremental", parent=Parent(first, bases.fetched_manifest(first, "parent")))
    assert second.base is not None and second.base.parent is None and second.base.chain == [second.backup_id]
    (warning,) = second.warnings
    assert (
        "a full base backup is taken, because the server refused an incremental one: WAL summaries are required"
        in warning
    )
    assert verify(archiving, bases.unpack(second, "restored")) == ""


def test_a_server_that_does_not_summarize_its_wal_gives_a_full_one(newest_server: PostgresServer, bases: Bases) -> None:
    cluster = newest_server.create_database("unsummarized")
    first = bases.take(cluster)
    parent = Parent(first, bases.fetched_manifest(first, "parent"))
    asked = bases.take(cluster, type="incremental", parent=parent)
    assert asked.base is not None and asked.base.parent is None
    assert len(asked.warnings) == 1 and "set summarize_wal = on" in asked.warnings[0]
    assert bases.take(cluster, type="auto", parent=parent).warnings == []


def test_a_parent_of_another_cluster_is_not_built_upon(archiving: Primary, erp: Cluster, bases: Bases) -> None:
    if archiving.major < 17:
        pytest.skip("incremental base backups came with version 17")
    with PostgresServer(archiving.tools, bases.folder / "other", settings={"fsync": "off"}) as other:
        foreign = bases.take(other.create_database("erp"))
    second = bases.take(erp, parent=Parent(foreign, bases.fetched_manifest(foreign, "parent")))
    assert second.base is not None and second.base.parent is None
    assert len(second.warnings) == 1 and "system identifier" in second.warnings[0]


# -- a standby ---------------------------------------------------------------------------------------------------------


def test_a_standby_can_be_the_source_and_that_no_rows_are_recorded_is_said(
    archiving: Primary, erp: Cluster, bases: Bases
) -> None:
    data = bases.unpack(bases.take(erp), "standby")
    (data / "standby.signal").touch()
    with started(archiving, data, archive_mode="off", primary_conninfo=archiving.url()) as standby:
        manifest = bases.take(standby.cluster("erp"))
    assert manifest.base is not None and manifest.base.from_standby and manifest.base.restore_point is None
    assert manifest.tables == {}
    assert len(manifest.warnings) == 1 and "taken from a standby" in manifest.warnings[0]
    assert verify(archiving, bases.unpack(manifest, "restored")) == ""


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_role_without_the_right_to_replicate_is_refused_with_the_remedy(
    archiving: Primary, erp: Cluster, bases: Bases
) -> None:
    with (
        role(archiving, "auditor") as cluster,
        pytest.raises(DatabaseRightsMissing, match="ALTER ROLE auditor REPLICATION"),
    ):
        bases.take(cluster)
    assert bases.staging.sealed() == bases.staging.incomplete() == []


def test_a_server_with_the_least_wal_is_refused(newest_server: PostgresServer, bases: Bases) -> None:
    settings = {"fsync": "off", "wal_level": "minimal", "max_wal_senders": "0"}
    with (
        PostgresServer(newest_server.tools, bases.folder / "pg", settings=settings) as server,
        pytest.raises(BackupError, match=r"set wal_level = replica in postgresql\.conf and restart"),
    ):
        bases.take(server.create_database("erp"))


def test_a_server_whose_wal_senders_are_taken_is_asked_again_later(newest_server: PostgresServer, bases: Bases) -> None:
    with PostgresServer(
        newest_server.tools, bases.folder / "pg", settings={"fsync": "off", "max_wal_senders": "1"}
    ) as server:
        cluster = server.create_database("erp")
        with psycopg.connect(server.url(), replication="true"), pytest.raises(DatabaseUnreachable, match="has no free WAL sender") as raised:  # fmt: skip
            bases.take(cluster)
    assert raised.value.retryable


def test_a_server_that_admits_nobody_for_replication_is_named_with_the_line_to_add(
    newest_server: PostgresServer, bases: Bases
) -> None:
    hba = bases.folder / "pg_hba.conf"
    hba.write_text("host all all 127.0.0.1/32 scram-sha-256\n")
    with PostgresServer(
        newest_server.tools, bases.folder / "pg", settings={"fsync": "off", "hba_file": str(hba)}
    ) as server:
        cluster = server.create_database("erp")
        with pytest.raises(DatabaseRefused, match=r"lets nobody in for replication.*add a line to pg_hba\.conf"):
            bases.take(cluster)
    assert bases.staging.sealed() == bases.staging.incomplete() == []


def test_client_tools_without_pg_basebackup_are_named(
    erp: Cluster, bases: Bases, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from twist_dr.backup.base import server

    monkeypatch.setattr(server, "find_tools", lambda folders: [Tools(tmp_path, 18, "18.6", False)])
    with pytest.raises(ClientToolsMissing, match="No pg_basebackup was found beside PostgreSQL's client tools"):
        bases.take(erp)


def test_a_damaged_page_fails_the_backup_and_names_the_file(newest_server: PostgresServer, bases: Bases) -> None:
    cluster = newest_server.create_database("damaged")
    with cluster.connect() as connection:
        if connection.execute("SHOW data_checksums").fetchall()[0][0] != "on":
            pytest.skip("this server was made without page checksums")
        connection.execute("CREATE TABLE invoice AS SELECT generate_series(1, 1000) AS id")
        # Or a hint that somebody's look leaves on a page has the server write it again, over the damage.
        connection.execute("ALTER TABLE invoice SET (autovacuum_enabled = off)")
        connection.execute("VACUUM (FREEZE) invoice")
        connection.execute("CHECKPOINT")
        path = connection.execute("SELECT pg_relation_filepath('invoice')").fetchall()[0][0]
    with open(newest_server.base / "data" / path, "r+b") as file:
        file.seek(8192 + 5000)
        file.write(os.urandom(100))
    try:
        with pytest.raises(BackupError, match=f"{path} have wrong checksums: the live database is damaged"):
            bases.take(cluster)
        assert bases.staging.sealed() == bases.staging.incomplete() == []
    finally:
        newest_server.create_database("damaged")


@pytest.mark.promise(8)
def test_a_base_backup_killed_in_the_middle_leaves_nothing_that_lists_and_no_process(
    erp: Cluster, bases: Bases
) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from twist_dr.backup.base import program, tar_tap
from twist_dr.backup.base.take import BasePlan, take_base_backup
from twist_dr.postgres.cluster import Cluster
from twist_dr.system.progress import Report
from twist_dr.repository.staging import StagingArea
from twist_dr.repository.streams import Form
from twist_dr_tests.helpers import KEYRING
children = []
real = program.Child.__init__
def noted(self, *arguments, **options):
    real(self, *arguments, **options)
    children.append(self.process.pid)
program.Child.__init__ = noted
def killed(self, chunk):
    print(children[-1], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
tar_tap.TarTap.feed = killed
plan = BasePlan("erp", targets={"office": Form("zstd", True)}, parts=("cluster",))
take_base_backup(plan, Cluster(sys.argv[1]), KEYRING, StagingArea(Path(sys.argv[2])), Report())
"""
    with python(code, erp.url, bases.staging.root) as process:
        child = int(next_line(process))
        process.wait(30)
    wait_until(lambda: not runs(child), "pg_basebackup to end with its maker")
    assert bases.staging.sealed() == [] and len(bases.staging.incomplete()) == 1
    manifest = bases.take(erp)
    assert bases.staging.sealed() == [manifest.backup_id] and bases.staging.incomplete() == []


# -- helpers -----------------------------------------------------------------------------------------------------------


@contextmanager
def writing(cluster: Cluster, sessions: int) -> Iterator[None]:
    """Sessions that insert and delete rows, some in autocommit, some in transactions, as fast as every few milliseconds."""
    stop = threading.Event()

    def write(seed: int) -> None:
        chance = random.Random(seed)
        with cluster.connect() as connection:
            while not stop.is_set():
                with connection.transaction():
                    connection.execute("INSERT INTO invoice (note) SELECT 'load' FROM generate_series(1, 3)")
                    if chance.random() < 0.3:
                        connection.execute(
                            "DELETE FROM invoice WHERE id = (SELECT min(id) FROM invoice WHERE note = 'load')"
                        )
                time.sleep(chance.uniform(0, 0.02))

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(sessions)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        # The load goes on a little, so that more is written after the restore point.
        time.sleep(0.2)
        stop.set()
        for thread in threads:
            thread.join()


@contextmanager
def waiting_for_a_standby(server: PostgresServer, cluster: Cluster) -> Iterator[None]:
    """A commit that stands in the WAL and waits for a synchronous standby that never answers."""

    def reload(names: str) -> None:
        with server.cluster().connect() as connection:
            connection.execute("SET synchronous_commit = local")
            connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'".encode())
            connection.execute("SELECT pg_reload_conf()")

    def commit() -> None:
        with suppress(psycopg.Error), cluster.connect() as connection:
            connection.execute("INSERT INTO invoice (note) VALUES ('committed, and not yet seen')")

    def waits() -> bool:
        with server.cluster().connect() as connection:
            return bool(connection.execute("SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'").fetchall())

    reload("nobody")
    thread = threading.Thread(target=commit)
    try:
        time.sleep(0.2)
        thread.start()
        wait_until(waits, "a commit to wait for a standby")
        yield
    finally:
        reload("")
        thread.join()


@contextmanager
def role(server: PostgresServer, name: str, rights: str = "") -> Iterator[Cluster]:
    """A role of few rights, connected to the database erp."""
    with server.cluster().connect() as connection:
        connection.execute(f"DROP ROLE IF EXISTS {name}".encode())
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret' {rights}".encode())
    yield Cluster(server.url("erp", name, "secret"))
    with server.cluster().connect() as connection:
        connection.execute(f"DROP ROLE {name}".encode())


@contextmanager
def tablespace(server: PostgresServer, place: Path) -> Iterator[int]:
    """A tablespace called far, by its OID."""
    place.mkdir()
    user, group = unprivileged()
    if user is not None:
        os.chown(place, user, group or -1)
    with server.cluster().connect() as connection:
        connection.execute(f"CREATE TABLESPACE far LOCATION '{place}'".encode())
        oid = connection.execute("SELECT oid::bigint FROM pg_tablespace WHERE spcname = 'far'").fetchall()[0][0]
    yield int(oid)
    with server.cluster().connect() as connection:
        connection.execute("DROP TABLESPACE far")
