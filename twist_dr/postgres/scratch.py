"""A PostgreSQL server made for one purpose and removed with all its data.

It listens on a Unix socket in a folder that only its user may enter, never on the network, and writes nothing durably.
Code of the database runs in it, so it is kept away from all else (``confinement.py``).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from twist_dr.errors import DatabaseError, DatabaseUnreachable, ProcessFailed
from twist_dr.postgres.cluster import Cluster, query
from twist_dr.postgres.confinement import Confinement, Isolation, shut_down
from twist_dr.postgres.dead_servers import end_server_of
from twist_dr.postgres.server_user import some_server_user
from twist_dr.postgres.tools import Tools
from twist_dr.postgres.unprivileged import (
    door_folder,
    give_tree,
    open_door,
    reachable_base,
    reachable_tools,
    socket_folder,
    unprivileged,
)
from twist_dr.redaction import one_line
from twist_dr.system.processes import Child, run
from twist_dr.system.scratch_folder import ScratchFolder, clear_left_over
from twist_dr.system.words import few

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_PREFIX = "server-"
#: The name of the socket, no more: nothing listens on a network.
_PORT = 5432

#: Speed over durability: a scratch server that crashes is made anew.
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "4GB",
    "shared_buffers": "128MB",
    "maintenance_work_mem": "128MB",
    "autovacuum": "off",
    "jit": "off",
    "logging_collector": "off",
    # A materialized view over thousands of partitions takes a lock on each, and on their indexes.
    "max_locks_per_transaction": "1024",
    # Files in the data folder, which go with it: those of "posix" stay in /dev/shm when the server is killed.
    "dynamic_shared_memory_type": "mmap",
}
#: A library that is preloaded may run jobs which the restored database has noted down for it: no process of that kind is begun.
_NOTHING_BY_ITSELF = {"max_worker_processes": "0"}
_LIBRARY_ENDS = (".so", ".dylib")
#: Roles of a moment.
_MAKER, _HELPER = "twist_dr_maker", "twist_dr_helper"


class ScratchServer:
    """A running server with an empty cluster. A context manager: leaving it stops the server and removes its data.

    ``superuser`` is the name of the bootstrap role. ``preload``: libraries of its installation that are loaded where they are there; what is
    not, ``notes`` say. Raises ``ProcessFailed`` or ``DatabaseError`` when it does not start.
    """

    def __init__(
        self,
        tools: Tools,
        base: Path,
        superuser: str = "postgres",
        *,
        preload: Sequence[str] = (),
        isolation: Isolation = "required",
    ) -> None:
        self.superuser = superuser
        self.notes: list[str] = []
        # initdb does not double a quote in the name (initdb.c, setup_auth and others), so such a role gets its name afterwards.
        self._made_by = _MAKER if '"' in superuser else superuser
        base = scratch_base(base)
        self.tools = reachable_tools(tools, base, some_server_user())
        self._confinement = Confinement(base, isolation)
        self._scratch = ScratchFolder(base, _PREFIX)
        self.folder = self._scratch.path
        self._data = self.folder / "data"
        self._sockets = socket_folder(self.folder)
        self._reached_at = self._sockets
        self._child: Child | None = None
        try:
            self._prepare()
            self._start(self._made_by)
            if self._made_by != superuser:
                self._rename()
            if preload:
                self._preload(preload)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ScratchServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def cluster(self, database: str = "postgres") -> Cluster:
        """How to connect as the superuser."""
        return self._cluster_as(self.superuser, database)

    def _cluster_as(self, role: str, database: str = "postgres") -> Cluster:
        return Cluster(
            f"postgresql://{quote(role, safe='')}@/{quote(database, safe='')}"
            f"?host={quote(str(self._reached_at), safe='')}&port={_PORT}",
            # Roles are made here: no variable of the environment may lead that to another server.
            isolated=True,
        )

    def close(self) -> None:
        """Stop the server and remove everything. Safe to call twice."""
        self._stop()
        end_server_of(self.folder)
        self._scratch.remove()
        self._confinement.close()

    def _stop(self) -> None:
        if self._child is not None:
            shut_down(self._child, _STOP_SECONDS)
            self._child = None

    def _prepare(self) -> None:
        if self._confinement.user is not None:
            self.folder.chmod(0o711)
        # initdb wants a user with a name, which the server's has not; it runs none of the database's code.
        user, group = unprivileged()
        for folder in (self._data, self._sockets):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if user is not None:
                os.chown(folder, user, -1 if group is None else group)
        run(
            [
                self.tools.program("initdb"), f"--pgdata={self._data}", f"--username={self._made_by}", "--auth=trust",
                "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions",
            ],
            environment={"LC_ALL": "C"}, user=user, group=group, folder=self._data,
        )  # fmt: skip
        if self._confinement.user is not None:
            for folder in (self._data, self._sockets):
                give_tree(folder, self._confinement.user, self._confinement.user)

    def _start(self, role: str, more: Mapping[str, str] | None = None) -> None:
        settings = {**_SETTINGS, "port": str(_PORT), "unix_socket_directories": str(self._sockets), **(more or {})}
        arguments: list[str | Path] = [self.tools.program("postgres"), "-D", self._data]
        for name, value in settings.items():
            arguments += ["-c", f"{name}={value}"]
        # No restore needs a shell, and without one PostgreSQL runs no other program (COPY TO PROGRAM).
        self._child = self._confinement.child(arguments, self.tools, [self._data, self._sockets], shell=False)
        deadline = time.monotonic() + _START_SECONDS
        while True:
            if self._child.process.poll() is not None:
                self._child.hear_out()
                raise ProcessFailed(f"The scratch server did not start: {self._child.complaint()}.")
            with suppress(DatabaseUnreachable):
                self._cluster_as(role).connect().close()
                if open_door(self.folder, _PORT):
                    self._reached_at = door_folder(self.folder)
                    return
            if time.monotonic() > deadline:
                raise DatabaseError(
                    f"The scratch server gave no answer within {_START_SECONDS:.0f} s",
                    remedy="see the load and the disk of this machine",
                )
            time.sleep(0.02)

    def _preload(self, libraries: Sequence[str]) -> None:
        """Start again with those of the libraries that are there: only the server can say where its own lie."""
        with self.cluster().connect() as connection:
            [[folder]] = query(connection, "SELECT setting FROM pg_config() WHERE name = 'PKGLIBDIR'")
        there = [name for name in libraries if any(Path(folder, f"{name}{end}").is_file() for end in _LIBRARY_ENDS)]
        if missing := [name for name in libraries if name not in there]:
            self.notes.append(f"{few(missing)} was preloaded where it was backed up, and is not installed here")
        if not there:
            return
        try:
            self._start_again({"shared_preload_libraries": ",".join(there), **_NOTHING_BY_ITSELF})
        except (ProcessFailed, DatabaseError) as error:
            self.notes.append(one_line(f"{few(there)} could not be preloaded: {error}"))
            self._start_again({})

    def _start_again(self, settings: Mapping[str, str]) -> None:
        self._stop()
        shutil.rmtree(door_folder(self.folder), ignore_errors=True)
        self._reached_at = self._sockets
        self._start(self.superuser, settings)

    def _rename(self) -> None:
        """Give the bootstrap role its name. Nobody can rename himself, so another one does."""
        from psycopg import sql

        helper, maker, wanted = map(sql.Identifier, (_HELPER, self._made_by, self.superuser))
        for role, statement in (
            (self._made_by, sql.SQL("CREATE ROLE {} SUPERUSER LOGIN").format(helper)),
            (_HELPER, sql.SQL("ALTER ROLE {} RENAME TO {}").format(maker, wanted)),
            (self.superuser, sql.SQL("DROP ROLE {}").format(helper)),
        ):
            with self._cluster_as(role).connect() as connection:
                connection.execute(statement)


def scratch_base(wanted: Path) -> Path:
    """Where scratch servers and what they are fed really lie: ``wanted``, or a place that the server's user can get to."""
    return reachable_base(wanted, some_server_user())


def clear_scratch_leftovers(base: Path) -> int:
    """Stop and remove scratch servers whose maker was killed; returns how many. Raises ``RestoreError``."""
    return clear_left_over(scratch_base(base), _PREFIX, end_server_of)
