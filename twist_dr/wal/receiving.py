"""Receiving WAL from the server as it is written, with pg_receivewal: nothing has to be installed on the server's host.

A replication slot keeps on the server what was not received yet. pg_receivewal makes every stretch durable and says so at
once (``--synchronous``), so that the slot tells how far the received log is good.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from twist_dr.errors import ClientToolsMissing, ProcessFailed, TwistDRError, WalReceiverStopped
from twist_dr.postgres.cluster import Cluster, named_errors
from twist_dr.postgres.sessions import COMMANDS
from twist_dr.postgres.tools import Tools, choose_tools
from twist_dr.repository.streams import full_disk_named
from twist_dr.system.processes import Child, describe_status
from twist_dr.system.progress import Report
from twist_dr.wal.primary import Primary, Sample
from twist_dr.wal.spool import Spool

_SHORTEST_WAIT, _LONGEST_WAIT = 1.0, 30.0
_LOOK_EVERY_SECONDS = 0.5
#: What the server says when it has not kept what is asked for.
_REMOVED = (
    "has already been removed",
    "cannot read from",
    "can no longer get changes",
    "can no longer access",
    "invalidated",
)
#: What it says when it was promoted, or restored, to a point before what was received already.
_FORKED = ("is not in this server's history", "is ahead of the WAL flush position")
_FULL = "No space left on device"


class Receiver:
    """Keeps pg_receivewal running against one server, whatever happens to either. ``slot`` is made when it is missing."""

    def __init__(self, cluster: Cluster, slot: str, spool: Spool, tools: Sequence[Tools], report: Report) -> None:
        self._cluster = cluster
        self._slot = slot
        self._spool = spool
        self._tools = tools
        self._report = report
        self._identifier: str | None = None
        self._removed = False

    def run(self, stop: threading.Event) -> None:
        """Receive until ``stop`` is set. An error that may pass is said and tried again, later and later."""
        wait, told = _SHORTEST_WAIT, ""
        while not stop.is_set():
            begun = time.monotonic()
            try:
                self._receive(stop)
            except (TwistDRError, OSError) as error:
                said = (
                    str(error)
                    if isinstance(error, TwistDRError)
                    else f"Receiving into {self._spool.root} failed: {error}. It is tried again; the server keeps WAL until then."
                )
                if time.monotonic() - begun > _LONGEST_WAIT:  # it went well for a while: this is a new trouble
                    wait, told = _SHORTEST_WAIT, ""
                if said != told:
                    self._report.warning(said)
                told = said
                stop.wait(wait)
                wait = min(wait * 2, _LONGEST_WAIT)

    # -- one connection ------------------------------------------------------------------------------------------------

    def _receive(self, stop: threading.Event) -> None:
        """From one start of pg_receivewal to its end. Raises why it ended, unless it was asked to."""
        sample = self._look()
        program = self._program()
        self._spool.prepare()
        folder = self._spool.received(sample.system_identifier)
        with full_disk_named(self._spool.root):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if sample.slot is not None and sample.slot.status == "lost":
            self._drop_slot()
            self._begin_anew(folder)
        if sample.slot is None or sample.slot.status == "lost":
            self._make_slot()
        if self._removed:
            self._begin_anew(folder)
            self._removed = False
        arguments: list[str | Path] = [
            program, f"--directory={folder}", f"--slot={self._slot}", "--synchronous", "--no-loop", "--status-interval=1",
        ]  # fmt: skip
        self._report.info(
            f"receiving from {self._cluster.place}, cluster {sample.system_identifier}, timeline {sample.timeline}, slot {self._slot}"
        )
        self._remove_unfinished(folder, sample)
        lines: list[str] = []
        environment = self._cluster.environment(settings=COMMANDS)
        with Child(arguments, environment=environment, folder=folder, on_line=lines.append) as child:
            while child.process.poll() is None and not stop.is_set():
                stop.wait(_LOOK_EVERY_SECONDS)
            status = child.process.poll()
            if status is None:
                return
        # The first error is the reason; what follows ("disconnected") follows from it. All has been read: the child is gone.
        complaint = next((line.strip() for line in lines if "error:" in line), child.complaint())
        self._removed = any(sign in complaint for sign in (*_REMOVED, *_FORKED))
        if any(sign in complaint for sign in _FORKED):
            raise WalReceiverStopped(
                f"{self._cluster.place} has another history than what was received ({complaint}): a standby that was behind was promoted, or an older "
                "state restored. What was received of the old one is kept and shipped, and receiving goes on with the new one",
                remedy="launch the job backup_base",
            )
        if _FULL in complaint:
            raise WalReceiverStopped(
                f"The disk of {self._spool.root} is full",
                remedy=(
                    "free space there, or see which storage target does not take what lies there (twist-dr wal status). The server keeps WAL until then, and "
                    "its disk fills up in turn"
                ),
            )
        if self._removed:
            raise WalReceiverStopped(
                f"The server has not kept the WAL that comes next ({complaint}); receiving goes on with what it still has. There is a gap now",
                remedy="launch the job backup_base",
            )
        raise ProcessFailed(
            f"pg_receivewal {describe_status(status) if status else 'ended'}: {complaint}; it is started again."
        )

    def _remove_unfinished(self, folder: Path, sample: Sample) -> None:
        """A full disk leaves a new segment that is too short, which pg_receivewal refuses for ever. It is made whole before anything is in it."""
        for path in folder.glob("*.partial"):
            with suppress(FileNotFoundError):  # the shipper was faster
                if path.stat().st_size not in (0, sample.segment_size):
                    path.unlink()

    def _look(self) -> Sample:
        primary = Primary(self._cluster, self._slot)
        try:
            sample = primary.ask()
        finally:
            primary.close()
        if sample.wal_level == "minimal":
            raise WalReceiverStopped(
                f"{self._cluster.place} writes too little WAL to recover from (wal_level = minimal)",
                remedy="set wal_level = replica and max_wal_senders, then restart PostgreSQL",
            )
        if sample.slot is not None and sample.slot.active:
            raise WalReceiverStopped(
                f"The replication slot {self._slot} is in use: another receiver runs, or the server has not noticed the end of the last one yet",
                remedy="end it, or name another slot in wal.slot",
            )
        if self._identifier not in (None, sample.system_identifier):
            self._report.warning(
                f"{self._cluster.place} is another cluster now ({sample.system_identifier}, before {self._identifier}): upgraded or made anew. "
                "No recovery leads from one to the other; launch the job backup_base."
            )
        self._identifier = sample.system_identifier
        return sample

    def _program(self) -> Path:
        with self._cluster.connect() as connection:
            major = connection.info.server_version // 10000
        fitting = [tools for tools in self._tools if tools.program("pg_receivewal").exists()]
        if not fitting:
            raise ClientToolsMissing(
                "pg_receivewal is not on this machine",
                remedy="install postgresql-client, or name its folder in database.client_tools",
            )
        return choose_tools(fitting, major, purpose="receive WAL from").program("pg_receivewal")

    # -- the slot ------------------------------------------------------------------------------------------------------

    def _make_slot(self) -> None:
        with self._cluster.connect() as connection, named_errors(f"to make the replication slot {self._slot}"):
            # Reserved at once: from here on the server keeps what is written.
            connection.execute("SELECT pg_create_physical_replication_slot(%s, true)", [self._slot])
        self._report.info(f"made the replication slot {self._slot}")

    def _drop_slot(self) -> None:
        self._report.warning(
            f"The replication slot {self._slot} was invalidated by the server (max_slot_wal_keep_size): WAL was lost that no recovery can do "
            "without. It is made anew; launch the job backup_base."
        )
        with self._cluster.connect() as connection, named_errors(f"to drop the replication slot {self._slot}"):
            connection.execute("SELECT pg_drop_replication_slot(%s)", [self._slot])

    def _begin_anew(self, folder: Path) -> None:
        """pg_receivewal goes on after the last file in its folder; without any, where the slot begins.

        What was not shipped yet is moved to where the server's archiver would have put it, and is shipped from there.
        """
        self._spool.prepare()
        for file in self._spool.files():
            if file.path.parent != folder:
                continue
            with suppress(FileNotFoundError):  # the shipper was faster
                place = self._spool.archived / file.name
                if self._spool.kept(file):
                    self._spool.remove(file)
                elif place.exists():
                    # Both ways in at once, or twice in a row: neither takes the other's place.
                    self._report.warning(
                        f"{file.name} lies in {place.parent} already; this one is kept in {self._spool.refuse(file)}"
                    )
                else:
                    file.path.rename(place)
