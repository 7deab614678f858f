"""What to say of a storage target that held something and lists nothing now: an absent disk must not be taken for an empty one."""

from __future__ import annotations

from twist_dr.errors import TargetUnavailable
from twist_dr.storage.base import StorageTarget, first_strangers, told_of


def emptied(target: StorageTarget, application: str, *, held: str, on_purpose: str) -> TargetUnavailable:
    """The error to raise. ``held``: ``backups``; ``on_purpose``: what to do if so, half a sentence. Raises storage errors."""
    strangers = first_strangers(target, application)
    led_away = f". {told_of(strangers)}, and nothing below a target's folder may lead out of it" if strangers else ""
    return TargetUnavailable(
        f"it held {held} before and holds none now{led_away}",
        remedy=f"mount its disk, or find out who emptied it. If it was on purpose, {on_purpose}.",
        target=target.name,
    )
