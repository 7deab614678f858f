"""Making base backups: the files of the whole cluster, all or what changed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from twist_dr.backup.base.chain import fetched_parent
from twist_dr.backup.base.take import take_base_backup
from twist_dr.backup.from_settings import choose_parent, chosen_targets, plan_base_backup, record_sealed
from twist_dr.operations.backup import copied
from twist_dr.operations.operation import Config
from twist_dr.postgres.cluster import Cluster
from twist_dr.repository.manifest import Label, Manifest
from twist_dr.settings import Application
from twist_dr.watch.audit import note_key_use


class BaseBackupConfig(Config):
    """All have defaults: launched as it is, what changed since the last one is copied where that can be, else everything."""

    type: Literal["auto", "full", "differential", "incremental"] = Field(
        "auto",
        description="auto and incremental: what changed since the last base backup, where the server and all targets allow it; "
        "differential: since the last full one, so that it builds upon that alone; both warn when they do not. full: all files.",
    )
    max_chain: int = Field(
        0, ge=0, description="So many backups may build on each other, the full one included; 0 is as in the settings."
    )
    label: Label = Field("manual", description="What the backup is for.")
    reason: str = Field("", description="Why it is made, for those who find it later.")
    targets: str = Field("all", description="all enabled storage targets, or some of them by name, separated by commas")


def backup_base(app: Application, config: BaseBackupConfig) -> Manifest:
    """Raises ``CopyFailed`` unless all targets have it with its WAL, and whatever keeps it from being taken."""
    return copied(app, take_base(app, config))


def take_base(app: Application, config: BaseBackupConfig) -> Manifest:
    """A base backup, sealed in staging."""
    with app.exclusively("A base backup"):
        manifest = _take(app, config)
    note_key_use(app, "encrypt", manifest.backup_id)
    return manifest


def _take(app: Application, config: BaseBackupConfig) -> Manifest:
    targets = chosen_targets(app.settings, config.targets)
    max_chain = config.max_chain or app.settings.base.max_chain
    choice = choose_parent(app, wanted=config.type, max_chain=max_chain, targets=targets)
    places = list(app.repositories().values())
    with fetched_parent(choice.backup_id, places, app.keyring, app.staging.root / "parent", app.report) as parent:
        plan = plan_base_backup(
            app, choice, parent, label=config.label, reason=config.reason, wanted=config.type, targets=targets
        )
        manifest = take_base_backup(plan, Cluster(app.settings.replication_url), app.keyring, app.staging, app.report)
    record_sealed(app, manifest, app.actor.run_id)
    return manifest
