"""The head of a stored dump: its table of contents, read without the rows behind it."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from typing import BinaryIO, TypeAlias

from twist_dr.errors import BackupError
from twist_dr.postgres.dump_toc import toc_size
from twist_dr.repository.sources import OneCopy, Sources
from twist_dr.storage.chunks import buffered, read_out

Head: TypeAlias = Callable[[], bytes]

#: Bytes that are fetched before the first look whether that is all of the head; then as many again, each time.
_FIRST_BYTES = 1 << 20
#: Tables by the hundred thousand have less.
_MOST_BYTES = 256 << 20


def head_of(sources: Sources) -> Head:
    """The head of the first copy that gives one, read when it is asked for and once. Raises ``BackupError`` and ``RestoreFailed`` then."""
    return cache(lambda: sources.attempt(read_head))


def read_head(copy: OneCopy) -> bytes:
    """The dump up to its rows, authentic unless :func:`need_authentic` raises. Raises ``BackupError``, and what reading raises."""
    with buffered(copy.read("database.dump")) as stream:
        return _up_to_rows(stream)


def _up_to_rows(stream: BinaryIO) -> bytes:
    read = b""
    while (size := toc_size(io.BytesIO(read))) is None:
        more = stream.read(max(_FIRST_BYTES, len(read)))
        if not more or len(read) > _MOST_BYTES:
            raise BackupError("the head of the dump is not as pg_dump writes it")
        read += more
    return read[:size]


def authentic_head(copy: OneCopy, most: int) -> bytes:
    """The dump up to its rows, authentic: of a copy that is not encrypted all is read, up to ``most`` bytes as it is stored. Raises as :func:`read_head`."""
    form, stored = copy.repository.held(copy.manifest)["database.dump"]
    if form.encrypted or stored.size > most:
        need_authentic(copy)
        return read_head(copy)
    with buffered(copy.read("database.dump")) as stream:
        head = _up_to_rows(stream)
        read_out(stream)
    return head


def need_authentic(copy: OneCopy) -> None:
    """Raise ``BackupError`` where a head is not authentic: encrypted bytes are so piece by piece, others not before all of them were read."""
    form, _ = copy.repository.held(copy.manifest)["database.dump"]
    if not form.encrypted:
        raise BackupError(
            f"the copy on {copy.repository.target.name} is not encrypted, so its head is not used before all of it was checked"
        )
