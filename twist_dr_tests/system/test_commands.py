"""Commands that are not ours: they get what they need, take no longer than they may, and are quoted without their secrets."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from twist_dr.errors import ProcessFailed
from twist_dr.system.commands import run_command
from twist_dr_tests.helpers import runs, wait_until


def test_a_command_gets_its_environment_and_folder(tmp_path: Path) -> None:
    run_command(["sh", "-c", 'echo "$WORD" > said'], seconds=10, environment={"WORD": "hello"}, folder=tmp_path)
    assert (tmp_path / "said").read_text() == "hello\n"


def test_a_command_that_fails_is_quoted_by_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match=r"^sh failed with exit status 3: the outbox is locked$"):
        run_command(["sh", "-c", "echo busy; echo the outbox is locked >&2; exit 3"], folder=tmp_path, seconds=10)
    with pytest.raises(ProcessFailed, match=r"exit status 1: only said$"):
        run_command(["sh", "-c", "echo only said; exit 1"], folder=tmp_path, seconds=10)
    with pytest.raises(ProcessFailed, match=r"exit status 1: the word is \*\*\*$"):
        run_command(
            ["sh", "-c", "echo the word is $WORD_TOKEN >&2; exit 1"], seconds=10, environment={"WORD_TOKEN": "a.b"}
        )
    with pytest.raises(ProcessFailed, match="no-such-program could not be started"):
        run_command(["no-such-program"], folder=tmp_path, seconds=10)


@pytest.mark.parametrize("script", ["sleep 60", "exec >&- 2>&-; sleep 60"], ids=["silent", "closed"])
def test_a_command_that_takes_too_long_is_ended_with_all_it_started(script: str, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(ProcessFailed, match=r"sh was not done after 1\.5 s and was ended"):
        run_command(["sh", "-c", f"sleep 60 >/dev/null 2>&1 & echo $! > pid; {script}"], folder=tmp_path, seconds=1.5)
    assert time.monotonic() - started < 20
    process = int((tmp_path / "pid").read_text())
    wait_until(lambda: not runs(process), "what the command started to end")


def test_a_command_that_leaves_something_running_is_done_when_it_is_done(tmp_path: Path) -> None:
    started = time.monotonic()
    run_command(["sh", "-c", "sleep 60 & echo $! > pid"], folder=tmp_path, seconds=30)
    assert time.monotonic() - started < 20
    process = int((tmp_path / "pid").read_text())
    wait_until(lambda: not runs(process), "what the command left to end")


def test_its_lines_are_told_as_they_come_and_whoever_stops_listening_ends_it(tmp_path: Path) -> None:
    lines: list[str] = []

    def hear(line: str) -> None:
        lines.append(line)
        if line == "two":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_command(
            ["sh", "-c", "echo $$ > pid; echo one; echo oops >&2; echo two; sleep 60"],
            seconds=None,
            folder=tmp_path,
            on_line=hear,
        )
    assert lines == ["one", "two"]
    process = int((tmp_path / "pid").read_text())
    wait_until(lambda: not runs(process), "the command to end")


def test_an_error_is_quoted_before_the_hint_that_follows_it() -> None:
    with pytest.raises(ProcessFailed, match=r"^the probe failed with exit status 2: psql: error: no \*\*\* here$"):
        run_command(
            ["sh", "-c", "echo psql: error: no $PGPASSWORD here >&2; echo Is the server running? >&2; exit 2"],
            seconds=10,
            environment={"PGPASSWORD": "word"},
            called="the probe",
        )
