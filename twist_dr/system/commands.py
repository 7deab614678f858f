"""Commands of the settings and the application's own: run to their end, or for a bounded time, and quoted without their secrets."""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from twist_dr.errors import ProcessFailed
from twist_dr.redaction import keep_environment, quoting
from twist_dr.system.processes import Child, child_environment, process_failure
from twist_dr.system.sizes import CHUNK

_LOOK_SECONDS = 0.2
_KEEP_LINES = 200
_LONGEST_LINE = 1 << 24
#: The last line of a traceback that says something: what PostgreSQL adds (DETAIL, LINE 1, a caret) comes after it.
_EXCEPTION = re.compile(r"(?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*: \S|[A-Za-z_]\w*(?:Error|Exception): \S")
#: An environment variable's name, as programs complain of one.
_VARIABLE = re.compile(r"\b[A-Z][A-Z0-9_]{2,}\b")
#: What programs begin an error with, PostgreSQL's among them; a hint may come after it.
_ERROR = re.compile(r"error:|ERROR:|FATAL:")


def run_command(
    arguments: Sequence[str | Path],
    *,
    seconds: float | None,
    environment: Mapping[str, str | None] | None = None,
    folder: Path | None = None,
    called: str | None = None,
    on_line: Callable[[str], None] = lambda line: None,
) -> None:
    """Run a command to its end, for ``seconds`` at most; ``None`` waits for ever. What it leaves in the background is ended with it.

    ``environment`` is added to the short list of :func:`twist_dr.system.processes.child_environment`; ``None`` removes a variable.
    ``on_line`` is called, in this thread, with each line of its standard output, as it is; what it raises ends the command.

    Raises ``ProcessFailed``, in which it is ``called`` so: with its last words; when the time was not enough, then it, and all that it
    started in its process group, are ended; and, caused by an ``OSError``, when it cannot be started.
    """
    called = called or Path(arguments[0]).name
    keep_environment(environment or {})
    said: deque[str] = deque(maxlen=_KEEP_LINES)
    complaints: deque[str] = deque(maxlen=_KEEP_LINES)
    with Child(arguments, environment=environment, folder=folder, on_line=complaints.append) as child:
        try:
            for line in _lines(child, seconds):
                said.append(line)
                on_line(line)
        except TimeoutError:
            raise ProcessFailed(f"{called} was not done after {seconds:g} s and was ended.") from None
        try:
            child.finish()
        except ProcessFailed:
            words = _last_words(said, complaints)
            more = _not_passed_on(words, environment)
            raise process_failure(called, child.process.returncode, quoting(words), more) from None


def _not_passed_on(words: str, environment: Mapping[str, str | None] | None) -> str:
    """The remedy, where a command complains of a variable that is set for us and that nobody named for it; else nothing."""
    given = child_environment(environment)
    if names := [name for name in dict.fromkeys(_VARIABLE.findall(words)) if name in os.environ and name not in given]:
        return (
            f" ({', '.join(names)} is set here but not passed on: commands get what the settings name for them; name it under "
            "django.environment or restore.environment)"
        )
    return ""


def _last_words(said: Sequence[str], complaints: Sequence[str]) -> str:
    lines = [line for line in (*said, *complaints) if line.strip()]
    exceptions = [line for line in lines if _EXCEPTION.match(line)]
    errors = [line for line in complaints if _ERROR.search(line)]
    return (exceptions[-1:] or errors[-1:] or lines[-1:] or ["it gave no reason"])[0].strip()


def _lines(child: Child, seconds: float | None) -> Iterator[str]:
    """The lines of its standard output until it ends. Raises ``TimeoutError`` when ``seconds`` are over before that."""
    deadline = None if seconds is None else time.monotonic() + seconds
    rest = b""
    for chunk in _output(child, deadline):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").rstrip("\r")
        if len(rest) > _LONGEST_LINE:
            rest = b""
    if rest:
        yield rest.decode(errors="replace")


def _output(child: Child, deadline: float | None) -> Iterator[bytes]:
    assert child.process.stdout is not None
    descriptor = child.process.stdout.fileno()
    ready = select.poll()
    ready.register(descriptor, select.POLLIN)
    while True:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError
        if ready.poll(1000 * _LOOK_SECONDS if left is None else 1000 * min(left, _LOOK_SECONDS)):
            chunk = os.read(descriptor, CHUNK)
            if not chunk:
                break
            yield chunk
        elif child.process.poll() is not None:
            return  # What it left running in the background may hold its output open for ever.
    try:
        child.process.wait(left)
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
