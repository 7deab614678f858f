"""Whatever bytes a reader is given: an answer or an error of ours, soon, in bounded memory. See twist_dr_tests/fuzz."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pytest

from twist_dr_tests.fuzz import __main__ as fuzz
from twist_dr_tests.fuzz.readers import READERS, Reader

#: Half a minute of one processor for all readers together; ``make fuzz`` tries others for hours.
EXAMPLES = 150


@pytest.mark.parametrize("name", sorted(READERS))
def test_a_reader_stands_whatever_it_is_given(name: str) -> None:
    assert fuzz.run(name, EXAMPLES, anew=False), "what it did not stand is told above"


@pytest.mark.parametrize(
    ("read", "told"),
    [
        (lambda data: bytes(1 << 30), "MemoryError"),
        (lambda data: time.sleep(30), "Timeout (0:00:01)"),
        (lambda data: 1 / len(data), "ZeroDivisionError"),
    ],
    ids=["memory", "time", "error"],
)
def test_a_reader_that_does_not_stand_it_is_told(
    read: Callable[[bytes], object], told: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = Reader(lambda data: read(data) if data != b"good" else None, [b"good"])
    monkeypatch.setattr(fuzz, "MOST_SECONDS", 1)
    monkeypatch.setitem(fuzz.READERS, "bad", bad)
    monkeypatch.setattr(sys, "argv", ["fuzz", "--examples", "100", "bad"])
    assert fuzz.main() == 1
    said = capfd.readouterr().err
    assert "did not stand it: bad" in said and told in said
