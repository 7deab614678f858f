"""A bound on how fast bytes are read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from twist_dr.errors import Cancelled
from twist_dr.storage.limits import free_after

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
                self._free_at = free_after(self._free_at, now, count, self._rate, _BURST_SECONDS)
                due = self._free_at - now
        if (due > 0 and self._wait(due)) or self._stop.is_set():
            raise Cancelled("Reading was stopped", remedy="start it again when you wish: it goes on where it was.")
