"""What a process that was killed, or lost its network, had sent of an object in parts: noted on this machine, so that the next one goes on from there.

A store can say which parts it has (ListParts), but of an unfinished upload not what it was begun with: its metadata, its encryption, whose bytes.
And a part's ETag is its MD5 in some stores only ("Common response headers" in the S3 API reference). So each part is noted with the ETag that the
store gave it, beside the digest of the whole; a part that the store still lists with that ETag and size is not sent again. What was noted decides
only what is sent: the object is checked as every other one when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from twist_dr.system.lock import try_lock

#: How often whoever waits for another writer of the same object looks again.
_LOOK_AGAIN_SECONDS = 0.2
#: Bytes of the longest note: ten thousand parts with a line each.
_LONGEST = 8 << 20


@dataclass(frozen=True)
class BegunUpload:
    """An unfinished upload, and the parts that were noted: by number, what CompleteMultipartUpload wants to know of each."""

    upload: str
    parts: Mapping[int, Mapping[str, str]]


class UploadNote:
    """The note of one object, held by the one process that sends it. Without a file it remembers nothing."""

    def __init__(self, descriptor: int | None, path: Path | None, *, waited: bool) -> None:
        self._descriptor, self._path = descriptor, path
        #: Whether somebody else sent the object until now.
        self.waited = waited

    @property
    def remembers(self) -> bool:
        return self._descriptor is not None

    def begun(self, what: Mapping[str, Any]) -> BegunUpload | None:
        """The upload that is noted; with its parts if it was begun for just that (digest, number of parts, storage class, ...)."""
        if self._descriptor is not None:
            with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
                head, *rest = os.pread(self._descriptor, _LONGEST, 0).splitlines()
                begun = json.loads(head)
                return BegunUpload(str(begun["upload"]), dict(_parts(rest)) if begun["what"] == what else {})
        return None

    def begin(self, upload: str, what: Mapping[str, Any]) -> None:
        with suppress(OSError):
            if self._descriptor is not None:
                os.ftruncate(self._descriptor, 0)
        self._append({"upload": upload, "what": what})

    def add(self, number: int, told: Mapping[str, str]) -> None:
        self._append({"number": number, "told": dict(told)})

    def end(self) -> None:
        """The upload is finished, or was taken back."""
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _append(self, line: Mapping[str, Any]) -> None:
        # In one write, for several threads. What a full disk keeps from being noted is sent once more.
        with suppress(OSError):
            if self._descriptor is not None:
                os.write(self._descriptor, json.dumps(line).encode() + b"\n")


def _parts(lines: list[bytes]) -> Iterator[tuple[int, dict[str, str]]]:
    for line in lines:
        with suppress(ValueError, LookupError, TypeError, AttributeError):  # the last one of a killed process
            part = json.loads(line)
            yield int(part["number"]), {str(name): str(value) for name, value in part["told"].items()}


@contextmanager
def upload_note(folder: Path | None, place: str, alive: Callable[[], None]) -> Iterator[UploadNote]:
    """The note of the object at ``place``, a text that no other place has, in ``folder``; held as long as the block runs.

    Waits while another process or thread sends the same object, and calls ``alive`` meanwhile, which may raise to stop it.
    """
    path = None if folder is None else folder / hashlib.sha256(place.encode()).hexdigest()[:32]
    descriptor, waited = None, False
    try:
        with suppress(OSError):  # a folder that is not to be had: then this upload cannot be gone on with
            while path is not None and (descriptor := _held(path)) is None:
                waited = True
                alive()
                time.sleep(_LOOK_AGAIN_SECONDS)
        yield UploadNote(descriptor, path if descriptor is not None else None, waited=waited)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _held(path: Path) -> int | None:
    """The open file, locked; None while somebody else has it, or had it a moment ago."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with suppress(FileNotFoundError):
        # Its holder removes it at the end: what we locked may have no name any more.
        if try_lock(descriptor) and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    os.close(descriptor)
    return None


def forget_notes(folder: Path, older_than: timedelta) -> None:
    """Remove notes of uploads that nobody goes on with."""
    limit = time.time() - older_than.total_seconds()
    with suppress(OSError):
        for path in folder.iterdir():
            if path.stat().st_mtime <= limit and (descriptor := _held(path)) is not None:
                path.unlink(missing_ok=True)
                os.close(descriptor)
