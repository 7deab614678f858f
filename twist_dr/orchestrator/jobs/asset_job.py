"""The job of an operation whose work is to make assets."""

from __future__ import annotations

from typing import Any

import dagster as dg

from twist_dr.operations import Operation
from twist_dr.orchestrator.around import owner, run_tags
from twist_dr.settings import Settings


def asset_job(
    settings: Settings, launched: Operation[Any, Any], *assets: dg.AssetsDefinition
) -> dg.UnresolvedAssetJobDefinition:
    """The job has the operation's name, and the permission is its owner. That of ``status`` succeeds whatever it says: what fails is what cannot be told."""
    return dg.define_asset_job(
        launched.name,
        selection=dg.AssetSelection.assets(*assets),
        description=launched.does,
        tags=run_tags(settings),
        owners=[owner(launched)],
    )
