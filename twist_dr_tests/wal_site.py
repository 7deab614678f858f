"""An installation with archived WAL: settings, and a real ``twist-dr wal receive`` beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twist_dr.postgres.unprivileged import unprivileged
from twist_dr.storage.base import StorageTarget
from twist_dr.storage.local import LocalTarget
from twist_dr.system.progress import Lines, Report
from twist_dr.wal.archived import ArchivedPosition, Shipped
from twist_dr.wal.from_settings import Shipping, raise_not_shipped
from twist_dr.wal.spool import Spool
from twist_dr_tests.helpers import wait_until
from twist_dr_tests.preloaded import Command
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import TWIST_DR, Site, start


class WalSite:
    """A site with ``wal`` in its settings. Its receiver runs from :meth:`receive` to :meth:`stop_receiver`."""

    def __init__(self, server: PostgresServer, folder: Path, **wal: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "media").mkdir()
        self.server = server
        self.site = Site(folder, server.url(), folder / "media")
        self.site.set(wal={"interval_seconds": 5, "follow_seconds": 0.2, **wal}, verification={})
        self._log = folder / "receiver.log"
        self._receiver: subprocess.Popen[str] | Command | None = None
        self.warnings: list[str] = []

    @property
    def identifier(self) -> str:
        return str(self._ask("SELECT system_identifier FROM pg_control_system()"))

    @property
    def spool(self) -> Spool:
        return Spool(self.site.settings().wal_spool)

    @property
    def archived(self) -> Path:
        return self.spool.archived

    def target(self, name: str) -> StorageTarget:
        return LocalTarget(name, self.site.folder / "targets" / name)

    def open_archived(self) -> Path:
        """The folder of the server's archiver, made and given to its user."""
        spool = self.spool
        spool.prepare()
        user, group = unprivileged()
        spool.root.chmod(0o711)
        if user is not None:
            os.chown(spool.archived, user, group or -1)
        return spool.archived

    def point_at(self, server: PostgresServer) -> None:
        """The application's address leads to another server now; the receiver is begun again."""
        running = self._receiver is not None
        self.stop_receiver()
        self.server, self.site.database_url = server, server.url()
        if running:
            self.receive()

    # -- the receiver ------------------------------------------------------------------------------------------------

    @property
    def receiver(self) -> subprocess.Popen[str] | Command:
        assert self._receiver is not None
        return self._receiver

    def start_receiver(self) -> None:
        self.stop_receiver()
        with self._log.open("ab") as log:
            command = [*TWIST_DR, "wal", "receive"]
            self._receiver = start(command, self.site.environment, self.site.folder, log)

    def receive(self) -> None:
        """Start the receiver, and wait until it receives."""
        self.start_receiver()
        wait_until(lambda: self._slot_in_use(), "the receiver to receive", 30)

    def stop_receiver(self) -> None:
        """Ask it to end, as a service manager does."""
        if self._receiver is not None and self._receiver.poll() is None:
            self._receiver.send_signal(signal.SIGTERM)
            assert self._receiver.wait(20) == 0
        self._receiver = None

    def said(self) -> str:
        """All that the receivers have said."""
        return self._log.read_text() if self._log.exists() else ""

    def pg_receivewal(self) -> int:
        """The process id of the receiver's pg_receivewal."""
        process = self.receiver.pid
        children: list[int] = []

        def find() -> bool:
            children[:] = [
                int(child)
                for task in Path(f"/proc/{process}/task").iterdir()
                for child in (task / "children").read_text().split()
            ]
            return bool(children)

        wait_until(find, "pg_receivewal to run")
        return children[0]

    def _slot_in_use(self) -> bool:
        return self._ask("SELECT bool_or(active) FROM pg_replication_slots WHERE slot_name = 'twist_dr_erp'") is True

    # -- writing, and what became of it ------------------------------------------------------------------------------

    def _ask(self, statement: str) -> object:
        with self.server.cluster().connect() as connection:
            row = connection.execute(statement.encode()).fetchone()
        return row[0] if row else None

    def write(self, server: PostgresServer | None = None) -> None:
        """One transaction, acknowledged."""
        with (server or self.server).cluster().connect() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS written (words text)")
            connection.execute("INSERT INTO written SELECT 'twist-dr was here' FROM generate_series(1, 200)")

    def position(self, target: str = "office") -> ArchivedPosition:
        return ArchivedPosition.from_document(self.spool.load_state().positions[target])

    def ship(self, *, faultless: bool = True) -> Shipped:
        """A round of what the job and the command do, in this process: theirs take a second to start."""
        with Shipping(self.site.app(report=Report(Lines(warning=self.warnings.append)))) as shipping:
            shipped = shipping.once()
        if faultless:
            raise_not_shipped(shipped)
        return shipped

    def reaches(self, lsn: int, *, timeline: int = 1, seconds: float = 20, faultless: bool = True) -> bool:
        """Ship until the target reaches that far; whether it does, in the present cluster."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.ship(faultless=faultless)
            positions = self.spool.load_state().positions
            if "office" in positions and self.position().lsn >= lsn and self.position().timeline >= timeline:
                return self.position().system_identifier == self.identifier
            time.sleep(0.2)
        raise AssertionError(f"{self.warnings}\n{self.said()}\n{self.spool.load_state()}")


@contextmanager
def wal_site(server: PostgresServer, folder: Path, **wal: object) -> Iterator[WalSite]:
    """An installation against a server; leaving ends its receiver, and drops its slot where the server still runs."""
    site = WalSite(server, folder, **wal)
    try:
        yield site
    finally:
        if site._receiver is not None and site._receiver.poll() is None:
            site._receiver.kill()
            site._receiver.wait()
        try:
            with site.server.cluster().connect() as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'twist_dr_erp' AND active"
                )
                for _ in range(100):
                    if not site._slot_in_use():
                        break
                    time.sleep(0.05)
                connection.execute(
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'twist_dr_erp'"
                )
        except Exception:  # the server is gone, which was the test
            pass
