"""A folder as a storage target: an object is the file ``path/key``; folders are 0700, files 0600.

An object is written under a temporary name in ``path/.incoming``, made durable, read back, and only then made visible
by an operation that cannot overwrite: a hard link, or ``renameat2(RENAME_NOREPLACE)`` where the file system knows no
hard links (exFAT, some network file systems). Where there is neither, a check and a rename under this process's own
lock remain; ``probe`` then reports ``write_once=False``.

Where the staged source lies on the same file system it is linked instead of copied, so that the bytes are written once.
That is done only while no other target has linked it (two copies that share bytes are one copy), and only if the file
is ours alone (0600): others could change it afterwards, and a link shares its rights. So a source must not be changed
after it was stored; staged files never are.

Only ``path`` itself may be reached through links and mounts. All below it goes by the descriptors of :mod:`twist_dr.storage.beneath`.
"""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import io
import os
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, Literal, cast

from twist_dr.errors import ObjectCorrupt, ObjectExists, ObjectMissing, StorageError, TargetRefused, TargetUnavailable
from twist_dr.storage.base import (
    Capabilities,
    Digest,
    OnBytes,
    Space,
    StorageTarget,
    StoredObject,
    Stranger,
    compare,
    no_progress,
    other_bytes,
)
from twist_dr.storage.beneath import A_FOLDER, Folder, FolderEntry, NoFolder
from twist_dr.storage.files import ObjectFile, copy_file, drop_cache, link_source, os_errors, publish
from twist_dr.storage.listing import entries, stored, strangers_at, walk
from twist_dr.storage.machine import Machine
from twist_dr.storage.names import INCOMING, begun_at, key_parts, temporary_name
from twist_dr.storage.options import SettingsPath, TargetOptions
from twist_dr.system.sizes import CHUNK


class LocalOptions(TargetOptions):
    """A folder on this machine."""

    type: Literal["local"]
    path: SettingsPath

    @property
    def folder(self) -> Path:
        return self.path

    def build(self, name: str, machine: Machine) -> LocalTarget:
        return LocalTarget(name, self.path)


class LocalTarget(StorageTarget):
    """A folder on a disk of this machine."""

    #: Whether ``put`` may link the source instead of copying it.
    _links_sources = True

    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name)
        self.path = Path(path)
        #: All that the settings name: none of them may be the same folder.
        self.others: Sequence[LocalTarget] = ()
        self._found_apart: tuple[int, int] | None = None

    @property
    def location(self) -> str:
        return str(self.path)

    def prepare(self) -> None:
        self._mounted()
        with os_errors(self.name, self.path):
            if not self.path.parent.is_dir():
                raise self._away(self.path.parent)
            if not self.path.is_dir():
                with Folder.at(self.path.parent) as parent, contextlib.suppress(FileExistsError):
                    self.path.mkdir(0o700)
                    parent.sync()
        with os_errors(self.name, self.path), self._changing() as root, root.make(INCOMING) as incoming:
            temporary = temporary_name()
            os.close(incoming.create(temporary))
            incoming.unlink(temporary)

    def put(self, source: Path, key: str, digest: Digest, progress: OnBytes = no_progress) -> None:
        *folders, name = key_parts(key)
        with os_errors(self.name, self.path / key), self._changing() as root:
            if self._holds(key, digest, progress):
                return
            with root.make(INCOMING) as incoming:
                temporary = temporary_name()
                try:
                    if not (self._links_sources and link_source(source, incoming, temporary)):
                        copy_file(source, incoming, temporary, progress, self.bandwidth)
                    self._check_back(incoming, temporary, source, digest, progress)
                    _publish(incoming, temporary, root, folders, name)
                except FileExistsError:  # Another writer was first, or something else has that name.
                    if not self._holds(key, digest, progress):
                        self._refuse_taken(root, folders, name)
                finally:
                    incoming.unlink(temporary)

    def open(self, key: str) -> BinaryIO:
        return io.BufferedReader(self.bandwidth.paced(self._open(key)), CHUNK)

    def check(self, key: str, digest: Digest, progress: OnBytes = no_progress) -> None:
        with self._open(key) as stream:
            drop_cache(stream.fileno())
            self._compare(stream, key, digest, progress)

    def stat(self, key: str) -> StoredObject | None:
        *folders, name = key_parts(key)
        with os_errors(self.name, self.path / key), self._root() as root:
            try:
                with root.chain(folders) as chain:
                    status = chain[-1].file(name)
            except (FileNotFoundError, NoFolder):
                return None
        return stored(key, status) if status else None

    def list(self, prefix: str) -> Iterator[StoredObject]:
        parts = key_parts(prefix) if prefix else []
        with os_errors(self.name, self.path / prefix), self._root() as root, contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(root.chain(parts))[-1]
            except (FileNotFoundError, NoFolder):
                return
            yield from walk(folder, f"{prefix}/" if prefix else "", _without_incoming(folder, prefix))

    def children(self, prefix: str) -> builtins.list[str]:
        parts = key_parts(prefix) if prefix else []
        with os_errors(self.name, self.path / prefix), self._root() as root:
            try:
                with root.chain(parts) as chain:
                    # An empty folder is what a delete or a killed put leaves: no object.
                    names = [
                        entry.name
                        for entry in _without_incoming(chain[-1], prefix)
                        if next(walk(chain[-1], f"{prefix}/" if prefix else "", [entry]), None) is not None
                    ]
            except (FileNotFoundError, NoFolder):
                return []
        return sorted(names)

    def strangers(self, prefix: str) -> Iterator[Stranger | None]:
        parts = key_parts(prefix) if prefix else []
        with os_errors(self.name, self.path / prefix), self._root() as root:
            yield from strangers_at(root, parts)

    def delete(self, key: str) -> None:
        *folders, name = key_parts(key)
        with os_errors(self.name, self.path / key), self._changing() as root:
            try:
                with root.chain(folders) as chain:
                    if chain[-1].file(name) is None:
                        return
                    chain[-1].unlink(name)
                    chain[-1].sync()
                    for parent, folder in zip(chain[-2::-1], reversed(folders), strict=True):
                        try:
                            os.rmdir(folder, dir_fd=parent.descriptor)
                        except OSError:  # Not empty, as a rule; a folder that stays does no harm.
                            break
            except (FileNotFoundError, NoFolder):
                return

    def sweep(self, older_than: timedelta) -> int:
        limit, removed = time.time() - older_than.total_seconds(), 0
        with os_errors(self.name, self.path / INCOMING), self._changing() as root:
            with contextlib.suppress(FileNotFoundError), root.child(INCOMING) as incoming:
                for name, _ in incoming.entries():
                    begun, status = begun_at(name), incoming.file(name)
                    # Within a bandwidth a copy may take days: what was written to since then is under way.
                    if begun is not None and status and max(begun, status.st_mtime) <= limit:
                        incoming.unlink(name)
                        removed += 1
            for name, _ in root.entries():
                status = root.file(name) if name.startswith(".probe-") else None
                if status and status.st_mtime <= limit:
                    root.unlink(name)
        return removed

    def space(self) -> Space:
        with os_errors(self.name, self.path), self._root() as root:
            status = os.statvfs(root.descriptor)
        return Space(status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize)

    def probe(self) -> Capabilities:
        self.prepare()
        content = uuid.uuid4().bytes * 4096
        digest = Digest(len(content), hashlib.sha256(content).hexdigest())
        key = f".probe-{uuid.uuid4().hex}"
        with os_errors(self.name, self.path), self._changing() as root, root.make(INCOMING) as incoming:
            try:
                skew = _skew(incoming)
                with tempfile.TemporaryDirectory(prefix="twist-dr-") as folder:
                    source = Path(folder) / "object"
                    source.write_bytes(content)
                    self.put(source, key, digest)
                self.check(key, digest)
                write_once = _refuses_to_overwrite(incoming, root, key)
            finally:
                root.unlink(key)
        notes = () if write_once else ("No hard links and no RENAME_NOREPLACE here: let one process at a time write.",)
        return Capabilities(write_once, "read-back", skew, notes)

    # -- what a share adds to a disk -----------------------------------------------------------------------------------

    def _mounted(self) -> None:
        """Raise ``TargetUnavailable`` when what should be mounted is not. A plain folder has nothing to mount."""

    @contextlib.contextmanager
    def _root(self) -> Iterator[Folder]:
        """The target's folder. Raises ``TargetUnavailable`` unless it is there: an absent disk must never look like an empty one."""
        self._mounted()
        try:
            root = Folder.at(self.path)
        except (FileNotFoundError, NotADirectoryError):
            raise self._away(self.path) from None
        with root:
            yield root

    def _away(self, folder: Path) -> TargetUnavailable:
        return TargetUnavailable(
            f"the folder {folder} does not exist",
            remedy=f"mount its disk, create it, or correct storage_targets.{self.name}.path",
            target=self.name,
        )

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Folder]:
        """The same, for what writes or deletes. Raises ``TargetRefused`` when another target is the same folder."""
        with self._root() as root:
            mine = _identity(os.fstat(root.descriptor))
            if mine != self._found_apart:
                for other in self.others:
                    if other is not self and other._is(mine):
                        raise TargetRefused(
                            f"{self.path} is the same folder as {other.path} of storage_targets.{other.name}: what is lost or deleted in one "
                            "is so in both",
                            remedy=f"give each a folder of its own, or set storage_targets.{self.name}.enabled: false",
                            target=self.name,
                        )
                self._found_apart = mine
            yield root

    def _is(self, identity: tuple[int, int]) -> bool:
        """Whether this target's folder is that one. One that is away is no folder that can be used now."""
        try:
            self._mounted()
            return _identity(self.path.stat()) == identity
        except (OSError, StorageError):
            return False

    # -- the steps of put ----------------------------------------------------------------------------------------------

    def _holds(self, key: str, digest: Digest, progress: OnBytes) -> bool:
        """Whether the object is there already, read and compared; ``ObjectExists`` if it has other bytes."""
        there = self.stat(key)
        if there is None:
            return False
        try:
            if there.size != digest.size:
                raise ObjectCorrupt("other size")
            self.check(key, digest, progress)
        except ObjectCorrupt:
            raise other_bytes(key, self.name) from None
        return True

    def _check_back(self, incoming: Folder, temporary: str, source: Path, digest: Digest, progress: OnBytes) -> None:
        """Make the file durable, then read it from the disk and compare."""
        place = self.path / INCOMING / temporary
        with ObjectFile(self.name, place, incoming.open(temporary)) as stream:
            os.fsync(stream.fileno())
            drop_cache(stream.fileno())
            try:
                self._compare(stream, str(place), digest, progress)
            except ObjectCorrupt:
                with ObjectFile(self.name, source, os.open(source, os.O_RDONLY)) as original:
                    compare(original, f"nothing was stored: the file {source}", digest, target=self.name)
                raise ObjectCorrupt(
                    f"{self.path} gave back other bytes than were written to it, so nothing was stored",
                    remedy="check the disk and its cables, and use another storage target until then",
                    target=self.name,
                ) from None

    def _compare(self, stream: ObjectFile, what: str, digest: Digest, progress: OnBytes) -> None:
        slowed = cast(BinaryIO, self.bandwidth.paced(stream))
        compare(slowed, what, digest, progress, target=self.name, portion=self.bandwidth.portion)

    def _refuse_taken(self, root: Folder, folders: builtins.list[str], name: str) -> None:
        """Raise what says why an object cannot have its name."""
        with root.chain(folders) as chain:
            what = chain[-1].kind(name)
        if what == A_FOLDER:
            raise ObjectExists(
                f"objects lie below {'/'.join((*folders, name))}", remedy="choose another key", target=self.name
            )
        raise NoFolder("/".join((*folders, name)), what)

    def _open(self, key: str) -> ObjectFile:
        *folders, name = key_parts(key)
        with os_errors(self.name, self.path / key), self._root() as root:
            try:
                with root.chain(folders) as chain:
                    return ObjectFile(self.name, self.path / key, chain[-1].open(name))
            except (FileNotFoundError, NoFolder):
                pass
        raise ObjectMissing(
            f"there is no object {key}", remedy="list the target to see what it holds", target=self.name
        )


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _without_incoming(folder: Folder, prefix: str) -> builtins.list[FolderEntry]:
    """What can lead to objects; ``prefix`` is empty for the target's own folder."""
    return [entry for entry in entries(folder) if prefix or entry.name != INCOMING]


def _publish(incoming: Folder, temporary: str, root: Folder, folders: Sequence[str], name: str) -> None:
    for attempt in range(10):
        try:
            with root.chain(folders, make=True) as chain:
                publish(incoming, temporary, chain[-1], name)
                chain[-1].sync()
            return
        except FileNotFoundError:  # A delete beside us may have removed the folder because it was empty.
            if attempt == 9:
                raise


def _skew(incoming: Folder) -> float:
    """Seconds by which the clock of the file system is ahead of ours."""
    temporary, before = temporary_name(), time.time()
    descriptor = incoming.create(temporary)
    try:
        os.write(descriptor, b"now")
        written, after = os.fstat(descriptor).st_mtime, time.time()
    finally:
        os.close(descriptor)
        incoming.unlink(temporary)
    return round(written - min(max(written, before), after), 1)


def _refuses_to_overwrite(incoming: Folder, root: Folder, key: str) -> bool:
    """Whether giving a second file the name of an existing object is refused by the file system itself."""
    first, second = temporary_name(), temporary_name()
    try:
        os.close(incoming.create(first))
        with contextlib.suppress(FileExistsError):
            publish(incoming, first, root, key)
            return False
        os.close(incoming.create(second))
        return publish(incoming, second, root, f"{key}-new")
    finally:
        incoming.unlink(first)
        incoming.unlink(second)
        root.unlink(f"{key}-new")
