"""One changing operation at a time, and the lock ends with its holder, however that ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from twist_dr.errors import Busy
from twist_dr.system.lock import FileLocks
from twist_dr_tests.helpers import next_line, python

HOLD = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from twist_dr.system.lock import FileLocks\n"
    "with FileLocks(Path(sys.argv[1]), 'erp').hold('backup_full'):\n"
    "    print('held')\n"
    "    time.sleep(100)\n"
)


def test_a_second_operation_is_told_at_once_which_one_is_going_on(tmp_path: Path) -> None:
    with python(HOLD, tmp_path) as holder:
        assert next_line(holder) == "held"
        with (
            pytest.raises(Busy, match=rf"restore of erp.*backup_full \(process {holder.pid} on "),
            FileLocks(tmp_path, "erp").hold("restore"),
        ):
            pass


def test_another_application_is_not_held_up(tmp_path: Path) -> None:
    with FileLocks(tmp_path, "erp").hold("restore"), FileLocks(tmp_path, "shop").hold("restore"):
        pass


def test_the_lock_ends_with_kill_9_of_its_holder(tmp_path: Path) -> None:
    with python(HOLD, tmp_path) as holder:
        assert next_line(holder) == "held"
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with FileLocks(tmp_path, "erp").hold("restore"):
            pass


def test_the_lock_ends_when_the_operation_fails_and_can_be_taken_again(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), FileLocks(tmp_path, "erp").hold("backup_full"):
        raise ZeroDivisionError
    with FileLocks(tmp_path, "erp").hold("restore"):
        pass


def test_a_program_that_the_operation_started_does_not_keep_the_lock(tmp_path: Path) -> None:
    code = HOLD.replace("    print('held')", "    import subprocess; print(subprocess.Popen(['sleep', '100']).pid)")
    with python(code, tmp_path) as holder:
        sleep = int(next_line(holder))
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        try:
            with FileLocks(tmp_path, "erp").hold("restore"):
                pass
        finally:
            os.kill(sleep, signal.SIGKILL)


def test_a_note_cut_short_does_not_hide_that_someone_is_at_work(tmp_path: Path) -> None:
    with FileLocks(tmp_path, "erp").hold("backup_full"):
        (tmp_path / "erp.lock").write_text('{"operation": "ba')
        with pytest.raises(Busy, match="another operation"), FileLocks(tmp_path, "erp").hold("restore"):
            pass
