"""One file of WAL, checked, compressed and encrypted in one pass, in memory that does not grow with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
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
from twist_dr.wal.names import Segment
from twist_dr.wal.objects import associated_data
from twist_dr.wal.pages import PageCheck
from twist_dr.wal.spool import Spool, SpoolFile


def file_chunks(path: Path, size: int | None = None) -> Iterator[bytes]:
    """A file's first ``size`` bytes, or all of it, in chunks."""
    left = size
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK if left is None else min(CHUNK, left)):
            yield chunk
            if left is not None:
                left -= len(chunk)
                if not left:
                    return


def pack(
    source: Path,
    to: Path,
    form: Form,
    key: Key,
    data: bytes,
    *,
    level: int = 3,
    size: int | None = None,
    check: PageCheck | None = None,
) -> Digest:
    """Write ``source`` (its first ``size`` bytes if given) to the new file ``to`` in a form, always encrypted.

    ``level`` is that of a form that names none; ``data`` is the associated data of the object; ``check`` sees every plain byte. The file is for the moment only: it is sent
    and removed. Raises ``WalInvalid`` by the check, ``StagingFull``, and ``OSError`` when the source cannot be read; then nothing is left.
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
        if size != 0:
            for chunk in file_chunks(source, size):
                if check is not None:
                    check.update(chunk)
                write(encryptor.update(unit.compress(chunk)))
            if check is not None:
                check.finish()
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
        self, file: SpoolFile, name: str, form: Form, segment: Segment | None, size: int | None = None
    ) -> Iterator[tuple[Path, Digest]]:
        """The file, or the first ``size`` bytes of an open segment's, packed for an object of that name, as long as the context lasts.

        Every page is held against ``segment``, if given. Raises ``Cancelled``, ``StagingFull``, ``WalInvalid``, ``OSError``.
        """
        if self._report.stop.is_set():
            raise Cancelled("Shipping was asked to stop: what was not shipped stays in the spool.")
        identifier = str(file.system_identifier)
        data = associated_data(self._application, identifier, name)

        def packed_in(folder: Path) -> tuple[Path, Digest]:
            path = folder / f"{next(self._numbers)}.{name}"
            clean.callback(path.unlink, missing_ok=True)
            check = PageCheck(segment, identifier, str(file.path), whole=size is None) if segment else None
            key = self._keyring.primary
            return path, pack(file.path, path, form, key, data, level=self._level, size=size, check=check)

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
