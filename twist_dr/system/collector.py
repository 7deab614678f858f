"""The interpreter's garbage collector, out of the way of what makes hundreds of thousands of small values."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_collector() -> Iterator[None]:
    """No search for garbage inside the block: it would walk over all that is being made, again and again, and find nothing.

    Threads may be inside at the same time: the first to leave may turn it on for all, but nobody leaves it off.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
