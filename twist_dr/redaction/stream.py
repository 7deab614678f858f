"""A terminal, or a file in its place, to which nothing secret is written."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from twist_dr.redaction.known import leaving


@contextmanager
def leaving_terminal() -> Iterator[None]:
    """While this lasts, each piece that is written to standard output and error is as it may leave us. ``print`` writes a text in one piece."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = cast("TextIO", _Leaving(sys.stdout)), cast("TextIO", _Leaving(sys.stderr))
    try:
        yield
    finally:
        # Who found its reader gone has taken it away for good, or Python would complain of it at its end.
        if sys.stdout is not None:
            sys.stdout = before[0]
        sys.stderr = before[1]


def bare(stream: TextIO) -> TextIO:
    """The terminal itself, for a progress bar of ours, which moves the cursor."""
    return stream._stream if isinstance(stream, _Leaving) else stream


class _Leaving:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(leaving(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
