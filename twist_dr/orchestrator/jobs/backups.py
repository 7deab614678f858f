"""Jobs that make and prove backups."""

from __future__ import annotations

import dagster as dg

from twist_dr.operations.table import OPERATIONS, VERIFY_BACKUP
from twist_dr.orchestrator.around import owner, run_tags
from twist_dr.repository.kinds import KINDS
from twist_dr.repository.manifest import Kind
from twist_dr.settings import Settings


def backup_job(
    settings: Settings, kind: Kind, backup: dg.AssetsDefinition, copies: dg.AssetsDefinition
) -> dg.UnresolvedAssetJobDefinition:
    """``backup_full``, ``backup_base`` or ``backup_configuration``: the backup and its copies."""
    launched = OPERATIONS[KINDS[kind].job]
    return dg.define_asset_job(
        launched.name,
        selection=dg.AssetSelection.assets(backup, copies),
        description=launched.does,
        tags=run_tags(settings),
        owners=[owner(launched)],
    )


def verify_backup_job(settings: Settings, verification: dg.AssetsDefinition) -> dg.UnresolvedAssetJobDefinition:
    """``verify_backup``."""
    return dg.define_asset_job(
        VERIFY_BACKUP.name,
        selection=dg.AssetSelection.assets(verification),
        description=VERIFY_BACKUP.does,
        tags=run_tags(settings),
        owners=[owner(VERIFY_BACKUP)],
    )
