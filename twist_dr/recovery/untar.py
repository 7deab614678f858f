"""A base backup's tar archives as folders that a server can start from: fast, and with nothing outside.

pg_basebackup writes plain ustar: regular files, folders, and a link per tablespace. Anything else was not made by it. Files are
given to the server's user and closed to all others; they are not made durable one by one.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from twist_dr.errors import ArchiveInvalid
from twist_dr.repository.streams import full_disk_named
from twist_dr.system.words import shown

_BLOCK = 512
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_TABLESPACE_LINK = re.compile(r"pg_tblspc/([0-9]+)")
_FILE, _OLD_FILE, _LINK, _FOLDER = tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE


@dataclass(frozen=True)
class Owner:
    """Whom files are given to: ids, or None for ourselves."""

    user: int | None = None
    group: int | None = None

    def take(self, path: Path | int) -> None:
        """Give a file or folder, by path or open descriptor, to its owner."""
        if self.user is not None:
            os.chown(path, self.user, -1 if self.group is None else self.group)

    def lend(self, path: Path) -> None:
        """Let its owner read a file or folder that stays ours: it can put no link in its place, through which we would write later."""
        if self.user is not None:
            os.chown(path, -1, -1 if self.group is None else self.group)
            path.chmod(0o750 if path.is_dir() else 0o640)

    def make_folder(self, path: Path) -> Path:
        """A new folder of mode 0700. Raises ``FileExistsError``."""
        path.mkdir(mode=0o700)
        self.take(path)
        return path


def untar(
    chunks: Iterator[bytes], folder: Path, owner: Owner, what: str, links: Mapping[int, Path] | None = None
) -> int:
    """Unpack into an existing empty folder; returns the bytes of all files. ``chunks`` are read to their very end.

    ``links``: where each tablespace lies now; a link in the archive is made to that place, whatever the archive says.
    Raises ``ArchiveInvalid`` for what pg_basebackup never writes, ``StagingFull``, and what ``chunks`` raise. On any error
    remove the folder: nothing in it is good before this returns.
    """
    stream = _Stream(chunks, what)
    folders = {""}
    top = f"{folder}{os.sep}"
    written = 0
    with full_disk_named(folder):
        while (member := _next_member(stream, what)) is not None:
            name = member.name.removeprefix("./").rstrip("/")
            if name in ("", ".") and member.type == _FOLDER:
                continue
            above, _, leaf = name.rpartition("/")
            # Folders are only entered that were made here: no link and no ".." can lead elsewhere.
            if above not in folders or leaf in ("", ".", "..") or "\0" in name:
                raise _foreign(what, name)
            try:
                if member.type in (_FILE, _OLD_FILE):
                    _write_file(top + name, stream, member.size, owner)
                    written += member.size
                elif member.type == _FOLDER:
                    owner.make_folder(folder / name)
                    folders.add(name)
                elif member.type == _LINK and (match := _TABLESPACE_LINK.fullmatch(name)):
                    _make_link(folder / name, (links or {}).get(int(match[1])), what)
                else:
                    raise _foreign(what, name)
            except FileExistsError:
                raise _foreign(what, name) from None
    stream.drain()
    return written


class _Stream:
    """Chunks of any size, taken in blocks and in pieces without copying more than headers."""

    def __init__(self, chunks: Iterator[bytes], what: str) -> None:
        self._chunks = chunks
        self._what = what
        self._current = memoryview(b"")

    def block(self) -> bytes:
        """One block of a header; empty at the end."""
        if len(self._current) >= _BLOCK:
            found, self._current = bytes(self._current[:_BLOCK]), self._current[_BLOCK:]
            return found
        if not self._refill():
            return b""
        return b"".join(bytes(piece) for piece in self.pieces(_BLOCK))

    def pieces(self, count: int) -> Iterator[memoryview]:
        """The next ``count`` bytes."""
        while count:
            if not self._refill():
                raise ArchiveInvalid(
                    f"{self._what}: the archive ends in the middle",
                    remedy="take the backup from another storage target",
                )
            piece, self._current = self._current[:count], self._current[count:]
            count -= len(piece)
            yield piece

    def skip(self, count: int) -> None:
        for _ in self.pieces(count):
            pass

    def drain(self) -> None:
        """Read to the end: the last tag and both digests are only checked there."""
        for _ in self._chunks:
            pass

    def _refill(self) -> bool:
        while not self._current:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._current = memoryview(chunk)
        return True


def _next_member(stream: _Stream, what: str) -> tarfile.TarInfo | None:
    """The next header; None at the end of the archive."""
    block = stream.block()
    if not block.strip(b"\0"):
        if block:
            return None
        raise ArchiveInvalid(f"{what}: the archive has no end", remedy="take the backup from another storage target")
    try:
        member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if member.size < 0:
            raise ValueError("negative size")
        return member
    except (tarfile.HeaderError, ValueError) as error:
        raise ArchiveInvalid(
            f"{what}: not a tar archive, or damaged ({error})", remedy="take the backup from another storage target"
        ) from None


def _write_file(path: str, stream: _Stream, size: int, owner: Owner) -> None:
    descriptor = os.open(path, _NEW_FILE, 0o600)
    try:
        for piece in stream.pieces(size):
            while piece:
                piece = piece[os.write(descriptor, piece) :]
        if owner.user is not None:
            os.fchown(descriptor, owner.user, -1 if owner.group is None else owner.group)
    finally:
        os.close(descriptor)
    stream.skip(-size % _BLOCK)


def _make_link(path: Path, place: Path | None, what: str) -> None:
    if place is None:
        raise ArchiveInvalid(
            f"{what}: links to the tablespace {path.name}, of which the backup has no files",
            remedy="take another base backup",
        )
    path.symlink_to(place)


def _foreign(what: str, name: str) -> ArchiveInvalid:
    return ArchiveInvalid(
        f"{what} has {shown(name)} where none can be, and was not made by pg_basebackup", remedy="do not restore it"
    )
