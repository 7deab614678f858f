"""What all measurements share: rows, medians of things done in turn, an application of some size, jobs run as a script would."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from twist_dr.repository.keys import Keyring, new_key, save_keyring
from twist_dr_tests.erp import fixtures
from twist_dr_tests.servers import PostgresServer

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / ".bench"


@dataclass(frozen=True)
class Row:
    """One measurement. ``ratio`` is in the unit of ``demand``; ``seconds`` are medians unless the name says otherwise."""

    name: str
    demand: str
    ratio: float
    met: bool
    seconds: dict[str, float]


def median_seconds(rounds: int, **ways: Callable[[], object]) -> dict[str, float]:
    """Do all ways in turn, ``rounds`` times, so that a slow minute hits all of them; median seconds by name."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begun = time.monotonic()
            way()
            times[name].append(time.monotonic() - begun)
    return {name: round(statistics.median(each), 3) for name, each in times.items()}


def median_of(rounds: int, **ways: Callable[[], float]) -> dict[str, float]:
    """The same for ways that say themselves how many seconds they took, because not all that they do counts.

    What one of them wrote is on the disk before the next begins, which would else wait for it.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            os.sync()
            times[name].append(way())
    return {name: round(statistics.median(each), 3) for name, each in times.items()}


@dataclass(frozen=True)
class Ended:
    """A process that ended well. ``peak``: bytes of its own resident memory at most, without that of servers that it started."""

    seconds: float
    peak: int
    text: str


def ended(process: subprocess.Popen[str]) -> Ended:
    """Wait for a process that was just started with its output in a pipe. Raises when it failed."""
    begun, peaks = time.monotonic(), [0]
    watcher = threading.Thread(target=lambda: peaks.extend(_peaks(process.pid)), daemon=True)
    watcher.start()
    text, _ = process.communicate()
    seconds = time.monotonic() - begun
    watcher.join()
    if process.returncode != 0:
        raise SystemExit(f"{process.args!r} failed:\n{text[-4000:]}")
    return Ended(round(seconds, 3), max(peaks), text)


def _peaks(process: int) -> Iterator[int]:
    """What the kernel says of a process's peak, now and then until it has ended. (What wait4 tells has its children's in it.)"""
    with suppress(OSError):
        while match := re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE):
            yield int(match[1]) * 1024
            time.sleep(0.02)


class Application:
    """An ERP of some size in a work folder of its own, with targets to choose from."""

    def __init__(self, name: str, server: PostgresServer, megabytes: int, s3: Mapping[str, str]) -> None:
        self.folder = BENCH / name
        self._megabytes = megabytes
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "dagster").mkdir(parents=True)
        shutil.copyfile(ROOT / "dagster.yaml", self.folder / "dagster" / "dagster.yaml")
        key = new_key()
        save_keyring(Keyring(key.id, {key.id: key}, "new"), self.folder / "keyring.yaml")
        self.url = server.url(f"erp_{name}")
        fixtures.create(self.url, self.folder / "media", megabytes=megabytes)
        self.environment = {
            "BENCH_URL": self.url,
            "DAGSTER_HOME": str(self.folder / "dagster"),
            "TWIST_DR_CONFIG": str(self.folder / "twist-dr.yaml"),
            **s3,
        }

    def forget_backups(self) -> None:
        """Or the disk would fill; a small one finds what the night before left, as in life."""
        if self._megabytes > 100:
            for stale in ("targets", "work"):
                shutil.rmtree(self.folder / stale, ignore_errors=True)
            shutil.rmtree(BENCH / "s3" / "bench" / "erp", ignore_errors=True)

    def settle_for(self, targets: Sequence[str], **sections: Any) -> None:
        """Write the settings, with these storage targets and sections."""
        places: dict[str, Any] = {
            name: {"type": "local", "path": f"targets/{name}"} for name in targets if name != "cloud"
        }
        if "cloud" in targets:
            places["cloud"] = {
                "type": "s3",
                "bucket": "bench",
                "endpoint_url": "${BENCH_S3}",
                "access_key_id": "${BENCH_S3_KEY}",
                "secret_access_key": "${BENCH_S3_SECRET}",
            }
        document = {
            "application": "erp",
            "database": {"url": "${BENCH_URL}"},
            "media": {"attachments": "media"},
            "encryption": {"keyring": "keyring.yaml"},
            "work_dir": "work",
            "storage_targets": places,
            **sections,
        }
        (self.folder / "targets").mkdir(exist_ok=True)
        (self.folder / "twist-dr.yaml").write_text(yaml.safe_dump(document, sort_keys=False))

    def job(self, job: str, config: Mapping[str, Any] | None = None) -> int:
        """Run a job as a script would; returns its peak resident memory in bytes."""
        return dagster_job("twist_dr.definitions", job, self.environment, self.folder, config)

    def empty_job(self) -> int:
        """The smallest Dagster job there is, run the same way."""
        return dagster_job("twist_dr_tests.empty_job", "empty", self.environment, self.folder)


def dagster_job(
    module: str, job: str, environment: Mapping[str, str], folder: Path, config: Mapping[str, Any] | None = None
) -> int:
    """``dagster job execute``; returns peak resident memory in bytes. Raises when it fails."""
    log = folder / f"{job}.log"
    command = [str(Path(sys.executable).with_name("dagster")), "job", "execute", "-m", module, "-j", job]
    if config is not None:
        (folder / "run.yaml").write_text(yaml.safe_dump({"ops": config}))
        command += ["-c", str(folder / "run.yaml")]
    with log.open("wb") as file:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=file, stderr=file, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{job} failed; see {log}")
    return usage.ru_maxrss * 1024


def fresh_folder(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path
