"""Promise 10 for dumps: an empty dump, a missing table, a killed pg_dump is a failure, whatever the exit status says."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from twist_dr.errors import ProcessFailed, StagingFull
from twist_dr.postgres.cluster import Cluster, Snapshot
from twist_dr.postgres.dump import dump_database, dump_roles, restore_database
from twist_dr.postgres.tools import Tools
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.helpers import program, runs, wait_until
from twist_dr_tests.servers import PostgresServer

REAL = TOOLS[max(TOOLS)]


@pytest.fixture(scope="module")
def database(newest_server: PostgresServer) -> Cluster:
    cluster = newest_server.create_database("dumped db")
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE small AS SELECT 1 AS id")
        connection.execute("CREATE TABLE large AS SELECT repeat('x', 1000) AS text FROM generate_series(1, 20000)")
    return cluster


def dump(cluster: Cluster, tools: Tools, write: Callable[[bytes], object] = lambda chunk: None) -> None:
    with Snapshot(cluster) as snapshot:
        dump_database(cluster, tools, snapshot.id, snapshot.tables(), write)


def false_tools(folder: Path, *script: str) -> Tools:
    """Tools whose pg_dump is this script. ``$REAL`` is the true one."""
    program(folder, "pg_dump", f"REAL={REAL.program('pg_dump')}", *script)
    return Tools(folder, REAL.major, REAL.version, False)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exit 0", "reported success but wrote 0 bytes"),
        ("printf PGDMP", "reported success but wrote 5 bytes"),
        ("head -c 4096 /dev/zero", "no dump"),
        ('"$REAL" "$@" --exclude-table-data=public.large', "left out public.large"),
        ('"$REAL" "$@" --exclude-table=public.small', "left out public.small"),
        ('"$REAL" "$@" --schema-only', "left out public.large, public.small"),
        ('"$REAL" "$@" | head -c 100000; exit 0', "breaks off|SIGPIPE|exit status"),
        ('"$REAL" "$@" | head -c -5; exit 0', "breaks off"),
        ('"$REAL" "$@"; exit 1', "exit status 1"),
        ('"$REAL" "$@"; kill -9 $$', "SIGKILL"),
    ],
)
def test_a_dump_that_is_not_whole_fails_whatever_the_program_says(
    database: Cluster, tmp_path: Path, script: str, words: str
) -> None:
    with pytest.raises(ProcessFailed, match=words):
        dump(database, false_tools(tmp_path, script))


def test_a_pg_dump_killed_in_the_middle_fails(database: Cluster) -> None:
    def kill_after_some(chunk: bytes) -> None:
        (child,) = children("pg_dump")
        os.kill(child, signal.SIGKILL)

    with pytest.raises(ProcessFailed, match="pg_dump was ended by SIGKILL"):
        dump(database, REAL, kill_after_some)


def test_a_full_staging_disk_ends_pg_dump(database: Cluster) -> None:
    seen: list[int] = []

    def full(chunk: bytes) -> None:
        seen.extend(children("pg_dump"))
        raise StagingFull("full")

    with pytest.raises(StagingFull):
        dump(database, REAL, full)
    wait_until(lambda: not any(map(runs, seen)), "pg_dump to end")


def test_a_server_that_ends_the_session_fails_the_dump(database: Cluster) -> None:
    def end_sessions(chunk: bytes) -> None:
        with database.connect() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pg_dump'"
            )

    with pytest.raises(ProcessFailed, match="exit status"):
        dump(database, REAL, end_sessions)


def test_nothing_secret_shows_in_the_arguments_of_pg_dump(newest_server: PostgresServer, database: Cluster) -> None:
    seen: list[bytes] = []

    def look(chunk: bytes) -> None:
        seen.extend(Path(f"/proc/{child}/cmdline").read_bytes() for child in children("pg_dump"))

    dump(database, REAL, look)
    password = database.parameters["password"]
    assert seen
    assert not any(password.encode() in arguments for arguments in seen)


def test_a_dump_comes_back_with_all_its_rows(newest_server: PostgresServer, database: Cluster, tmp_path: Path) -> None:
    with (tmp_path / "database.dump").open("wb") as file:
        dump(database, REAL, file.write)
    restored = newest_server.create_database("restored db")
    restore_database(newest_server.cluster(), REAL, "restored db", tmp_path / "database.dump", jobs=2)
    with Snapshot(restored) as snapshot:
        counts, _ = snapshot.count_rows(snapshot.tables()).wait()
    assert counts == {("public", "small"): 1, ("public", "large"): 20000}


def test_a_truncated_dump_does_not_pass_as_restored(
    newest_server: PostgresServer, database: Cluster, tmp_path: Path
) -> None:
    parts: list[bytes] = []
    dump(database, REAL, parts.append)
    whole = b"".join(parts)
    newest_server.create_database("restored db")
    (tmp_path / "database.dump").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ProcessFailed, match="pg_restore"):
        restore_database(newest_server.cluster(), REAL, "restored db", tmp_path / "database.dump", jobs=2)


def test_roles_are_dumped_with_or_without_their_passwords(newest_server: PostgresServer, database: Cluster) -> None:
    with database.connect() as connection:
        connection.execute("DROP ROLE IF EXISTS accountant; CREATE ROLE accountant LOGIN PASSWORD 'x'")
    for with_passwords in (True, False):
        parts: list[bytes] = []
        dump_roles(database, REAL, with_passwords, parts.append)
        text = b"".join(parts)
        assert b"CREATE ROLE accountant" in text
        assert (b"SCRAM-SHA-256" in text) == with_passwords


def test_an_empty_dump_of_roles_fails(database: Cluster, tmp_path: Path) -> None:
    program(tmp_path, "pg_dumpall", "exit 0")
    with pytest.raises(ProcessFailed, match="pg_dumpall reported success but wrote 0 bytes"):
        dump_roles(database, Tools(tmp_path, REAL.major, REAL.version, False), True, lambda chunk: None)


def children(name: str) -> list[int]:
    """Our child processes of that name."""
    listed = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    found = [int(child) for path in listed for child in path.read_text().split()]
    return [child for child in found if Path(f"/proc/{child}/comm").read_text().strip() == name]
