"""Telling how far a long operation is: lines for a log every few seconds, a bar where a person watches a terminal."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from twist_dr.errors import Cancelled
from twist_dr.redaction import leaving, one_line
from twist_dr.redaction.stream import bare

if TYPE_CHECKING:
    from tqdm import tqdm

#: A log line costs the orchestrator milliseconds and its reader attention.
LOG_EVERY_SECONDS = 5.0


def human_bytes(count: float) -> str:
    """``1.4 GB``: decimal units, as disks and providers count."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000 or unit == "TB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def human_seconds(seconds: float) -> str:
    """``350 ms``, ``4.2 s``, ``12 min 05 s``, ``3 h 20 min``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class Report:
    """What an operation tells while it works, and how it learns that it shall stop.

    ``info`` and ``warning`` take one line each and must not raise. ``stop`` may be set from anywhere: the operation then
    raises ``Cancelled`` at its next chunk.
    """

    def __init__(
        self,
        info: Callable[[str], None] = lambda line: None,
        warning: Callable[[str], None] = lambda line: None,
        *,
        bar: bool = False,
    ) -> None:
        self._info = info
        self._warning = warning
        self._bar = bar
        self._shown: tqdm[Any] | None = None
        self.stop = threading.Event()

    def info(self, line: str) -> None:
        self._aside(self._info, line)

    def warning(self, line: str) -> None:
        self._aside(self._warning, line)

    def page(self, text: str) -> None:
        """A text of several lines of ours, in which names are shown already."""
        self._aside(self._info, text, whole=True)

    def _aside(self, tell: Callable[[str], None], text: str, *, whole: bool = False) -> None:
        if self._shown is not None:
            self._shown.clear()
        tell(leaving(text) if whole else one_line(leaving(text)))

    @contextmanager
    def part(self, name: str, expected: int | None = None) -> Iterator[Callable[[int], None]]:
        """A part of the operation; gives the function to call with each number of bytes done. ``expected`` bytes, if known."""
        meter = _Meter(self, name, expected)
        if self._bar and self._shown is None:
            from tqdm import tqdm

            self._shown = meter.bar = tqdm(
                total=expected,
                desc=one_line(leaving(name)),
                unit="B",
                unit_scale=True,
                leave=False,
                file=bare(sys.stderr),
                disable=None,
            )
        try:
            yield meter.advance
        finally:
            if meter.bar is not None:
                meter.bar.close()
                self._shown = None


class _Meter:
    def __init__(self, report: Report, name: str, expected: int | None) -> None:
        self._report = report
        self._name = name
        self._expected = expected
        self._done = 0
        self._begun = self._told = time.monotonic()
        self._lock = threading.Lock()
        self.bar: tqdm[Any] | None = None

    def advance(self, count: int) -> None:
        if self._report.stop.is_set():
            raise Cancelled(
                f"{self._name} was stopped, and what it had begun is removed", remedy="start it again when you wish"
            )
        with self._lock:
            self._done += count
            now = time.monotonic()
            due = now - self._told >= LOG_EVERY_SECONDS
            if due:
                self._told = now
        if self.bar is not None:
            self.bar.update(count)
        if due:
            self._report.info(self._line(now - self._begun))

    def _line(self, seconds: float) -> str:
        rate = self._done / seconds
        line = f"{self._name}: {human_bytes(self._done)}"
        if self._expected and self._expected > self._done and rate > 0:
            left = (self._expected - self._done) / rate
            line += f" of about {human_bytes(self._expected)}, about {human_seconds(left)} left"
        return f"{line}, {human_bytes(rate)}/s"
