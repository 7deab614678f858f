"""A shell that stays, as the terminal of somebody who follows a page: folder, variables and background processes go on from block to block."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType


class CommandFailed(AssertionError):
    """A command of the page did not do what the page says."""


class Shell:
    """``bash`` with nothing of ours in its environment. A context manager: leaving it ends it and what it started."""

    def __init__(self, home: Path, folder: Path, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
            cwd=folder,
            env={
                "HOME": str(home),
                "PATH": f"{Path(sys.base_prefix) / 'bin'}:/usr/local/bin:/usr/bin:/bin",
                "LANG": "C.UTF-8",
                **environment,
            },
            start_new_session=True,
        )

    def run(self, command: str, *, status: int | None = 0) -> str:
        """Type a command; returns what it said. Raises ``CommandFailed`` when it ends with another ``status`` (None: any)."""
        print(f"$ {command}", flush=True)
        mark = f"ended-{secrets.token_hex(8)}"
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        # A command that reads standard input would read the next ones.
        process.stdin.write(f"{{ {command}\n}} </dev/null; printf '\\n%s %s\\n' {mark} $?\n")
        process.stdin.flush()
        said: list[str] = []
        for line in process.stdout:
            if line.startswith(mark):
                ended = int(line.split()[1])
                break
            said.append(line)
        else:
            raise CommandFailed(f"{command}\nthe shell itself ended:\n{''.join(said)}")
        text = "".join(said).rstrip("\n")
        if status is not None and ended != status:
            raise CommandFailed(f"{command}\nended with {ended} where {status} was promised:\n{text}")
        return text

    def __enter__(self) -> Shell:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The session is ours alone: its processes are those that the page's commands started.
        for each in _of_session(self._process.pid):
            os.kill(each, signal.SIGTERM)
        self._process.wait(30)


def _of_session(leader: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # ended since it was listed
                continue
            if int(fields[3]) == leader:
                found.append(int(entry.name))
    return sorted(found, reverse=True)
