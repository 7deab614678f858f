"""A folder as a storage target: an object is the file ``path/key``; folders are 0700, files 0600.

An object is written under a temporary name in ``path/.incoming``, made durable, read back, and only then made visible
by an operation that cannot overwrite: a hard link, or ``renameat2(RENAME_NOREPLACE)`` where the file system knows no
hard links (exFAT, some network file systems). Where there is neither, a check and a rename under this process's own
lock remain; ``probe`` then reports ``write_once=False``.

Where the staged source lies on the same file system it is linked instead of copied, so that the bytes are written once.
That is done only while no other target has linked it (two copies that share bytes are one copy), and only if the file
is ours alone (0600): others could change it afterwards, and a link shares its rights. So a source must not be changed
after it was stored; staged files never are.
"""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import io
import os
import re
import stat as modes
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import BinaryIO

from twist_dr.errors import ObjectCorrupt, ObjectExists, ObjectMissing, TargetUnavailable
from twist_dr.storage.base import (
    CHUNK,
    Capabilities,
    Digest,
    Progress,
    Space,
    StorageTarget,
    StoredObject,
    compare,
    no_progress,
    valid_key,
)
from twist_dr.storage.files import (
    ObjectFile,
    copy_file,
    drop_cache,
    fsync_folder,
    link_source,
    make_folders,
    os_errors,
    publish,
)

INCOMING = ".incoming"

#: ``<begun, Unix seconds>-<random>``: the name tells the age, since a linked file keeps the times of its source.
_TEMPORARY = re.compile(r"^(\d{1,12})-[0-9a-f]{32}\Z")
_PART = re.compile(r"^(?!\.{1,2}$)[A-Za-z0-9._-]+\Z")


class LocalTarget(StorageTarget):
    """A folder on a disk of this machine."""

    #: Whether ``put`` may link the source instead of copying it.
    _links_sources = True

    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name)
        self.path = Path(path)

    @property
    def location(self) -> str:
        return str(self.path)

    def prepare(self) -> None:
        self._mounted()
        with os_errors(self.name, self.path):
            if not self.path.parent.is_dir():
                raise TargetUnavailable(
                    f"{self.name}: the folder {self.path.parent} does not exist; mount its disk, create it, or correct "
                    f"storage_targets.{self.name}.path."
                )
            make_folders(self.path, self.path.parent)
            make_folders(self.path / INCOMING, self.path)
            temporary = self._temporary()
            temporary.touch(0o600)
            temporary.unlink()

    def put(self, source: Path, key: str, digest: Digest, progress: Progress = no_progress) -> None:
        final = self._file(key)
        self._ready()
        if self._holds(key, digest, progress):
            return
        with os_errors(self.name, final):
            make_folders(self.path / INCOMING, self.path)
            temporary = self._temporary()
            try:
                if not (self._links_sources and link_source(source, temporary)):
                    copy_file(source, temporary, progress)
                self._check_back(temporary, source, digest, progress)
                self._publish(temporary, final)
            except FileExistsError:  # Another writer was first, or there is a folder of that name.
                if not self._holds(key, digest, progress):
                    raise ObjectExists(f"{self.name}: objects lie below {key}; choose another key.") from None
            finally:
                with contextlib.suppress(FileNotFoundError):
                    temporary.unlink()

    def open(self, key: str) -> BinaryIO:
        return io.BufferedReader(self._open(key), CHUNK)

    def check(self, key: str, digest: Digest, progress: Progress = no_progress) -> None:
        with self._open(key) as stream:
            drop_cache(stream.fileno())
            compare(stream, f"{self.name}: {key}", digest, progress)

    def stat(self, key: str) -> StoredObject | None:
        file = self._file(key)
        self._ready()
        with os_errors(self.name, file):
            try:
                status = file.stat()
            except (FileNotFoundError, NotADirectoryError):
                self._ready()  # Still there, so the object is positively missing.
                return None
        return _stored(key, status) if modes.S_ISREG(status.st_mode) else None

    def list(self, prefix: str) -> Iterator[StoredObject]:
        folder = self._folder(prefix)
        self._ready()
        with os_errors(self.name, folder):
            yield from self._walk(folder, f"{prefix}/" if prefix else "")

    def children(self, prefix: str) -> builtins.list[str]:
        folder = self._folder(prefix)
        self._ready()
        with os_errors(self.name, folder):
            names = []
            for entry in self._entries(folder):
                if not entry.is_dir():
                    names.append(entry.name)
                elif next(self._walk(Path(entry.path), f"{prefix}/{entry.name}/"), None) is not None:
                    names.append(entry.name)  # An empty folder is what a delete or a killed put leaves: no object.
        return sorted(names)

    def delete(self, key: str) -> None:
        if self.stat(key) is None:
            return
        file = self._file(key)
        with os_errors(self.name, file):
            file.unlink(missing_ok=True)
            fsync_folder(file.parent)
            for folder in file.parents:
                if folder == self.path:
                    break
                try:
                    folder.rmdir()
                except OSError:  # Not empty, as a rule; a folder that stays does no harm.
                    break

    def sweep(self, older_than: timedelta) -> int:
        self._ready()
        limit, removed = time.time() - older_than.total_seconds(), 0
        incoming = self.path / INCOMING
        with os_errors(self.name, incoming):
            for file in incoming.iterdir() if incoming.is_dir() else ():
                begun = _TEMPORARY.match(file.name)
                if begun and int(begun[1]) <= limit:
                    file.unlink(missing_ok=True)
                    removed += 1
            for file in self.path.glob(".probe-*"):
                if file.is_file() and file.stat().st_mtime <= limit:
                    file.unlink(missing_ok=True)
        return removed

    def space(self) -> Space:
        self._ready()
        with os_errors(self.name, self.path):
            status = os.statvfs(self.path)
        return Space(status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize)

    def probe(self) -> Capabilities:
        self.prepare()
        content = uuid.uuid4().bytes * 4096
        digest = Digest(len(content), hashlib.sha256(content).hexdigest())
        key = f".probe-{uuid.uuid4().hex}"
        source = self._temporary()
        with os_errors(self.name, self.path):
            try:
                before = time.time()
                source.touch(0o600)
                source.write_bytes(content)
                written, after = source.stat().st_mtime, time.time()
                self.put(source, key, digest)
                self.check(key, digest)
                write_once = self._refuses_to_overwrite(key)
            finally:
                source.unlink(missing_ok=True)
                self._file(key).unlink(missing_ok=True)
        notes = () if write_once else ("No hard links and no RENAME_NOREPLACE here: let one process at a time write.",)
        skew = round(written - min(max(written, before), after), 1)
        return Capabilities(write_once, "read-back", skew, notes)

    # -- what a share adds to a disk -----------------------------------------------------------------------------------

    def _mounted(self) -> None:
        """Raise ``TargetUnavailable`` when what should be mounted is not. A plain folder has nothing to mount."""

    def _ready(self) -> None:
        """Raise ``TargetUnavailable`` unless the folder is there: an absent disk must never look like an empty one."""
        self._mounted()
        with os_errors(self.name, self.path):
            if not self.path.is_dir():
                raise TargetUnavailable(
                    f"{self.name}: the folder {self.path} does not exist; mount its disk, create it, or correct "
                    f"storage_targets.{self.name}.path."
                )

    # -- names ---------------------------------------------------------------------------------------------------------

    def _file(self, key: str) -> Path:
        if valid_key(key).split("/")[0] == INCOMING:
            raise ValueError(f"reserved for unfinished uploads: {key!r}")
        return self.path / key

    def _folder(self, prefix: str) -> Path:
        return self._file(prefix) if prefix else self.path

    def _temporary(self) -> Path:
        return self.path / INCOMING / f"{int(time.time())}-{uuid.uuid4().hex}"

    def _entries(self, folder: Path) -> builtins.list[os.DirEntry[str]]:
        """Files and folders of ``folder`` whose names can be parts of a key, in key order; none if it does not exist.

        Anything that cannot be read is an error: a listing that leaves something out would look like a lost backup.
        """
        try:
            with os.scandir(folder) as scan:
                entries = [entry for entry in scan if _PART.match(entry.name) and (entry.is_dir() or entry.is_file())]
        except (FileNotFoundError, NotADirectoryError):
            self._ready()
            return []
        if folder == self.path:
            entries = [entry for entry in entries if entry.name != INCOMING]
        # "a-b/c" comes before "a/c": compared as whole keys, a folder's name ends with the slash.
        return sorted(entries, key=lambda entry: f"{entry.name}/" if entry.is_dir() else entry.name)

    def _walk(self, folder: Path, prefix: str) -> Iterator[StoredObject]:
        for entry in self._entries(folder):
            if entry.is_dir():
                yield from self._walk(Path(entry.path), f"{prefix}{entry.name}/")
                continue
            with contextlib.suppress(FileNotFoundError):  # Deleted meanwhile.
                yield _stored(prefix + entry.name, entry.stat())

    # -- the steps of put ----------------------------------------------------------------------------------------------

    def _holds(self, key: str, digest: Digest, progress: Progress) -> bool:
        """Whether the object is there already, read and compared; ``ObjectExists`` if it has other bytes."""
        there = self.stat(key)
        if there is None:
            return False
        try:
            if there.size != digest.size:
                raise ObjectCorrupt("other size")
            self.check(key, digest, progress)
        except ObjectCorrupt:
            raise ObjectExists(
                f"{self.name}: {key} exists with other bytes than those to be stored, and was left as it is; objects "
                "are never rewritten: store under another key, or check that object and delete it if it is damaged."
            ) from None
        return True

    def _check_back(self, temporary: Path, source: Path, digest: Digest, progress: Progress) -> None:
        """Make the file durable, then read it from the disk and compare."""
        with ObjectFile(self.name, temporary) as stream:
            os.fsync(stream.fileno())
            drop_cache(stream.fileno())
            try:
                compare(stream, str(temporary), digest, progress)
            except ObjectCorrupt:
                with ObjectFile(self.name, source) as original:
                    compare(original, f"{self.name}: nothing was stored: the file {source}", digest)
                raise ObjectCorrupt(
                    f"{self.name}: {self.path} gave back other bytes than were written to it, so nothing was stored; "
                    "check the disk and its cables, and use another storage target until then."
                ) from None

    def _publish(self, temporary: Path, final: Path) -> None:
        for attempt in range(10):
            self._mounted()  # Before folders are made: never under an empty mount point.
            try:
                make_folders(final.parent, self.path)
                publish(temporary, final)
                break
            except FileNotFoundError:  # A delete beside us may have removed the folder because it was empty.
                if attempt == 9:
                    raise
        fsync_folder(final.parent)

    def _refuses_to_overwrite(self, key: str) -> bool:
        """Whether giving a second file the name of an existing object is refused by the file system itself."""
        first, second = self._temporary(), self._temporary()
        try:
            first.touch(0o600)
            with contextlib.suppress(FileExistsError):
                publish(first, self._file(key))
                return False
            second.touch(0o600)
            return publish(second, self._file(f"{key}-new"))
        finally:
            for file in (first, second, self._file(f"{key}-new")):
                file.unlink(missing_ok=True)

    def _open(self, key: str) -> ObjectFile:
        if self.stat(key) is None:
            raise ObjectMissing(f"{self.name}: there is no object {key}; list the target to see what it holds.")
        file = self._file(key)
        with os_errors(self.name, file):
            return ObjectFile(self.name, file)


def _stored(key: str, status: os.stat_result) -> StoredObject:
    return StoredObject(key, status.st_size, datetime.fromtimestamp(status.st_mtime, timezone.utc))
