"""What the primary says of its write-ahead log: who it is, how far it is, and how far its receiver is."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime

from twist_dr.errors import DatabaseError
from twist_dr.postgres.cluster import Cluster, Connection, named_errors, query
from twist_dr.postgres.lsn import parse_lsn

#: The clock is read before the position, so that whatever was committed before ``at`` lies before ``lsn``. Rows that are not
#: flushed yet count as well: with synchronous_commit off they were acknowledged.
#: A standby is behind its primary: what it says of a moment is the time of the last commit that it replayed. A primary's checkpoint
#: tells its timeline late after a promotion.
_LOOK = """
    SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_xact_replay_timestamp() ELSE clock_timestamp() END,
           CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END::text,
           (SELECT system_identifier FROM pg_control_system())::text,
           CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())::text
                ELSE left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END,
           pg_is_in_recovery(),
           pg_size_bytes(current_setting('wal_segment_size')), current_setting('wal_block_size')::int,
           current_setting('wal_level'),
           s.restart_lsn::text, s.wal_status, s.active
      FROM (SELECT) one LEFT JOIN pg_replication_slots s ON s.slot_name = %(slot)s
"""
_ASK_AGAIN_SECONDS = 0.02
#: A server that says nothing for so long is treated as gone: without a bound, one whose host is dead is waited for a quarter of an hour.
_ANSWER_SECONDS = 5.0
#: Bytes of the header of a page, and of a segment's first one, aligned (xlog_internal.h).
_PAGE_HEADER, _LONG_PAGE_HEADER = 24, 40


@dataclass(frozen=True)
class Slot:
    """A replication slot. ``status`` as in pg_replication_slots.wal_status: reserved, extended, unreserved, lost."""

    received: int | None
    status: str | None
    active: bool


@dataclass(frozen=True)
class Sample:
    """What the primary said. Everything committed before ``at``, its clock, lies before ``lsn``; None where a standby has replayed no commit.

    ``received``: how far the receiver has made it durable (LSN), where there is one.
    """

    at: datetime | None
    lsn: int
    system_identifier: str
    timeline: int
    segment_size: int
    in_recovery: bool
    wal_level: str
    slot: Slot | None

    @property
    def received(self) -> int | None:
        return self.slot.received if self.slot else None


class Primary:
    """Asks one server again and again over one connection. Not for several threads."""

    def __init__(self, cluster: Cluster, slot: str) -> None:
        self._cluster = cluster
        self._slot = slot
        self._connection: Connection | None = None

    def ask(self) -> Sample:
        """Raises the errors of ``Cluster.connect``, and ``DatabaseError`` where the role may not see."""
        import psycopg

        if self._connection is not None:
            try:
                return self._look(self._connection)
            except psycopg.Error:
                # The server was restarted, or is another one now.
                self.close()
        self._connection = self._cluster.connect()
        try:
            with named_errors("to say how far its write-ahead log is"):
                return self._look(self._connection)
        except DatabaseError:
            self.close()
            raise

    def ask_when_received(self, patience_seconds: float) -> Sample:
        """The same, after waiting for the receiver to have what was written by then; at most so long."""
        sample = first = self.ask()
        deadline = time.monotonic() + patience_seconds
        while sample.slot is not None and sample.slot.active and (sample.received or 0) < first.lsn:
            if time.monotonic() > deadline:
                return sample
            time.sleep(_ASK_AGAIN_SECONDS)
            sample = self.ask()
        # What was true of the first moment is what has been received now.
        return replace(first, slot=sample.slot)

    def close(self) -> None:
        if self._connection is not None:
            with suppress(Exception):
                self._connection.close()
            self._connection = None

    def _look(self, connection: Connection) -> Sample:
        with _answering(connection):
            row = query(connection, _LOOK, {"slot": self._slot})[0]
        at, lsn, identifier, timeline, in_recovery, segment_size, page_size, wal_level, received, status, active = row
        slot = None
        if active is not None:
            slot = Slot(parse_lsn(received) if received else None, status, active)
        return Sample(
            at,
            _without_header(parse_lsn(lsn), segment_size, page_size),
            identifier,
            int(timeline, 10 if in_recovery else 16),
            segment_size,
            in_recovery,
            wal_level,
            slot,
        )


@contextmanager
def _answering(connection: Connection) -> Iterator[None]:
    """Cut the line to a server that gives no answer, which psycopg then raises as an error."""
    line = socket.socket(fileno=os.dup(connection.pgconn.socket))
    watch = threading.Timer(_ANSWER_SECONDS, line.shutdown, [socket.SHUT_RDWR])
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()
        watch.join()
        line.close()


def _without_header(lsn: int, segment_size: int, page_size: int) -> int:
    """Where the last record ends. At the beginning of a page the server counts the header that it will write there some day."""
    header = _LONG_PAGE_HEADER if lsn % segment_size < page_size else _PAGE_HEADER
    return lsn - lsn % page_size if lsn % page_size <= header else lsn
