"""Media and configuration as tar archives (POSIX pax), with an index of every file and its SHA-256.

Files change while they are read: an upload comes in, a thumbnail goes. A file that vanished or changed under our hands is
named in the result and does not stop the backup; one that cannot be read does, since nobody would miss it until it is needed.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

from twist_dr.engine.documents import LINE, DocumentInvalid, read_mapping
from twist_dr.engine.folders import FOLDER_ITSELF
from twist_dr.engine.words import shown
from twist_dr.errors import ArchiveInvalid, SourceUnreadable
from twist_dr.storage.base import CHUNK

Write = Callable[[bytes], None]

#: Files up to this size (bytes) are read whole before their header is written, so that size and bytes agree.
_SMALL = 1 << 20
_BLOCK = 512
_GONE = (errno.ENOENT, errno.ENOTDIR)
#: So many paths are named per finding; a manifest is no list of files, and nobody reads the hundred-and-first.
_MOST_NAMED = 100
#: Fewer files than this may all vanish from a folder in the ordinary course of things.
_FEW_VANISHED = 20


@dataclass(frozen=True)
class Entry:
    """One line of the index. ``kind`` is file, folder or link; ``sha256`` of a link is that of its target's name."""

    path: str
    kind: str
    size: int
    sha256: str | None
    modified: float


@dataclass
class ArchiveReport:
    """What was found while archiving. Paths are those in the archive."""

    files: int = 0
    bytes: int = 0
    vanished: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    leading_outside: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    """Sentences about what would have ended a backup that does not take things as they are."""

    def warnings(self, part: str) -> list[str]:
        """One sentence per path, for manifest and log; one for all the others where a finding has many."""
        findings = [
            (self.vanished, "vanished while the backup was made", "files vanished while the backup was made"),
            (self.changed, "changed while it was read", "files changed while they were read"),
            (
                self.skipped,
                "is neither file, folder nor link and was left out",
                "files are neither file, folder nor link and were left out",
            ),
            (
                self.leading_outside,
                "is a link that leads outside; its target is not in the backup",
                "files are links that lead outside; their targets are not in the backup",
            ),
            (self.empty, "holds no files", "folders hold no files"),
        ]
        sentences = [f"{part}: {sentence}" for sentence in self.damage[:_MOST_NAMED]]
        if (more := len(self.damage) - _MOST_NAMED) > 0:
            sentences.append(f"{part}: {more} more could not be read and are not in this backup")
        for paths, of_one, of_more in findings:
            sentences += [f"{part}: {shown(path)} {of_one}" for path in sorted(paths)[:_MOST_NAMED]]
            if len(paths) > _MOST_NAMED:
                sentences.append(f"{part}: {len(paths) - _MOST_NAMED} more {of_more}")
        return sentences


class _Entered(NamedTuple):
    """A folder that is being read. ``name``: in the archive."""

    descriptor: int
    path: Path
    name: str
    children: Iterator[str]


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
        self.report = ArchiveReport()

    def add_tree(self, root: Path, name: str) -> None:
        """Add a folder and all below it as ``name/...``. Raises ``SourceUnreadable``."""
        try:
            self._add_tree(root, name)
        except SourceUnreadable as error:
            self._refuse(error)

    def _add_tree(self, root: Path, name: str) -> None:
        if not os.path.isdir(root):
            raise SourceUnreadable(f"The media folder {root} is not there; correct media.{name}, or mount it.")
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
                f"The media folder {root} went away or was replaced while it was read; mount it, and run the backup again."
            )
        if vanished > _FEW_VANISHED and 2 * vanished > seen:
            raise SourceUnreadable(
                f"{vanished} of the {seen} files and folders seen in {root} vanished while they were read; look whether a "
                "disk below it went away, and run the backup again."
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
                self._header(name, status, tarfile.DIRTYPE)
                self._record(Entry(name, "folder", 0, None, status.st_mtime))
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
        self._record(Entry(name, "link", 0, digest, status.st_mtime))

    def _add_file(self, above: int | None, leaf: str, name: str) -> None:
        opened = os.open(leaf, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=above)
        with open(opened, "rb", buffering=0) as file:
            before = os.fstat(file.fileno())
            head = _head(file)
            # A small file is in our hands now, whatever size it was said to have; a larger one must keep its size.
            size = len(head) if len(head) <= _SMALL else before.st_size
            self._header(name, before, tarfile.REGTYPE, size=size)
            digest, written = hashlib.sha256(), 0
            for chunk in self._readable(_limited(head, file, size), name):
                self._put(chunk)
                digest.update(chunk)
                written += len(chunk)
            if written < size:
                # It shrank. The header stands already, so zeros fill the place, and the file is named as changed.
                for start in range(written, size, CHUNK):
                    self._put(filling := bytes(min(CHUNK, size - start)))
                    digest.update(filling)
            self._put(bytes(-size % _BLOCK))
            after = os.fstat(file.fileno())
        if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size) or written != before.st_size:
            self.report.changed.append(name)
        self._record(Entry(name, "file", size, digest.hexdigest(), before.st_mtime))

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

    def _header(self, name: str, status: os.stat_result, kind: bytes, *, size: int = 0, target: str = "") -> None:
        header = tarfile.TarInfo(name)
        header.type = kind
        header.size = size
        header.linkname = target
        header.mode = stat.S_IMODE(status.st_mode)
        header.uid, header.gid = status.st_uid, status.st_gid
        header.mtime = status.st_mtime
        self._put(header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def _record(self, entry: Entry) -> None:
        self.report.files += entry.kind == "file"
        self.report.bytes += entry.size
        self._write_index(json.dumps(asdict(entry), separators=(",", ":")).encode() + b"\n")

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
        f"{path} cannot be read ({os.strerror(error.errno or 0)}); let the user that runs backups read it, "
        "or take it out of media or configuration."
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


def read_index(lines: BinaryIO) -> Iterator[Entry]:
    """Entries of an index. Raises ``ArchiveInvalid``."""
    while line := lines.readline(LINE.size + 1):
        try:
            entry = Entry(**read_mapping(line, LINE))
        except (DocumentInvalid, TypeError):
            entry = None
        if entry is None or not _is_sound(entry):
            raise ArchiveInvalid("The archive's index is damaged; take the backup from another storage target.")
        yield entry


def _is_sound(entry: Entry) -> bool:
    """Whether each field is what its type says: a dataclass takes anything."""
    return (
        isinstance(entry.path, str)
        and entry.kind in ("file", "folder", "link")
        and isinstance(entry.size, int)
        and entry.size >= 0
        and isinstance(entry.sha256, (str, type(None)))
        and isinstance(entry.modified, (int, float))
    )
