"""A recovered cluster that goes on running on its own port when we are gone: to look at, never switched in.

<work_dir>/cluster-sandboxes/<restore_id>/data, settings, server.log, sandbox.json; and .lock until it is all there
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twist_dr.errors import ProcessFailed, RecoveryFailed
from twist_dr.postgres.confinement import run_lasting
from twist_dr.postgres.dead_servers import end_server_of, is_alive
from twist_dr.postgres.tools import Tools, find_tools
from twist_dr.postgres.unprivileged import socket_folder
from twist_dr.recovery.untar import Owner
from twist_dr.system.documents import NOTE, DocumentInvalid, read_file, read_mapping
from twist_dr.system.folders import remove_tree
from twist_dr.system.lock import try_lock
from twist_dr.system.processes import nothing_but, run
from twist_dr.system.scratch_folder import LOCK, clear_if_left_over

if TYPE_CHECKING:
    from twist_dr.postgres.cluster import Cluster

_LOG = "server.log"
_NOTE = "sandbox.json"
#: Bytes of postmaster.pid that are read; it has eight short lines (miscadmin.h).
_MOST_NOTED = 1 << 16
#: So are they called: by their restore's id.
_NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z-[a-z]+-[0-9a-f]{4}")
_START_SECONDS = 120
#: What was only for the recovery.
_RECOVERY_LINE = re.compile(r"(recovery_target\w*|restore_command|port|listen_addresses) = ")
_HBA = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"


@dataclass(frozen=True)
class ClusterSandbox:
    """A sandbox: ``folder`` holds all of it. ``port`` on loopback."""

    folder: Path
    tools: Tools
    owner: Owner
    port: int

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def start(self) -> None:
        """Start its server in the background. Raises ``RecoveryFailed`` with what the server says."""
        settings = self.folder / "settings"
        self._open_to_loopback(settings)
        sockets = socket_folder(self.folder)
        if not self.runs:
            # A new one: where the path is long it lies in the system's temporary folder, and anybody may have made one there.
            remove_tree(sockets)
        sockets.mkdir(mode=0o700, exist_ok=self.runs)
        self._release_lock_of_the_dead()
        self.owner.take(sockets)
        # The folder is ours, so that nothing in it can be exchanged for a link; its server finds its log there.
        log = self.folder / _LOG
        log.touch(mode=0o600)
        self.owner.take(log)
        options = " ".join(
            f"-c {name}={shlex.quote(str(settings / file))}"
            for name, file in (
                ("config_file", "postgresql.conf"),
                ("hba_file", "pg_hba.conf"),
                ("ident_file", "pg_ident.conf"),
            )
        )
        try:
            run_lasting(
                [
                    self.tools.program("pg_ctl"), "start", f"--pgdata={self.data}", f"--log={log}", "--wait",
                    f"--timeout={_START_SECONDS}", f"--options={options}",
                ],
                self.tools, [self.data, sockets, self.folder / "tablespaces", log], [settings], self.owner.user,
            )  # fmt: skip
        except ProcessFailed as error:
            raise RecoveryFailed(f"The sandbox's server did not start: {self._complaint() or error}.") from error

    def stop(self) -> None:
        """Stop its server, if it runs. Raises ``RecoveryFailed``."""
        if not self.runs:
            return
        try:
            run(
                [self.tools.program("pg_ctl"), "stop", f"--pgdata={self.data}", "--mode=fast", "--wait"],
                environment=nothing_but({"LC_ALL": "C"}), user=self.owner.user, group=self.owner.group, folder=self.data,
            )  # fmt: skip
        except ProcessFailed as error:
            raise RecoveryFailed(f"The sandbox's server did not stop: {error}.") from error

    def remove(self) -> None:
        """Stop it, and remove all of it. Raises ``RestoreError``; what is left is removed by the next recovery."""
        self.stop()
        # Without its note it is one that was never finished.
        (self.folder / _NOTE).unlink(missing_ok=True)
        clear_if_left_over(self.folder, end_server_of)

    @property
    def runs(self) -> bool:
        """Whether its server runs. The file that names its process stays behind when the server or the machine dies."""
        try:
            process = self._postmaster()
            # The number may be another's by now; a server works in its data folder (ChangeToDataDir in miscinit.c).
            return os.path.samefile(f"/proc/{process}/cwd", self.data)
        except (OSError, ValueError):
            return False

    def serves(self, cluster: Cluster) -> bool:
        """Whether what leads to ``cluster`` leads to its server, which listens on its socket and on 127.0.0.1 alone."""
        known = cluster.parameters
        host = known.get("hostaddr") or known.get("host", "")
        here = host in ("127.0.0.1", "localhost") or Path(host) == socket_folder(self.folder)
        return here and known.get("port", "5432") == str(self.port) and self.runs

    def _postmaster(self) -> int:
        """The process that its server noted. Raises ``OSError`` or ``ValueError``: code of the database can put anything there."""
        return int(read_file(self.data / "postmaster.pid", _MOST_NOTED, links=False).split(b"\n")[0])

    def note(self, *, user: str, database: str, point: str) -> None:
        """Write down what it is, for those who find it."""
        document = {
            "tools": str(self.tools.folder),
            "port": self.port,
            "user": user,
            "database": database,
            "point": point,
        }
        (self.folder / _NOTE).touch(mode=0o600)
        (self.folder / _NOTE).write_text(json.dumps(document, indent=1))

    def where(self) -> str:
        """How to reach it on this machine, as its superuser, without a password."""
        noted = _noted(self.folder)
        where = f"host={socket_folder(self.folder)} port={self.port} user={noted['user']} dbname={noted['database']}"
        return f"psql {shlex.quote(where)}"

    @property
    def point(self) -> str:
        """What was recovered."""
        return str(_noted(self.folder)["point"])

    def _release_lock_of_the_dead(self) -> None:
        """Where process 1 reaps nothing (many containers), a dead server keeps its number, which PostgreSQL takes for alive."""
        lock = self.data / "postmaster.pid"
        with suppress(OSError, ValueError):
            process = self._postmaster()
            if Path(f"/proc/{process}").exists() and not is_alive(process):
                lock.unlink()

    def _complaint(self) -> str:
        """The last reason that is in its log."""
        lines: list[str] = []
        with suppress(OSError):
            lines = (self.folder / _LOG).read_text(errors="replace").strip().splitlines()
        return next((line for line in reversed(lines) if "FATAL:" in line or "PANIC:" in line), "".join(lines[-1:]))

    def _open_to_loopback(self, settings: Path) -> None:
        """Only now: while it recovered, it listened on its socket alone."""
        path = settings / "postgresql.conf"
        lines = [line for line in path.read_text().splitlines(keepends=True) if not _RECOVERY_LINE.match(line)]
        path.write_text("".join([*lines, f"port = '{self.port}'\n", "listen_addresses = '127.0.0.1'\n"]))
        (settings / "pg_hba.conf").write_text(_HBA)


def _noted(folder: Path) -> dict[str, Any]:
    try:
        return read_mapping(read_file(folder / _NOTE, NOTE.size), NOTE)
    except (DocumentInvalid, OSError) as error:
        raise RecoveryFailed(
            f"{folder / _NOTE} cannot be read ({error})", remedy="stop that server, and remove the folder by hand"
        ) from None


@contextmanager
def unfinished(folder: Path) -> Iterator[None]:
    """A new folder that counts as unfinished while the block runs, and is removed when it fails."""
    folder.mkdir(mode=0o700)
    mark = folder / LOCK
    lock = os.open(mark, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try_lock(lock)
        yield
        mark.unlink()
    except BaseException:
        os.close(lock)
        lock = -1
        clear_if_left_over(folder, end_server_of)
        raise
    finally:
        if lock >= 0:
            os.close(lock)


def clear_unfinished(base: Path) -> None:
    """Remove what killed recoveries and removals left below ``base``. Raises ``RestoreError``."""
    for folder in sorted(base.iterdir()) if base.is_dir() else ():
        finished = (folder / _NOTE).exists() and not (folder / LOCK).exists()
        if _NAME.fullmatch(folder.name) and not finished:
            clear_if_left_over(folder, end_server_of)


def sandboxes(base: Path) -> Iterator[ClusterSandbox]:
    """Those that lie below ``base``, oldest first."""
    for note in sorted(base.glob(f"*/{_NOTE}")):
        noted = _noted(note.parent)
        folder = Path(noted["tools"])
        # Without its programs, after an upgrade say, it cannot be started any more, but seen and removed.
        gone = Tools(folder, 0, "unknown", server=False)
        tools = next((tools for tools in find_tools([folder]) if tools.folder == folder.resolve()), gone)
        owner = Owner()
        with suppress(FileNotFoundError):
            if os.geteuid() == 0:
                data = (note.parent / "data").lstat()
                owner = Owner(data.st_uid, data.st_gid)
        yield ClusterSandbox(note.parent, tools, owner, noted["port"])
