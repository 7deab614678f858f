"""Jobs and commands in the test's own process: what they run, with its run config, environment, folder and words, and without what it costs to start.

What only a command has (arguments, exit status, signals, a history in files) is for the tests that ask for one: see the fixtures ``as_commands``
and ``real_commands``.
"""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
import tempfile
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from twist_dr.__main__ import main
from twist_dr.orchestrator import around
from twist_dr.postgres import sessions
from twist_dr.redaction import known
from twist_dr.settings import open_application
from twist_dr.watch.alerts import catalog_gone, facts
from twist_dr.watch.audit import log


def run_job(
    job: str, run_config: Mapping[str, Any], instance: dg.DagsterInstance, environment: Mapping[str, str], folder: Path
) -> tuple[int, str]:
    """What ``dagster job execute`` does, its exit status, and all that it says."""

    def execute() -> int:
        found = _definitions().resolve_job_def(job)
        return int(not found.execute_in_process(run_config, instance, raise_on_error=False).success)

    return _run(execute, environment, folder)


def materialize(
    key: dg.AssetKey, instance: dg.DagsterInstance, environment: Mapping[str, str], folder: Path
) -> tuple[int, str]:
    """The same for ``dagster asset materialize`` and one asset."""

    def execute() -> int:
        every = _definitions().resolve_implicit_global_asset_job_def()
        done = every.execute_in_process(instance=instance, asset_selection=[key], raise_on_error=False)
        return int(not done.success)

    return _run(execute, environment, folder)


def run_command(arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> tuple[int, str]:
    """The same for ``twist-dr``."""
    return _run(lambda: main(arguments), environment, folder)


def run_alone(arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> tuple[int, str]:
    """The same on a machine whose environment holds nothing else."""
    with pytest.MonkeyPatch.context() as process:
        process.setattr(tempfile, "tempdir", None)
        for name in os.environ.keys() - environment.keys():
            process.delenv(name)
        return run_command(arguments, environment, folder)


def _definitions() -> dg.Definitions:
    # Imported here: loading it reads the settings of the environment.
    from twist_dr.definitions import build_definitions

    return build_definitions(open_application())


def _run(work: Callable[[], int], environment: Mapping[str, str], folder: Path) -> tuple[int, str]:
    said, children = io.StringIO(), _children()
    with (
        pytest.MonkeyPatch.context() as process,
        redirect_stdout(said),
        redirect_stderr(said),
        open(os.devnull) as none,
    ):
        process.setattr(sys, "stdin", none)
        _begin(process, environment, folder)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            status = work()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except Exception:
            traceback.print_exc()
            status = 1
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if _children() - children:
        # What a process leaves to its end: an error and what it holds, a storage target and its rclone among it.
        gc.collect()
    # A command's children end with it at the latest; here, nobody would notice one that was left.
    assert not (left := _children() - children), f"processes {left} were left behind:\n{said.getvalue()[-6000:]}"
    return status, said.getvalue()


def _begin(process: pytest.MonkeyPatch, environment: Mapping[str, str], folder: Path) -> None:
    """As a new process does: in its environment and folder, and knowing nothing of what this one has learnt."""
    for name, value in environment.items():
        process.setenv(name, value)
    process.chdir(folder)
    process.setattr(known, "_known", known._Known())
    process.setattr(sessions, "_known_servers", {})
    process.setattr(facts, "_KNOWN", {})
    process.setattr(catalog_gone, "_REMEMBERED", {})
    process.setattr(log, "_told_uses", OrderedDict())
    # What is tried again is tried again at once: nothing becomes better in the meantime but what a test makes so.
    process.setattr(around, "_RETRY_SECONDS", 0)


def _children() -> set[str]:
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended since
            found.update((task / "children").read_text().split())
    return found
