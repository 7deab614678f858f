"""The orchestrator's history, as far as it can be copied."""

from __future__ import annotations

from dataclasses import dataclass, field

from twist_dr.backup.configuration import HistoryFiles
from twist_dr.backup.snapshots import PostgresTables


@dataclass
class History:
    """Where the history is. ``missing``: why some of it, or all, cannot be copied. ``told``: each place, for people; no password."""

    places: list[HistoryFiles | PostgresTables] = field(default_factory=list)
    missing: str | None = None
    told: dict[str, str] = field(default_factory=dict)
