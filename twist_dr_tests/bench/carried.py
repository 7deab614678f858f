"""Storage targets that rclone carries, measured against rclone as a careful person starts it: one process for each thing that is done."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twist_dr.storage.base import Digest
from twist_dr.storage.machine import Machine
from twist_dr.storage.options import providers
from twist_dr.storage.rclone_process import rclone_program
from twist_dr.storage.rclone_target import RcloneTarget
from twist_dr.system.sizes import CHUNK
from twist_dr_tests.bench.measure import BENCH, Row, fresh_folder, median_of
from twist_dr_tests.storage.servers import rclone_sftp_server, rclone_webdav_server

#: Small objects at a time: enough that one slow one does not count.
_SMALL = 20
_PUT = "import sys; from twist_dr_tests.bench.carried import put_alone; put_alone(*sys.argv[1:])"
_MACHINE = Machine(BENCH / "machine")


@dataclass(frozen=True)
class Place:
    """A folder on a server. ``options``: as the settings have them; ``remote``: how a child of rclone names it, with ``environment``."""

    kind: str
    options: Mapping[str, str]
    remote: str
    environment: Mapping[str, str] = field(repr=False)

    def rclone(self, *arguments: str | Path) -> None:
        """A child of rclone. Raises when it fails."""
        environment = {**os.environ, "RCLONE_CONFIG": os.devnull, **self.environment}
        command = [rclone_program(_MACHINE, "bench"), *arguments]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


def bench_carried(megabytes: int, rounds: int) -> list[Row]:
    """Small objects and a large one, on servers of this machine."""
    source = BENCH / "object"
    with ExitStack() as stack:
        places = [_sftp(stack), _webdav(stack)]
        rows = [row for place in places for row in _small(place, source, rounds)]
        with source.open("wb") as file:
            for _ in range(megabytes):
                file.write(os.urandom(1 << 20))
        return rows + [row for place in places for row in _large(place, source, rounds)]


def _sftp(stack: ExitStack) -> Place:
    ssh = stack.enter_context(rclone_sftp_server(fresh_folder(BENCH / "sftp"), fresh_folder(BENCH / "sftp-key")))
    options = {"host": "127.0.0.1", "port": str(ssh.port), "user": ssh.user, "known_hosts": str(ssh.known_hosts)}
    told = {**options, "pass": _obscured(ssh.password), "type": "sftp", "known_hosts_file": options["known_hosts"]}
    return Place(
        "sftp", {**options, "password": ssh.password, "path": "backups"}, "bench:backups", _as_environment(told)
    )


def _webdav(stack: ExitStack) -> Place:
    web = stack.enter_context(rclone_webdav_server(fresh_folder(BENCH / "webdav")))
    options = {"url": web.url, "user": web.user}
    told = {**options, "pass": _obscured(web.password), "type": "webdav", "vendor": "other"}
    return Place(
        "webdav", {**options, "password": web.password, "path": "backups"}, "bench:backups", _as_environment(told)
    )


def _obscured(password: str) -> str:
    command = [rclone_program(_MACHINE, "bench"), "obscure", "-"]
    return subprocess.run(command, input=password, capture_output=True, text=True, check=True).stdout.strip()


def _as_environment(told: Mapping[str, str]) -> dict[str, str]:
    """As rclone takes the configuration of the remote ``bench``."""
    return {f"RCLONE_CONFIG_BENCH_{name.upper()}": value for name, value in told.items()}


def _target(kind: str, options: Mapping[str, Any]) -> RcloneTarget:
    target = providers()[kind].model_validate({"type": kind, **options}).build(kind, _MACHINE)
    assert isinstance(target, RcloneTarget)
    return target


def _digest(source: Path) -> Digest:
    found = hashlib.sha256()
    with source.open("rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    return Digest(source.stat().st_size, found.hexdigest())


def _small(place: Place, source: Path, rounds: int) -> Iterator[Row]:
    source.write_bytes(os.urandom(1000))
    target, digest = _target(place.kind, place.options), _digest(source)
    target.prepare()
    target.put(source, "there", digest)
    seconds = median_of(
        rounds,
        stat=lambda: _each(lambda name: target.stat("there")),
        stat_by_a_child=lambda: _each(lambda name: place.rclone("lsjson", "--stat", f"{place.remote}/there")),
        put=lambda: _each(lambda name: target.put(source, name, digest)),
        put_by_a_child=lambda: _each(lambda name: place.rclone("copyto", source, f"{place.remote}/{name}")),
    )
    for what in ("stat", "put"):
        ratio = seconds[f"{what}_by_a_child"] / seconds[what]
        name = f"{place.kind}: {what} of a small object, against one rclone for each"
        yield Row(name, "at least 1.0x", round(ratio, 2), ratio >= 1, seconds)


def _each(do: Callable[[str], object]) -> float:
    begun = time.monotonic()
    for _ in range(_SMALL):
        do(uuid.uuid4().hex)
    return (time.monotonic() - begun) / _SMALL


def _large(place: Place, source: Path, rounds: int) -> Iterator[Row]:
    peaks: list[int] = []

    def ours() -> float:
        command = [sys.executable, "-c", _PUT, place.kind, json.dumps(place.options), str(source)]
        done = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        peaks.append(done["peak"])
        return float(done["seconds"])

    def by_hand() -> float:
        begun = time.monotonic()
        place.rclone("copyto", source, f"{place.remote}/by-hand")
        seconds = time.monotonic() - begun
        place.rclone("deletefile", f"{place.remote}/by-hand")
        return seconds

    def by_hand_and_read() -> float:
        begun = time.monotonic()
        place.rclone("copyto", source, f"{place.remote}/by-hand")
        place.rclone("hashsum", "sha256", "--download", f"{place.remote}/by-hand")
        seconds = time.monotonic() - begun
        place.rclone("deletefile", f"{place.remote}/by-hand")
        return seconds

    seconds = median_of(rounds, put=ours, copyto=by_hand, copyto_and_read=by_hand_and_read)
    peak, size = max(peaks) / 1e6, source.stat().st_size >> 20
    for by, what in (
        ("copyto", "rclone copyto, which reads nothing back"),
        ("copyto_and_read", "rclone copyto and rclone hashsum --download"),
    ):
        ratio = seconds[by] / seconds["put"]
        name = f"{place.kind}: {size} MB stored and read back, against {what}"
        yield Row(name, "at least 1.0x", round(ratio, 2), ratio >= 1, seconds)
    name = f"{place.kind}: peak resident memory of it, both processes together"
    yield Row(name, "at most 300 MB", round(peak, 1), peak <= 300, seconds)


def put_alone(kind: str, options: str, source: str) -> None:
    """Store a file with nothing else in this process, and print the seconds that took and the bytes of memory at most, rclone's among them."""
    target, file, key = _target(kind, json.loads(options)), Path(source), uuid.uuid4().hex
    digest = _digest(file)
    begun = time.monotonic()
    target.prepare()
    target.put(file, key, digest)
    seconds = time.monotonic() - begun
    peak = sum(_peak(process) for process in (os.getpid(), target.session.pid))
    target.delete(key)
    print(json.dumps({"seconds": seconds, "peak": peak}))


def _peak(process: int | None) -> int:
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
