"""Locks that our sessions wait for: named while they wait, and given up with that sentence instead of a program's own.

One ALTER TABLE in a forgotten transaction, or a prepared one, holds up a dump for as long as it stays. Who holds a lock is asked of the
server by a session of its own (https://www.postgresql.org/docs/current/functions-info.html, pg_blocking_pids).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from twist_dr.errors import LockTimeout, TwistDRError
from twist_dr.postgres.cluster import Cluster, Connection, query
from twist_dr.repository.table_names import TableName
from twist_dr.system.progress import Report, human_seconds
from twist_dr.system.words import few

#: How often the server is asked, and so about how long a wait goes on before it is told: most end by themselves within that.
_LOOK_SECONDS = 3.0
#: Nobody is there to end what holds a lock in a server that we recovered, but its own workers, which give way within seconds.
RECOVERED_SERVER_SECONDS = 20.0

#: Ours are the sessions of our role that this package and PostgreSQL's client programs opened within ``seconds``, as long as the watch lasts: a
#: backup that goes on beside a doctor has its own patience, and somebody's own pg_dump is not ours to end. A prepared transaction has process 0.
_WAITS = """
    SELECT w.pid, n.nspname, c.relname, l.mode, l.relation,
           h.pid, h.usename, h.application_name, coalesce(host(h.client_addr), ''), h.state,
           extract(epoch FROM clock_timestamp() - h.xact_start)::float8
      FROM pg_stat_activity w
      JOIN pg_locks l ON l.pid = w.pid AND NOT l.granted
      LEFT JOIN pg_class c ON l.locktype = 'relation' AND c.oid = l.relation
      LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
     CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS b (pid)
      LEFT JOIN pg_stat_activity h ON h.pid = b.pid
     WHERE w.datname = current_database() AND w.usename = current_user AND w.pid <> pg_backend_pid()
       AND w.application_name IN ('twist-dr', 'pg_dump', 'pg_restore')
       AND w.backend_start >= clock_timestamp() - make_interval(secs => %(seconds)s)
"""
_PREPARED = """
    SELECT DISTINCT x.gid, quote_literal(x.gid), x.owner, extract(epoch FROM clock_timestamp() - x.prepared)::float8
      FROM pg_locks l
      JOIN pg_locks own ON own.virtualtransaction = l.virtualtransaction AND own.locktype = 'transactionid' AND own.granted
      JOIN pg_prepared_xacts x ON x.transaction = own.transactionid
     WHERE l.granted AND l.pid IS NULL AND own.pid IS NULL AND l.relation = %(relation)s AND x.database = current_database()
"""


@dataclass(frozen=True)
class LockWait:
    """``process`` waits for a lock on ``what`` that ``holder`` has: a process, or a prepared transaction's name.

    ``words`` say who that is and since when. Several of our sessions wait for the same: that is one wait, told once.
    """

    process: int = field(compare=False)
    what: str
    holder: int | str
    words: str = field(compare=False)
    remedy: str = field(compare=False)

    def __str__(self) -> str:
        return f"a lock on {self.what} is held by {self.words}; {self.remedy}"


@contextmanager
def watched_locks(cluster: Cluster, report: Report, *, timeout: float) -> Iterator[None]:
    """Name each lock that our sessions in the cluster's database wait for meanwhile, and end the wait after ``timeout`` seconds.

    Raises ``LockTimeout`` in the place of the error that the wait's end makes.
    """
    watch = _Watch(cluster, report, timeout)
    try:
        yield
    except TwistDRError as error:
        if (given_up := watch.end()) is not None:
            raise given_up from error
        raise
    finally:
        watch.end()


class _Watch:
    def __init__(self, cluster: Cluster, report: Report, timeout: float) -> None:
        self._cluster = cluster
        self._report = report
        self._timeout = timeout
        self._begun = time.monotonic()
        self._since: dict[LockWait, float] = {}
        self._given_up: LockTimeout | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="lock waits", daemon=True)
        self._thread.start()

    def end(self) -> LockTimeout | None:
        """Look no more; what was given up, if anything was."""
        self._over.set()
        self._thread.join()
        return self._given_up

    def _work(self) -> None:
        # A session is opened when the first look is due: what is over before pays nothing. Whoever looks on must not make fail what it
        # looks at: without a session it tries again.
        import psycopg

        while not self._over.wait(_LOOK_SECONDS):
            with suppress(TwistDRError, psycopg.Error), self._cluster.connect() as connection:
                self._look(connection)
                while not self._over.wait(_LOOK_SECONDS):
                    self._look(connection)

    def _look(self, connection: Connection) -> None:
        now = time.monotonic()
        found = read_lock_waits(connection, now - self._begun)
        # One look is later than the wait's begin by up to the time between two.
        since = {wait: self._since.get(wait, now - _LOOK_SECONDS) for wait in found}
        for wait in since.keys() - self._since.keys():
            self._report.warning(f"database: waiting, for {wait}")
        self._since = since
        if over := [wait for wait in found if now - since[wait] >= self._timeout]:
            self._given_up = LockTimeout(
                f"Given up after {human_seconds(self._timeout)}: {few(sorted({str(wait) for wait in over}), 3)}. Then start again",
                remedy="how long is waited, database.lock_timeout says",
            )
            for process in {wait.process for wait in over}:
                query(connection, "SELECT pg_cancel_backend(%(process)s)", {"process": process})


def read_lock_waits(connection: Connection, seconds: float) -> list[LockWait]:
    """What sessions of ours that were opened within ``seconds`` wait for in the connection's database at this moment."""
    waits = []
    for process, schema, name, mode, relation, holder, *activity in query(connection, _WAITS, {"seconds": seconds}):
        what = (
            f"{TableName(schema, name).label} ({mode})" if name is not None else f"an object of the database ({mode})"
        )
        if holder is not None:
            remedy = f"end it: SELECT pg_terminate_backend({holder})"
            waits.append(LockWait(process, what, holder, _session(holder, *activity), remedy))
            continue
        for gid, quoted, owner, seconds in query(connection, _PREPARED, {"relation": relation}):
            words = f"the prepared transaction {gid} of {owner}, pending for {human_seconds(seconds)}"
            remedy = f"end it in that database: COMMIT PREPARED {quoted} or ROLLBACK PREPARED {quoted}"
            waits.append(LockWait(process, what, gid, words, remedy))
    return waits


def _session(
    process: int, role: str | None, program: str | None, address: str, state: str | None, seconds: float | None
) -> str:
    """Who that is, as far as our role may see."""
    known = [f"role {role}" if role else "", program or "", f"from {address}" if address else "", state or ""]
    age = [] if seconds is None else [f"in a transaction for {human_seconds(seconds)}"]
    return f"session {process} ({', '.join([*filter(None, known), *age])})"
