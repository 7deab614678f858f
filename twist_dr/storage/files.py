"""File-system operations that the targets which are folders share."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from twist_dr.errors import ObjectCorrupt, ObjectExists, StorageError, TargetFull, TargetRefused, TargetUnavailable
from twist_dr.storage.base import OnBytes
from twist_dr.storage.beneath import A_FILE, Folder, NoFolder
from twist_dr.storage.limits import Bandwidth
from twist_dr.system.sizes import CHUNK

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: What ``link`` says where there are no hard links: EPERM per link(2); others from network and FUSE file systems.
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
#: What ``renameat2`` says where the kernel or the file system lacks RENAME_NOREPLACE, per rename(2).
_NO_NOREPLACE = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
_RENAME_NOREPLACE = 1

#: Two targets that link one source at once would each see the other's link, and both copy: one after the other.
_LINKING = threading.Lock()
#: Serialises check-then-rename where the file system offers no operation that refuses to overwrite.
_RENAMING = threading.Lock()


def file_error(name: str, where: Path, error: OSError) -> StorageError:
    """The error of ours that says what ``error``, met at ``where`` on target ``name``, means and what to do."""
    if isinstance(error, NoFolder):
        if error.what == A_FILE:
            return ObjectExists(
                f"{error.path} is an object, so no object can lie below it", remedy="choose another key", target=name
            )
        return TargetRefused(
            f"{where}: {error.path} is {error.what}, and nothing below a storage target's folder may lead out of it",
            remedy=f"move it away, or set storage_targets.{name}.path to the folder that is meant",
            target=name,
        )
    kind, remedy = _meaning(error.errno)
    return kind(f"{where}: {os.strerror(error.errno) if error.errno else error}", remedy=remedy, target=name)


def _meaning(number: int | None) -> tuple[type[StorageError], str]:
    """What a number of errno(3) means on a storage target, and what to do."""
    match number:
        case errno.ENOSPC | errno.EDQUOT:
            return TargetFull, "free some space or raise the quota, then run again"
        case errno.EROFS:
            return TargetRefused, "the file system is mounted read-only: remount it for writing"
        case errno.EACCES | errno.EPERM:
            return TargetRefused, f"give the user that runs twist-dr (uid {os.geteuid()}) read and write access"
        case errno.EFBIG:
            return TargetRefused, "this file system cannot hold a file that large: use another one"
        case errno.ENAMETOOLONG:
            return TargetRefused, "choose a shorter path for the target"
    return TargetUnavailable, "check that the disk or share is mounted and healthy, then run again"


@contextlib.contextmanager
def os_errors(name: str, where: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the block into the :class:`StorageError` it means."""
    try:
        yield
    except OSError as error:
        raise file_error(name, where, error) from error


def rename_no_replace(folder: Folder, old: str, other: Folder, new: str) -> None:
    """Rename in one step that fails with ``FileExistsError`` if ``new`` exists: ``renameat2``, which Python lacks."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    names = folder.descriptor, os.fsencode(old), other.descriptor, os.fsencode(new)
    if renameat2(*names, _RENAME_NOREPLACE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), new)


def publish(incoming: Folder, temporary: str, folder: Folder, name: str) -> bool:
    """Give the finished file ``temporary`` its name in ``folder``; ``FileExistsError`` if that is taken.

    Returns whether the file system itself refuses to overwrite. False means that only this process's own lock does.
    """
    places = {"src_dir_fd": incoming.descriptor, "dst_dir_fd": folder.descriptor}
    try:
        # Not through a link: whoever put one in the place of the finished file would have us link what he cannot read.
        os.link(temporary, name, **places, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
    else:
        incoming.unlink(temporary)
        return True
    try:
        rename_no_replace(incoming, temporary, folder, name)
    except OSError as error:
        if error.errno not in _NO_NOREPLACE:
            raise
    else:
        return True
    with _RENAMING:
        with contextlib.suppress(FileNotFoundError):
            folder.status(name)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        os.rename(temporary, name, **places)
        return False


def link_source(source: Path, incoming: Folder, temporary: str) -> bool:
    """Link ``source`` as ``temporary`` if that gives a copy of its own; False when it must be copied."""
    with contextlib.suppress(OSError), _LINKING:
        status = source.lstat()
        ours_alone = status.st_uid == os.geteuid() and not status.st_mode & 0o177
        if not (stat.S_ISREG(status.st_mode) and ours_alone):
            return False
        os.link(source, temporary, dst_dir_fd=incoming.descriptor, follow_symlinks=False)
        if incoming.status(temporary).st_nlink == 2:
            return True
        incoming.unlink(temporary)  # Another target has linked it, here or in another process.
    return False


def copy_file(source: Path, incoming: Folder, temporary: str, progress: OnBytes, bandwidth: Bandwidth) -> None:
    """Copy by reading and writing, as fast as ``bandwidth`` lets, to a new file of mode 0600. ``ObjectCorrupt`` when ``source`` cannot be read.

    Not with copy_file_range(2): that may share the blocks (Btrfs, XFS), and then a bad block would spoil both copies.
    """
    with contextlib.ExitStack() as files:
        with _reading(source):
            reader = files.enter_context(source.open("rb", buffering=0))
        writer = files.enter_context(os.fdopen(incoming.create(temporary), "wb", 0))
        buffer = memoryview(bytearray(CHUNK))
        while True:
            with _reading(source):
                count = reader.readinto(buffer)
            if not count:
                return
            bandwidth.wait_for(count, progress)
            written = 0
            while written < count:
                written += writer.write(buffer[written:count])
            progress(count)


@contextlib.contextmanager
def _reading(source: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ObjectCorrupt(
            f"nothing was stored: the file {source} to be stored cannot be read ({error.strerror})",
            remedy="make it anew",
        ) from error


def drop_cache(descriptor: int) -> None:
    """Ask the kernel to forget the file's cached pages, so that what is read next comes from the disk or the server."""
    with contextlib.suppress(OSError, AttributeError):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


class ObjectFile(io.FileIO):
    """A file opened for reading, of which ``descriptor`` is closed with it, whose errors are storage errors: a share can vanish in the middle of a read."""

    def __init__(self, target: str, path: Path, descriptor: int) -> None:
        super().__init__(descriptor, "rb")
        self._target, self._path = target, path

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        with os_errors(self._target, self._path):
            return super().readinto(buffer) or 0

    def readall(self) -> bytes:
        with os_errors(self._target, self._path):
            return super().readall() or b""
