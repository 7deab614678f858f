"""Write-ahead log, checked, compressed and encrypted in one pass, in memory that does not grow with it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from twist_dr.errors import Cancelled, StagingFull
from twist_dr.repository.compression import compressor
from twist_dr.repository.encryption import Encryptor
from twist_dr.repository.keys import Key, Keyring
from twist_dr.repository.streams import Form, NewFile
from twist_dr.storage.base import Digest
from twist_dr.system.progress import Report
from twist_dr.system.sizes import CHUNK
from twist_dr.wal.bundles import PackedSegment, bundled
from twist_dr.wal.objects import associated_data
from twist_dr.wal.spool import Spool


def file_chunks(path: Path, size: int | None = None) -> Iterator[bytes]:
    """A file's first ``size`` bytes, or all of it, in chunks."""
    left = size
    if size == 0:
        return
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK if left is None else min(CHUNK, left)):
            yield chunk
            if left is not None:
                left -= len(chunk)
                if not left:
                    return


def plain_object(files: Mapping[str, Path]) -> Iterator[bytes]:
    """The plain bytes of the object that holds these whole files, by their names in the archive and in their order: one by itself, several as a bundle."""
    if len(files) == 1:
        return file_chunks(next(iter(files.values())))
    return bundled(PackedSegment(name, path.stat().st_size, file_chunks(path)) for name, path in files.items())


def pack(plain: Iterable[bytes], to: Path, form: Form, key: Key, data: bytes, *, level: int = 3) -> Digest:
    """Write plain bytes to the new file ``to`` in a form, always encrypted.

    ``level`` is that of a form that names none; ``data`` is the associated data of the object. The file is for the moment only: it is sent and removed. Raises ``StagingFull`` and
    what ``plain`` raises; then nothing is left.
    """
    unit, encryptor = compressor(form.compression, form.level or level, 1), Encryptor(key, data)
    found, length = hashlib.sha256(), 0
    file = NewFile(to, durable=False)

    def write(pieces: Iterable[bytes]) -> None:
        nonlocal length
        for sealed in pieces:
            found.update(sealed)
            length += len(sealed)
            file.write(sealed)

    try:
        for chunk in plain:
            write(encryptor.update(unit.compress(chunk)))
        write(encryptor.update(unit.flush()))
        write(encryptor.finish())
        file.close()
    except BaseException:
        file.abort()
        raise
    return Digest(length, found.hexdigest())


class Packer:
    """Packs the files of one spool as objects of one application. From any thread."""

    def __init__(self, application: str, spool: Spool, keyring: Keyring, report: Report, *, level: int) -> None:
        self._application = application
        self._spool = spool
        self._keyring = keyring
        self._report = report
        self._level = level
        self._numbers = count()

    @contextmanager
    def packed(
        self, system_identifier: str, name: str, form: Form, plain: Callable[[], Iterable[bytes]]
    ) -> Iterator[tuple[Path, Digest]]:
        """Plain bytes packed for an object of that name, as long as the context lasts; they are made anew when one disk was too full.

        Raises ``Cancelled``, ``StagingFull``, and what ``plain`` and its bytes raise.
        """
        data = associated_data(self._application, system_identifier, name)

        def packed_in(folder: Path) -> tuple[Path, Digest]:
            path = folder / f"{next(self._numbers)}.{name}"
            clean.callback(path.unlink, missing_ok=True)
            return path, pack(self._stoppable(plain()), path, form, self._keyring.primary, data, level=self._level)

        with ExitStack() as clean:
            try:
                packed = packed_in(self._spool.packed)
            except StagingFull:
                # It is what waits here that fills the disk; with space for one file elsewhere, all of it can leave.
                try:
                    packed = packed_in(Path(clean.enter_context(TemporaryDirectory(prefix="twist-dr-"))))
                except (StagingFull, OSError):
                    raise StagingFull(
                        f"The disks of {self._spool.root} and {gettempdir()} are full, so that no WAL can be shipped",
                        remedy="free space on either",
                    ) from None
            yield packed

    def _stoppable(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The same chunks, unless it is asked to stop: a bundle takes seconds."""
        for chunk in chunks:
            if self._report.stop.is_set():
                raise Cancelled("Shipping was asked to stop: what was not shipped stays in the spool.")
            yield chunk
