"""What stands in a text and is not seen: shown as an escape, so that no name or reason of others writes to a terminal what it likes."""

from __future__ import annotations

import re

#: Control characters (C0 without tab, line feed and its carriage return, DEL, C1), what turns the direction of writing or ends a line (Unicode, TR 9 and
#: TR 14), and the halves of surrogate pairs that stand for bytes which are no text: no terminal and no file takes them.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]|\r(?!\n)"
)
_ALSO_IN_A_LINE = re.compile("[\t\r\n]")


def visible(text: str) -> str:
    """The text with what is not seen as an escape such as ``\\x1b``; lines and tabs stay."""
    return _UNSEEN.sub(_escape, text)


def one_line(text: str) -> str:
    """The same for what must not begin a line of its own: a name, a reason, a cell of a table."""
    return _ALSO_IN_A_LINE.sub(_escape, visible(text))


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    return found[0].encode("unicode_escape", "surrogatepass").decode()
