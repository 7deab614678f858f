"""Telling how far a long operation is: lines for a log every few seconds, a bar where a person watches a terminal."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from twist_dr.errors import Cancelled
from twist_dr.redaction import leaving, one_line
from twist_dr.redaction.stream import bare
from twist_dr.system.events import Event, Line, Listener, OperationPart, Progress
from twist_dr.system.tables import aligned

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


def human_age(seconds: float) -> str:
    """``3 h 20 min``, ``12 days``: what is older than two days by days alone."""
    return human_seconds(seconds) if seconds < 172800 else f"{seconds / 86400:.0f} days"


class Report:
    """What an operation tells while it works, to all that listen, and how it learns that it shall stop.

    ``stop`` may be set from anywhere: the operation then raises ``Cancelled`` at its next chunk.
    """

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners
        self.stop = threading.Event()

    def add(self, *listeners: Listener) -> None:
        """Those that already listen are told first."""
        self._listeners += listeners

    def emit(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)

    def info(self, line: str) -> None:
        self.emit(Line(one_line(leaving(line))))

    def warning(self, line: str) -> None:
        self.emit(Line(one_line(leaving(line)), warning=True))

    def page(self, text: str) -> None:
        """A text of several lines of ours in Markdown, in which names are shown already: a log has its tables with columns aligned."""
        self.emit(Line(leaving(aligned(text))))

    @contextmanager
    def part(self, name: str, expected: int | None = None) -> Iterator[Callable[[int], None]]:
        """A part of the operation; gives the function to call with each number of bytes done. ``expected`` bytes, if known."""
        part = OperationPart(one_line(leaving(name)), expected)
        done, guard = 0, threading.Lock()

        def advance(count: int) -> None:
            nonlocal done
            if self.stop.is_set():
                raise Cancelled(
                    f"{name} was stopped, and what it had begun is removed", remedy="start it again when you wish"
                )
            with guard:
                done += count
                now = done
            self.emit(Progress(part, now))

        self.emit(Progress(part, 0))
        try:
            yield advance
        finally:
            self.emit(Progress(part, done, over=True))


class Lines:
    """Listens for a log: hands on each line, and every few seconds how far a part is."""

    def __init__(
        self, info: Callable[[str], None] = lambda line: None, warning: Callable[[str], None] = lambda line: None
    ) -> None:
        self._info = info
        self._warning = warning
        self._told: dict[OperationPart, float] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, Line):
            (self._warning if event.warning else self._info)(event.text)
        elif isinstance(event, Progress):
            self._progress(event)

    def _progress(self, event: Progress) -> None:
        if event.over:
            self._told.pop(event.part, None)
            return
        now = time.monotonic()
        # Two threads that come at once may both tell: no lock is worth that.
        if event.done and now - self._told.get(event.part, event.part.began) >= LOG_EVERY_SECONDS:
            self._told[event.part] = now
            self._info(how_far(event))


def how_far(event: Progress) -> str:
    """``media.tar: 1.4 GB of about 2.0 GB, about 4.2 s left, 130 MB/s``."""
    part, seconds = event.part, time.monotonic() - event.part.began
    rate = event.done / seconds
    line = f"{part.name}: {human_bytes(event.done)}"
    if part.total and part.total > event.done and rate > 0:
        line += f" of about {human_bytes(part.total)}, about {human_seconds((part.total - event.done) / rate)} left"
    return f"{line}, {human_bytes(rate)}/s"


class Bar:
    """Listens for a person who watches a terminal, where there is one: a bar for one part at a time. To be told before whoever prints lines."""

    def __init__(self, terminal: TextIO | None = None) -> None:
        self._terminal = terminal
        self._part: OperationPart | None = None
        self._shown: tqdm[Any] | None = None
        # Threads begin and end parts at once, and one may say a line meanwhile. Whoever is interrupted in here may tell once more.
        self._turn = threading.RLock()

    def __call__(self, event: Event) -> None:
        with self._turn:
            if isinstance(event, Line) and self._shown is not None:
                self._shown.clear()
            elif isinstance(event, Progress):
                self._progress(event)

    def _progress(self, event: Progress) -> None:
        terminal = self._terminal or sys.stderr
        if self._part is None and not event.over and terminal.isatty():
            from tqdm import tqdm

            self._part = event.part
            self._shown = tqdm(
                total=event.part.total,
                desc=event.part.name,
                unit="B",
                unit_scale=True,
                leave=False,
                file=bare(terminal),
            )
        if self._shown is None or event.part is not self._part:
            return
        self._shown.update(event.done - self._shown.n)
        if event.over:
            self._shown.close()
            self._part = self._shown = None
