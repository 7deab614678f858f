"""What rclone logs beside its answers: that a list is not whole is said there alone, of a call that succeeds."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable

_INCOMPLETE = "search result INCOMPLETE"
#: A line is heard as soon as it is written; a machine under load takes its time.
_HEARD_SECONDS = 10.0


class RcloneLog:
    """For several threads: one hears, the others ask."""

    def __init__(self) -> None:
        self.incomplete = 0
        self._marks: dict[str, threading.Event] = {}

    def heard(self, message: str) -> None:
        if _INCOMPLETE in message:
            self.incomplete += 1
        for mark, event in tuple(self._marks.items()):
            if mark in message:
                event.set()

    def heard_up_to(self, write: Callable[[str], None]) -> bool:
        """Whether all was heard that was logged before now: a word that ``write`` has logged comes after it."""
        mark, event = uuid.uuid4().hex, threading.Event()
        self._marks[mark] = event
        try:
            write(mark)
            return event.wait(_HEARD_SECONDS)
        finally:
            del self._marks[mark]
