"""The full backup: database, media and configuration, made once and sealed."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of steps themselves.

from collections.abc import Iterator

import dagster as dg

from twist_dr.operations.backup import FullBackupConfig, take_full
from twist_dr.operations.table import BACKUP_FULL
from twist_dr.orchestrator.around import APPLICATION, RUN_BACKUP, operation
from twist_dr.orchestrator.assets.backup_page import metadata, nothing_left_out
from twist_dr.orchestrator.assets.freshness import fresh_within
from twist_dr.orchestrator.metadata import in_words
from twist_dr.orchestrator.taking import taking
from twist_dr.repository.manifest import Manifest
from twist_dr.settings import Settings


def full_backup_asset(settings: Settings, sources: list[dg.AssetSpec]) -> dg.AssetsDefinition:
    """The asset ``<application>/full_backup``."""
    key = dg.AssetKey([settings.application, "full_backup"])

    @dg.multi_asset(
        name="full_backup",
        specs=[
            dg.AssetSpec(
                key,
                deps=[source.key for source in sources],
                description="Database, media and configuration as one unit: compressed, encrypted, hashed, and sealed by a manifest.",
                group_name="backups",
                kinds={"postgres", "zstd"},
                owners=[RUN_BACKUP],
                freshness_policy=fresh_within(settings.objectives.recovery_point),
            )
        ],
        check_specs=[
            dg.AssetCheckSpec(
                "nothing_left_out",
                asset=key,
                description="No file vanished or changed while it was read, and every pattern found one.",
            )
        ],
        required_resource_keys={APPLICATION},
    )
    @taking(BACKUP_FULL)
    def full_backup(
        context: dg.AssetExecutionContext, config: FullBackupConfig
    ) -> Iterator[dg.MaterializeResult[None]]:
        with operation(context, BACKUP_FULL, retry=True) as app:
            manifest = take_full(app, config)
        yield dg.MaterializeResult(
            asset_key=key,
            metadata=_metadata(manifest),
            check_results=[nothing_left_out(manifest)],
        )

    return full_backup


def _metadata(manifest: Manifest) -> dict[str, dg.MetadataValue]:
    return {
        **metadata(manifest),
        "files": dg.MetadataValue.int(sum(manifest.files.values())),
        "dump_seconds": dg.MetadataValue.float(manifest.durations.get("database", 0.0)),
        "db_schema_version": in_words(manifest.db_schema_version or "unknown"),
    }
