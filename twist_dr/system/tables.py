"""Tables for a terminal, and for a log what a page shows as one."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence

from twist_dr.redaction import one_line

#: Between cells of a table in Markdown; what stands in one is escaped.
_BETWEEN = re.compile(r"(?<!\\)\|")
#: Below the head: what tells left from right.
_RULE = re.compile(":?-+:?")
#: What :func:`~twist_dr.system.words.unmarked` escapes, emphasis and code.
_MARKUP = re.compile(r"\\([\\`*<>\[\]|~#&_])|\*\*|`")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Container[int] = ()) -> str:
    """Columns as wide as they need to be, two spaces apart; a row is a line, whatever its cells hold. ``right``: columns of numbers."""
    lines = [[one_line(cell) for cell in line] for line in (head, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def aligned(text: str) -> str:
    """A text of ours in Markdown as a log has it: the columns of its tables aligned, and no markup."""
    lines, rows = list[str](), list[list[str]]()
    for line in text.split("\n"):
        if line.startswith("|"):
            rows.append([_bare(cell.strip()) for cell in _BETWEEN.split(line)[1:-1]])
            continue
        lines += [_columns(rows)] if rows else []
        rows = []
        lines.append(_bare(line))
    return "\n".join([*lines, *([_columns(rows)] if rows else [])])


def _columns(rows: list[list[str]]) -> str:
    """Whatever they are: a log is never what something fails of."""
    rule = next((row for row in rows if row and all(_RULE.fullmatch(cell) for cell in row)), [])
    right = {column for column, cell in enumerate(rule) if cell.endswith(":")}
    widest = max(map(len, rows))
    shown = [row + [""] * (widest - len(row)) for row in rows if any(row) and row is not rule]
    return table(shown[0], shown[1:], right) if shown else ""


def _bare(text: str) -> str:
    return _MARKUP.sub(lambda found: found[1] or "", text)
