"""Archives read back: strictly, without writing anything, and against their index."""

from __future__ import annotations

import hashlib
import math
import os
import tarfile
from collections.abc import Iterator
from typing import IO, BinaryIO

from twist_dr.errors import FROM_ANOTHER, ArchiveInvalid
from twist_dr.repository.archive_index import ArchiveEntry
from twist_dr.repository.attributes import NO_ATTRIBUTES, digest, of_member
from twist_dr.repository.holes import read_map
from twist_dr.storage.chunks import read_chunks
from twist_dr.system.sizes import CHUNK
from twist_dr.system.words import shown

#: Headers before a member that hold its long name, and far more than any of them has, bytes.
_EXTENSIONS = (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_LARGEST_EXTENSION = 1 << 20
_FOREIGN = (tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_SPARSE)


def read_archive(stream: BinaryIO, what: str) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """Members of an archive in order, files with their bytes to read. Writes nothing.

    Raises ``ArchiveInvalid`` for a damaged archive, an entry that leads outside, and one that lies below a link or in its place.
    """
    links: set[str] = set()
    try:
        with tarfile.open(
            fileobj=stream, mode="r|", bufsize=CHUNK, tarinfo=_StrictTarInfo, encoding="utf-8", errors="surrogateescape"
        ) as archive:
            while (member := archive.next()) is not None:
                # tarfile keeps every member it has read, and media may have millions.
                archive.members.clear()  # type: ignore[attr-defined]
                _refuse_dangerous(member, links, what)
                yield member, archive.extractfile(member) if member.isreg() else None
    # What tarfile itself stumbles over: numbers that are none, thousands of headers that each announce the next.
    except (tarfile.TarError, EOFError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise ArchiveInvalid(f"{what} is damaged ({error})", remedy=FROM_ANOTHER) from error


class _StrictTarInfo(tarfile.TarInfo):
    """Where tarfile takes a damaged or missing header for the archive's end, this one refuses; so too what our archives never hold."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _StrictTarInfo:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error

    def _proc_member(self, archive: tarfile.TarFile) -> _StrictTarInfo:
        # tarfile reads these headers whole, keeps global ones for ever, and a map of holes may be as long as it says.
        if self.type in _EXTENSIONS and not 0 <= self.size <= _LARGEST_EXTENSION:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        if self.type in _FOREIGN or self.size < 0:
            raise tarfile.ReadError("a header of a kind that backups do not hold")
        found: _StrictTarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return found

    def _refuse_holes(self, *arguments: object) -> None:
        raise tarfile.ReadError("a file with holes of a form that backups do not hold")

    _proc_gnusparse_00 = _proc_gnusparse_01 = _refuse_holes

    def _proc_gnusparse_10(self, next: tarfile.TarInfo, headers: dict[str, str], archive: tarfile.TarFile) -> None:
        # tarfile believes a map of any length, and where the data alone takes more than 8 GiB it looks for the next header in the wrong place.
        if not next.isreg():
            raise tarfile.ReadError("holes in what is no file")
        stored, size = int(headers.pop("size", next.size)), int(headers["GNU.sparse.realsize"])
        archive.offset = archive.fileobj.tell() + self._block(stored)  # type: ignore[attr-defined]
        next.sparse = read_map(archive.fileobj, stored, size)  # type: ignore[assignment, arg-type]
        next.offset_data = archive.fileobj.tell()


def _refuse_dangerous(member: tarfile.TarInfo, links: set[str], what: str) -> None:
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()) or not math.isfinite(member.mtime):
        raise ArchiveInvalid(
            f"{what} has an entry of a kind that backups do not hold ({shown(member.name)})", remedy="do not restore it"
        )
    place = _refuse_outside(member.name, links, what)
    if member.issym():
        links.add(place)
    elif member.islnk():
        _refuse_outside(member.linkname, links, what)


def _refuse_outside(name: str, links: set[str], what: str) -> str:
    # As strings: PurePosixPath would take a third of the time of reading a million small files.
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or not parts:
        raise ArchiveInvalid(
            f"{what} has an entry that leads outside ({shown(name)}) and was not made by twist-dr",
            remedy="do not restore it",
        )
    if links and any("/".join(parts[:depth]) in links for depth in range(1, len(parts) + 1)):
        raise ArchiveInvalid(
            f"{what} has an entry in the place of a link or below one ({shown(name)}) and was not made by twist-dr",
            remedy="do not restore it",
        )
    return "/".join(parts)


class _Named:
    """What files of several names hold, until all their names were met."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[str | None, int]] = {}

    def meet(self, entry: ArchiveEntry, member: tarfile.TarInfo) -> str | None:
        """The SHA-256 of the file that a further name is one of; None when the archive has no such file, or the index means another."""
        sha256, unmet = self._found.pop(member.linkname, (None, 0))
        if unmet > 1:
            self._found[member.linkname] = sha256, unmet - 1
        return sha256 if member.linkname == entry.same_as else None

    def note(self, entry: ArchiveEntry) -> None:
        if entry.names > 1:
            self._found[entry.path] = entry.sha256, entry.names - 1


def _has_others(member: tarfile.TarInfo, entry: ArchiveEntry) -> bool:
    """Whether attributes and access control lists are not the recorded ones."""
    return digest(of_member(member)) != (entry.attributes or NO_ATTRIBUTES)


def compare_archive(stream: BinaryIO, index: Iterator[ArchiveEntry], what: str) -> tuple[int, list[str]]:
    """Read an archive to its end against its index; returns the number of files compared and every difference in words.

    Both have one order, so neither is held in memory.
    """
    differences: list[str] = []
    compared = 0
    named = _Named()
    for member, content in read_archive(stream, what):
        entry = next(index, None)
        if entry is None or entry.path != member.name:
            recorded = shown(entry.path) if entry else "nothing more"
            return compared, [
                *differences,
                f"{what}: holds {shown(member.name)} where the index has {recorded}; the rest was not compared",
            ]
        if member.islnk():
            if entry.sha256 is None or named.meet(entry, member) != entry.sha256:
                differences.append(f"{what}: {shown(member.name)} is a name of another file than was recorded")
        else:
            found = hashlib.sha256(os.fsencode(member.linkname))  # empty but for links
            # Holes may be said to be of any size: only as much is read as was recorded.
            for _ in _hashed(content if member.size == entry.size else None, found, what):
                pass
            if entry.sha256 is not None and entry.sha256 != found.hexdigest():
                differences.append(f"{what}: {shown(member.name)} has other bytes than were recorded")
            if _has_others(member, entry):
                differences.append(f"{what}: {shown(member.name)} has other attributes than were recorded")
            named.note(entry)
        compared += member.isreg() or member.islnk()
    differences += [f"{what}: {shown(entry.path)} is missing from the archive" for entry in index]
    return compared, differences


def checked_members(
    stream: BinaryIO, index: Iterator[ArchiveEntry], what: str
) -> Iterator[tuple[tarfile.TarInfo, ArchiveEntry, Iterator[bytes]]]:
    """Members of an archive with their entries in the index, and their bytes in chunks.

    Raises ``ArchiveInvalid`` as :func:`read_archive`, after a member whose bytes are not the recorded ones, and before one whose attributes
    are not, or that is a name of another file.
    """
    named = _Named()
    for member, content in read_archive(stream, what):
        entry = next(index, None)
        if entry is None or (entry.path, entry.kind) != (member.name, _kind(member)):
            recorded = f"the {entry.kind} {shown(entry.path)}" if entry else "nothing more"
            raise ArchiveInvalid(
                f"{what} holds the {_kind(member)} {shown(member.name)} where its index has {recorded}",
                remedy=FROM_ANOTHER,
            )
        if (member.islnk() and named.meet(entry, member) is None) or _has_others(member, entry):
            raise ArchiveInvalid(
                f"{what}: {shown(member.name)} has other attributes or is a name of another file than was recorded",
                remedy=FROM_ANOTHER,
            )
        named.note(entry)
        found = hashlib.sha256(os.fsencode(member.linkname))  # empty but for links
        chunks = _hashed(content if member.size == entry.size else None, found, what)
        yield member, entry, chunks
        for _ in chunks:  # of what nobody asked for
            pass
        if not member.islnk() and entry.sha256 != (None if member.isdir() else found.hexdigest()):
            raise ArchiveInvalid(
                f"{what}: {shown(member.name)} has other bytes than were recorded",
                remedy=FROM_ANOTHER,
            )
    if (entry := next(index, None)) is not None:
        raise ArchiveInvalid(
            f"{what}: {shown(entry.path)} is missing from the archive",
            remedy=FROM_ANOTHER,
        )


def _hashed(content: IO[bytes] | None, found: hashlib._Hash, what: str) -> Iterator[bytes]:
    chunks = read_chunks(content) if content is not None else iter(())  # type: ignore[arg-type]
    while True:
        try:
            chunk = next(chunks, None)
        except tarfile.TarError as error:  # the archive ends within a file
            raise ArchiveInvalid(f"{what} is damaged ({error})", remedy=FROM_ANOTHER) from error
        if chunk is None:
            return
        found.update(chunk)
        yield chunk


def _kind(member: tarfile.TarInfo) -> str:
    return "file" if member.isreg() or member.islnk() else "folder" if member.isdir() else "link"
