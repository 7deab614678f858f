"""A site that runs by itself: the real ``dagster dev``, with its daemon, beside the real ``twist-dr wal receive``."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone

from twist_dr.catalog import CatalogUnavailable
from twist_dr.status.collect import collect
from twist_dr_tests.servers import free_port
from twist_dr_tests.site import Site, beside


@dataclass
class Seen:
    """What ``twist-dr status`` would have said at a moment."""

    at: float
    state: str
    reasons: tuple[str, ...]


@dataclass
class Watcher:
    """Looks at the status every second, in a thread, and remembers what it was."""

    site: Site
    seen: list[Seen] = field(default_factory=list)

    def look(self) -> Seen:
        now = time.monotonic()
        try:
            status = collect(self.site.settings(), self.site.catalog(), datetime.now(timezone.utc))
            seen = Seen(now, status.state, tuple(reason.text for reason in status.reasons))
        except CatalogUnavailable as unavailable:
            seen = Seen(now, "unsafe", (str(unavailable),))
        self.seen.append(seen)
        return seen

    def between(self, begin: float, end: float) -> list[Seen]:
        return [each for each in self.seen if begin <= each.at <= end]

    def reasons(self, begin: float, end: float) -> dict[str, set[str]]:
        """The states between two times, with the reasons that were given for each."""
        found: dict[str, set[str]] = {}
        for each in self.between(begin, end):
            found.setdefault(each.state, set()).update(each.reasons)
        return found


@contextmanager
def watched(site: Site) -> Iterator[Watcher]:
    """Look at the status all the time while the block runs."""
    watcher, stop = Watcher(site), threading.Event()

    def work() -> None:
        while not stop.wait(1):
            watcher.look()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield watcher
    finally:
        stop.set()
        thread.join()


@contextmanager
def shipping(site: Site) -> Iterator[None]:
    """The two resident processes for write-ahead log beside it, while the block runs."""
    processes = []
    with (site.folder / "wal.log").open("ab") as log:
        try:
            for command in (["receive"], ["ship", "--follow"]):
                arguments = [beside("twist-dr"), "wal", *command]
                environment = {**os.environ, **site.environment}
                processes.append(
                    subprocess.Popen(arguments, env=environment, cwd=site.folder, stdout=log, stderr=subprocess.STDOUT)
                )
            yield
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(30)


@contextmanager
def dagster_dev(site: Site) -> Iterator[subprocess.Popen[bytes]]:
    """The page and the daemon, until the block ends; their output goes to ``dagster-dev.log``."""
    log = (site.folder / "dagster-dev.log").open("ab")
    process = subprocess.Popen(
        [beside("dagster"), "dev", "-m", "twist_dr.definitions", "-h", "127.0.0.1", "-p", str(free_port())],
        env={**os.environ, **site.environment}, cwd=site.folder,
        stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        end(process)
        log.close()


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask it and its children to end; whoever does not within half a minute is killed."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def schedule(site: Site, action: str, name: str) -> None:
    """Start or stop a schedule, as the switch in the page does."""
    subprocess.run(
        [beside("dagster"), "schedule", action, "-m", "twist_dr.definitions", name],
        env={**os.environ, **site.environment}, cwd=site.folder, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
