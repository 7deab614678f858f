"""Whatever bytes a reader is given: an answer or an error of ours, soon, in bounded memory. See twist_dr_tests/fuzz."""

from __future__ import annotations

import subprocess
import sys

import pytest

from twist_dr_tests.fuzz.readers import READERS

#: Together with what each child costs, a minute of one processor for all.
EXAMPLES = 300


@pytest.mark.parametrize("name", sorted(READERS))
def test_a_reader_stands_whatever_it_is_given(name: str) -> None:
    command = [sys.executable, "-m", "twist_dr_tests.fuzz", "--examples", str(EXAMPLES), name]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=280)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("way", ["memory", "time", "error"])
def test_a_reader_that_does_not_stand_it_is_told(way: str) -> None:
    program = (
        "import sys, time\n"
        "from twist_dr_tests.fuzz import __main__ as fuzz\n"
        "from twist_dr_tests.fuzz.readers import Reader\n"
        "fuzz.MOST_SECONDS = 1\n"
        "ways = {'memory': lambda data: bytes(1 << 30), 'time': lambda data: time.sleep(30), 'error': lambda data: 1 / len(data)}\n"
        "read = ways[sys.argv.pop()]\n"
        "fuzz.READERS['bad'] = Reader(lambda data: read(data) if data != b'good' else None, [b'good'])\n"
        "sys.exit(fuzz.main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--examples", "100", "bad", way],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=280,
    )  # fmt: skip
    assert done.returncode == 1 and "did not stand it: bad" in done.stdout
    assert {"memory": "MemoryError", "time": "Timeout (0:00:01)", "error": "ZeroDivisionError"}[way] in done.stdout
