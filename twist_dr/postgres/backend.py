"""The server's side of a connection: what it may still be doing when we have lost it, or left it in the middle of a statement."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime

from twist_dr.errors import DatabaseError
from twist_dr.postgres.cluster import Connection, query

_END_SECONDS = 10.0
_LOOK_AGAIN_SECONDS = 0.002


@dataclass(frozen=True)
class Backend:
    """The server's side of a connection. Process ids are used again; the time of its start tells them apart."""

    process: int
    started: datetime


def backend(connection: Connection) -> Backend:
    """The server's side of this connection."""
    rows = query(connection, "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()")
    return Backend(*rows[0])


def end_backend(connection: Connection, gone: Backend) -> None:
    """End what a connection that we lost or left in the middle of a statement may still be doing in the server.

    It may be in its COMMIT, or wait for a lock and hold others: nothing can be told, and nothing done, until it is over.
    Raises ``DatabaseError`` when it does not end.
    """
    known = {"process": gone.process, "started": gone.started}
    deadline = time.monotonic() + _END_SECONDS
    there = "FROM pg_stat_activity WHERE pid = %(process)s AND backend_start = %(started)s"
    while query(connection, f"SELECT pg_terminate_backend(pid) {there}", known):
        if time.monotonic() >= deadline:
            raise DatabaseError(
                f"Process {gone.process} of the server, which did the switch, does not end",
                remedy=f"as a superuser: SELECT pg_terminate_backend({gone.process})",
            )
        time.sleep(_LOOK_AGAIN_SECONDS)
