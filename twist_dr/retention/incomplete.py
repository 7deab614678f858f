"""Incomplete backups: what copies left that were cut short and that nobody will finish. Found here; deleted by ``deletion.py``.

They bear no MAC, so whoever can write to a target can make some. Hence only what is ours by its name, and in a folder that is ours by its
name, goes; only when it is old by both clocks; and never what the catalog knows as whole, or what somebody uses.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from twist_dr.retention.ground import BackupFolder, Survey
from twist_dr.retention.policy import span

#: No upload of ours takes so long; what is older was left by a killed process. As in ``backup/storing.py``.
UNFINISHED_AFTER = timedelta(days=2)


@dataclass(frozen=True)
class IncompleteBackup:
    """A folder that is no backup. ``reason``: half a sentence, why it stays or goes."""

    folder: BackupFolder
    keep: bool
    reason: str


def find_incomplete(
    ground: Survey, going: Collection[str], spared: Mapping[str, str], after: timedelta, now: datetime
) -> list[IncompleteBackup]:
    """What becomes of each folder without a manifest, oldest first.

    ``spared``: ids with why they stay. Others go when both their id and their newest object are older than ``after``: one of two clocks
    may be wrong. Those that are ``going`` are not incomplete: their deletion was begun.
    """
    found = []
    for backup_id in sorted(set(ground.folders) - set(going)):
        folder = ground.folders[backup_id]
        if folder.sealed:
            continue
        age = min(now - folder.newest, now - id_time(backup_id))
        if backup_id in spared:
            found.append(IncompleteBackup(folder, True, spared[backup_id]))
        elif age < after:
            found.append(IncompleteBackup(folder, True, f"no manifest yet, and younger than {span(after)}"))
        else:
            found.append(IncompleteBackup(folder, False, f"no manifest, and nothing was added for {span(after)}"))
    return found


def id_time(backup_id: str) -> datetime:
    """The moment that an id tells."""
    try:
        return datetime.strptime(backup_id[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
    except ValueError:  # the digits of no moment: as new as can be, so that nothing follows from it
        return datetime.max.replace(tzinfo=timezone.utc)
