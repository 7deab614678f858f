"""A bound on how fast bytes are read, and on how long one waits for them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from twist_dr.engine.patience import watched
from twist_dr.errors import Cancelled, TargetUnavailable
from twist_dr.storage.base import Progress

#: Seconds at the full rate that may be caught up after a pause, so that short ones do not slow the whole.
_BURST_SECONDS = 1.0


class Throttle:
    """A progress that waits as long as it takes for so many bytes per second, at most, to go through. None: as fast as they come.

    Raises ``Cancelled`` once ``stop`` is set, also out of a wait. Safe for several threads, which share the rate.
    ``clock`` gives seconds; ``wait`` waits so many seconds and tells whether it was stopped.
    """

    def __init__(
        self,
        bytes_per_second: float | None,
        stop: threading.Event,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self.bytes = 0
        self._rate = bytes_per_second
        self._stop = stop
        self._clock = clock
        self._wait = wait or stop.wait
        self._free_at = clock()
        self._lock = threading.Lock()

    def __call__(self, count: int) -> None:
        with self._lock:
            self.bytes += count
            due = 0.0
            if self._rate is not None:
                now = self._clock()
                self._free_at = max(self._free_at, now - _BURST_SECONDS) + count / self._rate
                due = self._free_at - now
        if (due > 0 and self._wait(due)) or self._stop.is_set():
            raise Cancelled("Reading was stopped", remedy="start it again when you wish: it goes on where it was.")


def attentively(call: Callable[[Progress], None], progress: Progress, patience: float | None, whose: str) -> None:
    """Make a call that reads or writes. Raises ``TargetUnavailable`` when it tells no progress for ``patience`` seconds.

    ``progress`` is called here and may take its time: that does not count as the target's. The thread of a call that hangs is left behind.
    """
    if patience is None:
        call(progress)
        return
    given_up = threading.Event()

    def counts() -> _Counts:
        return _Counts(call, given_up, whose)

    try:
        for count in watched(counts, patience, whose):
            progress(count)
    finally:
        given_up.set()


class _Counts:
    """The numbers that a call tells its progress, as an iterator: the call goes on in a thread while they are taken."""

    def __init__(self, call: Callable[[Progress], None], given_up: threading.Event, whose: str) -> None:
        # One at a time: the call shall go no faster than its numbers are taken.
        self._told: queue.Queue[int | BaseException | None] = queue.Queue(1)
        self._given_up = given_up
        self._whose = whose
        self._call = call
        threading.Thread(target=self._run, name=f"attended {whose}", daemon=True).start()

    def __iter__(self) -> _Counts:
        return self

    def __next__(self) -> int:
        while not self._given_up.is_set():
            with suppress(queue.Empty):
                told = self._told.get(timeout=0.2)
                if isinstance(told, int):
                    return told
                raise told or StopIteration
        raise StopIteration

    def _run(self) -> None:
        try:
            self._call(self._tell)
        except BaseException as error:
            self._tell_last(error)
        else:
            self._tell_last(None)

    def _tell(self, count: int) -> None:
        if not self._tell_last(count):
            raise TargetUnavailable("given up.", target=self._whose)

    def _tell_last(self, told: int | BaseException | None) -> bool:
        while not self._given_up.is_set():
            with suppress(queue.Full):
                self._told.put(told, timeout=0.2)
                return True
        return False
