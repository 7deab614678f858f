"""A folder on a mounted share (NFS, SMB) as a storage target.

The one thing a share adds to a disk is that it may not be there. Then its mount point is an empty folder on the system
disk, in which backups would seem to be lost and new ones would fill the wrong disk. So every operation first makes
sure that the mount is there, and does so where a hung server cannot hold it up: ``stat`` on a dead hard-mounted NFS
share never returns and cannot be interrupted (nfs(5), option ``hard``).
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field

from twist_dr.errors import TargetUnavailable
from twist_dr.storage.files import file_error
from twist_dr.storage.local import LocalTarget
from twist_dr.storage.machine import Machine
from twist_dr.storage.options import SettingsPath, TargetOptions

_MOUNTS = Path("/proc/self/mountinfo")


class NasOptions(TargetOptions):
    """A folder on a mounted file system (NFS, SMB). Refused while the mount is not there."""

    type: Literal["nas"]
    path: SettingsPath
    mount_point: SettingsPath | None = None
    timeout_seconds: float = Field(30, gt=0)

    @property
    def folder(self) -> Path:
        return self.path

    def build(self, name: str, machine: Machine) -> NasTarget:
        return NasTarget(name, self.path, mount_point=self.mount_point, timeout_seconds=self.timeout_seconds)


class NasTarget(LocalTarget):
    """A folder on a share that must be mounted.

    ``mount_point``: the folder that must be a mount. Without it, ``path`` or one of its parents other than ``/`` must
    be one. ``timeout_seconds``: how long a share may take to answer before an operation is refused. An operation that
    began while the share was well can still wait longer, as its mount options say.
    """

    _links_sources = False  # A link to staging would mean that the share is none.

    def __init__(self, name: str, path: Path, *, mount_point: Path | None = None, timeout_seconds: float = 30) -> None:
        super().__init__(name, path)
        if mount_point is not None and not self.path.is_relative_to(mount_point):
            raise ValueError(f"storage_targets.{name}.path {path} does not lie below its mount_point {mount_point}")
        self.mount_point = mount_point
        self.timeout_seconds = timeout_seconds
        self._probe: _MountProbe | None = None
        self._probing = threading.Lock()

    def _mounted(self) -> None:
        """Ask in a thread of its own, and never start a second one while the first hangs."""
        with self._probing:
            if self._probe is None or self._probe.done.is_set():
                self._probe = _MountProbe(lambda: _mounted_at(self.path, self.mount_point))
            probe = self._probe
        if not probe.done.wait(self.timeout_seconds):
            raise TargetUnavailable(
                f"the share at {self.mount_point or self.path} has not answered for {self.timeout_seconds:g} seconds",
                remedy="check the server and the network, then unmount and mount it again",
                target=self.name,
            )
        if probe.error is not None:
            raise file_error(self.name, self.mount_point or self.path, probe.error) from probe.error
        if not probe.mounted:
            what = self.mount_point or f"the share that holds {self.path}"
            raise TargetUnavailable(
                f"nothing is mounted at {self.mount_point or self.path}, so nothing was read or written",
                remedy=f"mount {what}, or correct storage_targets.{self.name}.mount_point",
                target=self.name,
            )


class _MountProbe:
    """One question to the share; ``done`` is set when it was answered."""

    def __init__(self, ask: Callable[[], bool]) -> None:
        self.done = threading.Event()
        self.mounted = False
        self.error: OSError | None = None
        threading.Thread(target=self._run, args=(ask,), name="twist-dr-mount-probe", daemon=True).start()

    def _run(self, ask: Callable[[], bool]) -> None:
        try:
            self.mounted = ask()
        except OSError as error:
            self.error = error
        finally:
            self.done.set()


def _mounted_at(path: Path, mount_point: Path | None) -> bool:
    """Whether the mount is there and answers."""
    candidates = [mount_point] if mount_point is not None else [path, *path.parents]
    for candidate in candidates:
        if str(candidate) == "/" or not candidate.exists():
            continue
        os.close(os.open(candidate, os.O_RDONLY | os.O_DIRECTORY))  # Unlike stat, this makes autofs mount it.
        if _is_mount(candidate):
            return True
    return False


def _is_mount(path: Path) -> bool:
    """Like ``os.path.ismount``, but also sees bind mounts, and takes no untriggered autofs for the share itself."""
    try:
        lines = _MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return os.path.ismount(path)
    wanted, found = os.path.realpath(path), False
    for line in lines:  # Fields as in proc_pid_mountinfo(5); of several mounts on one point the last is on top.
        fields, _, rest = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields.split(" ")[4])
        if point == wanted:
            found = not rest.startswith("autofs ")
    return found
