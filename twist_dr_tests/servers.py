"""A PostgreSQL server as production has one: passwords, TCP on loopback, durable, kept in a folder between starts."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from twist_dr.engine.postgres.cluster import Cluster
from twist_dr.engine.postgres.sessions import APPLYING, LOOKING
from twist_dr.engine.postgres.tools import Tools
from twist_dr.engine.postgres.unprivileged import reachable_base, reachable_tools, socket_folder, unprivileged
from twist_dr.engine.processes import Child, run
from twist_dr.errors import DatabaseUnreachable


def _connect_as_the_application(connect: Callable[..., Any]) -> Callable[..., Any]:
    """``Cluster.connect``, but what tests themselves open begins with the database's own settings: their SQL names tables without a schema."""

    def connecting(cluster: Cluster, database: str | None = None, **how: Any) -> Any:
        caller = sys._getframe(1).f_globals["__name__"]
        ours = caller == "__main__" or caller.startswith("twist_dr_tests.")  # the first: the demo
        return connect(cluster, database, **{"settings": APPLYING if ours else LOOKING, **how})

    return connecting


Cluster.connect = _connect_as_the_application(Cluster.connect)  # type: ignore[method-assign]


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class PostgresServer:
    """A running server whose cluster lies in ``folder``, made there at the first start.

    A context manager: leaving stops it, and removes the cluster unless ``keep``.
    """

    def __init__(
        self,
        tools: Tools,
        folder: Path,
        *,
        port: int | None = None,
        settings: dict[str, str] | None = None,
        initdb: Sequence[str] = (),
        keep: bool = False,
        over_socket: bool = False,
    ) -> None:
        self._keep = keep
        self._over_socket = over_socket
        self._initdb = initdb
        user, group = unprivileged()
        self.base = reachable_base(folder, user)
        self.tools = reachable_tools(tools, self.base, user)
        self.major = tools.major
        self.port = port or free_port()
        self._data, self._password = self.base / "data", self.base / "superuser.password"
        self._run_as = {"user": user, "group": group}
        self._sockets = socket_folder(self.base)
        for path in (self._data, self._sockets):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if user is not None:
                os.chown(path, user, group or -1)
        if not (self._data / "PG_VERSION").exists():
            self._make()
        self.start(settings or {})

    def start(self, settings: dict[str, str]) -> None:
        """Start the server of a cluster that is there; after :meth:`crash` or :meth:`stop`."""
        arguments: list[str | Path] = [self.tools.program("postgres"), "-D", self._data, "-p", str(self.port)]
        for name, value in {
            "unix_socket_directories": str(self._sockets),
            "listen_addresses": "127.0.0.1",
            **settings,
        }.items():
            arguments += ["-c", f"{name}={value}"]
        self._child = Child(arguments, environment={"LC_ALL": "C"}, folder=self._data, **self._run_as)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def url(self, database: str = "postgres", user: str = "postgres", password: str | None = None) -> str:
        """A connection URL, as the superuser unless told otherwise: over TCP, or the server's socket if it was made so."""
        word = self._password.read_text() if password is None else password
        host = quote(str(self._sockets), safe="") if self._over_socket else "127.0.0.1"
        return f"postgresql://{quote(user)}:{quote(word)}@{host}:{self.port}/{quote(database, safe='')}"

    def cluster(self, database: str = "postgres") -> Cluster:
        return Cluster(self.url(database))

    def create_database(self, name: str) -> Cluster:
        """A fresh empty database; one of that name is dropped first."""
        with self.cluster().connect() as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.cluster(name)

    def stop(self) -> None:
        """Fast shutdown (SIGINT), by process id."""
        if self._child.process.poll() is None:
            self._child.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self._child.process.wait(30)
        self._child.end()

    def crash(self) -> None:
        """End all its processes with SIGKILL, as a power cut would."""
        process = self._child.process.pid
        # The postmaster first, which would clear up after the others; each of them leads a group of its own.
        others = [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
        for each in (process, *others):
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        self._child.end()
        while any(Path(f"/proc/{each}").exists() for each in others):
            time.sleep(0.01)

    def close(self) -> None:
        """Stop it, and remove its folder unless it is to be kept."""
        self.stop()
        if not self._keep:
            shutil.rmtree(self.base, ignore_errors=True)
            shutil.rmtree(self._sockets, ignore_errors=True)

    def __enter__(self) -> PostgresServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _make(self) -> None:
        self._password.touch(mode=0o600)
        self._password.write_text(secrets.token_urlsafe(16))
        if self._run_as["user"] is not None:
            os.chown(self._password, self._run_as["user"], self._run_as["group"] or -1)
        arguments: list[str | Path] = [
            self.tools.program("initdb"), f"--pgdata={self._data}", "--username=postgres", f"--pwfile={self._password}",
            "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions",
            *self._initdb,
        ]  # fmt: skip
        run(arguments, environment={"LC_ALL": "C"}, folder=self._data, **self._run_as)

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            with suppress(DatabaseUnreachable):
                self.cluster().connect().close()
                return
            if self._child.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL {self.tools.version} did not start: {self._child.complaint()}")
            time.sleep(0.05)


def standby_of(server: PostgresServer, folder: Path, *, settings: dict[str, str]) -> PostgresServer:
    """A running standby, removed when it is closed."""
    standby = PostgresServer(server.tools, folder, settings={"fsync": "off"})
    standby.stop()
    data = standby.base / "data"
    owner = data.stat()
    shutil.rmtree(data)
    run(
        [
            server.tools.program("pg_basebackup"),
            f"--pgdata={data}",
            "--wal-method=stream",
            "--checkpoint=fast",
            "--no-sync",
        ],
        environment=server.cluster().environment(),
    )
    (data / "standby.signal").touch()
    host = server.cluster().parameters
    with (data / "postgresql.auto.conf").open("a") as file:
        file.write(
            f"primary_conninfo = 'host=127.0.0.1 port={server.port} user=postgres password={host['password']}'\n"
        )
    for path in (data, *data.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
    (standby.base / "superuser.password").write_text(host["password"])
    standby.start(settings)
    return standby
