"""The job that ships write-ahead log."""

from __future__ import annotations

import dagster as dg

from twist_dr.operations.table import SHIP_WAL
from twist_dr.orchestrator.around import owner, run_tags
from twist_dr.settings import Settings


def ship_wal_job(settings: Settings, wal_archive: dg.AssetsDefinition) -> dg.UnresolvedAssetJobDefinition:
    """The job ``ship_wal``."""
    return dg.define_asset_job(
        SHIP_WAL.name,
        selection=dg.AssetSelection.assets(wal_archive),
        description=SHIP_WAL.does,
        tags=run_tags(settings),
        owners=[owner(SHIP_WAL)],
    )
