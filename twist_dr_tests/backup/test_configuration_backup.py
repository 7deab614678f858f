"""Configuration backups taken from real files, real SQLite databases that are written meanwhile, and real servers."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path

import pytest

from twist_dr.backup import snapshots
from twist_dr.backup.configuration import ConfigurationPlan, HistoryFiles, take_configuration_backup
from twist_dr.backup.snapshots import PostgresTables, SqliteDatabase, copy_sqlite, dump_tables, sqlite_damage
from twist_dr.errors import BackupError, Cancelled, DatabaseError, DatabaseRefused, SourceUnreadable, TwistDRError
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.staging import StagingArea
from twist_dr.repository.streams import Form
from twist_dr.system.processes import run
from twist_dr.system.progress import Lines, Report
from twist_dr.verify.configuration import read_configuration, staged
from twist_dr_tests.helpers import KEYRING, python
from twist_dr_tests.servers import PostgresServer

#: Keeps two tables equal in each of its transactions, and tells the longest that one took.
WRITER = """
import os, sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
connection.execute("PRAGMA synchronous = OFF")
print("ready", flush=True)
longest, end = 0.0, time.monotonic() + 20
while time.monotonic() < end and not os.path.exists(sys.argv[2]):
    begun = time.monotonic()
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO a VALUES (randomblob(2000))")
    connection.execute("INSERT INTO b VALUES (randomblob(2000))")
    connection.execute("COMMIT")
    longest = max(longest, time.monotonic() - begun)
print(longest, flush=True)
"""


def database(path: Path, rows: int = 5, *, wal: bool = True) -> Path:
    """A SQLite database with two tables of as many rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}")
        for table in "ab":
            connection.execute(f"CREATE TABLE {table} (content BLOB)")
            connection.executemany(f"INSERT INTO {table} VALUES (randomblob(2000))", [()] * rows)
    return path


def rows(path: Path) -> tuple[int, int]:
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b)").fetchone()
    return int(found[0]), int(found[1])


def damage(path: Path) -> None:
    """Overwrite a page in the middle, as a bad disk does."""
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2 // 4096 * 4096)
        file.write(b"\xff" * 4096)


# -- copies of databases ----------------------------------------------------------------------------------------------


def test_a_copy_is_of_one_moment_though_others_write_and_they_do_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = database(tmp_path / "catalog.db", rows=10_000)  # 40 MB
    monkeypatch.setattr(snapshots, "_PAGES_AT_ONCE", 64)
    with python(WRITER, source, tmp_path / "enough") as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
        counts = []
        for number in range(3):
            copy = tmp_path / f"copy{number}"
            copy_sqlite(source, copy)
            left, right = rows(copy)
            assert left == right and sqlite_damage(copy) is None
            counts.append(left)
        assert writer.poll() is None, "a copy came to its end only when nobody wrote any more"
        (tmp_path / "enough").touch()
        longest = float(writer.stdout.readline())
    assert 10_000 <= counts[0] < counts[1] < counts[2] <= rows(source)[0]
    assert longest < 2, "a writer waited for the copy"


def test_a_copy_is_closed_to_others_and_leaves_the_source_as_it_was(tmp_path: Path) -> None:
    source = database(tmp_path / "runs.db", wal=False)
    before = source.read_bytes()
    copy_sqlite(source, tmp_path / "copy")
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600
    assert source.read_bytes() == before and rows(tmp_path / "copy") == (5, 5)


@pytest.mark.promise(10)
def test_what_cannot_be_copied_is_named_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceUnreadable, match=r"gone\.db cannot be copied .*see that it is there"):
        copy_sqlite(tmp_path / "gone.db", tmp_path / "copy")
    (tmp_path / "text.db").write_text("no database at all" * 400)
    with pytest.raises(SourceUnreadable, match="file is not a database"):
        copy_sqlite(tmp_path / "text.db", tmp_path / "copy")
    monkeypatch.setattr(snapshots, "LOCK_SECONDS", 0.3)
    source = database(tmp_path / "locked.db", wal=False)
    with closing(sqlite3.connect(source, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        begun = time.monotonic()
        with pytest.raises(SourceUnreadable, match=r"database is locked.*which process keeps it locked"):
            copy_sqlite(source, tmp_path / "copy")
        assert time.monotonic() - begun < 5
    assert not (tmp_path / "copy").exists()


def test_damage_in_a_database_is_found(tmp_path: Path) -> None:
    source = database(tmp_path / "catalog.db", rows=200, wal=False)
    assert sqlite_damage(source) is None
    damage(source)
    assert sqlite_damage(source)


def test_a_dump_holds_the_named_tables_with_their_rows_and_no_others(
    newest_server: PostgresServer, tmp_path: Path
) -> None:
    name = f"tables_{os.getpid()}"
    cluster = newest_server.create_database(name)
    with cluster.connect() as connection:
        connection.execute(
            """CREATE SCHEMA "Odd*"; CREATE TABLE "Odd*"."a""b" (id serial PRIMARY KEY, x text); CREATE TABLE public.other (x int);
               INSERT INTO "Odd*"."a""b" (x) SELECT 'row' FROM generate_series(1, 7); CREATE TABLE "Odd*".ab (x int)"""
        )
        connection.execute(f'ALTER DATABASE {name} SET search_path = "Odd*", public')
    dump = tmp_path / "catalog.dump"
    with open(dump, "wb") as file:
        assert dump_tables(PostgresTables(cluster, ('a"b',), "catalog.url"), [], file.write) == []  # type: ignore[arg-type]
    assert snapshots.dump_damage(dump, []) is None
    back = newest_server.create_database(f"{name}_back")
    with back.connect() as connection:
        connection.execute('CREATE SCHEMA "Odd*"')
    run(
        [newest_server.tools.program("pg_restore"), "--exit-on-error", f"--dbname={name}_back", dump],
        environment=back.environment(),
    )
    with back.connect() as connection:
        assert connection.execute('SELECT count(*), max(id) FROM "Odd*"."a""b"').fetchall() == [(7, 7)]
        assert connection.execute("SELECT to_regclass('public.other')").fetchall() == [(None,)]
        assert connection.execute('INSERT INTO "Odd*"."a""b" (x) VALUES (1) RETURNING id').fetchall() == [(8,)]
    dump.write_bytes(dump.read_bytes()[:-200])
    assert snapshots.dump_damage(dump, [])


def test_tables_that_are_missing_and_servers_that_refuse_are_named_by_their_own_setting(
    newest_server: PostgresServer,
) -> None:
    cluster = newest_server.create_database(f"lacking_{os.getpid()}")
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE runs (x int)")
    sink: list[bytes] = []
    with pytest.raises(DatabaseError, match=r"has no table holds, marks; correct catalog\.url"):
        dump_tables(PostgresTables(cluster, ("runs", "holds", "marks"), "catalog.url"), [], sink.append)
    dump_tables(PostgresTables(cluster, ("runs", "ticks"), "dagster.yaml", may_lack=True), [], sink.append)
    assert b"".join(sink).startswith(b"PGDMP")
    with pytest.raises(DatabaseError, match=r"has no table ticks; correct dagster\.yaml"):
        dump_tables(PostgresTables(cluster, ("ticks",), "dagster.yaml", may_lack=True), [], sink.append)
    wrong = newest_server.url("postgres", password="geheim").replace("postgres:geheim", "nobody:geheim")
    with pytest.raises(DatabaseRefused, match=r"in dagster\.yaml") as refused:
        dump_tables(PostgresTables(type(cluster)(wrong), ("runs",), "dagster.yaml"), [], sink.append)
    assert "geheim" not in str(refused.value)


# -- whole backups ----------------------------------------------------------------------------------------------------


def plan(folder: Path, **changes: object) -> ConfigurationPlan:
    """A plan for a configured file, a catalog, and a history of three runs."""
    (folder / "site.conf").write_text("SECRET_KEY=configured\n")
    (folder / "twist-dr [1].yaml").write_text("application: erp\n")
    known = {
        "history/runs.db": database(folder / "dagster/history/runs.db"),
        "history/runs/index.db": database(folder / "dagster/history/runs/index.db"),
    }
    for age, name in enumerate(("new", "older", "oldest")):
        path = database(folder / f"dagster/history/runs/{name}.db")
        os.utime(path, (1e9 - age, 1e9 - age))
    values: dict[str, object] = {
        "application": "erp",
        "targets": {"open": Form("zstd", False), "closed": Form("gzip", True)},
        "parts": ["configuration"],
        "configuration": [str(folder / "site.conf"), str(folder / "none*.pem")],
        "own_files": [folder / "twist-dr [1].yaml"],
        "catalog": SqliteDatabase(database(folder / "catalog.db", 50)),
        "history": [HistoryFiles(known, folder / "dagster/history/runs")],
        **changes,
    }
    return ConfigurationPlan(**values)  # type: ignore[arg-type]


def take(folder: Path, plan: ConfigurationPlan, report: Report | None = None) -> tuple[Manifest, StagingArea]:
    staging = StagingArea(folder / "staging" / "erp")
    return take_configuration_backup(plan, KEYRING, staging, report or Report()), staging


def check(manifest: Manifest, staging: StagingArea) -> list[str]:
    forms = staged(manifest, staging.folder(manifest.backup_id), KEYRING)
    assert len(forms) == 2
    return [
        difference
        for form, read in forms.items()
        for difference in read_configuration(manifest, read, form, scratch=staging.root, report=Report()).differences
    ]


def test_a_sealed_backup_holds_every_piece_encrypted_and_nothing_plain(tmp_path: Path) -> None:
    manifest, staging = take(tmp_path, plan(tmp_path))
    assert {artifact.name for artifact in manifest.artifacts} == {
        "configuration.tar", "configuration.files.jsonl", "catalog.sqlite", "dagster.tar", "dagster.files.jsonl", "contents.json",
    }  # fmt: skip
    assert manifest.kind == "configuration" and manifest.files == {"configuration": 2, "dagster": 5}
    assert manifest.warnings == [f"configuration: the pattern {tmp_path}/none*.pem finds no file"]
    assert {form for artifact in manifest.artifacts for form in artifact.stored} == {"zstd+enc", "gzip+enc"}
    folder = staging.folder(manifest.backup_id)
    assert {path.name for path in folder.iterdir() if not path.name.endswith(".enc")} == {"manifest.json", ".lock"}
    assert check(manifest, staging) == []


@pytest.mark.promise(10)
def test_old_run_logs_give_way_and_are_counted_and_a_bad_one_is_named(tmp_path: Path) -> None:
    wanted = plan(tmp_path)
    runs = tmp_path / "dagster/history/runs"
    size = (runs / "new.db").stat().st_size
    told: list[str] = []
    manifest, staging = take(tmp_path, replace(wanted, most_log_bytes=2 * size), Report(Lines(told.append)))
    assert manifest.files["dagster"] == 4
    assert [line for line in told if "1 older ones" in line]
    damage(runs / "new.db")
    manifest, staging = take(tmp_path, wanted)
    assert manifest.files["dagster"] == 4
    assert f"the run log {runs}/new.db cannot be read and was left out" in manifest.warnings[-1]
    assert check(manifest, staging) == []


@pytest.mark.promise(8, 10)
@pytest.mark.parametrize("name", ["catalog.db", "dagster/history/runs/index.db"])
def test_a_damaged_catalog_or_history_is_no_backup(tmp_path: Path, name: str) -> None:
    wanted = plan(tmp_path)
    database_file = tmp_path / name
    with closing(sqlite3.connect(database_file)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    damage(database_file)
    with pytest.raises(BackupError, match=f"{name} (is damaged|cannot be copied)"):
        take(tmp_path, wanted)
    assert list((tmp_path / "staging" / "erp").iterdir()) == []


def test_a_file_that_cannot_be_read_stops_the_backup_by_name_and_nothing_is_left(tmp_path: Path) -> None:
    # Even root gets an error from the first page of its own memory.
    with pytest.raises(SourceUnreadable, match=r"/proc/\d+/mem cannot be read"):
        take(tmp_path, plan(tmp_path, configuration=["/proc/self/mem"]))
    assert list((tmp_path / "staging" / "erp").iterdir()) == []


def test_a_backup_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    report = Report()
    report.stop.set()
    with pytest.raises(Cancelled):
        take(tmp_path, plan(tmp_path), report)
    assert list((tmp_path / "staging" / "erp").iterdir()) == []


def test_a_run_that_is_removed_meanwhile_is_no_failure(tmp_path: Path) -> None:
    class Removing(Report):
        """Removes a run's log when it was listed and is not copied yet."""

        def part(self, name: str, expected: int | None = None) -> AbstractContextManager[Callable[[int], None]]:
            if name == "catalog.sqlite":
                (tmp_path / "dagster/history/runs/older.db").unlink()
            return super().part(name, expected)

    manifest, staging = take(tmp_path, plan(tmp_path), Removing())
    assert manifest.files["dagster"] == 4 and len(manifest.warnings) == 1
    assert check(manifest, staging) == []


def test_reading_back_finds_a_byte_that_changed_in_staging(tmp_path: Path) -> None:
    manifest, staging = take(tmp_path, plan(tmp_path))
    stored = staging.folder(manifest.backup_id) / "catalog.sqlite.zst.enc"
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 1
    stored.write_bytes(content)
    with pytest.raises(TwistDRError, match=r"catalog\.sqlite\.zst\.enc"):
        check(manifest, staging)
