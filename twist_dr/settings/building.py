"""Storage targets from their settings."""

from __future__ import annotations

import hashlib

from twist_dr.settings import Settings
from twist_dr.storage.base import StorageTarget
from twist_dr.storage.limits import Bandwidth


def build_targets(settings: Settings) -> dict[str, StorageTarget]:
    """All enabled targets by name, in the order of the settings: reading tries them in that order. No I/O."""
    targets = {name: options.build(name, settings.machine) for name, options in settings.enabled_targets.items()}
    for name, target in targets.items():
        target.bandwidth = _bandwidth(settings, name, target.location)
    return keep_apart(targets)


def _bandwidth(settings: Settings, name: str, location: str) -> Bandwidth:
    """By its place, not its name alone: applications that share a work folder and a bucket share the line to it."""
    options = settings.storage_targets[name]
    place = hashlib.sha256(location.encode()).hexdigest()[:16]
    return Bandwidth(
        options.max_mib_per_second,
        settings.schedules.time_zone if settings.schedules else "UTC",
        shared=settings.machine.folder / f"{place}.bandwidth",
        limit_reading=options.limit_reading,
    )


def keep_apart(targets: dict[str, StorageTarget]) -> dict[str, StorageTarget]:
    """The same targets, of which those that are folders know each other: before one writes or deletes, it makes sure that no other is the same."""
    from twist_dr.storage.local import LocalTarget

    folders = [target for target in targets.values() if isinstance(target, LocalTarget)]
    for folder in folders:
        folder.others = folders
    return targets
