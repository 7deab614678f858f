"""The base backup: the files of the whole cluster, made once and sealed."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of steps themselves.

from collections.abc import Iterator
from typing import Literal

import dagster as dg
from pydantic import Field

from twist_dr.assets.backup_page import metadata, nothing_left_out
from twist_dr.assets.copies import repositories_of, target_resource
from twist_dr.assets.freshness import fresh_within, window_of
from twist_dr.backups import choose_parent, chosen_targets, plan_base_backup, record_sealed
from twist_dr.catalog import Catalog
from twist_dr.engine.base.chain import fetched_parent
from twist_dr.engine.base.take import take_base_backup
from twist_dr.engine.keys import Keyring
from twist_dr.engine.manifest import Label, Manifest
from twist_dr.engine.postgres.cluster import Cluster
from twist_dr.engine.progress import Report
from twist_dr.engine.repository import Repository
from twist_dr.engine.staging import StagingArea
from twist_dr.metadata import in_words
from twist_dr.orchestration import RUN_BACKUP, exclusively, note_key_use, operation
from twist_dr.settings import Settings


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
    cluster = Cluster(settings.replication_url)

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
                freshness_policy=fresh_within(window_of(settings, "base")),
            )
        ],
        check_specs=[
            dg.AssetCheckSpec(
                "nothing_left_out",
                asset=key,
                description="It is of the type that was asked for, its rows are recorded, and the server's configuration is in it.",
            )
        ],
        required_resource_keys={"keyring", "catalog", *map(target_resource, settings.enabled_targets)},
    )
    def base_backup(
        context: dg.AssetExecutionContext, config: BaseBackupConfig
    ) -> Iterator[dg.MaterializeResult[None]]:
        with operation(context, settings, retry=True) as report:
            catalog: Catalog = context.resources.catalog
            keyring: Keyring = context.resources.keyring.load()
            places = list(repositories_of(context, settings).values())
            with exclusively(context, settings, "A base backup", report):
                manifest = _take(settings, cluster, catalog, keyring, places, config, context.run.run_id, report)
            note_key_use(context, settings, "encrypt", manifest.backup_id, report)
        yield dg.MaterializeResult(
            asset_key=key,
            metadata=_metadata(manifest),
            check_results=[nothing_left_out(manifest)],
        )

    return base_backup


def _take(
    settings: Settings,
    cluster: Cluster,
    catalog: Catalog,
    keyring: Keyring,
    places: list[Repository],
    config: BaseBackupConfig,
    run_id: str,
    report: Report,
) -> Manifest:
    staging = StagingArea(settings.staging_dir)
    targets = chosen_targets(settings, config.targets)
    max_chain = config.max_chain or settings.base.max_chain
    choice = choose_parent(catalog, settings.application, wanted=config.type, max_chain=max_chain, targets=targets)
    with fetched_parent(choice.backup_id, places, keyring, staging.root / "parent", report) as parent:
        plan = plan_base_backup(
            settings, catalog, choice, parent, label=config.label, reason=config.reason, wanted=config.type, targets=targets
        )  # fmt: skip
        manifest = take_base_backup(plan, cluster, keyring, staging, report)
    record_sealed(catalog, staging, manifest, run_id=run_id)
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
