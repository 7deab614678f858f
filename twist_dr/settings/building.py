"""Storage targets from their settings."""

from __future__ import annotations

from twist_dr.settings import Settings
from twist_dr.storage.base import StorageTarget


def build_targets(settings: Settings) -> dict[str, StorageTarget]:
    """All enabled targets by name, in the order of the settings: reading tries them in that order. No I/O."""
    return keep_apart({name: target.build(name, settings.machine) for name, target in settings.enabled_targets.items()})


def keep_apart(targets: dict[str, StorageTarget]) -> dict[str, StorageTarget]:
    """The same targets, of which those that are folders know each other: before one writes or deletes, it makes sure that no other is the same."""
    from twist_dr.storage.local import LocalTarget

    folders = [target for target in targets.values() if isinstance(target, LocalTarget)]
    for folder in folders:
        folder.others = folders
    return targets
