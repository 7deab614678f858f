"""A site that runs by itself: the real ``dagster dev``, with its daemon, beside the real ``twist-dr wal receive``."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from twist_dr_tests.servers import free_port
from twist_dr_tests.site import TWIST_DR, Site, beside, start
from twist_dr_tests.week import Watcher


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Look at the status every second while the block runs."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(1):
            watcher.look()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def receiving(site: Site, *others: Sequence[str]) -> Iterator[None]:
    """``twist-dr wal receive`` beside it, and other resident commands of ``twist-dr``, while the block runs."""
    processes = []
    with (site.folder / "wal.log").open("ab") as log:
        try:
            for command in (["wal", "receive"], *others):
                processes.append(start([*TWIST_DR, *command], site.environment, site.folder, log))
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
