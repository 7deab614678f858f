"""Making backups of each kind: taken once and sealed, then copied to the storage targets."""

from __future__ import annotations

from pydantic import Field

from twist_dr.backup.copies import copy_backup
from twist_dr.backup.from_settings import chosen_targets, plan_backup, record_sealed
from twist_dr.backup.take import ALL_PARTS, take_full_backup
from twist_dr.errors import LaunchRefused
from twist_dr.operations.operation import Config
from twist_dr.repository.manifest import Label, Manifest, Part
from twist_dr.settings import Application
from twist_dr.watch.audit import note_key_use


class FullBackupConfig(Config):
    """All have defaults: launched as it is, everything is backed up to every enabled storage target."""

    label: Label = Field("manual", description="What the backup is for.")
    reason: str = Field("", description="Why it is made, for those who find it later.")
    parts: str = Field("all", description="all, or some of: database, media, configuration")
    targets: str = Field("all", description="all enabled storage targets, or some of them by name, separated by commas")


def backup_full(app: Application, config: FullBackupConfig) -> Manifest:
    """Raises ``CopyFailed`` unless all targets have it, and whatever keeps it from being taken."""
    return copied(app, take_full(app, config))


def copied(app: Application, manifest: Manifest) -> Manifest:
    """The backup that was just sealed, on all the targets that it was made for. Raises ``CopyFailed``."""
    for _ in copy_backup(app, manifest.backup_id, app.targets, own=True):
        pass
    return manifest


def take_full(app: Application, config: FullBackupConfig) -> Manifest:
    """A full backup, sealed in staging."""
    targets = chosen_targets(app.settings, config.targets)
    parts = _chosen_parts(config.parts)
    plan = plan_backup(app, label=config.label, reason=config.reason, parts=parts, targets=targets)
    with app.exclusively("A backup"):
        manifest = take_full_backup(plan, app.cluster, app.keyring, app.staging, app.report)
    record_sealed(app, manifest, app.actor.run_id)
    note_key_use(app, "encrypt", manifest.backup_id)
    return manifest


def _chosen_parts(wanted: str) -> list[Part]:
    names = list(ALL_PARTS) if wanted.strip() == "all" else _names(wanted)
    if not names or any(name not in ALL_PARTS for name in names):
        raise LaunchRefused(
            f"{wanted!r} names no parts", remedy=f"write 'all', or some of {', '.join(ALL_PARTS)} in parts"
        )
    return [part for part in ALL_PARTS if part in names]


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
