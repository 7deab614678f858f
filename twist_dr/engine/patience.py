"""Bounded waiting for what may never answer: a mount that hangs, a server that trickles."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

from twist_dr.engine.progress import human_seconds
from twist_dr.errors import TargetUnavailable

T = TypeVar("T")

#: Chunks that may wait for their reader.
_DEPTH = 4


def bounded(call: Callable[[], T], seconds: float, whose: str) -> T:
    """The call's result. Raises ``TargetUnavailable`` when it takes longer; its thread is then left to itself."""
    return next(watched(lambda: iter([call()]), seconds, whose))


def watched(make: Callable[[], Iterator[T]], seconds: float, whose: str) -> Iterator[T]:
    """What an iterator gives, made in a thread of its own. Raises ``TargetUnavailable`` when nothing comes for ``seconds``: from the storage target that
    ``whose`` names.

    A thread that hangs in the kernel cannot be ended; it is left behind, and ends when its call returns.
    """
    ready: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(_DEPTH)
    stop = threading.Event()

    def give(item: tuple[T] | BaseException | None) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=0.2)
                return

    def work() -> None:
        try:
            made = make()
            for each in made:
                give((each,))
                if stop.is_set():
                    break
            give(None)
        except BaseException as error:
            give(error)

    threading.Thread(target=work, name=f"watched {whose}", daemon=True).start()
    try:
        while True:
            try:
                item = ready.get(timeout=seconds)
            except queue.Empty:
                raise TargetUnavailable(
                    f"nothing came for {human_seconds(seconds)}",
                    remedy="see to that storage target, or raise restore.stall_seconds",
                    target=whose,
                ) from None
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item[0]
    finally:
        stop.set()
