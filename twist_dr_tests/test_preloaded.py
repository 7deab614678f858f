"""Commands from the process with the preloaded libraries are processes of their own, in all that other tests rely on."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from twist_dr_tests.helpers import wait_until
from twist_dr_tests.preloaded import Command, Preloaded, usable

pytestmark = pytest.mark.skipif(not usable(), reason="every command starts as a shell starts it")

_MODULE = """
import os, signal, sys
from pathlib import Path
import dagster as dg

@dg.op
def tell():
    loaded = sorted(name for name in sys.modules if name.startswith("twist_dr."))
    # Not printed: what else is written at that time may come in between.
    Path("told").write_text(f"{loaded} {os.environ['TOLD']} {os.getcwd()} {os.getpid()}")
    if os.environ["TOLD"] == "wait":
        signal.pause()
    if os.environ["TOLD"] == "fail":
        raise RuntimeError("no")

@dg.job(executor_def=dg.in_process_executor)
def one():
    tell()
"""


@pytest.fixture(scope="module")
def preloaded() -> Iterator[Preloaded]:
    made = Preloaded()
    yield made
    made.close()


def _start(preloaded: Preloaded, folder: Path, told: str) -> Command:
    (folder / "module_of_one.py").write_text(_MODULE)
    environment = {**os.environ, "TOLD": told, "DAGSTER_HOME": str(folder)}
    return preloaded.start(["dagster", "job", "execute", "-f", "module_of_one.py", "-j", "one"], environment, folder)


def test_each_has_its_own_environment_folder_and_end_and_nothing_of_ours_is_loaded(
    preloaded: Preloaded, tmp_path: Path
) -> None:
    ended = []
    for told in ("well", "fail"):
        (tmp_path / told).mkdir()
        process = _start(preloaded, tmp_path / told, told)
        process.communicate(timeout=60)
        assert (tmp_path / told / "told").read_text() == f"[] {told} {tmp_path / told} {process.pid}"
        ended.append(process.returncode)
    assert ended == [0, 1]


def test_signals_reach_it_and_how_it_ended_is_known(preloaded: Preloaded, tmp_path: Path) -> None:
    process = _start(preloaded, tmp_path, "wait")
    wait_until((tmp_path / "told").exists, "the command to have begun its step")
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.kill()
    assert process.wait(30) == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    assert process.stdout is not None
    process.stdout.close()


def test_two_at_once_do_not_wait_for_each_other(preloaded: Preloaded, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    waiting, other = _start(preloaded, tmp_path, "wait"), _start(preloaded, tmp_path / "other", "well")
    assert other.communicate(timeout=60) and other.returncode == 0
    assert waiting.poll() is None
    waiting.terminate()
    assert waiting.communicate(timeout=30) and waiting.returncode
