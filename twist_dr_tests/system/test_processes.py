"""Promise 8 for programs that we start: none outlives us, none fails unnoticed, none can block us."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path

import pytest

from twist_dr.errors import DiskFilled, LocksExhausted, ProcessFailed
from twist_dr.system.processes import Child, describe_status, run
from twist_dr_tests.helpers import (
    NOBODY,
    next_line,
    no_thread_stays,
    program,
    python,
    runs,
    said_by_python,
    wait_until,
)


def test_what_a_program_writes_is_returned() -> None:
    assert run(["sh", "-c", "echo one; echo two >&2; echo three"]) == b"one\nthree\n"


def test_a_program_gets_its_environment_and_folder_and_nothing_to_read(tmp_path: Path) -> None:
    said = run(["sh", "-c", 'echo "$WORD"; pwd; cat'], environment={"WORD": "secret"}, folder=tmp_path)
    assert said.decode().splitlines() == ["secret", str(tmp_path)]


def test_a_program_gets_nothing_of_our_environment_that_nobody_named_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "AWS_SECRET_ACCESS_KEY": "s3",
        "DATABASE_URL": "postgresql://a:b@c/d",
        "TWIST_DR_KEYRING": "key",
        "PGPASSWORD": "pg",
    }
    for name, value in {**secrets, "LC_TIME": "C", "TZ": "UTC"}.items():
        monkeypatch.setenv(name, value)
    said = run(["env"], environment={"WORD": "named", "TZ": None}).decode()
    seen = dict(line.split("=", 1) for line in said.splitlines())
    assert not set(seen) & set(secrets)
    assert seen["WORD"] == "named" and seen["PATH"] == os.environ["PATH"] and seen["LC_TIME"] == "C"
    assert "TZ" not in seen


def test_a_program_can_be_fed_from_a_file() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"CREATE ROLE a;")
        file.seek(0)
        with Child(["cat"], stdin=file) as child:
            assert b"".join(child.output()) == b"CREATE ROLE a;"
            child.finish()


def test_a_program_can_run_as_another_user_without_our_groups() -> None:
    assert run(["id", "-u"], user=NOBODY, group=NOBODY) == f"{NOBODY}\n".encode()
    assert run(["id", "-G"], user=NOBODY, group=NOBODY) == f"{NOBODY}\n".encode()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exit 3", "sh failed with exit status 3: it gave no reason"),
        ("echo first >&2; echo last >&2; exit 1", "exit status 1: last"),
        ("echo 'sh: error: the disk burns' >&2; echo 'see the log' >&2; exit 1", "the disk burns"),
        ("printf 'no newline \\377' >&2; exit 1", "no newline"),
        ("kill -9 $$", "sh was ended by SIGKILL"),
        ("kill -TERM $$", "sh was ended by SIGTERM"),
    ],
)
def test_a_failure_is_named_with_its_status_and_its_last_words(script: str, words: str) -> None:
    with pytest.raises(ProcessFailed) as caught:
        run(["sh", "-c", script])
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("could not write to file: No space left on device", DiskFilled),
        ("ERROR:  could not extend file base/1: wrote only 4096 of 8192 bytes", DiskFilled),
        ("ERROR:  out of shared memory", LocksExhausted),
        ("ERROR:  relation does not exist", ProcessFailed),
    ],
)
def test_what_postgresql_says_of_a_full_disk_or_locks_is_an_error_of_its_own(said: str, kind: type) -> None:
    with pytest.raises(ProcessFailed) as failed:
        run(["sh", "-c", f"echo 'pg_restore: error: {said}' >&2; exit 1"])
    assert type(failed.value) is kind and failed.value.said == f"pg_restore: error: {said}"


def test_a_program_killed_in_the_middle_of_a_stream_that_ended_cleanly_fails() -> None:
    with (
        pytest.raises(ProcessFailed, match="SIGKILL"),
        Child(["sh", "-c", "head -c 3000000 /dev/zero; kill -9 $$"]) as child,
    ):
        assert sum(map(len, child.output())) == 3_000_000
        child.finish()


def test_a_program_that_succeeds_and_writes_too_little_fails() -> None:
    with (
        pytest.raises(ProcessFailed, match="reported success but wrote 5 bytes where at least 512"),
        Child(["sh", "-c", "echo four"]) as child,
    ):
        child.finish(512, sum(map(len, child.output())))


def test_megabytes_of_complaints_neither_block_nor_fill_the_memory() -> None:
    heard: list[int] = []
    script = "i=0; while [ $i -lt 60 ]; do head -c 50000 /dev/zero | tr '\\0' x >&2; echo >&2; i=$((i+1)); done; echo out; echo end >&2; exit 4"
    with (
        pytest.raises(ProcessFailed, match="exit status 4: end"),
        Child(["sh", "-c", script], on_line=lambda line: heard.append(len(line))) as child,
    ):
        assert b"".join(child.output()) == b"out\n"
        child.finish()
    assert heard == [50_000] * 60 + [3]
    said = said_by_python(
        "from twist_dr.system.processes import run\n"
        "from twist_dr_tests.helpers import peak_memory\n"
        "before = peak_memory()\n"
        "run(['sh', '-c', \"head -c 200000000 /dev/zero | tr '\\\\\\\\0' x >&2\"])\n"
        "print(peak_memory() - before)\n"
    )
    assert int(said) < 20 << 20


def test_leaving_a_program_ends_it_and_all_that_it_started(tmp_path: Path) -> None:
    with no_thread_stays(), Child(["sh", "-c", "sleep 300 & echo $!; sleep 300"]) as child:
        inner = int(next(child.output()))
        assert runs(inner)
    assert not runs(child.process.pid)
    wait_until(lambda: not runs(inner), "the inner program to end")


def test_a_program_that_ends_leaves_nothing_of_what_it_started() -> None:
    with no_thread_stays(), Child(["sh", "-c", "sleep 300 </dev/null >/dev/null 2>&1 & echo $!"]) as child:
        inner = int(b"".join(child.output()))
        child.finish()
    wait_until(lambda: not runs(inner), "the inner program to end")


def test_a_program_that_leaves_someone_holding_its_complaints_does_not_keep_us_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("twist_dr.system.processes._GRACE_SECONDS", 30.0)
    begun = time.monotonic()
    with Child(["sh", "-c", "sleep 300 </dev/null >/dev/null & echo $!"]) as child:
        inner = int(b"".join(child.output()))
        child.finish()
    assert time.monotonic() - begun < 15
    wait_until(lambda: not runs(inner), "the inner program to end")


def test_a_program_deaf_to_polite_signals_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twist_dr.system.processes._GRACE_SECONDS", 0.3)
    with Child(["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.05; done"]) as child:
        assert next(child.output()) == b"deaf\n"
    assert not runs(child.process.pid)


def test_an_error_on_our_side_ends_the_program() -> None:
    with pytest.raises(ZeroDivisionError), Child(["sleep", "300"]) as child:
        raise ZeroDivisionError
    assert not runs(child.process.pid)


@pytest.mark.parametrize("user", [None, NOBODY], ids=["same user", "other user"])
def test_a_program_ends_when_we_are_killed_by_signal_9(user: int | None) -> None:
    code = (
        "import sys\n"
        "from twist_dr.system.processes import Child\n"
        f"with Child(['sleep', '300'], user={user}, group={user}) as child:\n"
        "    print(child.process.pid)\n"
        "    child.finish()\n"
    )
    with python(code) as ours:
        sleep = int(next_line(ours))
        assert runs(sleep)
        os.kill(ours.pid, signal.SIGKILL)
        ours.wait()
        wait_until(lambda: not runs(sleep), "the program to end")


@pytest.mark.parametrize("status", range(-64, 0))
def test_every_signal_has_words(status: int) -> None:
    assert describe_status(status).startswith("was ended by ")


def test_a_program_that_is_not_there_or_no_program_is_said(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match="pg_dump"):
        run([tmp_path / "pg_dump"])
    broken = program(tmp_path, "pg_dump")
    broken.write_bytes(b"\x7fELF")
    with pytest.raises(ProcessFailed, match="pg_dump"):
        run([broken])


def test_what_a_child_said_last_is_heard_after_its_end() -> None:
    """A server that stops says why just then; whoever asks at once must not miss it."""
    with Child(["sh", "-c", "(sleep 0.3; echo 'FATAL: the reason' >&2) & exit 1"]) as child:
        child.process.wait()
        child.hear_out()
        assert child.complaint() == "FATAL: the reason"
