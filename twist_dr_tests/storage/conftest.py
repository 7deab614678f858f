"""Places to store things: folders, mounts and S3 servers, all of them real."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, cast

import pytest

from twist_dr.storage.base import Digest, StorageTarget
from twist_dr.storage.local import LocalTarget
from twist_dr.storage.machine import Grant, GrantsInMemory, Machine
from twist_dr.storage.nas import NasTarget
from twist_dr.storage.oauth import GOOGLE_ALL_FILES
from twist_dr.storage.options import providers
from twist_dr.storage.patience import patient
from twist_dr.storage.rclone_options import RcloneOptions
from twist_dr.storage.rclone_session import RcloneLimits
from twist_dr.storage.s3 import S3Options
from twist_dr.storage.s3_connection import S3Limits
from twist_dr.storage.s3_target import S3Target
from twist_dr_tests.drives.cloud import GOOGLE_CLIENT, MICROSOFT_CLIENT, Cloud
from twist_dr_tests.storage.far_places import SERVED, azurite, far_options, gcs, samba, sshd  # noqa: F401
from twist_dr_tests.storage.proxy import Proxy, proxy_to
from twist_dr_tests.storage.servers import (
    S3Server,
    SftpServer,
    WebdavServer,
    moto_server,
    rclone_server,
    rclone_sftp_server,
    rclone_webdav_server,
)

BUCKET = "backups"
#: The smallest part that S3 allows, so that small files go in several parts.
PART = 5 << 20


def _s3(name: str, *, limits: dict[str, Any], notes: Path | None = None, **options: Any) -> StorageTarget:
    return S3Target(name, S3Options(type="s3", **options), S3Limits(**limits), notes=notes)


def _by_rclone(
    name: str, *, machine: str, limits: dict[str, Any], access_token: str = "", **options: Any
) -> StorageTarget:
    provider = cast(type[RcloneOptions], providers()[options["type"]])
    grants, now = GrantsInMemory(), datetime.now(timezone.utc)
    with grants.held(name) as held:
        held.commit(Grant("unused", now, access_token=access_token, expires=now + timedelta(hours=1), refreshed=now))
    return provider(**options).target(name, Machine(Path(machine), grants), RcloneLimits(**limits))


KINDS: dict[str, Callable[..., StorageTarget]] = {
    "local": LocalTarget,
    "nas": NasTarget,
    "s3": _s3,
    "rclone": _by_rclone,
}


@dataclass(frozen=True)
class Place:
    """An empty place on one provider: ``kind`` and ``arguments`` suffice to make a target there in any process.

    Two facts about the servers at hand, not promises of ours: rclone keeps the empty folders of an upload that came to
    nothing (``keeps_folders``); moto dates every unfinished upload 2010 (``dates_uploads`` is false). Drives keep what a killed upload had sent to
    themselves, and forget it (``leaves_uploads`` is false). Through rclone nothing in a bucket is sure to bear its server's time
    (``tells_time`` is false). ``checksum``: what :class:`Capabilities` shall say.
    """

    kind: str
    arguments: dict[str, Any]
    keeps_folders: bool = False
    dates_uploads: bool = True
    leaves_uploads: bool = True
    tells_time: bool = True
    checksum: str = "read-back"
    patience: float | None = None

    def target(self) -> StorageTarget:
        paths = set[str]() if self.kind == "rclone" else {"path", "mount_point", "notes"}
        arguments = {name: Path(value) if name in paths else value for name, value in self.arguments.items()}
        return patient(KINDS[self.kind](**arguments), self.patience)


_LIMITS = {field.name for field in fields(S3Limits)}


@contextlib.contextmanager
def mounted_tmpfs(folder: Path, options: str = "size=400m") -> Iterator[Path]:
    """A file system of its own at ``folder``. Fails, rather than skips, where it cannot be mounted."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.fail(
            f"this test needs to mount a tmpfs, so it must run as root with CAP_SYS_ADMIN: {done.stderr.strip()}"
        )
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    with moto_server() as server:
        server.client().create_bucket(Bucket=BUCKET)
        yield server


@pytest.fixture(scope="session")
def rclone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rclone")


@pytest.fixture(scope="session")
def rclone(rclone_folder: Path) -> Iterator[S3Server]:
    with rclone_server(rclone_folder) as server:
        server.client().create_bucket(Bucket=BUCKET)
        yield server


@pytest.fixture(scope="session")
def other_file_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on another file system than the sources."""
    with contextlib.ExitStack() as stack:
        if os.stat("/dev/shm").st_dev != tmp_path_factory.getbasetemp().stat().st_dev:
            folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        else:
            folder = stack.enter_context(mounted_tmpfs(tmp_path_factory.mktemp("other")))
        yield folder


@pytest.fixture(scope="session")
def share(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with mounted_tmpfs(tmp_path_factory.mktemp("share")) as folder:
        yield folder


def s3_place(server: S3Server, **arguments: Any) -> Place:
    """An empty place on ``server``; ``arguments`` add to those of the target or replace them."""
    usual = {
        "name": "offsite",
        "bucket": BUCKET,
        "prefix": f"dr/{uuid.uuid4().hex}",
        "endpoint_url": server.endpoint,
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
        "part_size_mib": PART >> 20,
    }
    limits = {"max_attempts": 3, **{name: arguments.pop(name) for name in _LIMITS & arguments.keys()}}
    return Place("s3", {**usual, **arguments, "limits": limits})


@pytest.fixture(scope="session")
def sftp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SftpServer]:
    with rclone_sftp_server(tmp_path_factory.mktemp("sftp"), tmp_path_factory.mktemp("keys")) as server:
        yield server


@pytest.fixture(scope="session")
def webdav_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebdavServer]:
    with rclone_webdav_server(tmp_path_factory.mktemp("webdav")) as server:
        yield server


@pytest.fixture(scope="session")
def machine_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For locks and sockets of all that rclone carries."""
    return tmp_path_factory.mktemp("machine")


def rclone_place(machine_folder: Path, name: str, **options: Any) -> Place:
    """An empty place of a kind that rclone carries; ``options`` are those of its settings."""
    limits = {"low_level_retries": 2, "attempts": 2}
    return Place("rclone", {"name": name, "machine": str(machine_folder), "limits": limits, **options})


def sftp_place(server: SftpServer, machine_folder: Path, **options: Any) -> Place:
    usual = {
        "type": "sftp",
        "host": "127.0.0.1",
        "port": server.port,
        "user": server.user,
        "password": server.password,
        "known_hosts": str(server.known_hosts),
        "path": f"dr/{uuid.uuid4().hex}",
    }
    return rclone_place(machine_folder, "ssh", **{**usual, **options})


def webdav_place(server: WebdavServer, machine_folder: Path, **options: Any) -> Place:
    login = {"url": server.url, "user": server.user, "password": server.password}
    usual = {"type": "webdav", **login, "path": f"dr/{uuid.uuid4().hex}"}
    return rclone_place(machine_folder, "cloud", **{**usual, **options})


def own_remote_place(machine_folder: Path, folder: Path, **options: Any) -> Place:
    """A remote of a configuration of one's own: an alias of a folder, as simple as one can be."""
    config, stored = folder / "rclone.conf", folder / "remote"
    config.write_text(f"[mine]\ntype = alias\nremote = {stored}\n")
    usual = {"type": "rclone", "config_file": str(config), "remote": f"mine:{uuid.uuid4().hex}"}
    return rclone_place(machine_folder, "own", **{**usual, **options})


def google_place(vendors: Cloud, machine_folder: Path, **options: Any) -> Place:
    """A new folder in somebody's Google Drive."""
    usual = {
        "type": "google_drive",
        "client_id": GOOGLE_CLIENT.id,
        "client_secret": GOOGLE_CLIENT.secret,
        "folder_id": vendors.google.folder(vendors.google_tokens.account).id,
        "access_token": vendors.google_tokens.access(GOOGLE_CLIENT.id, GOOGLE_ALL_FILES),
    }
    return replace(
        rclone_place(machine_folder, "drive", **{**usual, **options}), leaves_uploads=False, checksum="sha256"
    )


def microsoft_place(vendors: Cloud, machine_folder: Path, **options: Any) -> Place:
    """A new folder in somebody's OneDrive."""
    usual = {
        "type": "onedrive",
        "account": "business",
        "client_id": MICROSOFT_CLIENT.id,
        "path": f"dr/{uuid.uuid4().hex}",
        "access_token": vendors.microsoft_tokens.access(MICROSOFT_CLIENT.id, "Files.ReadWrite"),
    }
    return replace(
        rclone_place(machine_folder, "onedrive", **{**usual, **options}), leaves_uploads=False, checksum="quickxor"
    )


def far_place(request: pytest.FixtureRequest, kind: str, **options: Any) -> Place:
    """An empty place on the server of that kind; ``options`` add to those of the target or replace them."""
    usual = far_options(kind, request.getfixturevalue(SERVED[kind]))
    made = rclone_place(request.getfixturevalue("machine_folder"), kind, **{**usual, **options})
    if kind in ("sftp", "smb"):
        return made
    return replace(made, leaves_uploads=False, tells_time=False, checksum="md5" if kind == "gcs" else "read-back")


@pytest.fixture(
    params=[
        "local-linked",
        "local-patient",
        "local-copied",
        "nas",
        "s3-moto",
        "s3-rclone",
        "sftp",
        "webdav",
        "rclone",
        "google_drive",
        "onedrive",
    ]
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty place on each provider in turn."""
    kind = request.param
    if kind == "local-linked":
        return Place("local", {"name": "disk", "path": str(tmp_path / "target")})
    if kind == "local-patient":
        return Place("local", {"name": "disk", "path": str(tmp_path / "target")}, patience=60)
    if kind == "local-copied":
        other = request.getfixturevalue("other_file_system")
        return Place("local", {"name": "disk2", "path": str(other / uuid.uuid4().hex)})
    if kind == "nas":
        folder = request.getfixturevalue("share")
        return Place("nas", {"name": "nas", "path": str(folder / uuid.uuid4().hex), "mount_point": str(folder)})
    if kind == "sftp":
        return sftp_place(request.getfixturevalue("sftp_server"), request.getfixturevalue("machine_folder"))
    if kind == "webdav":
        return webdav_place(request.getfixturevalue("webdav_server"), request.getfixturevalue("machine_folder"))
    if kind == "rclone":
        return own_remote_place(request.getfixturevalue("machine_folder"), tmp_path)
    if kind in ("google_drive", "onedrive"):
        make = google_place if kind == "google_drive" else microsoft_place
        return make(request.getfixturevalue("vendors"), request.getfixturevalue("machine_folder"))
    if kind == "s3-moto":
        return replace(s3_place(request.getfixturevalue("moto")), dates_uploads=False)
    return replace(s3_place(request.getfixturevalue("rclone")), keeps_folders=True)


@pytest.fixture
def target(place: Place) -> StorageTarget:
    target = place.target()
    target.prepare()
    return target


@pytest.fixture
def moto_proxy(moto: S3Server) -> Iterator[Proxy]:
    with proxy_to(moto.endpoint) as proxy:
        yield proxy


MakeFile = Callable[..., tuple[Path, Digest]]


@pytest.fixture
def make_file(tmp_path: Path) -> MakeFile:
    """``make_file(content_or_size)``: a file as staging has it (0600), and its digest."""

    def make(content: bytes | int = b"some bytes") -> tuple[Path, Digest]:
        data = random.randbytes(content) if isinstance(content, int) else content
        path = tmp_path / f"source-{uuid.uuid4().hex}"
        path.touch(0o600)
        path.write_bytes(data)
        return path, Digest(len(data), hashlib.sha256(data).hexdigest())

    return make
