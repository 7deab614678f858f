"""Servers with an archive of their WAL, base backups of them, and servers made from these."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twist_dr.backup.base.take import BasePlan, take_base_backup
from twist_dr.backup.storing import store_copy
from twist_dr.postgres.cluster import Cluster
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.repository import Repository
from twist_dr.repository.staging import StagingArea
from twist_dr.repository.streams import Form
from twist_dr.storage.local import LocalTarget
from twist_dr.system.progress import Lines, Report
from twist_dr_tests.helpers import KEYRING
from twist_dr_tests.servers import PostgresServer

#: A target that asks for no encryption: base backups are encrypted all the same.
PLAIN = Form("zstd", False)


@dataclass
class Bases:
    """Takes base backups into a folder, and keeps them on one target."""

    folder: Path
    warnings: list[str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.warnings = []

    @property
    def staging(self) -> StagingArea:
        return StagingArea(self.folder / "staging" / "erp")

    @property
    def repository(self) -> Repository:
        return Repository(LocalTarget("office", self.folder / "office"), "erp")

    def take(self, cluster: Cluster, *, stored: bool = True, **plan: Any) -> Manifest:
        """A base backup, stored on the target unless told otherwise."""
        self.warnings.clear()
        report = Report(Lines(warning=self.warnings.append))
        whole = BasePlan(**{"application": "erp", "targets": {"office": PLAIN}, "parts": ("cluster",), **plan})
        manifest = take_base_backup(whole, cluster, KEYRING, self.staging, report)
        if stored:
            with self.staging.using(manifest.backup_id) as staged:
                store_copy(manifest, staged, self.repository, PLAIN, report)
        return manifest

    def unpack(self, manifest: Manifest, name: str) -> Path:
        """A data directory from the stored artifacts, as a recovery makes it."""
        data = self.folder / name / "data"
        data.mkdir(parents=True)
        data.chmod(0o700)
        for artifact in manifest.artifacts:
            path = self.folder / name / artifact.name
            self.repository.fetch(manifest, artifact.name, KEYRING, path)
            if artifact.name.endswith(".tar"):
                oid = artifact.name.removesuffix(".tar")
                place = data if oid == "base" else data / "pg_tblspc" / oid
                with tarfile.open(path) as tar:
                    # The argument came with 3.11.4 and 3.10.12, and Debian's own Python is older; what it says was the default before.
                    tar.extractall(place, **({"filter": "fully_trusted"} if hasattr(tarfile, "data_filter") else {}))
                path.unlink()
        if not (data / "backup_manifest").exists():
            shutil.copyfile(self.folder / name / "backup_manifest", data / "backup_manifest")
        return data

    def fetched_manifest(self, manifest: Manifest, name: str) -> Path:
        """The plain backup_manifest of a stored base."""
        path = self.folder / name
        self.repository.fetch(manifest, "backup_manifest", KEYRING, path)
        return path


def verify(server: PostgresServer, data: Path) -> str:
    """What pg_verifybackup says about a data directory; empty when it is good."""
    program = server.tools.program("pg_verifybackup")
    done = subprocess.run(
        [program, "-n", "-q", data], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}
    )
    assert (done.returncode == 0) == (not done.stderr), done.stderr
    return done.stderr


def started(source: PostgresServer, data: Path, **settings: str) -> PostgresServer:
    """A server on a data directory that came out of a base backup of ``source``."""
    # What was unpacked into it is reached through it.
    data.parent.chmod(0o711)
    return PostgresServer(
        source.tools, data.parent, settings={"fsync": "off", **settings}, data=data, password=source.password
    )
