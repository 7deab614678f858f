"""Servers that all tests of a process share, for the kinds that go through rclone, and what the settings of a target on each of them say."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from twist_dr_tests.storage.remote_servers import (
    PASSWORD,
    USER,
    AzureServer,
    FarFolder,
    GcsServer,
    azurite_server,
    gcs_server,
    samba_server,
    sshd_server,
)

T = TypeVar("T")
#: The kinds with a server here, and the fixture that is it.
SERVED = {"sftp": "sshd", "smb": "samba", "azure": "azurite", "gcs": "gcs"}


@contextmanager
def in_a_folder(server: Callable[[Path], AbstractContextManager[T]]) -> Iterator[T]:
    """The server in a folder of its own with a short path, which its users may enter."""
    folder = Path(tempfile.mkdtemp(prefix="twist-dr-far-"))
    folder.chmod(0o755)
    try:
        with server(folder) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def sshd() -> Iterator[FarFolder]:
    with in_a_folder(sshd_server) as server:
        yield server


@pytest.fixture(scope="session")
def samba() -> Iterator[FarFolder]:
    with in_a_folder(samba_server) as server:
        yield server


@pytest.fixture(scope="session")
def azurite() -> Iterator[AzureServer]:
    with in_a_folder(azurite_server) as server:
        yield server


@pytest.fixture(scope="session")
def gcs() -> Iterator[GcsServer]:
    with in_a_folder(gcs_server) as server:
        yield server


def far_options(kind: str, server: Any) -> dict[str, Any]:
    """The settings of a target in a place of its own there, as JSON has them."""
    name = uuid.uuid4().hex
    if kind in ("sftp", "smb"):
        login = {"type": kind, "host": "127.0.0.1", "port": server.port, "user": USER, "password": PASSWORD}
        if kind == "smb":
            return {**login, "share": "files", "path": name}
        return {**login, "known_hosts": str(server.known_hosts), "path": str(server.folder / name)}
    if kind == "azure":
        login = {"account": server.account, "account_key": server.key, "endpoint": server.endpoint}
        return {"type": kind, **login, "container": server.container, "prefix": name}
    login = {"service_account_file": str(server.account_file), "endpoint": server.endpoint}
    return {"type": kind, **login, "bucket": server.bucket, "prefix": name}
