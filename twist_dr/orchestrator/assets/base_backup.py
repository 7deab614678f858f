"""The base backup: the files of the whole cluster, made once and sealed."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of steps themselves.

from collections.abc import Iterator

import dagster as dg

from twist_dr.operations.backup_base import BaseBackupConfig, take_base
from twist_dr.operations.table import BACKUP_BASE
from twist_dr.orchestrator.around import APPLICATION, RUN_BACKUP, operation
from twist_dr.orchestrator.assets.backup_page import metadata, nothing_left_out
from twist_dr.orchestrator.assets.freshness import fresh_within, window_of
from twist_dr.orchestrator.metadata import in_words
from twist_dr.orchestrator.taking import taking
from twist_dr.repository.kinds import BASE
from twist_dr.repository.manifest import Manifest
from twist_dr.settings import Settings


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
    @taking(BACKUP_BASE)
    def base_backup(
        context: dg.AssetExecutionContext, config: BaseBackupConfig
    ) -> Iterator[dg.MaterializeResult[None]]:
        with operation(context, BACKUP_BASE, retry=True) as app:
            manifest = take_base(app, config)
        yield dg.MaterializeResult(
            asset_key=key,
            metadata=_metadata(manifest),
            check_results=[nothing_left_out(manifest)],
        )

    return base_backup


def _metadata(manifest: Manifest) -> dict[str, dg.MetadataValue]:
    base = manifest.base
    assert base is not None
    return {
        **metadata(manifest),
        "type": in_words(base.sort),
        "chain_length": dg.MetadataValue.int(len(base.chain)),
        "start_lsn": in_words(base.start_lsn),
        "stop_lsn": in_words(base.stop_lsn),
        "timeline": dg.MetadataValue.int(base.timeline),
        "restore_point": in_words(base.restore_point or "none"),
        "copy_seconds": dg.MetadataValue.float(manifest.durations["cluster"]),
    }
