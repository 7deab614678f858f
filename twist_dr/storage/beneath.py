"""Folders by descriptor: nothing below a target's own folder is reached by a path, so nothing there leads out of it.

Whoever can write to a target can put a symbolic link, a named pipe or a device there, and can exchange a folder for a link between
a look and a deed. So each step down is an openat(2) of one name in a folder that is held open, which follows no link and enters no
mount, and each deed (open, link, rename, unlink) names one entry of such a folder. The target's own folder alone is opened by its path:
where that leads is the administrator's to say.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

#: Enough to name entries by: O_PATH, where it is known, needs no right to read the folder.
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY
_STEP = _FOLDER | os.O_NOFOLLOW
#: Without O_NONBLOCK, opening a named pipe that was put in a file's place waits for a writer for ever.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY

#: statx(2): where a field lies in ``struct statx``, and what asks about the entry itself, without mounting anything.
_ATTRIBUTES, _ATTRIBUTES_MASK, _MOUNT_ROOT = slice(8, 16), slice(56, 64), 0x2000
_ITSELF = 0x100 | 0x800  # AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFREG: "a file",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
A_FILE, A_FOLDER = _KINDS[stat.S_IFREG], _KINDS[stat.S_IFDIR]
A_MOUNT = "a mount point"


class NoFolder(NotADirectoryError):
    """There is something else where a folder should be. ``path``: below the folder that was asked; ``what``: ``a symbolic link``."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        self.path, self.what = path, what


class FolderEntry(NamedTuple):
    """A name in a folder, and what it is as far as the listing tells: a mount point looks like the folder that it covers."""

    name: str
    what: str


class Folder:
    """A folder that is held open. All names are single ones, of entries of this folder. Everything raises ``OSError``."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def at(cls, path: Path) -> Folder:
        """The folder that a path leads to, through links and mounts."""
        return cls(os.open(path, _FOLDER))

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.descriptor)

    def kind(self, name: str) -> str:
        """What an entry is. Raises ``FileNotFoundError``."""
        return self._kind(name, self.status(name))

    def _kind(self, name: str, status: os.stat_result) -> str:
        if stat.S_IFMT(status.st_mode) in (stat.S_IFREG, stat.S_IFDIR) and self._is_mount(name, status):
            return A_MOUNT
        return _KINDS.get(stat.S_IFMT(status.st_mode), "something strange")

    def status(self, name: str) -> os.stat_result:
        """Of the entry itself, whatever it is."""
        return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)

    def file(self, name: str) -> os.stat_result | None:
        """Of a regular file; ``None`` when there is none of that name."""
        try:
            status = self.status(name)
        except FileNotFoundError:
            return None
        return status if self._kind(name, status) == A_FILE else None

    def _is_mount(self, name: str, status: os.stat_result) -> bool:
        told = _told_mount(self.descriptor, name)
        # A bind mount of the same file system shows only to kernels from 5.8 on.
        return status.st_dev != os.fstat(self.descriptor).st_dev if told is None else told

    def entries(self) -> list[FolderEntry]:
        """All, in no order."""
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.descriptor)
        try:
            with os.scandir(descriptor) as scan:
                return [FolderEntry(each.name, self._listed(each)) for each in scan]
        finally:
            os.close(descriptor)

    def _listed(self, entry: os.DirEntry[str]) -> str:
        if entry.is_file(follow_symlinks=False):
            return A_FILE
        if entry.is_dir(follow_symlinks=False):
            return A_FOLDER
        with contextlib.suppress(FileNotFoundError):
            return self.kind(entry.name)
        return "nothing"

    # -- going down ----------------------------------------------------------------------------------------------------

    def child(self, name: str) -> Folder:
        """A folder in this one. Raises ``FileNotFoundError`` and :class:`NoFolder`."""
        try:
            descriptor = os.open(name, _STEP, dir_fd=self.descriptor)
        except NotADirectoryError:
            raise NoFolder(name, self.kind(name)) from None
        told = _told_mount(descriptor, "")
        if told or (told is None and os.fstat(descriptor).st_dev != os.fstat(self.descriptor).st_dev):
            os.close(descriptor)
            raise NoFolder(name, A_MOUNT)
        return Folder(descriptor)

    def make(self, name: str) -> Folder:
        """The same, made with mode 0700 and durable if it is missing."""
        with contextlib.suppress(FileNotFoundError):
            return self.child(name)
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=self.descriptor)
            self.sync()
        return self.child(name)

    @contextlib.contextmanager
    def chain(self, names: Sequence[str], *, make: bool = False) -> Iterator[list[Folder]]:
        """This folder and, all held open, those that the names lead to, each in the one before. ``make`` those that are missing."""
        with contextlib.ExitStack() as stack:
            folders = [self]
            for name in names:
                try:
                    folder = folders[-1].make(name) if make else folders[-1].child(name)
                except NoFolder as error:
                    raise NoFolder("/".join(names[: len(folders)]), error.what) from None
                folders.append(stack.enter_context(folder))
            yield folders

    # -- deeds ---------------------------------------------------------------------------------------------------------

    def open(self, name: str) -> int:
        """A descriptor to read a regular file from. Raises ``FileNotFoundError`` when there is none of that name."""
        if self.file(name) is not None:
            try:
                descriptor = os.open(name, _READ, dir_fd=self.descriptor)
            except OSError as error:
                if error.errno != errno.ELOOP:  # exchanged for a link since we looked
                    raise
            else:
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    return descriptor
                os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)

    def create(self, name: str) -> int:
        """A descriptor to write a new file of mode 0600 to. Raises ``FileExistsError``."""
        return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self.descriptor)

    def unlink(self, name: str) -> None:
        """Remove an entry; success when there is none."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.descriptor)

    def sync(self) -> None:
        """Make the names in here durable: fsync of a file does not cover the entry that names it (fsync(2))."""
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.descriptor)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some network file systems cannot
                raise
        finally:
            os.close(descriptor)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _told_mount(folder: int, name: str) -> bool | None:
    """Whether an entry (the folder itself for ``""``) is where a mount begins, by statx(2), which Python lacks; ``None`` where it does not say."""
    statx = getattr(_libc(), "statx", None)
    buffer = ctypes.create_string_buffer(256)
    flags = _ITSELF if name else _ITSELF | 0x1000  # AT_EMPTY_PATH
    if statx is None or statx(folder, os.fsencode(name), flags, 0, buffer) != 0:
        return None
    known = int.from_bytes(buffer.raw[_ATTRIBUTES_MASK], sys.byteorder) & _MOUNT_ROOT
    return bool(int.from_bytes(buffer.raw[_ATTRIBUTES], sys.byteorder) & _MOUNT_ROOT) if known else None
