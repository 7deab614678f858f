"""What lies on a target and is not of our making: it makes nothing disappear, and people are told."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from twist_dr.retention.ground import Survey
from twist_dr.retention.holds import HoldNotes
from twist_dr.retention.model import Hold
from twist_dr.storage.base import Stranger, told_of
from twist_dr.system.words import counted, few


def suspicious(
    name: str, strangers: Sequence[Stranger], ground: Survey, notes: HoldNotes, placed: Collection[Hold]
) -> Iterator[str]:
    """Sentences about one target. ``placed``: the holds that the catalog has. Raises storage errors."""
    if strangers:
        yield f"{name}: {told_of(strangers)}; it is left alone."
    if ground.forged:
        yield (
            f"{name}: {counted(len(ground.forged), 'tombstone')} that we did not write, or that an earlier version wrote, for "
            f"{few(sorted(ground.forged))}: nothing is deleted because of that, and a cleanup removes it."
        )
    if ground.foreign:
        yield f"{name}: {few(ground.foreign)} among the backups is none of ours by its name; it is left alone."
    for note in notes.all():
        if note.doubt and note.hold not in placed:
            yield f"{name}: {note.hold.backup_id}: {note.doubt}"
