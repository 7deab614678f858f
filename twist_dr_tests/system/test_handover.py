"""A stream that is interrupted at any instant can be ended: no lock is left behind that its threads wait for."""

from __future__ import annotations

import gc
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from types import FrameType

import pytest

from twist_dr.repository.streams import ThreadedSink
from twist_dr.storage.chunks import prefetch
from twist_dr.storage.patience import watched
from twist_dr_tests.sweep import instants


class Interrupted(BaseException):
    pass


class Hung(BaseException):
    pass


class Nowhere:
    """Takes everything."""

    def write(self, chunk: bytes) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


@pytest.fixture
def alarm() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM)}
    # What is raised in a finalizer is dropped: no leftover of another test shall be collected when the interrupt comes.
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before.items():
        signal.signal(number, handler)


def _raising(error: type[BaseException], seconds: float) -> None:
    def handler(number: int, frame: FrameType | None) -> None:
        raise error

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _interrupting(seconds: float) -> None:
    """As a person at the terminal does: what must not be cut in half may put that off."""

    def interrupted(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGALRM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, seconds)


@contextmanager
def _ends_soon() -> Iterator[None]:
    _raising(Hung, 20)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)


#: Each takes a thread and an interrupt.
(ROUNDS,) = instants([400], every=[3000])


def test_a_sink_interrupted_at_any_instant_can_be_ended(alarm: None) -> None:
    for _ in range(ROUNDS):
        sink = ThreadedSink(Nowhere(), "sink")
        with pytest.raises(Interrupted):
            _raising(Interrupted, random.uniform(0.0001, 0.001))
            while True:
                sink.write(b"x")
        with _ends_soon():
            sink.abort()


def test_a_reader_interrupted_at_any_instant_can_be_closed(alarm: None) -> None:
    for _ in range(ROUNDS):
        chunks = prefetch(repeat(b"x"))
        next(chunks)
        with pytest.raises(Interrupted):
            _raising(Interrupted, random.uniform(0.0001, 0.001))
            # The interrupt comes inside it or here; closing must end its thread either way.
            while next(chunks):
                pass
        with _ends_soon():
            chunks.close()  # type: ignore[attr-defined]


def test_what_is_waited_for_with_patience_ends_its_thread_after_an_interrupt_at_any_instant(alarm: None) -> None:
    before = set(threading.enumerate())
    for _ in range(ROUNDS):
        items = watched(lambda: repeat(b"x"), 60, "office")
        with pytest.raises(Interrupted):
            _interrupting(random.uniform(0.0001, 0.001))
            for _item in items:
                pass
        items.close()
    with _ends_soon():
        for thread in set(threading.enumerate()) - before:
            thread.join()


def test_a_reader_that_stops_early_ends_the_thread_that_reads_ahead() -> None:
    made: list[int] = []

    def source() -> Iterator[bytes]:
        for number in range(1000):
            made.append(number)
            yield b"x"

    chunks = prefetch(source(), depth=2)
    next(chunks)
    time.sleep(0.05)
    assert len(made) <= 5  # no further ahead than it may
    chunks.close()  # type: ignore[attr-defined]
    so_far = len(made)
    time.sleep(0.05)
    assert len(made) == so_far
