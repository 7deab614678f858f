"""A primary as tests of base backups and recoveries want it: an archive that PostgreSQL fills, a table whose rows are known, and what befalls it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psycopg

from twist_dr.postgres.lsn import parse_lsn
from twist_dr.postgres.tools import Tools
from twist_dr.postgres.unprivileged import reachable_base, unprivileged
from twist_dr.system.processes import run
from twist_dr.wal.names import Segment
from twist_dr_tests.helpers import wait_until
from twist_dr_tests.servers import PostgresServer

MB = 1 << 20


@dataclass(frozen=True)
class Row:
    """A row that was committed: its COMMIT record lies in ``[before, after)``; ``at`` is the time that the record bears."""

    number: int
    xid: int
    before: int
    after: int
    at: datetime


@dataclass(frozen=True)
class Point:
    """Where a recovery shall end: the last commit before it, and how many rows there are."""

    lsn: int
    last: datetime
    rows: int


class Primary(PostgresServer):
    """A server that archives into the folder ``archive``; begun from ``data``, a data directory of another's, when one is given.

    Small segments are sooner full. Checksums of pages are left to the version unless asked for.
    """

    def __init__(
        self,
        tools: Tools,
        folder: Path,
        *,
        segment_mb: int = 1,
        checksums: bool = True,
        data: Path | None = None,
        password: str = "",
        **settings: str,
    ) -> None:
        self.segment_mb = segment_mb
        user, group = unprivileged()
        #: PostgreSQL puts its WAL here.
        self.archive = archive = reachable_base(folder, user) / "archive"
        archive.mkdir(mode=0o700)
        if user is not None:
            os.chown(archive, user, group or -1)
        super().__init__(
            tools, folder, data=data, password=password,
            options=[f"--wal-segsize={segment_mb}", *(["--data-checksums"] if checksums else [])],
            settings={
                "fsync": "off", "archive_mode": "on", "autovacuum": "off", "track_commit_timestamp": "on",
                "max_prepared_transactions": "5",
                "archive_command": f"test -e {archive}/%f || (cp %p {archive}/%f.new && mv {archive}/%f.new {archive}/%f)",
                **({"summarize_wal": "on"} if tools.major >= 17 else {}),
                **settings,
            },
        )  # fmt: skip
        if data is None:
            self.sql("CREATE TABLE log (number int, filling text)")
            self.sql("ALTER TABLE log ALTER filling SET STORAGE EXTERNAL")
        self.identifier = self.one("SELECT system_identifier FROM pg_control_system()")

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with self.cluster().connect() as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def one(self, statement: str) -> str:
        return str(self.sql(statement)[0][0])

    # -- what is written, and where it lies --------------------------------------------------------------------------

    def write(self, rows: int) -> None:
        """So many rows of a kilobyte, each in a transaction of its own."""
        with self.cluster().connect() as connection:
            for _ in range(rows):
                connection.execute("INSERT INTO log (filling) VALUES (repeat('x', 1000))")

    def record(self, numbers: Sequence[int], filling: int = 100) -> list[Row]:
        """Rows of so many bytes, each in a transaction of its own, and where these lie."""
        rows = []
        with self.cluster().connect() as connection:
            for number in numbers:
                with connection.transaction():
                    before = _insert_lsn(connection)
                    text = "repeat(md5(random()::text), %s)"
                    connection.execute(f"INSERT INTO log SELECT %s, {text}", (number, max(1, filling // 32)))
                    xid = connection.execute("SELECT pg_current_xact_id()::text").fetchone()[0]  # type: ignore[index]
                after = _insert_lsn(connection)
                at = connection.execute("SELECT pg_xact_commit_timestamp(%s::xid)", (xid,)).fetchone()[0]  # type: ignore[index]
                rows.append(Row(number, int(xid), before, after, at.astimezone(timezone.utc)))
        return rows

    def fill(self, segments: int) -> None:
        """So many segments of WAL, in which no transaction ends but one."""
        with self.cluster().connect() as connection:
            for _ in range(segments):
                connection.execute(
                    "SELECT pg_logical_emit_message(false, 'fill', repeat('x', %s))", (self.segment_mb * MB * 9 // 10,)
                )
                connection.execute("SELECT pg_switch_wal()")

    def point(self, name: str) -> int:
        """A restore point; where its record ends."""
        return parse_lsn(self.one(f"SELECT pg_create_restore_point('{name}')"))

    def mark(self) -> Point:
        """Here a recovery shall end."""
        rows = int(self.one("SELECT count(*) FROM log"))
        [[at]] = self.sql("SELECT timestamp FROM pg_last_committed_xact()")
        return Point(self.point("here"), at, rows)

    def archived(self) -> str:
        """Wait until all that was written is archived; the name of the last segment."""
        self.one("SELECT pg_logical_emit_message(false, 'test', 'something to switch')")
        name = self.one("SELECT pg_walfile_name(pg_switch_wal())")
        wait_until((self.archive / name).exists, f"{name} to be archived", 30)
        return name

    def open_segment(self) -> tuple[Path, Segment, int]:
        """The open segment's file, its name, and how far it is written."""
        lsn = parse_lsn(self.one("SELECT pg_current_wal_flush_lsn()"))
        timeline = int(self.one("SELECT timeline_id FROM pg_control_checkpoint()"))
        segment = Segment.holding(timeline, lsn, self.segment_mb * MB)
        return self.data / "pg_wal" / segment.name, segment, lsn - segment.start

    # -- copies, and what befalls it -----------------------------------------------------------------------------------

    def copy_of_data(self, to: Path) -> Path:
        """A real base backup without WAL in the folder ``to``."""
        run(
            [self.tools.program("pg_basebackup"), "-D", to, "-X", "none", "-c", "fast", "--no-sync"],
            environment=self.cluster().environment(), folder=to.parent,
        )  # fmt: skip
        return to

    def promote_itself(self) -> None:
        """Onto the next timeline, by way of a recovery with nothing to recover."""
        self.stop()
        (self.data / "standby.signal").touch()
        self.start()
        self.sql("SELECT pg_promote()")


def _insert_lsn(connection: psycopg.Connection) -> int:
    return parse_lsn(connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()[0])  # type: ignore[index]
