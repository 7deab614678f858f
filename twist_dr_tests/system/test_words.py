"""Numbers, names and times as sentences have them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import twist_dr
from twist_dr.system.words import counted

#: What is counted in sentences.
_COUNTED = re.compile(
    r" (?:(?:more|other|bad|configuration|base|storage) )*(?:alert|backup|cop(?:y|ie)|database|difference|file|line|migration|object|row|segment|"
    r"session|table|transaction|warning)s\b(?!/s)"
)

#: Behind it the whole is told, which is always several: "0 of 1 backups".
_WHOLE = re.compile(r"\bof (?:the |its )?$")


def test_one_is_not_several() -> None:
    assert [counted(count, "table") for count in (0, 1, 2, 1200)] == ["0 tables", "1 table", "2 tables", "1,200 tables"]
    assert (counted(2, "copy"), counted(2, "day"), counted(2, "file or folder")) == (
        "2 copies",
        "2 days",
        "2 files or folders",
    )
    assert [counted(count, "line", "waits", "wait") for count in (1, 2)] == ["1 line waits", "2 lines wait"]


def _told(path: Path) -> Iterator[str]:
    """Where a sentence has a number and the plural of what it counts beside it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.JoinedStr):
            continue
        before = ""
        for value, after in zip(node.values, node.values[1:], strict=False):
            if isinstance(value, ast.Constant):
                before = str(value.value)
            elif isinstance(after, ast.Constant) and _COUNTED.match(str(after.value)) and not _WHOLE.search(before):
                yield f"{path}:{node.lineno}: {ast.unparse(value)}{after.value}"


def test_every_sentence_counts_by_the_one_function() -> None:
    sources = sorted(Path(twist_dr.__file__).parent.rglob("*.py"))
    assert len(sources) > 300 and [told for source in sources for told in _told(source)] == []
