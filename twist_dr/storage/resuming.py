"""Reading that survives a cut connection."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twist_dr.errors import ObjectCorrupt, TargetUnavailable
from twist_dr.system.words import counted

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


@dataclass(frozen=True)
class Answer:
    """An answer to a request for bytes. ``body`` has ``readinto`` and ``close``; ``size``: bytes that it has; ``content_range``: the header (RFC 9110), if any."""

    body: Any
    size: int
    content_range: str | None


class ResumingReader(io.RawIOBase):
    """The bytes of the object ``key`` of ``target``. When the connection breaks, reading goes on with a Range request from where it stopped.

    ``fetch(position)`` makes the request. ``attempts``: how often in a row it may bring nothing; ``broken``: what reading a body raises when the
    connection breaks. Raises ``TargetUnavailable`` then: never a short object.
    """

    def __init__(
        self,
        key: str,
        target: str,
        fetch: Callable[[int], Answer],
        attempts: int,
        broken: tuple[type[Exception], ...],
    ) -> None:
        self._key, self._target, self._fetch, self._attempts, self._broken = key, target, fetch, attempts, broken
        answer = fetch(0)
        self._body = answer.body
        self._size = answer.size
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        if self._position >= self._size or not view:
            return 0
        for delay in self._delays():
            count = self._read(view)
            if count:
                self._position += count
                return count
            self._body.close()
            time.sleep(delay)
            self._resume()
        raise TargetUnavailable(
            f"{self._key}: reading stopped after {self._position} of {self._size} bytes, and {counted(self._attempts, 'attempt')} to go on brought nothing",
            remedy="check the network and the store, then run again",
            target=self._target,
        )

    def close(self) -> None:
        if not self.closed:
            self._body.close()
        super().close()

    def _delays(self) -> Iterator[float]:
        yield from (0.2 * 2.0**attempt for attempt in range(self._attempts))

    def _read(self, view: memoryview) -> int:
        try:
            return int(self._body.readinto(view))
        except self._broken:
            return 0

    def _resume(self) -> None:
        answer = self._fetch(self._position)
        self._body = answer.body
        expected = f"bytes {self._position}-{self._size - 1}/{self._size}"
        if (answer.content_range or (expected if self._position == 0 else None)) != expected:
            raise ObjectCorrupt(
                f"{self._key}: the object changed, or the store gave other bytes than asked for, while it was being read",
                remedy="take the backup from another storage target",
                target=self._target,
            )
