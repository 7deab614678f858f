"""Bounded waiting for what may never answer: a mount that hangs, a server that trickles."""

from __future__ import annotations

import builtins
import io
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from twist_dr.errors import TargetUnavailable
from twist_dr.storage.base import (
    Capabilities,
    Digest,
    OnBytes,
    Space,
    StorageTarget,
    StoredObject,
    Stranger,
    no_progress,
)
from twist_dr.system.handover import Handover
from twist_dr.system.interrupts import begin
from twist_dr.system.progress import human_seconds

T = TypeVar("T")

#: What may wait for its reader: chunks, above all.
_DEPTH = 4
#: Objects of a list that come at a time.
_AT_ONCE = 1000


def patient(target: StorageTarget, seconds: float | None) -> StorageTarget:
    """The target, given up when it shows no sign of life for so long, whatever was asked before; None waits as long as it does itself."""
    plain = target.plain if isinstance(target, PatientTarget) else target
    return plain if seconds is None else PatientTarget(plain, seconds)


def bounded(call: Callable[[], T], seconds: float, whose: str) -> T:
    """The call's result. Raises ``TargetUnavailable`` when it takes longer; its thread is then left to itself."""

    def once(give: Callable[[T], None]) -> None:
        give(call())

    return next(given(once, seconds, whose))


def watched(make: Callable[[], Iterator[T]], seconds: float, whose: str) -> Generator[T, None, None]:
    """What an iterator gives, as :func:`given`."""

    def call(give: Callable[[T], None]) -> None:
        for each in make():
            give(each)

    return given(call, seconds, whose)


def given(call: Callable[[Callable[[T], None]], None], seconds: float, whose: str) -> Generator[T, None, None]:
    """What a call gives to the function that it is called with, in a thread of its own. Raises what it raises, and
    ``TargetUnavailable`` when nothing comes for ``seconds``: from the storage target that ``whose`` names.

    Once the iterator is closed, giving raises, so that the call ends. A thread that hangs in the kernel cannot be ended; it is left behind, and
    ends when its call returns.
    """
    ready: Handover[tuple[T] | BaseException | None] = Handover(_DEPTH)
    stopped = False

    def give(item: T) -> None:
        if not stopped:
            ready.give((item,))
        if stopped:
            # Another thread of the call may wait for a place, too.
            ready.make_room()
            raise TargetUnavailable("given up.", target=whose)

    def work() -> None:
        try:
            call(give)
        except BaseException as error:
            ready.give_at_once(error)
        else:
            ready.give_at_once(None)

    try:
        begin(threading.Thread(target=work, name=f"watched {whose}", daemon=True))
        while True:
            try:
                item = ready.take(timeout=seconds)
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
        stopped = True
        ready.make_room()


class PatientTarget(StorageTarget):
    """The target ``plain``, of which no call goes on for ``seconds`` without a sign of life: bytes, objects of a list, an answer.

    It then raises ``TargetUnavailable``. Sweeping and probing show none, and take as long as they do. A progress is called in the caller's thread, and
    may take its time: that does not count as the target's.
    """

    def __init__(self, plain: StorageTarget, seconds: float) -> None:
        super().__init__(plain.name)
        self.plain = plain
        self.bandwidth = plain.bandwidth
        self._seconds = seconds

    @property
    def location(self) -> str:
        return self.plain.location

    def prepare(self) -> None:
        self._bounded(self.plain.prepare)

    def put(self, source: Path, key: str, digest: Digest, progress: OnBytes = no_progress) -> None:
        self._attended(lambda tell: self.plain.put(source, key, digest, tell), progress)

    def open(self, key: str) -> BinaryIO:
        def call(give: Callable[[bytes], None]) -> None:
            with self.plain.open(key) as stream:
                give(b"")
                while chunk := stream.read(self.bandwidth.portion):
                    give(chunk)

        chunks = given(call, self._seconds, self.name)
        next(chunks)  # it is there, or that raises
        return cast(BinaryIO, _Stream(chunks))

    def stat(self, key: str) -> StoredObject | None:
        return self._bounded(lambda: self.plain.stat(key))

    def list(self, prefix: str) -> Iterator[StoredObject]:
        def portions() -> Iterator[builtins.list[StoredObject]]:
            found = iter(self.plain.list(prefix))
            while portion := builtins.list(islice(found, _AT_ONCE)):
                yield portion

        for portion in watched(portions, self._seconds, self.name):
            yield from portion

    def children(self, prefix: str) -> builtins.list[str]:
        return self._bounded(lambda: self.plain.children(prefix))

    def delete(self, key: str) -> None:
        self._bounded(lambda: self.plain.delete(key))

    def sweep(self, older_than: timedelta) -> int:
        return self.plain.sweep(older_than)

    def space(self) -> Space:
        return self._bounded(self.plain.space)

    def probe(self) -> Capabilities:
        return self.plain.probe()

    def give_up(self) -> None:
        self.plain.give_up()

    def locked_until(self, key: str) -> datetime | None:
        return self._bounded(lambda: self.plain.locked_until(key))

    def strangers(self, prefix: str) -> Iterator[Stranger | None]:
        return watched(lambda: self.plain.strangers(prefix), self._seconds, self.name)

    def check(self, key: str, digest: Digest, progress: OnBytes = no_progress) -> None:
        self._attended(lambda tell: self.plain.check(key, digest, tell), progress)

    def change_class(self, key: str, digest: Digest, storage_class: str, progress: OnBytes = no_progress) -> None:
        self._attended(lambda tell: self.plain.change_class(key, digest, storage_class, tell), progress)

    def _bounded(self, call: Callable[[], T]) -> T:
        return bounded(call, self._seconds, self.name)

    def _attended(self, call: Callable[[OnBytes], None], progress: OnBytes) -> None:
        # Such queues have no lock that an interrupt of this thread could leave taken.
        taken, ended = queue.SimpleQueue[None](), queue.SimpleQueue[None]()
        turn = threading.Lock()
        stopped = False

        def attended(give: Callable[[int], None]) -> None:
            def tell(count: int) -> None:
                # One at a time, and no further before it was taken: a progress that raises stops the call just there, in whichever of its threads.
                with turn:
                    if not stopped:
                        give(count)
                        taken.get()
                    if stopped:
                        raise TargetUnavailable("given up.", target=self.name)

            try:
                call(tell)
            finally:
                ended.put(None)

        try:
            for count in given(attended, self._seconds, self.name):
                try:
                    progress(count)
                except BaseException:
                    stopped = True
                    taken.put(None)
                    with suppress(queue.Empty):
                        ended.get(timeout=self._seconds)  # until what it had begun is removed
                    raise
                taken.put(None)
        finally:
            # Given up or interrupted: what was just told is taken by nobody any more.
            stopped = True
            taken.put(None)


class _Stream(io.RawIOBase):
    """Chunks of bytes as a stream; one that fits is handed on as it came."""

    def __init__(self, chunks: Generator[bytes, None, None]) -> None:
        self._chunks = chunks
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            rest, self._rest = self._rest, b""
            return rest + b"".join(self._chunks)
        chunk = self._rest or next(self._chunks, b"")
        self._rest = chunk[size:]
        return chunk if len(chunk) <= size else chunk[:size]

    def close(self) -> None:
        self._chunks.close()
        super().close()
