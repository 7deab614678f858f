"""Steps that an interrupt must not cut in half: it is heard, and waits until they are done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """SIGINT and SIGTERM that come during the block take effect at its end. Python hears signals in the main thread only: elsewhere nothing is to be done.

    For what is short and takes a half-done step forward or back; whoever is impatient still has SIGKILL.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    before = {number: signal.signal(number, note) for number in _INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: set by somebody other than Python, who cannot be given it back by Python either.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if heard:
            signal.raise_signal(heard[0])


def begin(thread: threading.Thread) -> None:
    """Start a thread. ``Thread.start`` takes locks in Python code: what a signal handler raises there comes out as another error, of a lock."""
    with uninterrupted():
        thread.start()
