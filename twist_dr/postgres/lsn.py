"""Positions in the write-ahead log, and stretches of it."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Gap:
    """WAL that an archive does not have and will not get: ``begin`` up to ``end`` (LSN, left out), before what it holds of ``timeline``.

    What earlier versions wrote down has no timeline.
    """

    timeline: int | None
    begin: int
    end: int

    def sentence(self, target: str) -> str:
        """``nas lacks WAL from 0/1000000 to 0/2000000``, without a stop."""
        return f"{target} lacks WAL from {format_lsn(self.begin)} to {format_lsn(self.end)}"


_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def parse_lsn(text: str) -> int:
    """``0/3000000`` as a number. Raises ``ValueError``."""
    match = _LSN.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not an LSN such as 0/3000000")
    return int(match[1], 16) << 32 | int(match[2], 16)


def format_lsn(lsn: int) -> str:
    """As PostgreSQL writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
