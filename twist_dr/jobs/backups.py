"""Jobs that make and prove backups."""

from __future__ import annotations

import dagster as dg

from twist_dr.orchestration import RUN_BACKUP, run_tags
from twist_dr.settings import Settings


def backup_jobs(
    settings: Settings, full_backup: dg.AssetsDefinition, copies: dg.AssetsDefinition, verification: dg.AssetsDefinition
) -> list[dg.UnresolvedAssetJobDefinition]:
    """``backup_full`` (the backup and its copies) and ``verify_backup``."""
    return [
        dg.define_asset_job(
            "backup_full",
            selection=dg.AssetSelection.assets(full_backup, copies),
            description=f"Back up database, media and configuration of {settings.application} and copy them to every storage target.",
            tags=run_tags(settings),
            owners=[RUN_BACKUP],
        ),
        dg.define_asset_job(
            "verify_backup",
            selection=dg.AssetSelection.assets(verification),
            description="Restore a backup for real into a scratch server and compare it with what was recorded.",
            tags=run_tags(settings),
            owners=[RUN_BACKUP],
        ),
    ]


def backup_base_job(
    settings: Settings, base_backup: dg.AssetsDefinition, base_copies: dg.AssetsDefinition
) -> dg.UnresolvedAssetJobDefinition:
    """``backup_base``: the base backup and its copies."""
    return dg.define_asset_job(
        "backup_base",
        selection=dg.AssetSelection.assets(base_backup, base_copies),
        description=f"Copy the files of the PostgreSQL cluster of {settings.application}, all or what changed, to every storage target.",
        tags=run_tags(settings),
        owners=[RUN_BACKUP],
    )


def backup_configuration_job(
    settings: Settings, configuration_backup: dg.AssetsDefinition, configuration_copies: dg.AssetsDefinition
) -> dg.UnresolvedAssetJobDefinition:
    """``backup_configuration``: the configuration backup and its copies."""
    return dg.define_asset_job(
        "backup_configuration",
        selection=dg.AssetSelection.assets(configuration_backup, configuration_copies),
        description=f"Copy the configuration of {settings.application}, twist-dr's catalog and Dagster's history, always encrypted, to every storage target.",
        tags=run_tags(settings),
        owners=[RUN_BACKUP],
    )
