"""Following a tar's headers while its bytes stream by, to take out a few members on the way.

pg_basebackup writes one tar to its standard output: ``backup_label`` stands first in it, ``backup_manifest`` last. What is not
wanted is skipped by its size, without being copied. The archive is followed to its end, so that one that was cut short is known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from twist_dr.errors import BackupError

_BLOCK = 512
_PAX_SIZE = re.compile(rb"\d+ size=(\d{1,20})\n")
_PAX_PATH = re.compile(rb"\d+ path=([^\n]*)\n")
#: Far more than any extended header holds; it is kept in memory.
_LARGEST_EXTENSION = 1 << 20

Write = Callable[[bytes], None]


class TarTap:
    """Give it every chunk with :meth:`feed`, then call :meth:`finish`.

    ``wanted``: by member name, what takes the member's bytes, in pieces as they come. Raises ``BackupError`` when the stream is no
    tar, ends too early, or lacks a wanted member.
    """

    def __init__(self, wanted: Mapping[str, Write], what: str) -> None:
        self._wanted = dict(wanted)
        self._what = what
        self._header = bytearray()
        self._data = 0
        """Bytes of the member at hand that are still to come."""
        self._padding = 0
        self._take: Write | None = None
        self._extension = bytearray()
        self._extension_kind = b""
        self._next_name: str | None = None
        self._next_size: int | None = None
        self._seen: set[str] = set()
        self._zero_blocks = 0

    def feed(self, chunk: bytes) -> None:
        """The next bytes of the archive."""
        place, end = 0, len(chunk)
        view = memoryview(chunk)
        while place < end:
            if self._data:
                count = min(self._data, end - place)
                if self._take is not None:
                    self._take(bytes(view[place : place + count]))
                self._data -= count
                if not self._data:
                    self._end_member()
            elif self._padding:
                count = min(self._padding, end - place)
                self._padding -= count
            else:
                count = min(_BLOCK - len(self._header), end - place)
                self._header += view[place : place + count]
                if len(self._header) == _BLOCK:
                    self._begin_member(bytes(self._header))
                    self._header.clear()
            place += count

    def finish(self) -> None:
        """The archive has ended. Raises ``BackupError`` unless all of it came."""
        if self._header or self._data or self._padding or self._zero_blocks < 2:
            raise BackupError(f"{self._what} ended in the middle of the archive", remedy="run the backup again")
        if missing := sorted(self._wanted.keys() - self._seen):
            raise BackupError(
                f"{self._what} holds no {' and no '.join(missing)}, so nothing could be recovered from it",
                remedy="check that pg_basebackup is PostgreSQL's own, and run the backup again",
            )

    def _begin_member(self, header: bytes) -> None:
        if not any(header):
            # Two blocks of zeros end an archive; whatever follows pads it.
            self._zero_blocks += 1
            return
        if self._zero_blocks or not _checksum_fits(header):
            raise BackupError(
                f"{self._what} is no tar archive any more at one of its members", remedy="run the backup again"
            )
        kind = header[156:157]
        try:
            size = _number(header[124:136])
        except ValueError:
            raise BackupError(f"{self._what} has a member of no size", remedy="run the backup again") from None
        if kind in (b"L", b"K", b"x", b"g"):  # GNU's long name and long link, POSIX's extended and global header
            if size > _LARGEST_EXTENSION:
                raise BackupError(f"{self._what} holds a header of {size} bytes, which no archive of ours has.")
            self._extension_kind = kind
            self._take = self._extension.extend
        else:
            name = self._next_name if self._next_name is not None else _name(header)
            size = self._next_size if self._next_size is not None else size
            self._next_name = self._next_size = None
            # Links and folders have no bytes, whatever their size field says.
            size = size if kind in (b"0", b"\0", b"7") else 0
            name = name.removeprefix("./")
            self._take = self._wanted.get(name) if kind in (b"0", b"\0") else None
            if self._take is not None:
                self._seen.add(name)
        self._data, self._padding = size, -size % _BLOCK
        if not size:
            self._end_member()

    def _end_member(self) -> None:
        self._take = None
        if not self._extension_kind:
            return
        content = bytes(self._extension)
        if self._extension_kind == b"L":
            self._next_name = content.rstrip(b"\0").decode(errors="surrogateescape")
        elif self._extension_kind == b"x":
            if path := _PAX_PATH.search(content):
                self._next_name = path[1].decode(errors="surrogateescape")
            if found := _PAX_SIZE.search(content):
                self._next_size = int(found[1])
        self._extension.clear()
        self._extension_kind = b""


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode(errors="surrogateescape")


def _number(field: bytes) -> int:
    """A size: octal digits, or, from 8 GiB on, GNU's base-256 with the highest bit set."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.strip(b" \0")
    return int(digits, 8) if digits else 0


def _checksum_fits(header: bytes) -> bool:
    """The sum of all bytes, with the checksum's own field taken for spaces."""
    try:
        return sum(header[:148]) + 8 * 32 + sum(header[156:]) == _number(header[148:156])
    except ValueError:
        return False
