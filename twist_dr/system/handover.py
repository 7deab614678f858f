"""A short queue between two threads that an interrupt leaves usable."""

from __future__ import annotations

import queue
from typing import Generic, TypeVar

T = TypeVar("T")


class Handover(Generic[T]):
    """At most ``depth`` items on their way from a thread that gives to one that takes.

    ``queue.Queue`` takes its lock in Python code, so what a signal handler raises between taking it and the block that gives it back
    leaves it taken: the other thread then waits for ever, and so does whoever waits for that one. ``queue.SimpleQueue`` has no such lock
    and no bound; here a second one, of the places that are free, is the bound.
    """

    def __init__(self, depth: int) -> None:
        self._items: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._places: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(depth):
            self.make_room()

    def give(self, item: T) -> None:
        """Hand an item over; waits for a free place."""
        self._places.get()
        self._items.put(item)

    def give_at_once(self, item: T) -> None:
        """The same without waiting, beyond the bound: for a mark that says that nothing more comes."""
        self._items.put(item)

    def take(self, timeout: float | None = None) -> T:
        """The next item; waits for one. Raises ``queue.Empty`` when none has come for ``timeout`` seconds."""
        item = self._items.get(timeout=timeout)
        self.make_room()
        return item

    def make_room(self) -> None:
        """One place more, so that a giver that waits goes on."""
        self._places.put(None)
