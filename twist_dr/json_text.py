"""JSON for a terminal or a program, written as it is made: what is long need not be held, neither as values nor as text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any


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
    return json.dumps(value, indent=2).replace("\n", f"\n{indent}")
