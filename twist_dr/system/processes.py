"""Child processes that cannot outlive us, whose exit status is always read."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from twist_dr.errors import DiskFilled, LocksExhausted, ProcessFailed
from twist_dr.system.interrupts import uninterrupted
from twist_dr.system.sizes import CHUNK

_KEEP_LINES = 200
_LONGEST_LINE = 1 << 16
_GRACE_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1
_F_SETPIPE_SZ = 1031
#: Much smaller than what is asked for at a time: Python then reads straight into the result, and copies nothing twice.
_BUFFER = 1 << 16


def _death_signal() -> Callable[[], None] | None:
    """What a child runs before exec so that the kernel ends it when we die, however we die (prctl(2), Linux only).

    The signal comes when the *thread* that started the child ends: start children from threads that wait for them.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    parent = os.getpid()

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return arrange


#: All that a child gets of our environment by itself: it holds secrets of storage targets, of the database and of the keyring.
#: Where programs and their libraries are, whose files below home count (certificates of libpq), where to put temporary files, language and
#: time zone, and where Kerberos and OpenSSL, which libpq uses, have their settings. Each is a path or a word, none a secret.
_INHERITED = re.compile(
    "PATH|LD_LIBRARY_PATH|HOME|USER|LOGNAME|TMPDIR|TZ|LANG|LANGUAGE|LC_[A-Z]+|KRB5CCNAME|KRB5_CONFIG|KRB5_CLIENT_KTNAME|OPENSSL_CONF|SSL_CERT_FILE|SSL_CERT_DIR"
)


def child_environment(changes: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """The environment of a child: a few words of ours, with changes; ``None`` removes a variable."""
    inherited = {name: value for name, value in os.environ.items() if _INHERITED.fullmatch(name)}
    return {name: value for name, value in {**inherited, **(changes or {})}.items() if value is not None}


def nothing_but(environment: Mapping[str, str]) -> dict[str, str | None]:
    """As changes, what leaves a child with that environment alone."""
    return {**dict.fromkeys(child_environment()), **environment}


def inherited(names: Iterable[str]) -> dict[str, str]:
    """Those of ``names`` that are set in our environment, for a child that is to get them, too."""
    return {name: os.environ[name] for name in names if name in os.environ}


_FULL = re.compile(r"No space left on device|could not extend file|disk full", re.IGNORECASE)


class Child:
    """A running program with its output to read. A context manager: leaving it ends the program and all it started.

    ``environment``: what it gets beside the short list of :func:`child_environment`.
    ``on_line`` is called, in a thread, with each line that the program writes to its standard error.
    """

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        environment: Mapping[str, str | None] | None = None,
        user: int | None = None,
        group: int | None = None,
        folder: Path | None = None,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        self.name = Path(arguments[0]).name
        self._lines: list[str] = []
        self._on_line = on_line
        started: subprocess.Popen[bytes] | None = None
        try:
            # Python drops what an interrupt raises in the middle of a fork: it would be lost.
            with uninterrupted():
                started = subprocess.Popen(
                    [os.fspath(argument) for argument in arguments],
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    bufsize=_BUFFER,
                    stderr=subprocess.PIPE,
                    env=child_environment(environment),
                    cwd=folder,
                    start_new_session=True,
                    preexec_fn=_death_signal(),
                    user=user,
                    group=group,
                    extra_groups=None if user is None else [],
                )
        except OSError as error:
            raise ProcessFailed(
                f"{arguments[0]} could not be started ({os.strerror(error.errno or 0)})", remedy="run twist-dr doctor"
            ) from error
        except BaseException:
            if started is not None:
                # Nobody else knows of it yet.
                os.killpg(started.pid, signal.SIGKILL)
                started.wait()
            raise
        self.process = started
        assert self.process.stdout is not None
        with contextlib.suppress(OSError):
            import fcntl

            # A larger pipe spares the two sides many a switch; the kernel's limit for users is 1 MiB (pipe(7)).
            fcntl.fcntl(self.process.stdout, _F_SETPIPE_SZ, CHUNK)
        self._listener = threading.Thread(target=self._listen, name=f"{self.name} stderr", daemon=True)
        self._listener.start()

    def output(self) -> Iterator[bytes]:
        """Its standard output, as it comes. Reading to the end says nothing yet: call :meth:`finish`."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        while chunk := os.read(descriptor, CHUNK):
            yield chunk

    def bulk_output(self) -> Iterator[bytes]:
        """The same in whole chunks, for a program that writes much, some kilobytes at a time: each chunk costs several threads a turn."""
        assert self.process.stdout is not None
        while chunk := self.process.stdout.read(CHUNK):
            yield chunk

    def finish(self, least_bytes: int | None = None, wrote: int = 0) -> None:
        """Wait for its end. Raises ``ProcessFailed`` when it failed, or wrote less than it must."""
        status = self.process.wait()
        # Whatever it started and left behind would hold its standard error open, and outlive it.
        self._kill_group()
        self._listener.join(_GRACE_SECONDS)
        if status != 0:
            raise process_failure(self.name, status, self.complaint())
        if least_bytes is not None and wrote < least_bytes:
            raise ProcessFailed(
                f"{self.name} reported success but wrote {wrote} bytes where at least {least_bytes} were due",
                remedy="check that this program is PostgreSQL's own, and run twist-dr doctor",
            )

    def hear_out(self) -> None:
        """After its end: what it said last may not have been read yet, and is the reason."""
        self._listener.join(_GRACE_SECONDS)

    def complaint(self) -> str:
        """The last thing it said on its standard error, errors first, in one line."""
        errors = [
            line for line in self._lines if "error:" in line or "ERROR:" in line or "FATAL:" in line or "PANIC:" in line
        ]
        # pg_restore -j: its worker has said why just before.
        errors = [line for line in errors if "worker process died unexpectedly" not in line] or errors
        said = errors[-1:] or self._lines[-1:]
        return said[0].strip() if said else "it gave no reason"

    def end(self) -> None:
        """Ask it to end, and make it end when it does not. Safe at any time."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_GRACE_SECONDS)
        self._kill_group()
        self.process.wait()
        self._listener.join(_GRACE_SECONDS)
        assert self.process.stdout is not None and self.process.stderr is not None
        self.process.stdout.close()
        # Closing what another thread reads waits for that thread; it is a daemon, and may be left to itself.
        if not self._listener.is_alive():
            self.process.stderr.close()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        while raw := self.process.stderr.readline(_LONGEST_LINE):
            line = raw.decode(errors="replace").rstrip("\n")
            self._lines.append(line)
            del self._lines[:-_KEEP_LINES]
            if self._on_line is not None:
                self._on_line(line)


def run(
    arguments: Sequence[str | Path],
    *,
    environment: Mapping[str, str | None] | None = None,
    user: int | None = None,
    group: int | None = None,
    folder: Path | None = None,
) -> bytes:
    """Run a program to its end and return what it wrote. Raises ``ProcessFailed``."""
    with Child(arguments, environment=environment, user=user, group=group, folder=folder) as child:
        output = b"".join(child.output())
        child.finish()
        return output


def says_full(said: str) -> bool:
    """Whether that is how PostgreSQL and its programs tell of a disk without space. Where there is an SQLSTATE, it is 53100."""
    return _FULL.search(said) is not None


def process_failure(name: str, status: int, said: str, more: str = "") -> ProcessFailed:
    """What to raise of a program that failed. ``said``: its last words, without secrets; ``more`` of ours is added."""
    kind = DiskFilled if says_full(said) else LocksExhausted if "out of shared memory" in said else ProcessFailed
    error = kind(f"{name} {describe_status(status)}: {said}{more}")
    error.said = said
    return error


def describe_status(status: int) -> str:
    """An exit status in words, as ``subprocess`` gives it: negative for a signal."""
    if status < 0:
        try:
            return f"was ended by {signal.Signals(-status).name}"
        except ValueError:  # most real-time signals have no name
            return f"was ended by signal {-status}"
    return f"failed with exit status {status}"
