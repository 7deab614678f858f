"""What a base backup says of itself: its ``backup_label``, and the end of its ``backup_manifest``.

https://www.postgresql.org/docs/current/backup-manifest-format.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from twist_dr.errors import BackupError
from twist_dr.postgres.lsn import parse_lsn
from twist_dr.system.documents import NOTE, read_mapping

#: Bytes at the end of a backup_manifest that surely hold its WAL ranges and its checksum.
_TAIL = 1 << 16

_LINE = re.compile(r"^([A-Z][A-Z ]+): (.*)$", re.MULTILINE)
_RANGES = b'"WAL-Ranges"'


@dataclass(frozen=True)
class BackupLabel:
    """LSNs as numbers. ``incremental_from``: the parent's start, for an incremental base."""

    start_lsn: int
    timeline: int
    from_standby: bool
    incremental_from: int | None


@dataclass(frozen=True)
class WalRange:
    """The WAL that a base needs to become consistent: from ``start`` to before ``end``."""

    timeline: int
    start: int
    end: int


def read_label(content: bytes) -> BackupLabel:
    """Raises ``BackupError`` when a line is missing."""
    lines = dict(_LINE.findall(content.decode(errors="replace")))
    try:
        incremental_from = lines.get("INCREMENTAL FROM LSN")
        return BackupLabel(
            start_lsn=parse_lsn(lines["START WAL LOCATION"].partition(" ")[0]),
            timeline=int(lines["START TIMELINE"]),
            from_standby=lines.get("BACKUP FROM") == "standby",
            incremental_from=None if incremental_from is None else parse_lsn(incremental_from),
        )
    except (KeyError, ValueError) as error:
        raise BackupError(
            f"The backup_label of this base backup cannot be read ({error})", remedy="run the backup again"
        ) from None


class ManifestTail:
    """Keeps the end of a backup_manifest whose bytes stream by: it may be large, and all that we need stands at its end."""

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, chunk: bytes) -> None:
        self._tail = (self._tail + chunk)[-_TAIL:] if len(chunk) < _TAIL else chunk[-_TAIL:]

    def wal_range(self) -> WalRange:
        """Raises ``BackupError`` when it cannot be read, or speaks of several timelines."""
        place = self._tail.rfind(_RANGES)
        try:
            if place < 0:
                raise ValueError("it ends too early")
            ranges = [
                WalRange(int(each["Timeline"]), parse_lsn(str(each["Start-LSN"])), parse_lsn(str(each["End-LSN"])))
                for each in read_mapping(b"{" + self._tail[place:], NOTE)["WAL-Ranges"]
            ]
        except (ValueError, LookupError, TypeError, ArithmeticError) as error:
            raise BackupError(
                f"The backup_manifest of this base backup cannot be read ({error})", remedy="run the backup again"
            ) from None
        if len(ranges) != 1:
            raise BackupError("The server changed its timeline during the base backup", remedy="run the backup again")
        return ranges[0]
