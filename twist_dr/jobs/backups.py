"""Jobs that make and prove backups."""

from __future__ import annotations

import dagster as dg

from twist_dr.orchestration import RUN_BACKUP, RUN_TAGS
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
            tags=RUN_TAGS,
            owners=[RUN_BACKUP],
        ),
        dg.define_asset_job(
            "verify_backup",
            selection=dg.AssetSelection.assets(verification),
            description="Restore a backup for real into a scratch server and compare it with what was recorded.",
            tags=RUN_TAGS,
            owners=[RUN_BACKUP],
        ),
    ]
