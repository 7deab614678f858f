"""A PostgreSQL server that recovers up to one LSN and waits there.

It listens on a Unix socket in a folder that only its user may enter, never on the network.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

from twist_dr.errors import Cancelled, DatabaseError, DatabaseRefused, DatabaseUnreachable, RecoveryFailed
from twist_dr.postgres.cluster import Cluster, query
from twist_dr.postgres.confinement import Confinement, shut_down
from twist_dr.postgres.dead_servers import end_server_of
from twist_dr.postgres.lsn import format_lsn, parse_lsn
from twist_dr.postgres.tools import Tools
from twist_dr.postgres.unprivileged import door_folder, open_door, socket_folder
from twist_dr.recovery.fetcher import Fetcher
from twist_dr.recovery.restore_command import RESTORE_COMMAND
from twist_dr.recovery.server_settings import (
    AT_LEAST_PRIMARYS,
    common_settings,
    least_settings,
    new_file,
    write_settings,
)
from twist_dr.recovery.untar import Owner
from twist_dr.repository.manifest import BaseFacts
from twist_dr.system.processes import Child
from twist_dr.system.progress import LOG_EVERY_SECONDS, Report

#: Version 13 says it in one line, later ones in a DETAIL line.
_TOO_LOW = re.compile(
    r"(max_\w+) = \d+ is a lower setting than on the primary server(?:, where| \()?\s*its value was (\d+)"
)
_STOP_SECONDS = 120.0
#: From the end of a session to that of the server that cut it.
_END_SECONDS = 5.0
_KEPT_LINES = 500
#: The name of the socket, no more.
_PORT = 5432
#: Longer than the fetcher's own patience with one segment.
STANDSTILL_SECONDS = 1800.0


class RecoveringServer:
    """A running server over ``data``. Leaving the context stops it; its folders stay.

    ``superuser`` is the cluster's bootstrap role. Start and use
    it from one thread that waits for it: the server dies with that thread.
    """

    def __init__(
        self,
        tools: Tools,
        work: Path,
        data: Path,
        confinement: Confinement,
        fetcher: Fetcher,
        report: Report,
        *,
        durable: bool,
        superuser: str = "postgres",
    ) -> None:
        self.tools = tools
        self.data = data
        self.superuser = superuser
        #: Whether it replayed in two goes: of the first, it knows no transaction's time any more.
        self.restarted = False
        self._confinement = confinement
        self._owner = Owner(confinement.user, confinement.user)
        self._fetcher = fetcher
        self._report = report
        self._durable = durable
        self._settings_folder = work / "settings"
        self._work = work
        self._tablespaces = work / "tablespaces"
        self._sockets = socket_folder(work)
        self._door = door_folder(work)
        self._least: dict[str, int] = {}
        self._child: Child | None = None
        self._said: deque[str] = deque(maxlen=_KEPT_LINES)

    def __enter__(self) -> RecoveringServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def cluster(self, database: str = "postgres") -> Cluster:
        """How to connect as the superuser, by the socket."""
        return Cluster(
            f"postgresql://{quote(self.superuser, safe='')}@/{quote(database, safe='')}"
            f"?host={quote(str(self._door), safe='')}&port={_PORT}",
            isolated=True,
        )

    def recover(self, facts: BaseFacts, target: Mapping[str, str], end_lsn: int) -> None:
        """Start the server and wait until it has paused at its target. Raises ``RecoveryFailed``; the server is stopped then.

        ``target``: the recovery settings; ``end_lsn``: for telling how far it is.
        """
        self._least = least_settings(self.tools, self.data, self._owner, facts)
        try:
            for attempt in range(len(AT_LEAST_PRIMARYS)):
                self.restarted = attempt > 0
                self._start(target)
                if self._wait_for_pause(end_lsn):
                    return
                self.stop()
            raise RecoveryFailed(
                "The recovering server asks for larger settings again and again", remedy="see its log lines above"
            )
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """A clean, fast shutdown; killed when it takes too long. Safe to call twice."""
        if self._child is not None:
            shut_down(self._child, _STOP_SECONDS)
            self._child = None
        end_server_of(self._work)

    @property
    def least_settings(self) -> dict[str, int]:
        """The settings that may not be less than the primary's, by name, as they are now."""
        return dict(self._least)

    def reason(self) -> str:
        """What the server said last about why it stopped, and why it was refused WAL."""
        said = self._child.complaint() if self._child is not None else ""
        return " ".join(part for part in (self._fetcher.trouble(), f"PostgreSQL said: {said}" if said else "") if part)

    @contextlib.contextmanager
    def named_end(self) -> Iterator[None]:
        """What is asked of the server inside and fails since the server ended is told by why it did. Raises ``RecoveryFailed``."""
        try:
            yield
        except DatabaseError as error:
            if self._child is None or not self._ended():
                raise
            self._child.hear_out()
            raise RecoveryFailed(f"The recovered server ended before it could be used. {self.reason()}") from error

    def _ended(self) -> bool:
        """Whether it has, or does within seconds: sessions are cut before it is gone."""
        assert self._child is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.process.wait(_END_SECONDS)
        return self._child.process.poll() is not None

    # -- starting ----------------------------------------------------------------------------------------------------

    def _start(self, target: Mapping[str, str]) -> None:
        self._write_settings(target)
        self._sockets.mkdir(mode=0o700)
        self._owner.take(self._sockets)
        new_file(self.data / "recovery.signal", "", self._owner)
        folder = self._settings_folder
        arguments: list[str | Path] = [
            self.tools.program("postgres"), "-D", self.data, "-c", f"config_file={folder / 'postgresql.conf'}",
            "-c", f"hba_file={folder / 'pg_hba.conf'}", "-c", f"ident_file={folder / 'pg_ident.conf'}",
        ]  # fmt: skip
        connection = self._fetcher.connect()
        try:
            # restore_command is built-ins of a shell, and talks to us over the server's standard input.
            self._child = self._confinement.child(
                arguments,
                self.tools,
                [self.data, self._sockets, self._tablespaces],
                [self._settings_folder],
                shell=True,
                stdin=connection.fileno(),
                on_line=self._said.append,
            )
        finally:
            connection.close()

    def _write_settings(self, target: Mapping[str, str]) -> None:
        settings = {
            **common_settings(self.tools.major, durable=self._durable),
            **{name: str(value) for name, value in self._least.items()},
            **target,
            "restore_command": RESTORE_COMMAND,
            "port": str(_PORT),
            "unix_socket_directories": str(self._sockets),
        }
        write_settings(self._settings_folder, self.data, self._owner, settings)

    # -- waiting -----------------------------------------------------------------------------------------------------

    def _wait_for_pause(self, end_lsn: int) -> bool:
        """True when it has paused at the target; False when it must be started again with larger settings."""
        assert self._child is not None
        watch = _Watch(self._report, self._fetcher, end_lsn)
        while True:
            if self._report.stop.is_set():
                raise Cancelled(
                    "The recovery was stopped: what it had begun is removed", remedy="start it again when you wish"
                )
            if self._child.process.poll() is not None:
                self._child.hear_out()
                if self._must_be_larger():
                    return False
                raise RecoveryFailed(
                    f"The recovery stopped before {format_lsn(end_lsn)}, where it should have ended. {self.reason()}"
                )
            lsn, paused = self._look()
            if paused and lsn is not None:
                # It also pauses when a setting is too low; then its target is still ahead.
                return not self._must_be_larger()
            watch.see(lsn)
            time.sleep(0.02 if lsn is None else 0.05)

    def _look(self) -> tuple[int | None, bool]:
        """Up to where it has replayed, None before it lets anybody in, and whether it stands at its target.

        Mostly it pauses there. When a long transaction with many savepoints keeps it from letting anybody in, it does not
        ("Don't pause unless users can connect", recoveryPausesHere in xlogrecovery.c) and ends the recovery just there.
        """
        import psycopg

        paused = "pg_get_wal_replay_pause_state() = 'paused'" if self.tools.major >= 14 else "pg_is_wal_replay_paused()"
        stands_there = f"CASE WHEN pg_is_in_recovery() THEN {paused} ELSE true END"
        if not self._door.exists() and not open_door(self._work, _PORT):
            return None, False
        try:
            with self.cluster().connect() as connection:
                [(lsn, stands)] = query(connection, f"SELECT pg_last_wal_replay_lsn()::text, {stands_there}")
        # The second: it stopped while it was asked, or left recovery between two functions. The next look tells.
        except (DatabaseUnreachable, psycopg.Error):
            return None, False
        except DatabaseRefused as error:
            raise RecoveryFailed(f"The recovering server does not let us in: {error}") from error
        return (None if lsn is None else parse_lsn(lsn)), bool(stands)

    def _must_be_larger(self) -> bool:
        """Take over settings that the primary raised after the base was taken; False when there is none."""
        larger = False
        for line in list(self._said):
            if (match := _TOO_LOW.search(line)) and int(match[2]) > self._least.get(match[1], 0):
                self._least[match[1]] = int(match[2])
                larger = True
        return larger


class _Watch:
    """Tells how far a recovery is, and that it stands still."""

    def __init__(self, report: Report, fetcher: Fetcher, end_lsn: int) -> None:
        self._report = report
        self._fetcher = fetcher
        self._end = end_lsn
        self._seen: tuple[int | None, int] = (None, -1)
        self._moved = self._told = self._begun = time.monotonic()

    def see(self, lsn: int | None) -> None:
        now = time.monotonic()
        seen = (lsn, self._fetcher.served.segments)
        if seen != self._seen:
            self._seen, self._moved = seen, now
        elif now - self._moved > STANDSTILL_SECONDS:
            raise RecoveryFailed(
                f"The recovery has stood still at {format_lsn(lsn or 0)} for {STANDSTILL_SECONDS:.0f} s",
                remedy="see the disk and the load of this machine, then recover again",
            )
        if now - self._told >= LOG_EVERY_SECONDS:
            self._told = now
            rate = self._fetcher.served.segments / (now - self._begun)
            where = "not consistent yet" if lsn is None else f"at {format_lsn(lsn)}"
            self._report.info(
                f"replaying: {where} of {format_lsn(self._end)}, {self._fetcher.served.segments} of {self._fetcher.total} segments, {rate:.1f} segments/s"
            )
