"""What a person sees of a long operation, and how it is stopped."""

from __future__ import annotations

import io
import sys
import threading
from contextlib import suppress

import pytest

from twist_dr.errors import Cancelled
from twist_dr.system import progress
from twist_dr.system.events import Event, Progress
from twist_dr.system.progress import Bar, Lines, Report, human_bytes, human_seconds


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_400_000_000, "1.4 GB"), (5e15, "5000.0 TB"), (-2000, "-2.0 kB")],
)
def test_sizes_read_as_disks_and_providers_count_them(count: float, words: str) -> None:
    assert human_bytes(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.35, "350 ms"),
        (4.2, "4.2 s"),
        (725, "12 min 05 s"),
        (12_000, "3 h 20 min"),
        (59.99, "1 min 00 s"),
        (0.9999, "1.0 s"),
    ],
)
def test_durations_read_as_people_say_them(seconds: float, words: str) -> None:
    assert human_seconds(seconds) == words


def test_a_long_part_says_now_and_then_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY_SECONDS", 0.0)
    lines: list[str] = []
    with Report(Lines(lines.append)).part("database.dump", expected=4_000_000) as advance:
        advance(1_000_000)
    assert len(lines) == 1
    assert lines[0].startswith("database.dump: 1.0 MB of about 4.0 MB, about ")
    assert lines[0].endswith("/s")


def test_a_short_part_says_nothing_in_between() -> None:
    lines: list[str] = []
    with Report(Lines(lines.append)).part("database.dump") as advance:
        for _ in range(1000):
            advance(1000)
    assert lines == []


def test_an_operation_that_shall_stop_says_so_at_its_next_bytes() -> None:
    report = Report()
    with report.part("media.tar") as advance:
        advance(1)
        report.stop.set()
        with pytest.raises(Cancelled, match=r"media\.tar was stopped"):
            advance(1)


def test_all_that_listen_are_told_how_far_each_part_is_and_that_it_is_over() -> None:
    told: list[Event] = []
    report = Report(told.append)
    with suppress(ValueError), report.part("media.tar", 100) as advance, report.part("media.tar") as other:
        advance(50)
        other(7)
        advance(25)
        raise ValueError
    progress = [event for event in told if isinstance(event, Progress)]
    first, second = progress[0].part, progress[1].part
    assert (first.name, first.total, second.total) == ("media.tar", 100, None)
    assert [(event.part is first, event.done, event.over) for event in progress] == [
        (True, 0, False), (False, 0, False), (True, 50, False), (False, 7, False), (True, 75, False), (False, 7, True), (True, 75, True),
    ]  # fmt: skip


def test_a_bar_and_lines_go_together(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    lines: list[str] = []
    report = Report(Bar(), Lines(lines.append, lines.append))
    with report.part("media.tar", 100) as advance, report.part("media.files.jsonl") as advance_index:
        advance(50)
        advance_index(50)
        report.info("half of it")
        report.warning("a file vanished")
    report.info("done")
    assert lines == ["half of it", "a file vanished", "done"]
    out, err = capsys.readouterr()
    assert out == "" and "media.tar:" in err


class _Slow(io.StringIO):
    """A terminal that takes its time to say that it is one, and notes who asks meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.both = threading.Barrier(2)
        self.met = False

    def isatty(self) -> bool:
        with suppress(threading.BrokenBarrierError):
            self.both.wait(0.2)
            self.met = True
        return True


def test_parts_that_begin_at_once_are_shown_one_after_the_other() -> None:
    terminal = _Slow()
    report = Report(Bar(terminal))
    begin = [threading.Thread(target=report.part(name).__enter__) for name in ("database.dump", "media.tar")]
    for thread in begin:
        thread.start()
    for thread in begin:
        thread.join()
    assert not terminal.met
