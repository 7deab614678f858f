"""What a command prints: a text for people, or with ``--json`` a document for programs. Nothing else is written to standard output then."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twist_dr.errors import TwistDRError
    from twist_dr.system.progress import Report


def add_json(parser: argparse._ActionsContainer, help: str = "print JSON") -> None:
    """Add ``--json``: every command that lists, shows or changes has it (a test goes through them all)."""
    # Without a default: that of a command's action would take away what was said before it (alerts --json test).
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=help)


def wants_json(options: argparse.Namespace) -> bool:
    """Whether programs are to read it."""
    return getattr(options, "json", False)


def show(options: argparse.Namespace, document: Callable[[], Any], text: Callable[[], str]) -> None:
    """Print the document or the text, as asked for. Rows of the catalog, times and paths may stand in a document."""
    if not wants_json(options):
        say(text())
        return
    pieces = json_pieces(document())
    with _until_the_reader_has_enough():
        for piece in pieces:
            options.document_begun = True
            print(piece, end="")
        print(flush=True)


def say(text: str) -> None:
    """Print it."""
    with _until_the_reader_has_enough():
        print(text, flush=True)


@contextmanager
def _until_the_reader_has_enough() -> Iterator[None]:
    """Whoever reads no further (head, less) does not change what the command comes to, nor its exit status."""
    try:
        yield
    except BrokenPipeError:
        sys.stdout = None


def show_error(options: argparse.Namespace, error: TwistDRError) -> None:
    """On standard error, and for programs as the document, in the form in which a job's outcome has it, unless another one was begun."""
    print(f"twist-dr: {error}", file=sys.stderr)
    if wants_json(options) and not getattr(options, "document_begun", False):
        show(options, lambda: {"error": {"code": error.code, "message": str(error)}}, str)


def report(options: argparse.Namespace) -> Report:
    """What an operation tells on the way: on standard output, or beside a document."""
    from twist_dr.system.progress import Bar, Lines, Report

    def tell(line: str) -> None:
        # A reader who has read enough, a full disk or a name that cannot be written there ends nothing that was begun.
        with suppress(OSError, ValueError):
            print(line, file=sys.stderr if wants_json(options) else sys.stdout, flush=True)

    def tell_warning(line: str) -> None:
        with suppress(OSError, ValueError):
            warn(line)

    return Report(Bar(), Lines(tell, tell_warning))


def warn(line: str) -> None:
    """A line for people, beside what is printed."""
    from twist_dr.redaction import one_line

    print(f"warning: {one_line(line)}", file=sys.stderr, flush=True)


def json_pieces(value: Any, indent: str = "") -> Iterator[str]:
    """What ``json.dumps(value, indent=2)`` gives, in pieces. Of a dictionary each value may be an iterable of its own, which becomes an array."""
    if isinstance(value, dict) and value:
        before = "{\n"
        for name, each in value.items():
            yield f"{before}{indent}  {json.dumps(name)}: "
            yield from json_pieces(each, f"{indent}  ")
            before = ",\n"
        yield f"\n{indent}}}"
    elif isinstance(value, Iterable) and not isinstance(value, (str, list, tuple, dict)):
        before = "[\n"
        for each in value:
            yield f"{before}{indent}  {_whole(each, f'{indent}  ')}"
            before = ",\n"
        yield "[]" if before == "[\n" else f"\n{indent}]"
    else:
        yield _whole(value, indent)


def _whole(value: Any, indent: str) -> str:
    # In JSON a line's end is between values only, never in a string.
    return json.dumps(value, indent=2, default=_as_json).replace("\n", f"\n{indent}")


def _as_json(value: Any) -> Any:
    """Times in ISO 8601, records field by field."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    raise TypeError(f"{type(value).__name__} has no form in JSON")
