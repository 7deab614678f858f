"""What tests of several rooms share."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from twist_dr.repository.keys import Key, Keyring
from twist_dr.repository.table_names import TableName
from twist_dr.storage.base import Digest
from twist_dr_tests.site import ROOT

KEY = Key("k20260101", bytes(range(32)))
OTHER_KEY = Key("k20260101", bytes(32))
KEYRING = Keyring(KEY.id, {KEY.id: KEY}, "the test's keyring")

#: Sizes of chunks that fall on no edge of anything.
UNEVEN = (1, 4093, 65_537, 700_001, 3, 1_048_577)


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that do not compress, the same for the same seed."""
    return random.Random(seed).randbytes(size)


def chunked(data: bytes, sizes: Sequence[int] = UNEVEN) -> Iterator[bytes]:
    """``data`` in chunks of these sizes, over and over; an empty one now and then is part of the deal."""
    start, turn = 0, 0
    while start < len(data):
        size = sizes[turn % len(sizes)]
        yield data[start : start + size]
        start, turn = start + size, turn + 1
        yield b""


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 20) -> None:
    """Wait for a condition; fails the test, with ``what``, when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(0.01)


def runs(process: int) -> bool:
    """Whether a process is there and no mere zombie."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def postmaster_of(data: Path) -> int:
    """The number, as we see it, of the server that works in a data folder: in a namespace of its own it knows another."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"/postgres") and os.fsencode(data) in words:
                found.append(int(entry.name))
    (process,) = found
    return process


@contextlib.contextmanager
def python(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python process of its own, which is killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def said_by_python(code: str, *arguments: object) -> str:
    """What a Python process of its own prints; fails the test unless it ends well."""
    with python(code, *arguments) as process:
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0, said
        return said.strip()


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextlib.contextmanager
def no_thread_stays() -> Iterator[None]:
    """Fails the test when a thread that was begun inside still runs a little later."""
    before = set(threading.enumerate())
    yield

    def left() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread not in before]

    wait_until(lambda: not left(), f"threads to end: {left()}", seconds=5)


def program(folder: Path, name: str, *lines: str) -> Path:
    """A shell script that stands for a program."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


#: Code for a Python process that goes on as the user whose id it is given, with nothing left of root. Whatever it will
#: import must be imported before: that user may not be able to enter the folders of this Python.
AS_USER = "import os; os.setgroups([]); os.setgid({0}); os.setuid({0}); os.chdir('/')\n"
NOBODY = 65534


def joined(chunks: Iterable[bytes]) -> bytes:
    return b"".join(chunks)


def digest_of(data: bytes) -> Digest:
    return Digest(len(data), hashlib.sha256(data).hexdigest())


def peak_memory() -> int:
    """Bytes of memory that this process had at its highest. Not getrusage: that counts what our parent had at the fork."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) << 10  # type: ignore[index]


def killed_at(step: int, call: Callable[[], object]) -> bool:
    """Run ``call`` in a process of its own that kills itself right before its ``step``-th change of a folder; whether it came to that."""
    child = os.fork()
    if child == 0:
        try:
            _kill_before(step)
            call()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "what was to be killed failed"
    return False


def _kill_before(step: int) -> None:
    count = 0

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    for name in ("unlink", "remove", "rmdir", "rename", "replace"):
        setattr(os, name, counted(getattr(os, name)))


def by_label(counts: dict[TableName, int]) -> dict[str, int]:
    return {name.label: rows for name, rows in counts.items()}
