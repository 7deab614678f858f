"""What runs in a test's own process does and says what its command does, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from twist_dr.redaction import known
from twist_dr_tests import in_process
from twist_dr_tests import site as commands
from twist_dr_tests.site import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """One that needs no server, with a target that cannot be written to."""
    (tmp_path / "media").mkdir()
    made = Site(tmp_path, "postgresql://nobody:sesame-open@127.0.0.1:1/erp", tmp_path / "media")
    (tmp_path / "targets" / "archive").write_text("in the way")
    return made


def _told(text: str) -> list[str]:
    """What a job of ours told, without what is another in each run."""
    lines = [line for line in text.splitlines() if " - dagster - INFO - " in line or " - dagster - WARNING - " in line]
    return [re.sub(r"\d+ ms\b", "*", line.rpartition(" - test_storage_targets - ")[2]) for line in lines]


def test_a_job_and_a_command_end_and_say_the_same_as_in_processes_of_their_own(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = site.job("test_storage_targets"), site.cli("show", "latest"), site.cli("list", "--nonsense")
    monkeypatch.setattr(commands, "as_commands", True)
    there = site.job("test_storage_targets"), site.command("show", "latest"), site.command("list", "--nonsense")
    assert [each.status for each in here] == [each.status for each in there] == [1, 1, 2]
    assert _told(here[0].text) == _told(there[0].text) != []
    assert all("1 of 2 storage targets cannot be used. archive:" in each.text for each in (here[0], there[0]))
    assert [each.text for each in here[1:]] == [each.text for each in there[1:]]


def test_this_process_is_as_it_was_afterwards(site: Site) -> None:
    def state() -> object:
        return dict(os.environ), Path.cwd(), sys.stdin, sys.stdout, known._known, known._known.secrets.copy()

    before = state()
    site.job("test_storage_targets", SITE_MORE="more").expect(1)
    site.cli("list").expect(0)
    assert state() == before


def test_a_process_that_is_left_behind_fails_the_test(tmp_path: Path) -> None:
    left: list[subprocess.Popen[bytes]] = []

    def leave() -> int:
        left.append(subprocess.Popen(["sleep", "60"]))
        return 0

    with pytest.raises(AssertionError, match="left behind"):
        in_process._run(leave, {}, tmp_path)
    left[0].kill()
    left[0].wait()
