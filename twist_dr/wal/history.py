"""Timeline history files: where each timeline left its parent.

    1<TAB>0/A000198<TAB>no recovery target specified          one line per ancestor, oldest first; # begins a comment

https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-TIMELINES
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from twist_dr.errors import WalInvalid
from twist_dr.postgres.lsn import parse_lsn
from twist_dr.system.words import few

#: A history has a line per promotion: what is larger is none.
MOST_BYTES = 1 << 20
#: Timelines are counted in 32 bits.
_TIMELINE = re.compile("[0-9]{1,10}")


#: A timeline, the LSN at which it begins and that at which it was left for the next one.
TimelineSpan = tuple[int, int, int | None]


@dataclass(frozen=True)
class Ancestor:
    """A timeline that was left for the next one at ``switched_at`` (LSN)."""

    timeline: int
    switched_at: int


def stretches_of(timeline: int, ancestors: Iterable[Ancestor]) -> tuple[TimelineSpan, ...]:
    """A timeline and its ancestors, the newest first."""
    found: list[TimelineSpan] = []
    begin = 0
    for ancestor in ancestors:
        found.append((ancestor.timeline, begin, ancestor.switched_at))
        begin = ancestor.switched_at
    return (timeline, begin, None), *reversed(found)


def joined_history(chunks: Iterable[bytes], what: str) -> bytes:
    """A history file's bytes, no more of them than one has. Raises ``WalInvalid``, naming ``what``."""
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) > MOST_BYTES:
            raise WalInvalid(
                f"{what}: larger than any timeline history", remedy="take the file from another storage target"
            )
    return bytes(data)


def parse_history(data: bytes, timeline: int, what: str) -> list[Ancestor]:
    """The ancestors of ``timeline``, oldest first. Raises ``WalInvalid``, naming ``what``."""
    ancestors: list[Ancestor] = []
    if len(data) > MOST_BYTES or not data.endswith(b"\n"):
        raise WalInvalid(f"{what}: not a whole timeline history", remedy="take the file from another storage target")
    for line in data.decode(errors="replace").splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            if not _TIMELINE.fullmatch(words[0]):
                raise ValueError
            ancestors.append(Ancestor(int(words[0]), parse_lsn(words[1])))
        except (ValueError, IndexError):
            raise WalInvalid(
                f"{what}: the line {line[:80]!r} is not one of a timeline history",
                remedy="take the file from another storage target",
            ) from None
    numbers = [ancestor.timeline for ancestor in ancestors]
    if not numbers or numbers != sorted(set(numbers)) or numbers[0] < 1 or numbers[-1] >= timeline:
        raise WalInvalid(
            f"{what}: not the history of timeline {timeline}: its ancestors are {few(map(str, numbers))}",
            remedy="take the file from another storage target",
        )
    return ancestors
