"""Keeping a server that runs a database's own code away from all else on the machine, and from the network.

Code of the database (checks, defaults, triggers, index expressions, extensions in C) runs in scratch servers and recovered ones as their
superuser, who can have the server run any program. So the server is given nothing: an empty environment, a user that owns
nothing else (``server_user.py``), and namespaces in which there are no network, no other processes and no files but PostgreSQL's
programs and its own folder. It is reached from outside by its socket in that folder.

What it takes is not everywhere to be had (namespaces(7); the seccomp filters of containers refuse them), so each way is tried once per process.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, ClassVar, Literal

from twist_dr.errors import IsolationMissing, ProcessFailed
from twist_dr.postgres.server_user import ServerUser, some_server_user
from twist_dr.postgres.tools import Tools
from twist_dr.postgres.unprivileged import installation
from twist_dr.system.processes import Child, inherited, nothing_but, run

#: Whether a server may run where it can be kept away from less: ``required`` says no.
Isolation = Literal["required", "where-possible"]
#: ``bubblewrap``: all of it, in a namespace of the server's user; ``bubblewrap as root``: the same where ordinary users may make none.
#: ``unshare``: no network, no other processes, but the files that the server's user may read. ``user``: only a user that owns nothing.
Way = Literal["bubblewrap", "bubblewrap as root", "unshare", "user", "nothing"]

_SHELL = "/bin/sh"
_LIBRARIES = ("/lib", "/lib32", "/lib64", "/libx32")
_PROGRAMS = ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/usr/games")
#: Libraries are found by the first ones; dictionaries that Debian makes for text search lie in the last.
_DATA = (
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/localtime",
    "/var/cache/postgresql/dicts",
)
#: All that such a server and what it starts have for an environment, but for the folders of libraries.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


@lru_cache
def way() -> Way:
    """The best way that this machine and our user allow. Runs up to three small programs, once per process."""
    user = some_server_user()
    ways: tuple[Way, ...] = (
        ("bubblewrap", "bubblewrap as root", "unshare") if user is not None else ("bubblewrap", "unshare")
    )
    for each in ways:
        if shutil.which(_Prefix.PROGRAMS[each]) is None:
            continue
        with suppress(ProcessFailed):
            prefix = _Prefix(each, user, [], [], shell=True, lasting=False)
            run(
                [*prefix.arguments(), _SHELL, "-c", ":"],
                environment=nothing_but(_ENVIRONMENT),
                user=prefix.started_as,
                group=prefix.started_as,
            )
            return each
    return "user" if user is not None else "nothing"


def is_kept_away() -> bool:
    """Whether code of the database can neither read what is not its own nor reach a network. A user that is ours can read our keys."""
    return way() in ("bubblewrap", "bubblewrap as root") or (way() == "unshare" and os.geteuid() == 0)


def what_is_missing() -> str:
    """For people: why not all of it is to be had, and what that means."""
    why = (
        "bubblewrap is not installed"
        if shutil.which("bwrap") is None
        else "this machine lets nobody make namespaces, as most containers do"
    )
    if way() == "user":
        return f"{why}: code of the database that runs in scratch and recovered servers has a user that owns nothing, but can reach the network"
    return f"{why}: code of the database that runs in scratch and recovered servers can read all that we can, keys and settings too"


def need_isolation(isolation: Isolation) -> None:
    """Raise ``IsolationMissing`` where ``isolation`` is required and not to be had."""
    if isolation == "required" and not is_kept_away():
        missing = what_is_missing()
        raise IsolationMissing(
            f"{missing[0].upper()}{missing[1:]}",
            remedy=(
                "install bubblewrap (apt install bubblewrap), name a server of its own in verification.server, or accept that with "
                "verification.isolation: where-possible."
            ),
        )


class Confinement:
    """A place for one server: whom its files belong to, and how its programs are started. A context manager.

    ``base``: the folder in which its folder lies. ``user``: whose its files are, which is its group's number, too; None for ourselves.
    Raises as :func:`need_isolation`.
    """

    def __init__(self, base: Path, isolation: Isolation) -> None:
        need_isolation(isolation)
        self._user = ServerUser(base)
        self.user = self._user.id

    def close(self) -> None:
        """Safe to call twice, when the server has ended."""
        self._user.release()

    def __enter__(self) -> Confinement:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def child(
        self,
        arguments: Sequence[str | Path],
        tools: Tools,
        folders: Sequence[Path],
        readable: Sequence[Path] = (),
        *,
        shell: bool,
        stdin: int | IO[bytes] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> Child:
        """Start a program of ``tools`` that can write to ``folders`` alone, as far as they exist. ``shell``: whether it finds one, with which it can run what is built into it and nothing else."""
        prefix = _Prefix(way(), self.user, [*installation(tools), *readable], folders, shell=shell, lasting=False)
        options = {} if stdin is None else {"stdin": stdin}
        return Child(
            [*prefix.arguments(), *arguments], environment=_environment(), user=prefix.started_as, group=prefix.started_as,
            folder=folders[0], on_line=on_line, **options,
        )  # fmt: skip


def run_lasting(
    arguments: Sequence[str | Path], tools: Tools, paths: Sequence[Path], readable: Sequence[Path], user: int | None
) -> None:
    """Run a program of ``tools`` that leaves a server behind which people reach by the network: with its own files alone, where that is possible.

    ``paths``: the folders and files that it can write to, as far as they exist; ``user``: whose they are, None for ourselves. Raises ``ProcessFailed``.
    """
    # Only these two can leave the network and the numbers of processes as they are.
    chosen: Way = way() if way() in ("bubblewrap", "bubblewrap as root") else "user"
    prefix = _Prefix(chosen, user, [*installation(tools), *readable], paths, shell=True, lasting=True)
    started_as = prefix.started_as
    run(
        [*prefix.arguments(), *arguments],
        environment=_environment(),
        user=started_as,
        group=started_as,
        folder=paths[0],
    )


def shut_down(child: Child, seconds: float) -> None:
    """PostgreSQL's fast shutdown, which ends sessions and does not wait for them; killed when it takes longer."""
    signal_server(child, signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        child.process.wait(seconds)
    child.end()


def signal_server(child: Child, number: signal.Signals) -> None:
    """Send a signal to the postmaster that a child is or holds: what stands around it passes none on."""
    with suppress(ProcessLookupError):
        os.kill(_postmaster(child.process.pid), number)


def _postmaster(process: int) -> int:
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with suppress(OSError):
                # proc_pid_stat(5): the name in parentheses may hold anything.
                before, _, after = Path(entry.path, "stat").read_text().rpartition(")")
                parents[int(entry.name)] = int(after.split()[1])
                names[int(entry.name)] = before.partition("(")[2]
    found: int | None = process
    while found is not None:
        if names.get(found) == "postgres":
            return found
        found = next((each for each, parent in parents.items() if parent == found), None)
    return process


def _library_folders() -> list[Path]:
    return [Path(each) for each in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if each]


def _setpriv() -> Path:
    return Path(os.path.realpath(shutil.which("setpriv") or "/usr/bin/setpriv"))


def _without_new_rights() -> list[str]:
    """No program with another user's rights (su, sudo) gives them to whoever starts it; bubblewrap sees to that by itself."""
    return [str(_setpriv()), "--no-new-privs"] if shutil.which("setpriv") else []


def _environment() -> dict[str, str | None]:
    return nothing_but({**_ENVIRONMENT, **inherited(("LD_LIBRARY_PATH",))})


@dataclass(frozen=True)
class _Prefix:
    """What stands before a program's own arguments."""

    way: Way
    user: int | None
    readable: Sequence[Path]
    writable: Sequence[Path]
    shell: bool
    lasting: bool
    """Whether a server stays behind that people reach by the network."""

    PROGRAMS: ClassVar[dict[str, str]] = {"bubblewrap": "bwrap", "bubblewrap as root": "bwrap", "unshare": "unshare"}

    def _program(self) -> str:
        name = self.PROGRAMS[self.way]
        return shutil.which(name) or name

    @property
    def started_as(self) -> int | None:
        return None if self.way == "bubblewrap as root" else self.user

    def arguments(self) -> list[str]:
        if self.way == "unshare":
            namespaces = ["--user", "--map-current-user", "--pid", "--ipc", "--uts"]
            return [self._program(), *namespaces, "--net", "--fork", "--kill-child", *_without_new_rights()]
        if self.way not in self.PROGRAMS:
            return _without_new_rights()
        seen = [
            path for path in (*self.readable, *_library_folders()) if path.is_dir() and not path.is_relative_to("/usr")
        ]
        options = [*self._namespaces(), *self._above(seen), *self._system()]
        for path in seen:
            options += ["--ro-bind", str(path), str(path)]
        for path in self.writable:
            options += ["--bind-try", str(path), str(path)]
        return [self._program(), *options, "--remount-ro", "/", *self._become()]

    def _namespaces(self) -> list[str]:
        """All end with the program, and it ends with whoever started it, however that ends."""
        chosen = ["--unshare-ipc", "--unshare-uts"]
        if self.way == "bubblewrap":
            chosen.append("--unshare-user")
        if not self.lasting:
            chosen += ["--unshare-net", "--unshare-pid", "--die-with-parent"]
        return chosen

    def _system(self) -> list[str]:
        """The system's libraries and data, read only, and no programs but a shell, where one is needed."""
        options = ["--ro-bind", "/usr", "/usr", "--dev", "/dev"]
        if self.way == "bubblewrap as root":
            options += ["--perms", "1777", "--tmpfs", "/dev/shm"]
        if self.shell:
            options += ["--ro-bind", os.path.realpath(_SHELL), _SHELL]
        for name in _LIBRARIES:
            path = Path(name)
            if path.is_symlink():
                options += ["--symlink", os.readlink(path), name]
            elif path.is_dir():
                options += ["--ro-bind", name, name]
        for name in _DATA:
            if Path(name).exists():
                options += ["--ro-bind", name, name]
        for name in _PROGRAMS:
            if Path(name).is_dir() and not Path(name).is_symlink():
                options += ["--tmpfs", name, *self._programs_in(Path(name)), "--remount-ro", name]
        return options

    def _programs_in(self, folder: Path) -> list[str]:
        """PostgreSQL's own programs where they lie among the system's, and the one that changes users."""
        wanted = [
            path / name for path in self.readable for name in ("bin/postgres", "bin/pg_ctl") if path / "bin" == folder
        ]
        if self.way == "bubblewrap as root" and _setpriv().parent == folder:
            wanted.append(_setpriv())
        return [word for path in wanted for word in ("--ro-bind", str(path), str(path))]

    def _above(self, seen: Sequence[Path]) -> list[str]:
        """The folders above the others: as root, bubblewrap makes them for root alone."""
        if self.way != "bubblewrap as root":
            return []
        above = {folder for path in (*seen, *self.writable, *map(Path, (*_DATA, _SHELL))) for folder in path.parents}
        return [word for folder in sorted(above - {Path("/")}) for word in ("--perms", "0755", "--dir", str(folder))]

    def _become(self) -> list[str]:
        if self.way == "bubblewrap":
            # A server is the first process of its own: whatever it leaves running ends with it.
            return [] if self.lasting else ["--as-pid-1"]
        return [
            "--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", str(_setpriv()),
            f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups", "--no-new-privs", "--inh-caps=-all",
        ]  # fmt: skip
