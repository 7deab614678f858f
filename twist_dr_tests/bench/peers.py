"""What others do with the same cluster and the same WAL: pgBackRest and Barman as Debian ships them, and hand-written pipes.

Same codec and level (zstd 3) and two processes everywhere; AES-256 where a peer has encryption, which Barman has not. Peers run as
the user that owns the data folder, as they do in production. Each writes below ``server.base``, which goes with the server.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from twist_dr.errors import ProcessFailed
from twist_dr.postgres.unprivileged import unprivileged
from twist_dr.system.processes import run
from twist_dr_tests.bench.load import Segments, Took, archiving, own
from twist_dr_tests.servers import PostgresServer

LEVEL = 3
PROCESSES = 2
_STANZA = "bench"


def install(program: str) -> str | None:
    """See that a peer is there, installing Debian's package of the same name when we may; else the reason why its rows are skipped."""
    if shutil.which(program) is not None:
        return None
    if shutil.which("apt-get") is None:
        return f"{program} is not installed, and this is not Debian"
    if os.geteuid() != 0:
        return f"{program} is not installed, and only root can install it: apt-get install {program}"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", program]):
        done = subprocess.run(["apt-get", *arguments], env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            return (
                f"apt-get could not install {program}: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}"
            )
    return None


def tree_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


class _Peer:
    """Runs a peer's program as the server's user, with the superuser's password in its environment only."""

    def __init__(self, server: PostgresServer, name: str) -> None:
        self._server = server
        self._user, self._group = unprivileged()
        self.folder = server.base / name
        cluster = server.cluster()
        with cluster.connect() as connection:
            rows = connection.execute("SELECT name, setting FROM pg_settings").fetchall()
        known = dict(rows)
        self._data = Path(known["data_directory"])
        self._sockets = known["unix_socket_directories"]
        self._environment: Mapping[str, str | None] = {
            "PGPASSWORD": cluster.parameters["password"],
            "HOME": str(self.folder),
            "LC_ALL": "C.UTF-8",
        }

    def _run(self, *arguments: str | Path, folder: Path | None = None) -> bytes:
        where = folder or self.folder
        return run(arguments, environment=self._environment, user=self._user, group=self._group, folder=where)

    def _fresh(self, *names: str) -> None:
        for name in names:
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir(parents=True)
        own(self.folder)

    def _empty(self, folder: Path) -> Path:
        """An empty folder of the server's user to restore into."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return own(folder)


class PgBackRest(_Peer):
    """One stanza in a local, encrypted repository, with asynchronous archiving.

    Bundles (many small files in one) and a deep queue of fetched segments are what its manual advises; both are in its favour.
    """

    def __init__(self, server: PostgresServer, *, bundle: bool = True, queue_megabytes: int = 1024) -> None:
        super().__init__(server, "pgbackrest")
        self._configuration = self.folder / "pgbackrest.conf"
        self._fresh("log")
        self._configuration.touch(mode=0o600)
        self._configuration.write_text(
            "[global]\n"
            f"repo1-path={self.folder}/repository\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass={secrets.token_hex(32)}\n"
            f"repo1-bundle={'y' if bundle else 'n'}\ncompress-type=zst\ncompress-level={LEVEL}\nprocess-max={PROCESSES}\n"
            f"archive-async=y\narchive-get-queue-max={queue_megabytes}MiB\nstart-fast=y\nlog-level-file=off\n"
            f"spool-path={self.folder}/spool\nlock-path={self.folder}/lock\nlog-path={self.folder}/log\n"
            f"[{_STANZA}]\npg1-path={self._data}\npg1-port={server.port}\npg1-socket-path={self._sockets}\npg1-user=postgres\n"
        )
        self.forget()

    def forget(self) -> None:
        """An empty repository, as for a first backup. Not part of what is measured."""
        self._fresh("repository", "spool", "lock")
        self._call("stanza-create")

    def backup(self) -> Took:
        """A full backup, its WAL archived by the server meanwhile and awaited; ``bytes`` in the repository, that WAL left out."""
        with archiving(self._server, f"{self.command()} archive-push %p"):
            begun = time.monotonic()
            self._call("--type=full", "--no-expire-auto", "backup")
            seconds = time.monotonic() - begun
        return Took(round(seconds, 3), tree_bytes(self.folder / "repository" / "backup"))

    def restore(self, into: Path) -> Took:
        """The newest backup into an empty folder, every file made durable; ``bytes`` plain."""
        self._empty(into)
        begun = time.monotonic()
        self._call("restore", data=into)
        return Took(round(time.monotonic() - begun, 3), tree_bytes(into))

    def push(self, wal: Segments) -> Took:
        """Archive these segments as the server's archiver does, one command after another; seconds until the last was acknowledged."""
        self._fresh("spool")
        for stored in self._stored(wal):
            stored.unlink()
        for name in wal.names:
            (wal.folder / "archive_status" / f"{name}.ready").touch()
        own(wal.data)
        took = self._in_a_row(wal, "archive-push pg_wal/$name")
        if lacking := set(wal.names) - {path.name[:24] for path in self._stored(wal)}:
            raise ProcessFailed(f"pgBackRest acknowledged segments that it lacks: {sorted(lacking)}")
        return took

    def get(self, wal: Segments) -> Took:
        """Fetch these segments as a recovery does, one command after another, but with no redo in between."""
        self._fresh("spool")
        took = self._in_a_row(wal, "archive-get $name pg_wal/RECOVERYXLOG")
        fetched, last = wal.folder / "RECOVERYXLOG", wal.folder / wal.names[-1]
        if fetched.read_bytes() != last.read_bytes():
            raise ProcessFailed("pgBackRest fetched other bytes than it was given.")
        return took

    def command(self, data: Path | None = None) -> str:
        """The program with its options, for ``archive_command`` and ``restore_command``."""
        options = f"--config={self._configuration} --stanza={_STANZA} --log-level-console=warn"
        return f"pgbackrest {options}" + ("" if data is None else f" --pg1-path={data}")

    def restore_command(self, data: Path) -> str:
        """What a server on ``data`` recovers with. The queue of an earlier recovery is dropped."""
        self._fresh("spool")
        return f"{self.command(data)} archive-get %f %p"

    def _call(self, *arguments: str, data: Path | None = None) -> None:
        self._run(*self.command(data).split(), *arguments)

    def _in_a_row(self, wal: Segments, what: str) -> Took:
        """A shell starts each command, as the server does with system(3)."""
        script = f"for name in {' '.join(wal.names)}; do {self.command(wal.data)} {what} || exit; done"
        begun = time.monotonic()
        self._run("sh", "-c", script, folder=wal.data)
        return Took(round(time.monotonic() - begun, 3), wal.bytes, len(wal.names))

    def _stored(self, wal: Segments) -> list[Path]:
        """These segments, as far as its repository has them."""
        archive = self.folder / "repository" / "archive" / _STANZA
        return [path for path in archive.rglob("*-*.zst") if path.name[:24] in wal.names]


class Barman(_Peer):
    """One server by ``backup_method = postgres``: pg_basebackup compresses with two threads, into a tar. Nothing is encrypted."""

    def __init__(self, server: PostgresServer) -> None:
        super().__init__(server, "barman")
        self._configuration = self.folder / "barman.conf"
        self._fresh("staging")
        user = pwd.getpwuid(os.geteuid() if self._user is None else self._user).pw_name
        place = f"host={self._sockets} port={server.port} user=postgres dbname=postgres"
        self._configuration.write_text(
            f"[barman]\nbarman_user = {user}\nbarman_home = {self.folder}/home\nlog_file = {self.folder}/barman.log\n"
            f"[{_STANZA}]\ndescription = bench\nconninfo = {place}\nstreaming_conninfo = {place}\nbackup_method = postgres\n"
            f"backup_compression = zstd\nbackup_compression_level = {LEVEL}\nbackup_compression_workers = {PROCESSES}\n"
            f"backup_compression_location = client\narchiver = on\nimmediate_checkpoint = true\n"
            f"path_prefix = {server.tools.folder}\nrecovery_staging_path = {self.folder}/staging\n"
        )
        self.forget()

    def forget(self) -> None:
        """No backups and an archive with one segment, without which it refuses to back up. Not part of what is measured."""
        self._fresh("home")
        self._call("cron")  # makes its folders
        (self._server_folder / "incoming").mkdir(parents=True, exist_ok=True)
        own(self.folder)
        with archiving(self._server, self._archive_command()):
            self._call("switch-wal", "--force", "--archive", _STANZA)

    def backup(self) -> Took:
        """A full backup, its WAL awaited; ``bytes`` as stored."""
        with archiving(self._server, self._archive_command()):
            begun = time.monotonic()
            self._call("backup", "--wait", _STANZA)
            seconds = time.monotonic() - begun
        return Took(round(seconds, 3), tree_bytes(self._server_folder / "base"))

    def restore(self, into: Path) -> Took:
        """The newest backup into an empty folder, which is not made durable: it leaves that to whoever starts the server."""
        self._empty(into)
        begun = time.monotonic()
        self._call("recover", "--get-wal", _STANZA, "latest", str(into))
        return Took(round(time.monotonic() - begun, 3), tree_bytes(into))

    @property
    def _server_folder(self) -> Path:
        return self.folder / "home" / _STANZA

    def _archive_command(self) -> str:
        """The way in that costs it least: a copy by the server into a local folder. It throws out half a file, unless it is hidden."""
        incoming = self._server_folder / "incoming"
        return f"cp %p {incoming}/.%f && mv {incoming}/.%f {incoming}/%f"

    def _call(self, *arguments: str) -> None:
        self._run("barman", "-c", self._configuration, *arguments)


def bare_pipe(server: PostgresServer, file: Path) -> Took:
    """What a careful person writes into a cron job: pg_basebackup, zstd with two threads, openssl, sync; WAL left out, as ours is."""
    program = server.tools.program("pg_basebackup")
    command = (
        f"'{program}' -c fast -Ft -Xnone -D - | zstd -q -{LEVEL} -T{PROCESSES} "
        f"| openssl enc -aes-256-ctr -pbkdf2 -pass env:BENCH_PASS > '{file}' && sync '{file}'"
    )
    return _base_pipe(server, command, file)


def bare_read(server: PostgresServer) -> Took:
    """How fast pg_basebackup hands out the cluster when nothing is done with it."""
    return _base_pipe(server, f"'{server.tools.program('pg_basebackup')}' -c fast -Ft -Xnone -D - > /dev/null", None)


def bare_unpack(file: Path, into: Path) -> Took:
    """:func:`bare_pipe` backwards, into an empty folder; not made durable."""
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    command = f"openssl enc -d -aes-256-ctr -pbkdf2 -pass env:BENCH_PASS < '{file}' | zstd -q -d | tar -x -C '{into}'"
    begun = time.monotonic()
    _bash(command, {})
    return Took(round(time.monotonic() - begun, 3), tree_bytes(into))


def make_durable(folder: Path) -> float:
    """fsync every file and folder of a restore; the seconds that a peer saves which does not."""
    begun = time.monotonic()
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    return round(time.monotonic() - begun, 3)


def _base_pipe(server: PostgresServer, command: str, file: Path | None) -> Took:
    """pg_basebackup without WAL waits for its archive, so the server must seem to have one."""
    environment = {name: value for name, value in server.cluster().environment().items() if value is not None}
    environment["PGOPTIONS"] = "-c client_min_messages=warning"  # that WAL is not archived is no news here
    with archiving(server, "true"):
        begun = time.monotonic()
        _bash(command, environment)
        seconds = time.monotonic() - begun
    return Took(round(seconds, 3), file.stat().st_size if file is not None else 0)


def _bash(command: str, environment: dict[str, str]) -> None:
    """A hand-written pipe, any part of which may fail it."""
    whole = {**os.environ, **environment, "BENCH_PASS": "bench"}
    subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], env=whole, check=True, stdin=subprocess.DEVNULL)
