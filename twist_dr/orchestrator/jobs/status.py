"""The job that says whether you are safe, and draws the report."""

from __future__ import annotations

import dagster as dg

from twist_dr.operations.table import STATUS
from twist_dr.orchestrator.around import owner, run_tags
from twist_dr.settings import Settings


def status_job(settings: Settings, report: dg.AssetsDefinition) -> dg.UnresolvedAssetJobDefinition:
    """The job ``status``. It succeeds whatever the status is: what fails is what cannot be told."""
    return dg.define_asset_job(
        STATUS.name,
        selection=dg.AssetSelection.assets(report),
        description=STATUS.does,
        tags=run_tags(settings),
        owners=[owner(STATUS)],
    )
