"""The open segment, as far as it was written: the name under which a target holds it, and the claim that the name makes.

    <segment>.<end>.<claim>.partial

``end`` is the offset, in bytes and eight hexadecimal digits, after the last byte that it holds. The claim is a moment of the
primary's clock before which everything committed is in here or before, ``20261121T153329123456Z``, or ``none``. One that
ends at 00000000 holds nothing but the claim.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone

from twist_dr.wal.names import Segment

_NAME = re.compile(r"([0-9A-F]{24})\.([0-9A-F]{8})\.([0-9]{8}T[0-9]{12}Z|none)\.partial")
_CLAIM = "%Y%m%dT%H%M%S%fZ"


@dataclass(frozen=True)
class PartialSegment:
    """The open segment as far as it was written: its first ``size`` bytes. ``claim``: see the module's docstring."""

    segment: Segment
    size: int
    claim: datetime | None

    @property
    def name(self) -> str:
        claim = self.claim.astimezone(timezone.utc).strftime(_CLAIM) if self.claim else "none"
        return f"{self.segment.name}.{self.size:08X}.{claim}.partial"

    @property
    def end(self) -> int:
        """The LSN after its last byte."""
        return self.segment.start + self.size

    @classmethod
    def named(cls, name: str, segment_size: int) -> PartialSegment | None:
        """The partial segment of that name; ``None`` when it is not one."""
        match = _NAME.fullmatch(name)
        return None if match is None else cls._of(match, segment_size)

    @classmethod
    def under(cls, key: str, segment_size: int) -> PartialSegment | None:
        """The partial segment that lies under ``key``, in whatever form; ``None`` when it is not one."""
        match = _NAME.match(key.rpartition("/")[2])
        return None if match is None else cls._of(match, segment_size)

    @staticmethod
    def claim_of(key: str) -> datetime | None:
        """The claim of the partial segment under ``key``."""
        match = _NAME.match(key.rpartition("/")[2])
        return None if match is None else _claim(match[3])

    @classmethod
    def _of(cls, match: re.Match[str], segment_size: int) -> PartialSegment | None:
        size = int(match[2], 16)
        try:
            segment, claim = Segment.named(match[1], segment_size), _claim(match[3])
        except ValueError:
            return None
        return cls(segment, size, claim) if size <= segment_size else None


def _claim(text: str) -> datetime | None:
    return None if text == "none" else datetime.strptime(text, _CLAIM).replace(tzinfo=timezone.utc)
