"""Media and configuration as tar archives (POSIX pax), with an index of every file and its SHA-256.

Files change while they are read: an upload comes in, a thumbnail goes. A file that vanished or changed under our hands is
named in the result and does not stop the backup; one that cannot be read does, since nobody would miss it until it is needed.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from twist_dr.errors import SourceUnreadable
from twist_dr.repository.archive_index import ArchiveEntry
from twist_dr.repository.archive_report import ArchiveReport
from twist_dr.repository.attributes import digest, read_attributes, to_headers
from twist_dr.repository.holes import DataRun, data_runs, map_text
from twist_dr.system.folders import FOLDER_ITSELF
from twist_dr.system.sizes import CHUNK
from twist_dr.system.words import counted

Write = Callable[[bytes], None]

#: Files up to this size (bytes) are read whole before their header is written, so that size and bytes agree.
_SMALL = 1 << 20
_BLOCK = 512
_ZEROS = bytes(CHUNK)
_GONE = (errno.ENOENT, errno.ENOTDIR)
#: Files of several names that are remembered at a time, until all their names were met: some 40 MB.
_MOST_NAMED_AT_ONCE = 100_000
#: Fewer files than this may all vanish from a folder in the ordinary course of things.
_FEW_VANISHED = 20


class _Entered(NamedTuple):
    """A folder that is being read. ``name``: in the archive."""

    descriptor: int
    path: Path
    name: str
    children: Iterator[str]


@dataclass
class _Named:
    """A file of several names, as it stands in the archive, and how many of its names were not met yet."""

    entry: ArchiveEntry
    state: tuple[int, int]
    unmet: int


class ArchiveWriter:
    """Writes the archive through ``write`` and a JSON line per entry through ``write_index``.

    ``as_it_is``: what is missing or cannot be read is named in the report, and does not raise.
    """

    def __init__(self, write: Write, write_index: Write, *, as_it_is: bool = False) -> None:
        self._as_it_is = as_it_is
        self._write = write
        self._write_index = write_index
        self._pending = bytearray()
        self._failed: OSError | None = None
        self._seen = 0
        #: By device and inode: files whose further names may still come.
        self._named: dict[tuple[int, int], _Named] = {}
        self.report = ArchiveReport()

    def add_tree(self, root: Path, name: str) -> None:
        """Add a folder and all below it as ``name/...``. Raises ``SourceUnreadable``."""
        try:
            self._add_tree(root, name)
        except SourceUnreadable as error:
            self._refuse(error)

    def _add_tree(self, root: Path, name: str) -> None:
        if not os.path.isdir(root):
            raise SourceUnreadable(f"The media folder {root} is not there", remedy=f"correct media.{name}, or mount it")
        # The media folder itself may be a link to where the disk is; in the archive it is a folder.
        real = os.path.realpath(root)
        disk = _identity(real)
        report = self.report
        files, vanished, seen = report.files, len(report.vanished), self._seen
        self._add_all(Path(real), name, real)
        vanished, seen = len(report.vanished) - vanished, self._seen - seen
        # To the walk, a disk that goes away looks like files that were deleted.
        if disk is None or _identity(real) != disk:
            raise SourceUnreadable(
                f"The media folder {root} went away or was replaced while it was read",
                remedy="mount it, and run the backup again",
            )
        if vanished > _FEW_VANISHED and 2 * vanished > seen:
            raise SourceUnreadable(
                f"{vanished} of the {counted(seen, 'file')} and folders seen in {root} vanished while they were read",
                remedy="look whether a disk below it went away, and run the backup again",
            )
        if report.files == files:
            report.empty.append(name)

    def add_path(self, path: Path) -> None:
        """Add one path, and all below it, under its absolute name without the leading slash. A link stays one, and is named."""
        within = path.absolute() if path.is_symlink() else path.resolve()
        self._add_all(path, str(path.absolute()).lstrip("/"), str(within))

    def close(self) -> None:
        """Write the archive's end: two empty blocks."""
        self._put(bytes(2 * _BLOCK))
        self._flush()

    def _add_all(self, path: Path, name: str, root: str) -> None:
        """Add what lies at ``path``, a folder with all below it. All but ``path`` itself goes by the folders that are held open: whoever
        writes there may exchange a folder for a link at any moment, and nothing outside may get into the archive."""
        entered: list[_Entered] = []
        try:
            self._add(None, str(path), path, name, root, entered)
            while entered:
                folder = entered[-1]
                if (child := next(folder.children, None)) is None:
                    os.close(entered.pop().descriptor)
                else:
                    where = folder.path / child
                    self._add(folder.descriptor, child, where, f"{folder.name}/{child}", root, entered)
        finally:
            for folder in entered:
                os.close(folder.descriptor)
            self.report.not_kept.named_outside += len(self._named)
            self._named.clear()

    def _add(self, above: int | None, leaf: str, path: Path, name: str, root: str, entered: list[_Entered]) -> None:
        """Add the entry ``leaf`` of the open folder ``above``, which lies at ``path``; a folder's own entries are left to the caller."""
        self._seen += 1
        try:
            status = os.stat(leaf, dir_fd=above, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                self._add_link(os.readlink(leaf, dir_fd=above), path, name, status, root)
            elif stat.S_ISDIR(status.st_mode):
                descriptor = os.open(leaf, FOLDER_ITSELF, dir_fd=above)
                entered.append(_Entered(descriptor, path, name, iter(sorted(os.listdir(descriptor)))))
                attributes = read_attributes(descriptor, self.report.not_kept)
                said = digest(attributes) if attributes or above is None else None
                self._header(name, status, tarfile.DIRTYPE, headers=to_headers(attributes))
                self._record(ArchiveEntry(name, "folder", 0, None, status.st_mtime, said))
            elif stat.S_ISREG(status.st_mode) and (named := self._found_before(status)):
                self._add_name(named, name, status)
            elif stat.S_ISREG(status.st_mode):
                self._add_file(above, leaf, name)
            else:
                self.report.skipped.append(name)
        except OSError as error:
            if error is self._failed:  # the disk behind us, not the source
                raise
            if error.errno in _GONE:
                self.report.vanished.append(name)
                return
            self._refuse(_unreadable(path, error))

    def _refuse(self, error: SourceUnreadable) -> None:
        if not self._as_it_is:
            raise error
        self.report.damage.append(str(error))

    def _add_link(self, target: str, path: Path, name: str, status: os.stat_result, root: str) -> None:
        led_to = os.path.realpath(path)
        if led_to != root and not led_to.startswith(root.rstrip("/") + "/"):
            self.report.leading_outside.append(name)
        self._header(name, status, tarfile.SYMTYPE, target=target)
        digest = hashlib.sha256(os.fsencode(target)).hexdigest()
        self._record(ArchiveEntry(name, "link", 0, digest, status.st_mtime))

    def _found_before(self, status: os.stat_result) -> _Named | None:
        """The file that this is a further name of. A number of an inode is not enough: file systems give that of a deleted file to a new one."""
        found = self._named.get((status.st_dev, status.st_ino))
        same = found is not None and status.st_nlink > 1 and found.state == (status.st_mtime_ns, status.st_size)
        return found if same else None

    def _add_name(self, named: _Named, name: str, status: os.stat_result) -> None:
        """A further name of a file that the archive has: a link to it there."""
        first = named.entry
        self._header(name, status, tarfile.LNKTYPE, target=first.path)
        self._record(ArchiveEntry(name, "file", first.size, first.sha256, first.modified, same_as=first.path))
        named.unmet -= 1
        if not named.unmet:
            del self._named[status.st_dev, status.st_ino]

    def _add_file(self, above: int | None, leaf: str, name: str) -> None:
        opened = os.open(leaf, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=above)
        with open(opened, "rb", buffering=0) as file:
            before = os.fstat(file.fileno())
            attributes = read_attributes(file.fileno(), self.report.not_kept)
            runs = None
            if before.st_size > _SMALL and before.st_blocks * _BLOCK < before.st_size:
                runs = data_runs(file.fileno(), before.st_size)
            if runs is None:
                size, sha256, written = self._put_content(file, before, name, to_headers(attributes))
            else:
                size, sha256, written = self._put_runs(file, before, name, to_headers(attributes), runs)
            after = os.fstat(file.fileno())
        if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size) or written != before.st_size:
            self.report.changed.append(name)
        # Names that nobody meets would stay in memory: of very many the rest become files of their own.
        several = before.st_nlink > 1 and len(self._named) < _MOST_NAMED_AT_ONCE
        entry = ArchiveEntry(
            name, "file", size, sha256, before.st_mtime,
            attributes=digest(attributes) if attributes else None,
            names=before.st_nlink if several else 1,
        )  # fmt: skip
        self._record(entry)
        if several:
            state = before.st_mtime_ns, before.st_size
            self._named[before.st_dev, before.st_ino] = _Named(entry, state, before.st_nlink - 1)
        elif before.st_nlink > 1:
            self.report.not_kept.named_outside += 1

    def _put_content(
        self, file: IO[bytes], status: os.stat_result, name: str, headers: dict[str, str]
    ) -> tuple[int, str, int]:
        """All of a file; returns its size, its SHA-256, and how much of it there was to read."""
        head = _head(file)
        # A small file is in our hands now, whatever size it was said to have; a larger one must keep its size.
        size = len(head) if len(head) <= _SMALL else status.st_size
        self._header(name, status, tarfile.REGTYPE, size=size, headers=headers)
        whole = hashlib.sha256()
        written = self._put_stretch(_limited(head, file, size), size, name, whole)
        self._put(bytes(-size % _BLOCK))
        return size, whole.hexdigest(), written

    def _put_runs(
        self, file: IO[bytes], status: os.stat_result, name: str, headers: dict[str, str], runs: list[DataRun]
    ) -> tuple[int, str, int]:
        """The same of a file with holes, which are hashed as the zeros that they are, and not written."""
        size = status.st_size
        text = map_text(runs, size)
        stored = len(text) + sum(length for _, length in runs)
        folder, _, leaf = name.rpartition("/")
        # The order counts for readers to whom the last name is the right one.
        sparse = {
            "path": f"{folder or '.'}/GNUSparseFile.0/{leaf}", "GNU.sparse.major": "1", "GNU.sparse.minor": "0",
            "GNU.sparse.name": name, "GNU.sparse.realsize": str(size),
        }  # fmt: skip
        self._header(name, status, tarfile.REGTYPE, size=stored, headers={**sparse, **headers})
        self._put(text)
        whole, at, missing = hashlib.sha256(), 0, 0
        for begin, length in runs:
            for filling in _zeros(begin - at):
                whole.update(filling)
            file.seek(begin)
            got = self._put_stretch(_limited(b"", file, length), length, name, whole)
            at, missing = begin + length, missing + length - got
        for filling in _zeros(size - at):
            whole.update(filling)
        self._put(bytes(-stored % _BLOCK))
        return size, whole.hexdigest(), size - missing

    def _put_stretch(self, chunks: Iterator[bytes], size: int, name: str, whole: hashlib._Hash) -> int:
        """So many bytes of a file, into the archive and into the hash of the ``whole``; returns how many of them there were to read."""
        written = 0
        for chunk in self._readable(chunks, name):
            self._put(chunk)
            whole.update(chunk)
            written += len(chunk)
        # Where it shrank, the header stands already, so zeros fill the place, and the file is named as changed.
        for filling in _zeros(size - written):
            self._put(filling)
            whole.update(filling)
        return written

    def _readable(self, chunks: Iterator[bytes], name: str) -> Iterator[bytes]:
        """The header stands already, so what a bad block of the disk keeps from us is filled with zeros, where damage is taken as it is."""
        try:
            yield from chunks
        except OSError as error:
            if not self._as_it_is:
                raise
            why = os.strerror(error.errno or 0)
            self.report.damage.append(
                f"{name} cannot be read to its end ({why}); the rest of it is zeros in this backup."
            )

    def _header(
        self,
        name: str,
        status: os.stat_result,
        kind: bytes,
        *,
        size: int = 0,
        target: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        header = tarfile.TarInfo(name)
        header.pax_headers = headers or {}
        header.type = kind
        header.size = size
        header.linkname = target
        header.mode = stat.S_IMODE(status.st_mode)
        header.uid, header.gid = status.st_uid, status.st_gid
        header.mtime = status.st_mtime
        self._put(header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def _record(self, entry: ArchiveEntry) -> None:
        self.report.files += entry.kind == "file"
        self.report.bytes += entry.size if entry.same_as is None else 0
        self._write_index(entry.line())

    def _put(self, data: bytes) -> None:
        self._pending += data
        if len(self._pending) >= CHUNK:
            self._flush()

    def _flush(self) -> None:
        try:
            self._write(bytes(self._pending))
        except OSError as error:
            self._failed = error
            raise
        self._pending.clear()


def _unreadable(path: Path | str, error: OSError) -> SourceUnreadable:
    return SourceUnreadable(
        f"{path} cannot be read ({os.strerror(error.errno or 0)})",
        remedy="let the user that runs backups read it, or take it out of media or configuration",
    )


def _identity(folder: str) -> tuple[int, int] | None:
    """What tells a folder from another one in its place, an empty mount point say; None when it is gone."""
    try:
        # Opened, since a mere stat does not make an automounter mount what lies there.
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise _unreadable(folder, error) from error
    try:
        status = os.fstat(opened)
    finally:
        os.close(opened)
    return status.st_dev, status.st_ino


def _head(file: IO[bytes]) -> bytes:
    """All of a small file, else a little more than that. One read is not enough: FUSE returns less than it was asked for."""
    head = b""
    while len(head) <= _SMALL and (chunk := file.read(_SMALL + 1 - len(head))):
        head += chunk
    return head


def _limited(head: bytes, file: IO[bytes], size: int) -> Iterator[bytes]:
    yield head[:size]
    left = size - len(head)
    while left > 0 and (chunk := file.read(min(CHUNK, left))):
        yield chunk
        left -= len(chunk)


def _zeros(count: int) -> Iterator[bytes]:
    for begin in range(0, count, CHUNK):
        yield _ZEROS[: min(CHUNK, count - begin)]


def archive_media(
    folders: Mapping[str, Path], write: Write, write_index: Write, *, as_it_is: bool = False
) -> ArchiveReport:
    """Archive media folders, each under its name in the settings. ``as_it_is``: see :class:`ArchiveWriter`."""
    writer = ArchiveWriter(write, write_index, as_it_is=as_it_is)
    for name, folder in sorted(folders.items()):
        writer.add_tree(folder, name)
    writer.close()
    return writer.report


def match_configuration(patterns: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Paths that the patterns find, sorted, without those below another; and the patterns that find none.

    The folders above a path are resolved: what two patterns find through a link and past it is one file, and in an archive
    nothing may lie below a link. A path that is itself a link stays one.
    """
    found: set[Path] = set()
    empty = []
    for pattern in patterns:
        matches = glob.glob(pattern, recursive=True)
        found.update(map(_with_real_parents, matches))
        if not matches:
            empty.append(pattern)
    whole = {path for path in found if path.is_dir() and not path.is_symlink()}
    return sorted(path for path in found if whole.isdisjoint(path.parents)), empty


def _with_real_parents(match: str) -> Path:
    path = Path(match)
    return path.resolve() if path.name == ".." else path.parent.resolve() / path.name


def archive_configuration(
    patterns: Sequence[str], write: Write, write_index: Write, *, as_it_is: bool = False
) -> tuple[ArchiveReport, list[str]]:
    """Archive what the patterns find; returns also a warning for each pattern that finds nothing. ``as_it_is``: see :class:`ArchiveWriter`."""
    writer = ArchiveWriter(write, write_index, as_it_is=as_it_is)
    paths, empty = match_configuration(patterns)
    for path in paths:
        writer.add_path(path)
    writer.close()
    return writer.report, [f"configuration: the pattern {pattern} finds no file" for pattern in empty]
