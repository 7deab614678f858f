"""The README as something that can be walked: its code blocks and its commands, in order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"

#: What somebody follows who picks the project up, from the first line that they type; what stands before is ``make demo``.
_FIRST, _LAST = "Your first verified backup, in five minutes", "Alone, and telling the truth"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
#: A comment at a line's end, which tells a reader something and a shell nothing.
_COMMENT = re.compile(r"\s+#\s.*$")


@dataclass(frozen=True)
class Block:
    """A fenced block. ``language`` is empty where the README gives none."""

    language: str
    text: str

    @property
    def first(self) -> str:
        """Its first line, by which the walk knows it."""
        return self.text.partition("\n")[0]

    @property
    def lines(self) -> list[str]:
        """Its lines, without what is a comment to a shell."""
        return [line for raw in self.text.splitlines() if (line := _COMMENT.sub("", raw).strip())]


def blocks(text: str | None = None) -> list[Block]:
    """The code blocks of the sections that a new user follows."""
    text = README.read_text() if text is None else text
    begin, end = text.index(f"## {_FIRST}"), text.index(f"## {_LAST}")
    end = text.index("\n## ", end + 1)
    return [Block(language, body) for language, body in _FENCE.findall(text[begin:end])]


def commands(text: str | None = None) -> list[str]:
    """What stands in the first column of the table of commands, each of its spellings."""
    text = README.read_text() if text is None else text
    begin = text.index("\n## Commands\n")
    table = text[begin : text.index("\n## ", begin + 1)]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    return [spelling.replace("\\|", "|") for cell in cells for spelling in re.findall(r"`([^`]+)`", cell)]
