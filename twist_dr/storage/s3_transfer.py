"""Moving bytes to and from an S3 store: parts read straight from the file.

boto3's own transfer manager is not used, because it cannot do three things that the contract needs: a checksum or
Content-MD5 header per part (it sends checksum trailers, which R2, B2 and others refuse, and nothing else where Object
Lock demands one), write-once completion that is known to be ours when the answer got lost, and progress that never runs
backwards.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twist_dr.errors import ObjectCorrupt
from twist_dr.storage.base import Digest, OnBytes
from twist_dr.storage.limits import Bandwidth
from twist_dr.system.sizes import CHUNK

#: "Amazon S3 multipart upload limits".
MOST_PARTS = 10_000


@dataclass(frozen=True)
class UploadPart:
    """One part of a source: ``number`` counts from 1; ``offset`` and ``size`` in bytes; digests are raw bytes where asked for."""

    number: int
    offset: int
    size: int
    sha256: bytes | None
    md5: bytes | None


@dataclass(frozen=True)
class Measured:
    """A source that was read once: what it is as a whole, and its parts (one even if it is empty)."""

    digest: Digest
    parts: tuple[UploadPart, ...]

    def fits(self, checksum: str | None) -> bool:
        """Whether a store's SHA-256 (base64) is ours: of the whole object, or of the digests of its parts.

        The second form is what S3 keeps for multipart uploads, with ``-<number of parts>`` at its end ("Checking object
        integrity" in the Amazon S3 guide).
        """
        parts = [part.sha256 for part in self.parts if part.sha256 is not None]
        if checksum is None or len(parts) < len(self.parts):
            return False
        of_parts = hashlib.sha256(b"".join(parts)).digest()
        value = checksum.split("-")[0]
        return value in (encoded(bytes.fromhex(self.digest.sha256)), encoded(of_parts))


def encoded(digest: bytes) -> str:
    """A digest as S3's headers carry it."""
    return base64.b64encode(digest).decode()


def part_size_for(size: int, wanted: int) -> int:
    """``wanted``, or more where an object of ``size`` bytes would need more than 10,000 parts. Whole MiB then."""
    needed = -(-size // MOST_PARTS)
    return wanted if needed <= wanted else -(-needed // CHUNK) * CHUNK


def measure(source: Path, wanted_part_size: int, *, sha256: bool, md5: bool) -> Measured:
    """Read ``source`` once, with a digest of each part for those kinds that are asked for: hashing takes as long as sending.

    All parts but the last are of equal size, as R2 demands. May raise ``ObjectCorrupt``.
    """
    whole, offset = hashlib.sha256(), 0
    parts: list[UploadPart] = []
    try:
        with source.open("rb", buffering=0) as stream:
            part_size = part_size_for(os.fstat(stream.fileno()).st_size, wanted_part_size)
            while True:
                of_part = {"sha256": hashlib.sha256()} if sha256 else {}
                if md5:
                    of_part["md5"] = hashlib.md5(usedforsecurity=False)
                size = 0
                while size < part_size and (chunk := stream.read(min(CHUNK, part_size - size))):
                    for digest in (whole, *of_part.values()):
                        digest.update(chunk)
                    size += len(chunk)
                if size or not parts:
                    digests = {kind: digest.digest() for kind, digest in of_part.items()}
                    parts.append(UploadPart(len(parts) + 1, offset, size, digests.get("sha256"), digests.get("md5")))
                offset += size
                if size < part_size:
                    return Measured(Digest(offset, whole.hexdigest()), tuple(parts))
    except OSError as error:
        raise ObjectCorrupt(
            f"nothing was stored: the file {source} to be stored cannot be read ({error.strerror})",
            remedy="make it anew",
        ) from error


class Stopped(BaseException):
    """Ends a request from inside its body. Not an ``Exception``: botocore would take that for a network fault."""


class Watch:
    """Progress of one ``put`` and the way to stop all its requests. For several threads."""

    def __init__(self, progress: OnBytes, bandwidth: Bandwidth) -> None:
        self._progress, self._bandwidth = progress, bandwidth
        self._stopped = threading.Event()
        self.error: BaseException | None = None

    def stop(self, error: BaseException) -> None:
        """Let every request of this ``put`` end at its next read; the first ``error`` is the one to report."""
        if not self._stopped.is_set() and not isinstance(error, Stopped):
            self.error = error
        self._stopped.set()

    def may_send(self, count: int) -> None:
        """Wait as long as the target's bandwidth says."""
        self._bandwidth.wait_for(count, self._tell)

    def alive(self) -> None:
        """Raise :class:`Stopped` once it was stopped."""
        self._tell(0)

    def sent(self, count: int) -> None:
        if count:
            self._tell(count)
        elif self._stopped.is_set():
            raise Stopped

    def _tell(self, count: int) -> None:
        if self._stopped.is_set():
            raise Stopped
        try:
            self._progress(count)
        except BaseException as error:
            self.stop(error)
            raise Stopped from error


class PartBody(io.RawIOBase):
    """A part of a file as the body of a request: read as it is sent, so that memory holds no part."""

    def __init__(self, descriptor: int, part: UploadPart, watch: Watch) -> None:
        self._descriptor, self._part, self._watch = descriptor, part, watch
        self._position = self._untold = 0
        self.sending = False

    def read(self, size: int | None = -1, /) -> bytes:
        rest = self._part.size - self._position
        wanted = rest if size is None or size < 0 else min(size, rest)
        data = os.pread(self._descriptor, wanted, self._part.offset + self._position)
        self._position += len(data)
        if self.sending:
            self._watch.may_send(len(data))
            self._untold += len(data)
            tell = self._untold if self._untold >= CHUNK or not data or self._position == self._part.size else 0
            self._untold -= tell
            self._watch.sent(tell)
        return data

    def seek(self, offset: int, whence: int = 0, /) -> int:
        base = (0, self._position, self._part.size)[whence]
        self._position, self.sending = base + offset, False
        return self._position

    def tell(self) -> int:
        return self._position

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def __len__(self) -> int:
        return self._part.size


def now_sending(request: Any, **_: Any) -> None:
    """Handler of botocore's ``before-send``: what is read from here on is sent. Before, it was read for the signature."""
    if isinstance(request.body, PartBody):
        request.body.sending = True


def in_parallel(
    parts: tuple[UploadPart, ...], connections: int, watch: Watch, send: Callable[[UploadPart], Any]
) -> list[Any]:
    """What ``send`` returned for each part, in order. On any failure the others are stopped before it is raised."""
    results: dict[int, Any] = {}
    with ThreadPoolExecutor(min(connections, len(parts)), "twist-dr-s3") as pool:
        try:
            futures = {pool.submit(send, part): part.number for part in parts}
            for future in as_completed(futures):
                results[futures[future]] = future.result()
        except BaseException as error:
            watch.stop(error)
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [results[part.number] for part in parts]
