"""The staging folder: where a backup is made once, before it goes to every storage target.

    <work_dir>/staging/<application>/<backup_id>/database.dump.zst.enc ...
                                                 manifest.json            written last, as on a target
                                                 .lock                    held by the process at work in it

A folder without a manifest whose lock is free is what a killed run left: the next one removes it. A folder with a
manifest stays until every storage target has its copy, so that a retry never dumps again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from twist_dr.errors import BackupNotFound
from twist_dr.repository.keys import Keyring
from twist_dr.repository.manifest import MANIFEST_NAME, Manifest, is_backup_id, open_manifest
from twist_dr.repository.streams import full_disk_named
from twist_dr.system.folders import fsync_folder
from twist_dr.system.lock import try_lock
from twist_dr.system.space import need_space

_LOCK = ".lock"
_NEW_MANIFEST = ".manifest.json.new"


@dataclass(frozen=True)
class StagingArea:
    """One application's staging folders."""

    root: Path

    def folder(self, backup_id: str) -> Path:
        return self.root / backup_id

    def sealed_bytes(self, backup_id: str) -> bytes:
        """The manifest as it lies here. Raises ``OSError``."""
        return (self.folder(backup_id) / MANIFEST_NAME).read_bytes()

    def manifest(self, backup_id: str, application: str, keyring: Keyring) -> Manifest:
        """Of a backup that lies here whole. Raises what opening it raises."""
        sealed, what = self.sealed_bytes(backup_id), f"staging: {backup_id}"
        return open_manifest(sealed, keyring, application=application, backup_id=backup_id, what=what)

    def sealed(self) -> list[str]:
        """Ids of the backups that lie here whole, oldest first."""
        return [entry for entry in self._entries() if (self.folder(entry) / MANIFEST_NAME).exists()]

    @contextmanager
    def making(self, backup_id: str) -> Iterator[Path]:
        """A new folder to make a backup in. If the block fails, it is removed."""
        folder = self.folder(backup_id)
        with full_disk_named(self.root):
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.mkdir(mode=0o700)
            descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try_lock(descriptor)
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            os.close(descriptor)

    def seal(self, folder: Path, manifest: bytes) -> None:
        """Write the manifest: from here on the folder holds a backup."""
        temporary = folder / _NEW_MANIFEST
        with full_disk_named(self.root):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(manifest)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(folder / MANIFEST_NAME)
            fsync_folder(folder)

    def incomplete(self) -> list[str]:
        """Ids of what killed runs left half made."""
        found = []
        for entry in self._entries():
            folder = self.folder(entry)
            with self._alone(folder) as alone:
                if alone and not (folder / MANIFEST_NAME).exists():
                    found.append(entry)
        return found

    def clear_incomplete(self) -> list[str]:
        """Remove what killed runs left half made; returns the ids."""
        incomplete = []
        for entry in self._entries():
            folder = self.folder(entry)
            with self._alone(folder) as alone:
                if alone and not (folder / MANIFEST_NAME).exists():
                    shutil.rmtree(folder, ignore_errors=True)
                    incomplete.append(entry)
        return incomplete

    @contextmanager
    def using(self, backup_id: str) -> Iterator[Path]:
        """A sealed backup's folder, which is not removed meanwhile. Several may use it at once. Raises ``BackupNotFound``."""
        folder = self.folder(backup_id)
        gone = BackupNotFound(
            f"The staging folder {self.root} does not hold {backup_id} any more", remedy="make a new backup"
        )
        try:
            descriptor = os.open(folder / _LOCK, os.O_RDONLY)
        except FileNotFoundError:
            raise gone from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            # While we waited for the lock, its holder may have removed the folder, or died before the manifest.
            if not (folder / MANIFEST_NAME).exists():
                raise gone
            yield folder
        finally:
            os.close(descriptor)

    def remove(self, backup_id: str) -> bool:
        """Remove a backup's folder unless it is in use: manifest first, so that a cut in between leaves an incomplete one and no backup."""
        folder = self.folder(backup_id)
        with self._alone(folder) as alone:
            if alone:
                (folder / MANIFEST_NAME).unlink(missing_ok=True)
                shutil.rmtree(folder, ignore_errors=True)
        return alone

    def need(self, wanted: int) -> None:
        """Raise ``StagingFull`` unless ``wanted`` bytes are free here."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        need_space(self.root, wanted, "The backup", "free space there or set work_dir to a larger disk")

    def _entries(self) -> list[str]:
        if not self.root.is_dir():
            return []
        return sorted(entry.name for entry in self.root.iterdir() if is_backup_id(entry.name))

    @staticmethod
    @contextmanager
    def _alone(folder: Path) -> Iterator[bool]:
        """Whether nobody is at work in a folder; if so, nobody can begin before the block ends."""
        with ExitStack() as stack:
            alone = True
            with suppress(FileNotFoundError):
                descriptor = os.open(folder / _LOCK, os.O_RDWR)
                stack.callback(os.close, descriptor)
                alone = try_lock(descriptor)
            yield alone
