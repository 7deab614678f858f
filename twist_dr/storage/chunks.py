"""Streams to read: iterators of byte chunks, and small things to do with them."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from twist_dr.errors import FROM_ANOTHER, ArtifactInvalid
from twist_dr.storage.base import Digest
from twist_dr.system.handover import Handover
from twist_dr.system.interrupts import begin
from twist_dr.system.sizes import CHUNK


def read_chunks(stream: BinaryIO, size: int = CHUNK) -> Iterator[bytes]:
    """Chunks of ``size`` bytes or fewer until the stream's end."""
    while chunk := stream.read(size):
        yield chunk


def lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without their breaks, however the chunks fall; what comes behind the last break is one, unless it is empty."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest


def counted(chunks: Iterable[bytes], progress: Callable[[int], None]) -> Iterator[bytes]:
    """The same chunks, each told to ``progress`` by its length. ``progress`` may raise to stop."""
    for chunk in chunks:
        progress(len(chunk))
        yield chunk


def hashed(chunks: Iterable[bytes], expected: Digest, what: str) -> Iterator[bytes]:
    """The same chunks; raises ``ArtifactInvalid`` as soon as they are more than expected, or at the end when they differ."""
    found, size = hashlib.sha256(), 0
    for chunk in chunks:
        found.update(chunk)
        size += len(chunk)
        if size > expected.size:
            raise ArtifactInvalid(f"{what}: more than the recorded {expected.size} bytes", remedy=FROM_ANOTHER)
        yield chunk
    if (size, found.hexdigest()) != (expected.size, expected.sha256):
        raise ArtifactInvalid(
            f"{what}: {size} bytes with SHA-256 {found.hexdigest()[:12]}… where {expected.size} bytes with {expected.sha256[:12]}… were recorded",
            remedy=FROM_ANOTHER,
        )


def prefetch(chunks: Iterator[bytes], depth: int = 4) -> Iterator[bytes]:
    """The same chunks, made in a thread of their own while the reader works on earlier ones; at most ``depth`` wait.

    An error of the source is raised where the reader meets it. Closing the iterator ends the thread.
    """
    ready: Handover[bytes | BaseException | None] = Handover(depth)
    stopped = False

    def work() -> None:
        try:
            for chunk in chunks:
                ready.give(chunk)
                if stopped:
                    return
            ready.give(None)
        except BaseException as error:
            ready.give(error)

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    begin(thread)
    try:
        while (item := ready.take()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped = True
        ready.make_room()
        thread.join()


class ChunkReader(io.RawIOBase):
    """A file object over an iterator of chunks, for libraries that want ``read``. Not seekable."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._current = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._current:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._current = memoryview(chunk)
        count = min(len(buffer), len(self._current))
        buffer[:count] = self._current[:count]
        self._current = self._current[count:]
        return count


def buffered(chunks: Iterable[bytes]) -> io.BufferedReader:
    """A buffered file object over chunks: ``read(n)`` gives ``n`` bytes unless the stream ends."""
    return io.BufferedReader(ChunkReader(chunks), CHUNK)


def read_out(*streams: BinaryIO) -> None:
    """Read what is left of each. Whatever its reader needed, the last segment's tag and both digests are only checked at the very end."""
    for stream in streams:
        while stream.read(CHUNK):
            pass
