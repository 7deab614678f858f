"""What the labels of backups mean where something is chosen by itself: which is the newest, and which ones a retention counts."""

from __future__ import annotations

from datetime import timedelta
from typing import cast, get_args

from twist_dr.errors import BackupNotFound
from twist_dr.repository.manifest import Label

#: Backups with these labels hold what somebody was about to change or replace, not what a night left.
BEFORE_A_CHANGE: frozenset[Label] = frozenset({"pre-update", "pre-restore"})
#: What a restore was about to replace, mostly because it was damaged: a person may name such a backup, nothing takes one by itself.
SET_ASIDE: Label = "pre-restore"
#: Labels of what a schedule makes, and so of what days, weeks, months and years count.
OF_NIGHTS: frozenset[Label] = frozenset({"scheduled", "weekly", "monthly"})
#: How long what no schedule made stays on a target unless its retention says otherwise: as long as what a restore replaced (``restore.keep_replaced_for``).
GRACE = timedelta(days=7)


def split_label(wanted: str) -> tuple[str, Label | None]:
    """``latest:pre-restore`` as a word and a label; the label is None where none is named. Raises ``BackupNotFound``."""
    word, colon, label = wanted.partition(":")
    if colon and label not in get_args(Label):
        raise BackupNotFound(
            f"{wanted!r} names no label", remedy=f"write one of {', '.join(get_args(Label))} after the colon"
        )
    return word, cast("Label", label) if colon else None


def is_meant(label: Label, asked: Label | None) -> bool:
    """Whether the newest of some backups may be one with ``label``: one that was asked for, else any but what a restore was about to replace."""
    return label != SET_ASIDE if asked is None else label == asked
