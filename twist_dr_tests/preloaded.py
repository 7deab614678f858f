"""``dagster`` and ``python -m``, started from a process that has the libraries loaded already.

Loading them is two thirds of what a small job costs the processor, and these tests start hundreds. So each worker of theirs keeps one
process that has loaded the libraries, and nothing of ours, and is forked for each command. A command is a process of its own all the same, with
its own arguments, environment, folder and end: our modules are loaded by it, signals reach it, and nothing outlives it that would not
otherwise. With ``TWIST_DR_TESTS_PRELOADED=0`` every command starts as a shell starts it, as those do whose tests ask for the fixture ``real_commands``.
"""

from __future__ import annotations

import gc
import os
import pickle
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO

LIBRARIES = (
    "dagster", "dagster._cli", "dagster._core.storage.sqlite_storage", "dagster._core.storage.local_compute_log_manager",
    "alembic.autogenerate", "alembic.command", "alembic.runtime.migration", "cryptography.hazmat.primitives.ciphers.aead",
    "cryptography.hazmat.primitives.kdf.hkdf", "fsspec", "psycopg", "psycopg.sql", "psycopg.types.json", "rich.console", "rich.traceback",
    "sqlalchemy.dialects.sqlite", "sqlalchemy.orm", "structlog", "upath", "watchdog.observers", "yaml", "zstandard",
)  # fmt: skip
_ROOT = Path(__file__).resolve().parent.parent
#: Longest request: the environment is most of it.
_LONGEST = 1 << 17


class Command:
    """One running command, to be used like ``subprocess.Popen``. ``stdout`` has what it writes, errors too, unless that goes to a file."""

    def __init__(self, status: int, stdout: IO[str] | None) -> None:
        self.stdout = stdout
        self.returncode: int | None = None
        self._status = os.fdopen(status, "rb", buffering=0)
        self.pid = int(self._line())

    def poll(self) -> int | None:
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        if (status := self._look(timeout)) is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return status

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """All that it still writes. Raises ``TimeoutExpired``."""
        read: list[str] = []
        stdout = self.stdout
        assert stdout is not None
        reader = threading.Thread(target=lambda: read.append(stdout.read()), daemon=True)
        reader.start()
        reader.join(timeout)
        if not read:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        self.wait(timeout)
        stdout.close()
        return read[0], None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = int(self._line())
            self._status.close()
        return self.returncode

    def _line(self) -> bytes:
        if not (line := self._status.readline()):
            raise RuntimeError("the process with the preloaded libraries has ended")
        return line


class Preloaded:
    """The process to fork, made when it is first needed. Ends with the one that made it, or by :meth:`close`."""

    def __init__(self) -> None:
        self._socket, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process: subprocess.Popen[bytes] | None = None
        self._beginning = threading.Lock()

    def _begin(self) -> None:
        with self._theirs as theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "twist_dr_tests.preloaded", str(theirs.fileno())],
                pass_fds=[theirs.fileno()], cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, log: IO[bytes] | None = None
    ) -> Command:
        """Start ``dagster``, or ``python -m``, with these arguments; it writes to ``log``, if that is given."""
        with self._beginning:
            if self._process is None:
                self._begin()
        output, write_output = os.pipe() if log is None else (None, os.dup(log.fileno()))
        status, write_status = os.pipe()
        request = pickle.dumps((list(arguments), dict(environment), str(folder)))
        assert len(request) < _LONGEST
        try:
            socket.send_fds(self._socket, [request], [write_output, write_status])
        finally:
            os.close(write_output)
            os.close(write_status)
        return Command(status, None if output is None else os.fdopen(output, "r"))

    def close(self) -> None:
        # Unlike closing it, this is noticed though somebody else might hold the socket still.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._theirs.close()
        if self._process is not None:
            self._process.wait(30)


def usable() -> bool:
    """Whether this machine can, and nobody has asked that every command start as a shell starts it."""
    return hasattr(os, "pidfd_open") and os.environ.get("TWIST_DR_TESTS_PRELOADED") != "0"


def _serve(requests: socket.socket) -> list[str]:
    """Fork for each request. Returns in each child, ready for its command, with the command's arguments."""
    running: dict[int, tuple[int, int]] = {}
    while True:
        ready, _, _ = select.select([requests.fileno(), *running], [], [])
        for descriptor in set(ready) & running.keys():
            _end(descriptor, *running.pop(descriptor))
        if requests.fileno() not in ready:
            continue
        message, descriptors, _, _ = socket.recv_fds(requests, _LONGEST, 2)
        if not message:
            sys.exit()
        output, status = descriptors
        pid = os.fork()
        if not pid:
            requests.close()
            for descriptor, (_, other) in running.items():
                os.close(descriptor)
                os.close(other)
            os.close(status)
            return _become(output, *pickle.loads(message))
        os.close(output)
        os.write(status, b"%d\n" % pid)
        running[os.pidfd_open(pid)] = pid, status


def _end(descriptor: int, pid: int, status: int) -> None:
    _, ended = os.waitpid(pid, 0)
    os.close(descriptor)
    with suppress(BrokenPipeError):  # Nobody wants to know.
        os.write(status, b"%d\n" % os.waitstatus_to_exitcode(ended))
    os.close(status)


def _become(output: int, arguments: list[str], environment: dict[str, str], folder: str) -> list[str]:
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    # A shell's child in the foreground minds an interrupt, however these tests were started.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return arguments


def main() -> None:
    # The folder that this was started in; a script has its own there.
    sys.path.pop(0)
    for library in LIBRARIES:
        import_module(library)
    gc.collect()
    gc.freeze()
    sys.argv = _serve(socket.socket(fileno=int(sys.argv[1])))
    # As the script of that name does.
    if Path(sys.argv[0]).name == "dagster":
        from dagster._cli import main as dagster  # type: ignore[attr-defined,unused-ignore]

        sys.exit(dagster())  # type: ignore[no-untyped-call]
    _, option, module, *arguments = sys.argv
    assert option == "-m", sys.argv
    sys.path.insert(0, str(Path.cwd()))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
