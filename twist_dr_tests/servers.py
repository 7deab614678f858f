"""A PostgreSQL server as production has one: passwords, TCP on loopback, durable, kept in a folder between starts."""

from __future__ import annotations

import os
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

from twist_dr.errors import DatabaseUnreachable
from twist_dr.postgres.cluster import Cluster
from twist_dr.postgres.sessions import APPLYING, LOOKING
from twist_dr.postgres.tools import Tools
from twist_dr.postgres.unprivileged import (
    give_tree,
    reachable_base,
    reachable_tools,
    socket_folder,
    unprivileged,
)
from twist_dr.system.processes import Child, run
from twist_dr_tests.templates import Templates, initdb


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


#: Where new clusters are copied from. The demo and what else keeps its cluster has none.
templates: Templates | None = None


class PostgresServer:
    """A running server whose cluster lies in ``folder``, made there at the first start.

    ``options`` are initdb's. ``data``: a data directory of another's to begin from, with its superuser's ``password``.
    A context manager: leaving stops it, and removes the cluster unless ``keep``.
    """

    def __init__(
        self,
        tools: Tools,
        folder: Path,
        *,
        port: int | None = None,
        settings: dict[str, str] | None = None,
        options: Sequence[str] = (),
        keep: bool = False,
        over_socket: bool = False,
        data: Path | None = None,
        password: str = "",
    ) -> None:
        self._keep = keep
        self._over_socket = over_socket
        user, group = unprivileged()
        self.base = reachable_base(folder, user)
        self.tools = reachable_tools(tools, self.base, user)
        self.major = tools.major
        self.port = port or free_port()
        self.data, self._password = self.base / "data", self.base / "superuser.password"
        self._run_as = {"user": user, "group": group}
        self._sockets = socket_folder(self.base)
        self._sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
        if user is not None:
            os.chown(self._sockets, user, group or -1)
        if data is not None:
            self._take_over(data, password)
        elif not (self.data / "PG_VERSION").exists():
            make = initdb if templates is None else templates.copy
            make(self.tools, self.base, options)
        self.start(settings or {})

    @property
    def password(self) -> str:
        """The superuser's."""
        return self._password.read_text()

    def start(self, settings: dict[str, str] | None = None) -> None:
        """Start the server of a cluster that is there; after :meth:`crash` or :meth:`stop`. With the settings that it had, or these alone."""
        self._settings = self._settings if settings is None else settings
        arguments: list[str | Path] = [self.tools.program("postgres"), "-D", self.data, "-p", str(self.port)]
        for name, value in {
            "unix_socket_directories": str(self._sockets),
            "listen_addresses": "127.0.0.1",
            **self._settings,
        }.items():
            arguments += ["-c", f"{name}={value}"]
        self._child = Child(arguments, environment={"LC_ALL": "C"}, folder=self.data, **self._run_as)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def restart(self, **settings: str) -> None:
        """Stop and start it, with these settings beside those that it had."""
        self.stop()
        self.start({**self._settings, **settings})

    def url(self, database: str = "postgres", user: str = "postgres", password: str | None = None) -> str:
        """A connection URL, as the superuser unless told otherwise: over TCP, or the server's socket if it was made so."""
        word = self.password if password is None else password
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

    def _take_over(self, data: Path, password: str) -> None:
        if data != self.data:
            shutil.move(data, self.data)
        self._password.touch(mode=0o600)
        self._password.write_text(password)
        if (user := self._run_as["user"]) is not None:
            give_tree(self.data, user, self._run_as["group"] or -1)

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
    data = folder / "copied"
    folder.mkdir()
    run(
        [server.tools.program("pg_basebackup"), f"--pgdata={data}", "--wal-method=stream", "--checkpoint=fast", "--no-sync"],
        environment=server.cluster().environment(),
    )  # fmt: skip
    (data / "standby.signal").touch()
    with (data / "postgresql.auto.conf").open("a") as file:
        file.write(f"primary_conninfo = 'host=127.0.0.1 port={server.port} user=postgres password={server.password}'\n")
    return PostgresServer(server.tools, folder, settings=settings, data=data, password=server.password)
