"""An archive's files back on disk, in new folders: every byte against the index, nothing outside, what was recorded restored.

The archive and its index have one order, each folder before what is in it, so neither is held in memory. A folder's own mode
and time are restored when all in it is written; until then it is 0700, and the topmost ones until the very end. Every name is
made relative to the open folder it lies in, never by a path: no link can lead elsewhere, and no path gets too long.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from twist_dr.errors import FROM_ANOTHER, ArchiveInvalid, RestoreFailed, StagingFull
from twist_dr.repository.archive_index import ArchiveEntry
from twist_dr.repository.archive_reading import checked_members
from twist_dr.repository.attributes import clear_lists, of_member, set_lists, set_values
from twist_dr.repository.holes import is_sparse, write_with_holes
from twist_dr.storage.base import no_progress
from twist_dr.system.folders import FOLDER_ITSELF
from twist_dr.system.sizes import CHUNK
from twist_dr.system.words import counted, shown

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_FOLDER_TO_PASS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW
#: What link(2) says where a file system, or a rule, lets a file have no further name.
_NO_NAMES = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EACCES, errno.EXDEV)
_FULL = (errno.ENOSPC, errno.EDQUOT)
#: What chown(2) says where even root may not: on network file systems, and to ids that a container does not have.
_NO_OWNERS = (errno.EPERM, errno.EINVAL)
#: So many paths are named per finding.
_MOST_NAMED = 100


@dataclass(frozen=True)
class Unpacked:
    """What was written. ``skipped``: names of the archive that nobody asked for; ``notes``: sentences for the log."""

    files: int
    bytes: int
    skipped: list[str]
    notes: list[str]


def unpack(
    stream: BinaryIO,
    index: Iterator[ArchiveEntry],
    places: Mapping[str, Path],
    what: str,
    *,
    advance: Callable[[int], None] = no_progress,
) -> Unpacked:
    """Write each media folder of the archive to its new folder in ``places``, and make it durable.

    Owners and groups are restored when we are root. ``advance`` is told bytes as they are written, and may raise to stop.
    Raises ``ArchiveInvalid`` at the first difference between archive and index, ``StagingFull`` when the disk is full,
    ``RestoreFailed`` when a file cannot be written. On any error, remove the new folders: see :func:`~twist_dr.system.folders.remove_tree`.
    """
    findings = _Findings(what)
    trees: dict[str, _Tree] = {}
    skipped: dict[str, None] = {}
    owners = os.geteuid() == 0
    try:
        for member, entry, content in checked_members(stream, index, what):
            name, below, _ = member.name.partition("/")
            if name not in places:
                skipped[name] = None
                continue
            if below and name in trees:
                trees[name].add(member, content, advance)
            elif not below and name not in trees and member.isdir():
                trees[name] = _Tree(places[name], name, findings, member, owners=owners)
                if entry.attributes is not None:
                    trees[name].inherit_nothing()
            else:
                raise _foreign(what, member)
        for tree in trees.values():
            tree.finish()
    finally:
        for tree in trees.values():
            tree.close()
    missing = [f"{what}: holds no folder {name}, so none was made." for name in places if name not in trees]
    return Unpacked(findings.files, findings.bytes, list(skipped), [*findings.sentences(), *missing])


def unpack_configuration(
    stream: BinaryIO, index: Iterator[ArchiveEntry], folder: Path, what: str, *, private: bool
) -> Unpacked:
    """Write the whole configuration archive below one new folder, for a person to compare; raises as :func:`unpack`.

    The folder stays 0700 and everything is ours, since among the files are secrets; other modes are as recorded or, when it shall be
    ``private``, for us alone too: whoever copies or moves such a file then opens it to nobody by mistake.
    """
    findings = _Findings(what)
    tree = _Tree(folder, "", findings, None, owners=False, private=private)
    try:
        for member, _, content in checked_members(stream, index, what):
            tree.add(member, content, no_progress)
        tree.finish()
    finally:
        tree.close()
    return Unpacked(findings.files, findings.bytes, [], findings.sentences())


class _Findings:
    """What is counted and said about a whole archive."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.files = 0
        self.bytes = 0
        self.without_owner = 0
        self.own_files = 0
        """Further names of files, on a file system that has but one for each."""
        self._lost: Counter[tuple[str, str]] = Counter()
        self._set_uid: list[str] = []
        self._more_set_uid = 0

    def lost(self, kind: str, error: OSError) -> None:
        """An attribute that the file system, or our rights, did not take."""
        self._lost[kind, os.strerror(error.errno or 0)] += 1

    def set_uid(self, name: str) -> None:
        if len(self._set_uid) < _MOST_NAMED:
            self._set_uid.append(name)
        else:
            self._more_set_uid += 1

    def sentences(self) -> list[str]:
        said = [
            f"{self.what}: {shown(name)} would run as its owner or group (set-uid or set-gid); that was not restored."
            for name in self._set_uid
        ]
        if self._more_set_uid:
            said.append(f"{self.what}: {counted(self._more_set_uid, 'more file')} lost set-uid or set-gid.")
        if self.without_owner:
            said.append(
                f"{self.what}: owner and group of {counted(self.without_owner, 'file or folder')} could not be restored; what we made belongs to us."
            )
        said += [
            f"{self.what}: {kind} of {counted(count, 'file or folder')} could not be restored ({why})."
            for (kind, why), count in sorted(self._lost.items())
        ]
        if self.own_files:
            said.append(
                f"{self.what}: {self.own_files} further names of files (hard links) could not be restored; they are files of their own."
            )
        return said


@dataclass(frozen=True)
class _Open:
    """A folder being filled. ``path`` as in the archive; ``member`` is None for one that the archive does not have itself."""

    path: str
    descriptor: int
    member: tarfile.TarInfo | None


class _Tree:
    """A new folder that is filled in the archive's order. ``member`` is the archive's entry for the folder itself, if any.

    Without it, missing folders between are made: an archive of single files has none for those above them. Attributes and access control
    lists are not restored then either, as these files are for a person to compare.
    """

    def __init__(
        self,
        place: Path,
        path: str,
        findings: _Findings,
        member: tarfile.TarInfo | None,
        *,
        owners: bool,
        private: bool = False,
    ) -> None:
        self._findings = findings
        self._owners = owners
        self._private = private
        self._attributes = member is not None
        self._makes_parents = member is None
        self._writing = _Writing(findings.what, place)
        self._writing.name = path
        #: From the topmost folder to the one that is being filled.
        self._open: list[_Open] = []
        try:
            os.mkdir(place, 0o700)
        except FileExistsError:
            raise RestoreFailed(
                f"{place} is there already", remedy="move it away, then run the restore again"
            ) from None
        except OSError as error:
            raise self._writing.failed(error) from error
        with self._writing:
            self._open.append(_Open(path, os.open(place, FOLDER_ITSELF), member))

    def add(self, member: tarfile.TarInfo, content: Iterator[bytes], advance: Callable[[int], None]) -> None:
        above, _, leaf = member.name.rpartition("/")
        self._writing.name = member.name
        parent = self._descend(above, member)
        if leaf in ("", "."):
            raise _foreign(self._findings.what, member)
        if member.isdir():
            self._enter(leaf, member.name, member)
        elif member.islnk():
            self._name(parent, leaf, member)
        elif member.issym():
            self._link(parent, leaf, member)
        else:
            self._file(parent, leaf, member, content, advance)

    def inherit_nothing(self) -> None:
        """What the archive does not have shall not come from the folder above, on whose access control lists nobody counted."""
        clear_lists(self._open[0].descriptor)

    def finish(self) -> None:
        """Restore what the topmost folder had, and make everything durable."""
        top = self._open[0]
        while len(self._open) > 1:
            self._leave()
        self._writing.name = top.path
        with self._writing:
            if top.member is not None:
                self._restore(top.descriptor, top.member)
            _sync(top.descriptor)

    def close(self) -> None:
        """Let go of all folders, finished or not."""
        while self._open:
            os.close(self._open.pop().descriptor)

    def _descend(self, path: str, member: tarfile.TarInfo) -> int:
        """The descriptor of the folder ``path``, after leaving those that nothing more will come into."""
        while (current := self._open[-1]).path != path:
            if len(self._open) > 1 and not path.startswith(current.path + "/"):
                self._leave()
                continue
            if not self._makes_parents:
                raise _foreign(self._findings.what, member)
            below = path.removeprefix(current.path).lstrip("/")
            leaf = below.partition("/")[0]
            self._enter(leaf, f"{current.path}/{leaf}".lstrip("/"), None)
        return current.descriptor

    def _enter(self, leaf: str, path: str, member: tarfile.TarInfo | None) -> None:
        parent = self._open[-1].descriptor
        with self._writing:
            try:
                os.mkdir(leaf, 0o700, dir_fd=parent)
            except FileExistsError:
                if member is not None:
                    raise
            self._open.append(_Open(path, os.open(leaf, FOLDER_ITSELF, dir_fd=parent), member))

    def _leave(self) -> None:
        folder = self._open.pop()
        try:
            if folder.member is not None:
                self._writing.name = folder.path
                with self._writing:
                    self._restore(folder.descriptor, folder.member)
        finally:
            os.close(folder.descriptor)

    def _file(
        self,
        parent: int,
        leaf: str,
        member: tarfile.TarInfo,
        content: Iterator[bytes],
        advance: Callable[[int], None],
    ) -> None:
        with self._writing:
            descriptor = os.open(leaf, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            holes = is_sparse(member)
            for chunk in content:
                with self._writing:
                    if holes:
                        write_with_holes(descriptor, chunk)
                    else:
                        _write_all(descriptor, chunk)
                advance(len(chunk))
            with self._writing:
                if holes:
                    os.ftruncate(descriptor, member.size)
                self._restore(descriptor, member)
        finally:
            with self._writing:  # network file systems may say only now that the disk is full
                os.close(descriptor)
        self._findings.files += 1
        self._findings.bytes += member.size

    def _name(self, parent: int, leaf: str, member: tarfile.TarInfo) -> None:
        """A further name of a file that is there already."""
        with self._writing:
            path = member.linkname.removeprefix(self._open[0].path).lstrip("/").split("/")
            folder = os.dup(self._open[0].descriptor)
            try:
                for step in path[:-1]:
                    above, folder = folder, os.open(step, _FOLDER_TO_PASS, dir_fd=folder)
                    os.close(above)
                try:
                    os.link(path[-1], leaf, src_dir_fd=folder, dst_dir_fd=parent, follow_symlinks=False)
                except OSError as error:
                    if error.errno not in _NO_NAMES:
                        raise
                    self._copy(folder, path[-1], parent, leaf, member)
                    self._findings.own_files += 1
            finally:
                os.close(folder)
        self._findings.files += 1

    def _copy(self, folder: int, name: str, parent: int, leaf: str, member: tarfile.TarInfo) -> None:
        source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
        try:
            descriptor = os.open(leaf, _NEW_FILE, 0o600, dir_fd=parent)
            try:
                while chunk := os.read(source, CHUNK):
                    _write_all(descriptor, chunk)
                self._restore(descriptor, member)
            finally:
                os.close(descriptor)
        finally:
            os.close(source)

    def _link(self, parent: int, leaf: str, member: tarfile.TarInfo) -> None:
        with self._writing:
            os.symlink(member.linkname, leaf, dir_fd=parent)
            if self._owners:
                self._own(lambda: os.chown(leaf, member.uid, member.gid, dir_fd=parent, follow_symlinks=False))
            os.utime(leaf, (member.mtime, member.mtime), dir_fd=parent, follow_symlinks=False)

    def _restore(self, descriptor: int, member: tarfile.TarInfo) -> None:
        """Attributes, owner, mode, access control lists and time, in this order: each may change with the one before."""
        attributes = of_member(member)
        if attributes and self._attributes:
            set_values(descriptor, attributes, self._findings.lost)
        mode = stat.S_IMODE(member.mode)
        if self._private:
            mode = 0o700 if member.isdir() else mode & 0o700 | 0o600
        if self._owners:
            self._own(lambda: os.fchown(descriptor, member.uid, member.gid))
        # On a folder set-gid says whose group new files in it get, and stays.
        dangerous = stat.S_ISUID if member.isdir() else stat.S_ISUID | stat.S_ISGID
        if mode & dangerous:
            self._findings.set_uid(member.name)
        os.fchmod(descriptor, mode & ~dangerous)
        if attributes and self._attributes:
            set_lists(descriptor, attributes, self._findings.lost)
        os.utime(descriptor, (member.mtime, member.mtime))

    def _own(self, change: Callable[[], None]) -> None:
        try:
            change()
        except OSError as error:
            if error.errno not in _NO_OWNERS:
                raise
            self._findings.without_owner += 1


class _Writing:
    """Turns the system's errors met while ``name`` is written into ours. Reused, as there may be millions of files."""

    def __init__(self, what: str, place: Path) -> None:
        self._what = what
        self._place = place
        self.name = ""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise self.failed(error) from error
        if isinstance(error, (ValueError, OverflowError)):  # a zero byte in a name, a time before all times
            raise ArchiveInvalid(
                f"{self._what}: the entry {shown(self.name)} is damaged ({error})",
                remedy=FROM_ANOTHER,
            ) from error

    def failed(self, error: OSError) -> ArchiveInvalid | StagingFull | RestoreFailed:
        if error.errno in _FULL:
            return StagingFull(
                f"The disk of {self._place} is full", remedy="free space there, then run the restore again"
            )
        if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.ELOOP):
            return ArchiveInvalid(
                f"{self._what} has {shown(self.name)} twice, or files below what is no folder, and was not made by twist-dr",
                remedy="do not restore it",
            )
        return RestoreFailed(
            f"{shown(self.name)} of {self._what} could not be written below {self._place} ({error.strerror})",
            remedy="fix that, then run the restore again",
        )


def _foreign(what: str, member: tarfile.TarInfo) -> ArchiveInvalid:
    return ArchiveInvalid(
        f"{what} has {shown(member.name)} where none can be, and was not made by twist-dr", remedy="do not restore it"
    )


def _write_all(descriptor: int, data: bytes) -> None:
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, memoryview(data)[written:])


def _sync(descriptor: int) -> None:
    """Make durable all that was written to the file system of an open folder: with fsync per file, small files take ten times as long.

    Linux also tells of writes that failed since the folder was opened, see syncfs(2).
    """
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        os.sync()
    elif syncfs(descriptor) != 0:
        raise OSError(code := ctypes.get_errno(), os.strerror(code))
