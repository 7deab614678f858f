"""What backups and archives are measured on: a database of some size, a load on it, WAL segments, and a recovery that replays them.

WAL is measured on segments that were copied aside once, so that every round and every tool gets the same bytes.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twist_dr.postgres.tools import Tools
from twist_dr.postgres.unprivileged import unprivileged
from twist_dr.system.processes import Child, run
from twist_dr_tests.servers import PostgresServer

DATABASE = "bench"
#: What the server to be measured is started with. Commands are set by :func:`archiving`; until then WAL only piles up.
SETTINGS = {
    "archive_mode": "on",
    "wal_level": "replica",
    "max_wal_size": "4GB",
    "shared_buffers": "512MB",
    "wal_keep_size": "512MB",  # for Segments.earlier
}
#: pgbench's tables and rows of text, half each: its own rows are mostly spaces, and zstd would have nothing to do.
_MEGABYTES_PER_SCALE = 15
_DOCUMENTS_PER_MEGABYTE = 3500
_PHRASES = 400_000
_WORDS = (
    "invoice order customer delivery warehouse payment reminder credit debit account ledger tenant company contract "
    "shipment pallet carton article supplier discount overdue approved rejected pending partial refund currency "
    "exchange net gross weight packed by for with against until since please see attached note urgent replaced "
    "damaged returned counted stock shelf aisle north south Müller Nguyen Okafor Silva Kowalski Haddad"
)
_DOCUMENTS = """
CREATE TABLE documents (
    id bigint PRIMARY KEY, company int NOT NULL, made timestamptz NOT NULL, amount numeric(12, 2) NOT NULL, code uuid NOT NULL, body text NOT NULL
);
INSERT INTO documents
SELECT picked.n, floor(random() * 500), timestamptz '2024-01-01' + random() * interval '2 years', (random() * 10000)::numeric(12, 2),
       gen_random_uuid(), initcap(a.phrase) || '. ' || b.phrase || ', ' || c.phrase
FROM (SELECT n, floor(random() * {phrases})::int AS a, floor(random() * {phrases})::int AS b, floor(random() * {phrases})::int AS c
      FROM generate_series(1, {documents}) n OFFSET 0) picked
JOIN phrases a ON a.n = picked.a JOIN phrases b ON b.n = picked.b JOIN phrases c ON c.n = picked.c;
"""
#: ``batch`` payments and new documents. A document is a copy with an id of its own, so that WAL carries text as production's does.
_SCRIPT = """
\\set account random(1, 100000 * :scale - :batch)
\\set last_account :account + :batch - 1
\\set document random(1, :documents - :batch)
\\set last_document :document + :batch - 1
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid BETWEEN :account AND :last_account;
INSERT INTO documents SELECT nextval('document_ids'), company, now(), amount, gen_random_uuid(), body
    FROM documents WHERE id BETWEEN :document AND :last_document;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 1, :account, :delta, CURRENT_TIMESTAMP);
END;
"""


@dataclass(frozen=True)
class Took:
    """One measurement. ``bytes``: as stored for a backup, plain for a restore and for WAL. ``segments``: of WAL, when it was about WAL."""

    seconds: float
    bytes: int
    segments: int = 0

    @property
    def segments_per_second(self) -> float:
        return round(self.segments / self.seconds, 2)


def make_database(server: PostgresServer, megabytes: int) -> int:
    """A fresh database :data:`DATABASE` of about that size, half pgbench's tables, half text; returns its size in bytes."""
    cluster = server.create_database(DATABASE)
    documents = megabytes // 2 * _DOCUMENTS_PER_MEGABYTE
    scale = max(1, megabytes // 2 // _MEGABYTES_PER_SCALE)
    with cluster.connect() as connection:
        words = "{" + ",".join(_WORDS.split()) + "}"
        connection.execute(
            "CREATE UNLOGGED TABLE phrases AS SELECT n / 8 AS n, string_agg((%s::text[])[1 + floor(random() * %s)::int], ' ') AS phrase "
            "FROM generate_series(0, %s) n GROUP BY n / 8",
            [words, len(_WORDS.split()), _PHRASES * 8 - 1],
        )
        connection.execute("ANALYZE phrases")
        for statement in _DOCUMENTS.format(phrases=_PHRASES, documents=documents).split(";\n"):
            if statement.strip():
                connection.execute(statement)
        connection.execute("DROP TABLE phrases")
        connection.execute(f"CREATE SEQUENCE document_ids START {documents + 1}")
    pgbench = str(server.tools.program("pgbench"))
    # Its tables go where an application's go; our own sessions see PostgreSQL's schema alone.
    environment = {**cluster.environment(), "PGOPTIONS": None}
    run([pgbench, "-i", "-q", "-I", "dtGvp", "-s", str(scale), DATABASE], environment=environment)
    with cluster.connect() as connection:
        connection.execute("VACUUM (FREEZE, ANALYZE) documents")
        connection.execute("CHECKPOINT")
        return int(_scalar(connection, "SELECT pg_database_size(current_database())"))


class Load:
    """pgbench at work on :func:`make_database`'s tables; a context manager that ends it and all its processes.

    ``rate``: transactions a second, or as many as it can. ``batch``: rows per table and transaction. ``durable``: wait for
    each commit, as production does.
    """

    def __init__(
        self,
        server: PostgresServer,
        *,
        clients: int = 4,
        rate: float | None = None,
        batch: int = 1,
        durable: bool = True,
    ) -> None:
        cluster = server.cluster(DATABASE)
        with cluster.connect() as connection:
            scale = _scalar(connection, "SELECT count(*) FROM pgbench_branches")
            documents = _scalar(connection, "SELECT min(start_value) - 1 FROM pg_sequences")
        script = server.base / "load.sql"
        script.write_text(_SCRIPT)
        arguments: list[str | Path] = [
            server.tools.program("pgbench"), "-n", "-M", "prepared", "-c", str(clients), "-j", "2", "-T", "86400",
            "--max-tries", "10", "-f", script, "-D", f"batch={batch}", "-D", f"scale={scale}", "-D", f"documents={documents}", DATABASE,
        ]  # fmt: skip
        if rate is not None:
            arguments[1:1] = ["-R", str(rate)]
        options = "" if durable else "-c synchronous_commit=off"
        self._child = Child(arguments, environment={**cluster.environment(), "PGOPTIONS": options})

    def check(self) -> None:
        """Raises ``RuntimeError`` when it has ended, which it never does by itself."""
        if self._child.process.poll() is not None:
            raise RuntimeError(f"pgbench ended: {self._child.complaint()}")

    def close(self) -> None:
        self._child.end()

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@dataclass(frozen=True)
class Segments:
    """Whole WAL segments, copied aside in the layout of a data folder: enough of one for tools that archive from it.

    ``data/pg_wal`` has the segments, ``data/global/pg_control`` tells whose they are. ``stop`` is an LSN shortly before their end,
    which a recovery of all of them can aim at. ``earlier`` has the server's segments just before them: bases were taken there, and
    their WAL went to one archive or another. ``making``: what making them took.
    """

    data: Path
    earlier: Path
    names: tuple[str, ...]
    segment_bytes: int
    stop: int
    making: Took

    @property
    def folder(self) -> Path:
        return self.data / "pg_wal"

    @property
    def bytes(self) -> int:
        return len(self.names) * self.segment_bytes


def make_segments(server: PostgresServer, count: int, into: Path) -> Segments:
    """About ``count`` segments of WAL by :class:`Load` as fast as it goes, copied below ``into``, which the server's user then owns.

    The server must not be archiving: its archive is told afterwards that they were taken.
    """
    with server.cluster(DATABASE).connect() as connection:
        size = int(_scalar(connection, "SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'"))
        data = Path(_scalar(connection, "SHOW data_directory"))
        drop_ready_segments(server)
        start = _scalar(connection, "SELECT pg_switch_wal()")
        first = _scalar(connection, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
        earlier = [name for name in _segments(data) if name < first]
        _copy(data, into / "earlier", [f"pg_wal/{name}" for name in earlier])
        begun = time.monotonic()
        with Load(server, batch=200, durable=False) as load:
            while _scalar(connection, f"SELECT pg_current_wal_lsn() - '{start}'::pg_lsn") < count * size:
                load.check()
                time.sleep(0.05)
        seconds = time.monotonic() - begun
        stop = int(_scalar(connection, "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"))
        connection.execute("SELECT pg_create_restore_point('bench end')")  # a target needs a record behind it
        last = _scalar(connection, "SELECT pg_walfile_name(pg_switch_wal())")
        names = [name for name in _segments(data) if first <= name <= last]
        _copy(data, into / "data", ["PG_VERSION", "global/pg_control", *(f"pg_wal/{name}" for name in names)])
    drop_ready_segments(server)
    (into / "data" / "pg_wal" / "archive_status").mkdir()
    own(into)
    os.sync()  # or whoever is measured first writes the load's pages too
    making = Took(round(seconds, 3), len(names) * size, len(names))
    return Segments(into / "data", into / "earlier" / "pg_wal", tuple(names), size, stop, making)


def drop_ready_segments(server: PostgresServer) -> None:
    """Let the server believe that its segments were archived, so that it may recycle them."""
    with archiving(server, "true"):
        pass


@contextmanager
def archiving(server: PostgresServer, command: str) -> Iterator[None]:
    """Archive with this command for a while; before and after, WAL only piles up. With ``archive_mode=off`` nothing happens.

    Leaving waits until the archiver is through, or a command still under way would meet what comes next.
    """
    _set_archive_command(server, command)
    try:
        yield
        with server.cluster().connect() as connection:
            if _scalar(connection, "SHOW archive_mode") == "on":
                _wait_until_archived(Path(_scalar(connection, "SHOW data_directory")))
    finally:
        _set_archive_command(server, "")


def _wait_until_archived(data: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while ready := _ready(data):
        if time.monotonic() > deadline:
            raise RuntimeError(f"the archive_command did not get through: {len(ready)} segments are left in {data}")
        time.sleep(0.01)


def replay(tools: Tools, data: Path, wal: Segments, restore_command: str, stdin: int = subprocess.DEVNULL) -> Took:
    """Real recovery of a restored data folder to ``wal.stop``; seconds from its first question to the archive to its stop at the target.

    The server listens in its own folder only and ends by itself. ``stdin``: what the command may talk over. Raises ``RuntimeError`` when it did not reach the target.
    """
    (data / "recovery.signal").touch()
    user, group = unprivileged()
    command = f"if [ -f {wal.earlier}/%f ]; then cp {wal.earlier}/%f %p; else {restore_command}; fi"
    moments: dict[str, float] = {}

    def note(line: str) -> None:
        for moment in ("starting point-in-time recovery", "recovery stopping"):
            if moment in line:
                moments[moment] = time.monotonic()

    arguments: list[str | Path] = [tools.program("postgres"), "-D", data]
    for name, value in {
        "listen_addresses": "", "unix_socket_directories": ".", "hot_standby": "off", "archive_mode": "off", "max_wal_size": "4GB",
        "shared_buffers": "512MB", "restore_command": command, "recovery_target_timeline": "current",
        "recovery_target_lsn": f"{wal.stop >> 32:X}/{wal.stop & 0xFFFFFFFF:X}", "recovery_target_action": "shutdown",
    }.items():  # fmt: skip
        arguments += ["-c", f"{name}={value}"]
    with Child(
        arguments, environment={"LC_ALL": "C"}, user=user, group=group, folder=data, stdin=stdin, on_line=note
    ) as server:
        try:
            server.process.wait(600)
        finally:
            if server.process.poll() is None:
                server.process.send_signal(signal.SIGQUIT)
    if len(moments) != 2:
        raise RuntimeError(f"recovery with {restore_command} did not reach its target: {server.complaint()}")
    seconds = moments["recovery stopping"] - moments["starting point-in-time recovery"]
    return Took(round(seconds, 3), wal.bytes, len(wal.names))


def _segments(data: Path) -> list[str]:
    """Names of the segments in a data folder, in order, those too that lie ready to be written."""
    return sorted(name for name in os.listdir(data / "pg_wal") if len(name) == 24)


def _copy(data: Path, into: Path, files: list[str]) -> None:
    """Copied, never linked: the server overwrites a segment in place when it recycles it."""
    shutil.rmtree(into, ignore_errors=True)
    for file in files:
        (into / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data / file, into / file)


def own(folder: Path) -> Path:
    """Hand a folder and all in it to the user that servers run as; closed to others."""
    user, group = unprivileged()
    if user is not None:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, user, group or -1)
    folder.chmod(0o700)
    return folder


def _ready(data: Path) -> list[str]:
    return [name for name in os.listdir(data / "pg_wal" / "archive_status") if name.endswith(".ready")]


def _set_archive_command(server: PostgresServer, command: str) -> None:
    with server.cluster().connect() as connection:
        literal = command.replace("'", "''")
        connection.execute(f"ALTER SYSTEM SET archive_command = '{literal}'")
        connection.execute("SELECT pg_reload_conf()")


def _scalar(connection: Any, query: str) -> Any:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]
