"""Clusters fresh from initdb, made once for a run of the tests and copied for every server: a copy costs a tenth of the making."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from twist_dr.postgres.tools import Tools
from twist_dr.postgres.unprivileged import reachable_base, unprivileged
from twist_dr.system.processes import run
from twist_dr.system.scratch_folder import ScratchFolder, clear_left_over

_PREFIX = "templates-"
#: The first page of a segment of WAL begins with its long header (xlog_internal.h), in which the system identifier has this place.
_IDENTIFIER_IN_WAL = 24


def initdb(tools: Tools, base: Path, options: Sequence[str]) -> None:
    """Make a cluster ``data`` in ``base``, whose superuser has the word in ``superuser.password``; nothing of both is there yet."""
    user, group = unprivileged()
    data, password = base / "data", base / "superuser.password"
    data.mkdir(mode=0o700, exist_ok=True)
    password.touch(mode=0o600)
    password.write_text(secrets.token_urlsafe(16))
    if user is not None:
        for path in (data, password):
            os.chown(path, user, group or -1)
    arguments: list[str | Path] = [
        tools.program("initdb"), f"--pgdata={data}", "--username=postgres", f"--pwfile={password}",
        "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions", *options,
    ]  # fmt: skip
    run(arguments, environment={"LC_ALL": "C"}, folder=data, user=user, group=group)


class Templates:
    """Templates below ``folder``, which all workers of a run share: each is made by whoever needs it first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def copy(self, tools: Tools, base: Path, options: Sequence[str]) -> None:
        """What :func:`initdb` does, from a template; the cluster gets an identifier of its own, as each has in the world."""
        key = repr((tools.folder, tools.version, *options))
        template = self.folder / hashlib.sha256(key.encode()).hexdigest()[:12]
        with template.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not template.exists():
                # Made under another name: what a worker that was killed began is none.
                making = Path(tempfile.mkdtemp(dir=self.folder))
                making.chmod(0o711)
                initdb(tools, making, options)
                making.rename(template)
        subprocess.run(["cp", "-a", f"{template}/.", base], check=True)
        _identify_anew(base / "data")


@contextmanager
def templates_of_a_run() -> Iterator[Templates]:
    """For the process that begins the workers. What is left of a run that was killed goes, too."""
    user, _ = unprivileged()
    base = reachable_base(Path(tempfile.gettempdir()) / f"twist-dr-tests-{os.geteuid()}", user)
    clear_left_over(base, _PREFIX)
    with ScratchFolder(base, _PREFIX) as folder:
        folder.chmod(0o711)
        yield Templates(folder)


def _identify_anew(data: Path) -> None:
    """Another system identifier in a cluster that is shut down, wherever it is written: recovery and archives tell clusters apart by it."""
    control = data / "global" / "pg_control"
    content = bytearray(control.read_bytes())
    before = bytes(content[:8])
    checksum = _place_of_checksum(content)
    # As initdb (xlog.c, BootStrapXLOG) makes one: the second, the microsecond, and what tells apart clusters of the same.
    now = time.time_ns() // 1000
    identifier = now // 1_000_000 << 32 | now % 1_000_000 << 12 | secrets.randbits(12)
    content[:8] = identifier.to_bytes(8, sys.byteorder)
    content[checksum : checksum + 4] = crc32c(content[:checksum]).to_bytes(4, sys.byteorder)
    control.write_bytes(content)
    for segment in (data / "pg_wal").glob("0*"):
        with segment.open("r+b") as file:
            file.seek(_IDENTIFIER_IN_WAL)
            assert file.read(8) == before, f"{segment} does not begin as WAL does"
            file.seek(_IDENTIFIER_IN_WAL)
            file.write(content[:8])


def _place_of_checksum(control: bytes) -> int:
    """Where the CRC of pg_control lies: right behind all that it is of (pg_control.h), whose length is another in each version."""
    state = _BEGIN
    for place in range(0, 512, 4):
        if int.from_bytes(control[place : place + 4], sys.byteorder) == state ^ _BEGIN and place:
            return place
        state = _continued(state, control[place : place + 4])
    raise AssertionError("pg_control bears no CRC that is right")


_BEGIN = 0xFFFFFFFF


def _continued(state: int, data: bytes) -> int:
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state


def crc32c(data: bytes) -> int:
    """The checksum that PostgreSQL puts into pg_control and its records of WAL."""
    return _continued(_BEGIN, data) ^ _BEGIN
