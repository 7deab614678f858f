"""The way of an artifact's bytes from its source to the staging folder, in one pass.

    source -> SHA-256 of the plain bytes -+-> zstd -+-> AES-256-GCM -> SHA-256 of the stored bytes -> file.zst.enc
                                          |         +-> SHA-256 of the stored bytes -> file.zst
                                          +-> gzip --> ...

A *form* is how a storage target keeps bytes: compressed how and how hard, encrypted or not. Targets that share a form share the file,
and forms that share a compression and its level share its work. Each arrow with work behind it is a thread of its own with a short
queue before it (zstd, OpenSSL and hashing release the GIL), so memory does not grow with the data.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from twist_dr.errors import StagingFull
from twist_dr.repository.compression import SUFFIXES, Compression, Compressor, compressor
from twist_dr.repository.encryption import Encryptor
from twist_dr.repository.keys import Key
from twist_dr.storage.base import Digest
from twist_dr.system.handover import Handover
from twist_dr.system.interrupts import begin

#: Chunks that may wait before a stage. With chunks of 1 MiB, a stage holds at most this many MiB.
QUEUE_DEPTH = 4


@dataclass(frozen=True, order=True)
class Form:
    """How stored bytes are made from plain ones. ``level`` 0: whichever the settings use where nothing else is said."""

    compression: Compression
    encrypted: bool
    level: int = 0

    @property
    def suffix(self) -> str:
        """What the form adds to an artifact's name: ``.zst.enc``, ``.19.zst``, ``.gz``, or nothing."""
        level = f".{self.level}" if self.level else ""
        return level + SUFFIXES[self.compression] + (".enc" if self.encrypted else "")

    @property
    def name(self) -> str:
        """The form's name in manifests: ``zstd+enc``, ``zstd:19+enc``, ``gzip``, ``none``."""
        level = f":{self.level}" if self.level else ""
        return self.compression + level + ("+enc" if self.encrypted else "")

    @property
    def confidential(self) -> Form:
        """The same form, encrypted: for artifacts that are never stored otherwise."""
        return replace(self, encrypted=True)

    @property
    def plain(self) -> Form:
        """The same form without its level, which no reader needs."""
        return replace(self, level=0)


def recorded(forms: Iterable[Form]) -> dict[Form, Form]:
    """What each of the forms of an artifact is recorded and named as. Of those that differ by level alone the lowest goes without it: so
    a backup whose targets agree in the level is read by every version, and by whoever looks for ``database.dump.zst``.
    """
    found: dict[Form, Form] = {}
    for form in sorted(set(forms)):
        found[form] = form if form.plain in found.values() else form.plain
    return found


class Sink(Protocol):
    """Where chunks go. ``close`` finishes what was begun; ``abort`` ends without finishing and never raises."""

    def write(self, chunk: bytes) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


@contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Turn the system's error of a full disk or quota into ``StagingFull``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise full_disk(folder) from error
        raise


def full_disk(folder: Path) -> StagingFull:
    return StagingFull(
        f"The disk of {folder} is full",
        remedy="free space there, or set work_dir (or verification.scratch) to a larger disk",
    )


class NewFile:
    """A file that was not there before, mode 0600: durable once closed (unless for the moment only), gone when aborted.

    A full disk is ``StagingFull``.
    """

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self.path = path
        self._durable = durable
        with full_disk_named(path.parent):
            self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=0)

    def write(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        with full_disk_named(self.path.parent):
            while view:
                view = view[self._file.write(view) or 0 :]

    def close(self) -> None:
        with full_disk_named(self.path.parent):
            if self._durable:
                os.fsync(self._file.fileno())
            self._file.close()

    def abort(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


def write_new(path: Path, chunks: Iterable[bytes], *, durable: bool = True) -> None:
    """Write chunks to a new file, which is gone again unless all of them came. Raises what they raise, and ``StagingFull``."""
    file = NewFile(path, durable=durable)
    try:
        for chunk in chunks:
            file.write(chunk)
        file.close()
    except BaseException:
        file.abort()
        raise


class FileSink(NewFile):
    """A new file that knows the digest of what went in."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._hash = hashlib.sha256()
        self._size = 0

    @property
    def digest(self) -> Digest:
        return Digest(self._size, self._hash.hexdigest())

    def write(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        self._size += len(chunk)
        super().write(chunk)


class EncryptingSink:
    def __init__(self, next_sink: Sink, key: Key, data: bytes) -> None:
        self._next = next_sink
        self._encryptor = Encryptor(key, data)

    def write(self, chunk: bytes) -> None:
        for sealed in self._encryptor.update(chunk):
            self._next.write(sealed)

    def close(self) -> None:
        for sealed in self._encryptor.finish():
            self._next.write(sealed)
        self._next.close()

    def abort(self) -> None:
        self._next.abort()


class CompressingSink:
    def __init__(self, next_sink: Sink, unit: Compressor) -> None:
        self._next = next_sink
        self._unit = unit

    def write(self, chunk: bytes) -> None:
        if packed := self._unit.compress(chunk):
            self._next.write(packed)

    def close(self) -> None:
        if packed := self._unit.flush():
            self._next.write(packed)
        self._next.close()

    def abort(self) -> None:
        self._next.abort()


class TeeSink:
    """The same chunks to several sinks."""

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self._sinks = list(sinks)

    def write(self, chunk: bytes) -> None:
        for sink in self._sinks:
            sink.write(chunk)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()

    def abort(self) -> None:
        for sink in self._sinks:
            sink.abort()


class ThreadedSink:
    """Runs the next sink in a thread. An error there is raised at the next ``write``, or at ``close``."""

    def __init__(self, next_sink: Sink, name: str) -> None:
        self._next = next_sink
        self._queue: Handover[bytes | None] = Handover(QUEUE_DEPTH)
        self._error: BaseException | None = None
        self._aborted = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        begin(self._thread)

    def write(self, chunk: bytes) -> None:
        if self._error is not None:
            raise self._error
        self._queue.give(chunk)

    def close(self) -> None:
        self._queue.give_at_once(None)
        self._thread.join()
        if self._error is not None:
            raise self._error
        self._next.close()

    def abort(self) -> None:
        self._aborted = True
        self._queue.give_at_once(None)
        self._thread.join()
        self._next.abort()

    def _work(self) -> None:
        # After an error the queue is still emptied, or a writer that waits for space would wait for ever.
        while (chunk := self._queue.take()) is not None:
            if self._error is None and not self._aborted:
                try:
                    self._next.write(chunk)
                except BaseException as error:
                    self._error = error


class ArtifactWriter:
    """Writes one artifact into a folder in every form asked for. A context manager: leaving it by an error removes the files.

    ``level`` is that of forms that name none.
    """

    def __init__(
        self, folder: Path, name: str, forms: Iterable[Form], *, key: Key, data: bytes, level: int = 3, threads: int = 2
    ) -> None:
        self.name = name
        self._plain = hashlib.sha256()
        self._size = 0
        self._files: dict[Form, FileSink] = {}
        branches: list[Sink] = []
        ends: list[Sink] = []
        wanted = recorded(forms)
        try:
            for packing in sorted({(form.compression, form.level) for form in wanted}):
                ends = []
                for form in (form for form in wanted if (form.compression, form.level) == packing):
                    file = self._files[wanted[form]] = FileSink(folder / (name + wanted[form].suffix))
                    end: Sink = EncryptingSink(file, key, data) if form.encrypted else file
                    ends.append(ThreadedSink(end, f"{name} {form.name}"))
                unit = compressor(packing[0], packing[1] or level, threads)
                branches.append(ThreadedSink(CompressingSink(TeeSink(ends), unit), f"{name} {packing[0]}"))
        except BaseException:
            for sink in [*branches, *ends, *self._files.values()]:
                sink.abort()
            raise
        self._branches = TeeSink(branches)

    def write(self, chunk: bytes) -> None:
        """Take plain bytes. May raise what a later stage met."""
        self._branches.write(chunk)
        # Hashed after it was handed on, so that the compressor works meanwhile.
        self._plain.update(chunk)
        self._size += len(chunk)

    def close(self) -> None:
        """Finish all files and make them durable."""
        self._branches.close()

    def abort(self) -> None:
        """End without finishing; the files are gone."""
        self._branches.abort()

    def __enter__(self) -> ArtifactWriter:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            try:
                self.close()
            except BaseException:
                self.abort()
                raise
        else:
            self.abort()

    @property
    def plain(self) -> Digest:
        """Of the plain bytes so far."""
        return Digest(self._size, self._plain.hexdigest())

    @property
    def stored(self) -> dict[Form, tuple[str, Digest]]:
        """Per form, as it is recorded, the file's name and digest, once closed."""
        return {form: (file.path.name, file.digest) for form, file in self._files.items()}
