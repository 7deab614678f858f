"""The base backup: the files of the whole cluster, made once and sealed."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of steps themselves.

from collections.abc import Iterator
from typing import Literal

import dagster as dg
from pydantic import Field

from twist_dr.assets.backup_page import metadata, nothing_left_out
from twist_dr.assets.freshness import fresh_within, window_of
from twist_dr.audit import note_key_use
from twist_dr.backups import choose_parent, chosen_targets, plan_base_backup, record_sealed
from twist_dr.engine.base.chain import fetched_parent
from twist_dr.engine.base.take import take_base_backup
from twist_dr.engine.kinds import BASE
from twist_dr.engine.manifest import Label, Manifest
from twist_dr.engine.postgres.cluster import Cluster
from twist_dr.engine.progress import Report
from twist_dr.metadata import in_words
from twist_dr.orchestration import APPLICATION, RUN_BACKUP, operation
from twist_dr.settings import Application, Settings


class BaseBackupConfig(dg.Config):
    """All have defaults: launched as it is, what changed since the last one is copied where that can be, else everything."""

    type: Literal["auto", "full", "incremental"] = Field(
        "auto",
        description="auto and incremental: what changed since the last base backup, where the server and all targets allow it; "
        "incremental warns when they do not. full: all files.",
    )
    max_chain: int = Field(
        0, ge=0, description="So many backups may build on each other, the full one included; 0 is as in the settings."
    )
    label: Label = Field("manual", description="What the backup is for.")
    reason: str = Field("", description="Why it is made, for those who find it later.")
    targets: str = Field("all", description="all enabled storage targets, or some of them by name, separated by commas")


def base_backup_asset(settings: Settings, database: dg.AssetKey) -> dg.AssetsDefinition:
    """The asset ``<application>/base_backup``, made of the external asset ``database``."""
    key = dg.AssetKey([settings.application, "base_backup"])

    @dg.multi_asset(
        name="base_backup",
        specs=[
            dg.AssetSpec(
                key,
                deps=[database],
                description="All files of the cluster, or what changed in them; with the WAL after it, any second comes back.",
                group_name="backups",
                kinds={"postgres", "zstd"},
                owners=[RUN_BACKUP],
                freshness_policy=fresh_within(window_of(settings, BASE)),
            )
        ],
        check_specs=[
            dg.AssetCheckSpec(
                "nothing_left_out",
                asset=key,
                description="It is of the type that was asked for, its rows are recorded, and the server's configuration is in it.",
            )
        ],
        required_resource_keys={APPLICATION},
    )
    def base_backup(
        context: dg.AssetExecutionContext, config: BaseBackupConfig
    ) -> Iterator[dg.MaterializeResult[None]]:
        with operation(context, retry=True) as (app, report):
            with app.exclusively("A base backup", report):
                manifest = _take(app, config, report)
            note_key_use(app, "encrypt", manifest.backup_id, report)
        yield dg.MaterializeResult(
            asset_key=key,
            metadata=_metadata(manifest),
            check_results=[nothing_left_out(manifest)],
        )

    return base_backup


def _take(app: Application, config: BaseBackupConfig, report: Report) -> Manifest:
    targets = chosen_targets(app.settings, config.targets)
    max_chain = config.max_chain or app.settings.base.max_chain
    choice = choose_parent(app, wanted=config.type, max_chain=max_chain, targets=targets)
    places = list(app.repositories().values())
    with fetched_parent(choice.backup_id, places, app.keyring, app.staging.root / "parent", report) as parent:
        plan = plan_base_backup(
            app, choice, parent, label=config.label, reason=config.reason, wanted=config.type, targets=targets
        )
        manifest = take_base_backup(plan, Cluster(app.settings.replication_url), app.keyring, app.staging, report)
    record_sealed(app, manifest)
    return manifest


def _metadata(manifest: Manifest) -> dict[str, dg.MetadataValue]:
    base = manifest.base
    assert base is not None
    return {
        **metadata(manifest),
        "type": in_words("incremental" if base.incremental else "full"),
        "chain_length": dg.MetadataValue.int(len(base.chain)),
        "start_lsn": in_words(base.start_lsn),
        "stop_lsn": in_words(base.stop_lsn),
        "timeline": dg.MetadataValue.int(base.timeline),
        "restore_point": in_words(base.restore_point or "none"),
        "copy_seconds": dg.MetadataValue.float(manifest.durations["cluster"]),
    }
