"""The rclone program as a child of ours: ``rclone rcd`` on a unix socket, in a folder that nobody else may enter.

One for each target and process, started when it is first needed. Its configuration is in its memory only, and comes over the socket: nothing
secret is in its arguments or its environment. It must not outlive us, not even by SIGKILL: the kernel's signal on the death of a parent
comes when the *thread* that started a child ends (prctl(2)), so a thread of its own starts it and lives as long as it does.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from twist_dr.errors import ProcessFailed, RcloneMissing, TargetUnavailable
from twist_dr.storage.machine import Machine
from twist_dr.system.interrupts import begin
from twist_dr.system.processes import Child, inherited

#: It takes some 40 ms; a machine under load takes its time.
_START_SECONDS = 30.0
#: A socket that nobody answers at is one of a killed process, unless it is being made right now.
_STALE_SECONDS = 60.0
_SOCKET = re.compile(r"\d+-[0-9a-f]{8}\.sock")
#: The proxies without which some networks have no way out, and whom to trust where one of them ends TLS.
_WAY_OUT = (
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip

#: ``inplace``: we have temporary names of our own. ``use-server-modtime``: when an object was stored, not when its source was written.
#: ``server-write-timeout``: reading a large object takes as long as it does.
_ARGUMENTS = (
    "--rc-no-auth", "--rc-serve", "--rc-server-read-timeout", "8760h", "--rc-server-write-timeout", "8760h",
    "--inplace", "--use-server-modtime", "--retries", "1",
)  # fmt: skip


def rclone_program(machine: Machine, target: str) -> Path:
    """The program: that of the settings, the wheel's beside our Python, or one on the PATH. Raises ``RcloneMissing``."""
    if machine.rclone is not None:
        if not os.access(machine.rclone, os.X_OK):
            raise RcloneMissing(
                f"rclone.path is {machine.rclone}, which is no program", remedy="correct rclone.path", target=target
            )
        return machine.rclone
    beside = Path(sys.executable).with_name("rclone")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("rclone")
    if found is None:
        raise RcloneMissing(
            "such a target needs the program rclone, and it is not installed",
            remedy="install it: pip install 'twist-dr[drives]'",
            target=target,
        )
    return Path(found)


class RcloneProcess:
    """A running rclone. Its :attr:`socket` answers when this is made. Raises ``RcloneMissing``, ``TargetRefused``, ``TargetUnavailable``."""

    def __init__(
        self,
        machine: Machine,
        target: str,
        *,
        low_level_retries: int,
        configuration: Path | None = None,
        on_message: Callable[[str], None],
    ) -> None:
        self._target = target
        self._on_message = on_message
        program = rclone_program(machine, target)
        self._place = machine.private_folder()
        self._folder = os.open(self._place, os.O_RDONLY | os.O_DIRECTORY)
        # By its descriptor, and named to rclone from there on: a path of any length would be too long for the kernel (unix(7), sun_path).
        folder = Path(f"/proc/self/fd/{self._folder}")
        _clear_stale(folder)
        self.socket = folder / f"{os.getpid()}-{secrets.token_hex(4)}.sock"
        arguments = (
            program, "rcd", "--rc-addr", f"unix://{self.socket.name}", *_ARGUMENTS, "--low-level-retries", str(low_level_retries),
        )  # fmt: skip
        environment = {
            # Empty: in memory only.
            "RCLONE_CONFIG": str(configuration or ""),
            "RCLONE_USE_JSON_LOG": "true",
            **inherited(_WAY_OUT),
        }
        self._child: Child | None = None
        self._failure: ProcessFailed | None = None
        self._started = threading.Event()
        begin(
            threading.Thread(target=self._live, args=(arguments, environment), name=f"rclone of {target}", daemon=True)
        )
        self._wait_until_it_answers(program)

    @property
    def pid(self) -> int | None:
        return self._child.process.pid if self._child is not None else None

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.process.poll() is None

    def end(self) -> None:
        """End it. Safe at any time, and more than once."""
        self._started.wait(_START_SECONDS)
        if self._child is not None:
            self._child.end()
        if self._folder >= 0:
            self.socket.unlink(missing_ok=True)
            os.close(self._folder)
            self._folder = -1

    def _live(self, arguments: tuple[str | Path, ...], environment: dict[str, str]) -> None:
        try:
            child = Child(arguments, environment=environment, folder=self._place, on_line=self._heard)
        except ProcessFailed as error:
            self._failure = error
            self._started.set()
            return
        self._child = child
        self._started.set()
        child.process.wait()

    def _heard(self, line: str) -> None:
        with suppress(ValueError, AttributeError):
            self._on_message(str(json.loads(line).get("msg", "")))

    def _wait_until_it_answers(self, program: Path) -> None:
        end = time.monotonic() + _START_SECONDS
        try:
            while self._started.wait(_START_SECONDS) and self.running and time.monotonic() < end:
                if answers(self.socket, self.pid):
                    return
                time.sleep(0.005)
            if self._failure is not None or not self.running:
                raise RcloneMissing(
                    f"{program} does not start, or is no rclone",
                    remedy="run it by hand to see why, or install another: pip install 'twist-dr[drives]'",
                    target=self._target,
                )
            raise TargetUnavailable(
                f"{program} did not begin to work within {_START_SECONDS:.0f} seconds",
                remedy="see what keeps this machine busy, then run again",
                target=self._target,
            )
        except BaseException:
            self.end()
            raise


def answers(path: Path, pid: int | None) -> bool:
    """Whether that process listens there."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
        except OSError:
            return False
        # struct ucred of unix(7): of whoever called listen(2).
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(peer[:4], sys.byteorder, signed=True) == pid


def _clear_stale(folder: Path) -> None:
    """Remove the sockets of killed processes."""
    with suppress(OSError):
        for path in folder.iterdir():
            if _SOCKET.fullmatch(path.name) and time.time() - path.lstat().st_mtime > _STALE_SECONDS:
                with socket.socket(socket.AF_UNIX) as connection:
                    try:
                        connection.connect(str(path))
                    except ConnectionRefusedError:
                        path.unlink(missing_ok=True)
