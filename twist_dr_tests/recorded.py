"""A load that writes numbered rows and keeps its own record of them outside: what a recovery to any point must bring back."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from twist_dr.postgres.cluster import Cluster
from twist_dr.postgres.lsn import parse_lsn
from twist_dr.recovery.planning import RecoveryRequest, plan_recovery
from twist_dr.recovery.recover import recover
from twist_dr.repository.sources import Sources
from twist_dr.system.progress import Lines, Report
from twist_dr_tests.preloaded import Command
from twist_dr_tests.site import TWIST_DR, Site, start


@dataclass(frozen=True)
class Written:
    """A row whose commit was acknowledged. ``committed_at`` by the server; ``lsn`` behind its commit record."""

    number: int
    xid: int
    committed_at: datetime
    lsn: int
    acknowledged: float


class RecordedLoad:
    """Writes a row every ``seconds`` from a thread, in a table of its own, until it is stopped or the server is gone."""

    def __init__(self, url: str, *, seconds: float = 0.05, first: int = 1) -> None:
        self._url = url
        self._seconds = seconds
        self._next = first
        self.written: list[Written] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> RecordedLoad:
        with Cluster(self._url).connect() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS numbered (number bigint PRIMARY KEY, note text)")
            # Work beside the rows that count, so that other records lie between theirs.
            connection.execute("CREATE TABLE IF NOT EXISTS beside (id serial, note text)")
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(20)

    def wait_for(self, count: int, seconds: float = 60) -> None:
        """Until so many rows were written by this load."""
        deadline = time.monotonic() + seconds
        while len(self.written) < count:
            assert time.monotonic() < deadline and self._thread.is_alive(), (
                f"{len(self.written)} of {count} rows written"
            )
            time.sleep(0.01)

    def _work(self) -> None:
        import psycopg

        try:
            with Cluster(self._url).connect() as connection:
                while not self._stop.wait(self._seconds):
                    with connection.transaction():
                        connection.execute(
                            "INSERT INTO beside (note) SELECT md5(i::text) FROM generate_series(1, 20) i"
                        )
                        [[xid]] = connection.execute(
                            "INSERT INTO numbered VALUES (%s, 'x') RETURNING pg_current_xact_id()::text::bigint",
                            [self._next],
                        ).fetchall()
                    acknowledged = time.time()
                    [[at, lsn]] = connection.execute(
                        "SELECT pg_xact_commit_timestamp(%s::text::xid), pg_current_wal_insert_lsn()::text", [xid]
                    ).fetchall()
                    self.written.append(Written(self._next, xid, at, parse_lsn(lsn), acknowledged))
                    self._next += 1
        except psycopg.Error:
            return


@contextmanager
def resident(site: Site, *arguments: str) -> Iterator[subprocess.Popen[str] | Command]:
    """A twist-dr process that stays, such as ``wal receive``; ended by its process id."""
    log = open(site.folder / f"{'-'.join(arguments)}.log", "ab")  # noqa: SIM115
    process = start([*TWIST_DR, *arguments], site.environment, site.folder, log)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        log.close()


def wait_until_archived(
    site: Site, lsn: int, seconds: float = 60, *, timeline: int = 1, at: datetime | None = None
) -> None:
    """Until every target's archived position is at or behind an LSN of that timeline or a later one, by what the resident processes wrote down.

    ``at``: and until everything committed by then is known to be there, which may take a round more: the server is asked for its clock first.
    """
    from twist_dr.wal.spool import Spool

    spool = Spool(site.settings().wal_spool)
    names = set(site.settings().enabled_targets)
    deadline = time.monotonic() + seconds
    while True:
        positions = spool.load_state().positions
        reached = {name for name, each in positions.items() if each["lsn"] >= lsn and each["timeline"] >= timeline}
        if at is not None:
            claims = {name: positions[name]["at"] for name in reached}
            reached = {name for name, claim in claims.items() if claim and datetime.fromisoformat(claim) >= at}
        if names <= reached:
            return
        assert time.monotonic() < deadline, f"the archived positions stay at {positions}"
        time.sleep(0.05)


def recovered_numbers(site: Site, to: str, scratch: Path, *, timeline: int | None = None) -> list[int]:
    """The numbered rows of a server recovered to a point, from the targets and the keys alone."""
    settings, lines = site.settings(), []
    report = Report(Lines(lines.append, lines.append))
    repositories = [site.repository(name) for name in settings.enabled_targets]
    scratch.mkdir(exist_ok=True)
    planned = plan_recovery(
        RecoveryRequest(to, timeline=timeline), repositories, site.keyring, settings.database.client_tools, scratch, report,
        now=datetime.now(timezone.utc) + timedelta(seconds=5),
    )  # fmt: skip
    sources = [Sources(link.backup_id, repositories, site.keyring, report) for link in planned.plan.chain]
    database = str(Cluster(site.database_url).parameters["dbname"])
    with (
        recover(planned, sources, scratch) as recovered,
        recovered.cluster(database).connect() as connection,
    ):
        return [number for (number,) in connection.execute("SELECT number FROM numbered ORDER BY 1").fetchall()]
