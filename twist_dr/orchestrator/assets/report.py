"""The report: whether you are safe, with plots, to read on the asset's page; and as a file."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of assets themselves.

from typing import TYPE_CHECKING

import dagster as dg

from twist_dr.operations import Config
from twist_dr.operations.table import STATUS
from twist_dr.orchestrator.around import APPLICATION, RUN_BACKUP, operation
from twist_dr.orchestrator.metadata import in_markdown, in_words
from twist_dr.settings import Settings

if TYPE_CHECKING:
    from twist_dr.watch.status.model import Status


def report_asset(settings: Settings, verification: dg.AssetKey) -> dg.AssetsDefinition:
    """The asset ``<application>/report``: what it tells first is what is proven."""

    @dg.asset(
        key=[settings.application, "report"],
        deps=[verification],
        group_name="status",
        description="Whether the application is safe: recovery point, storage targets, alerts, and plots of 90 days. Open it below, or the file that it names.",
        owners=[RUN_BACKUP],
        required_resource_keys={APPLICATION},
    )
    def report(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        # Not above: drawing takes half a second to import, which every other run would pay.
        from twist_dr.watch.status.plots import plots
        from twist_dr.watch.status.report import html, markdown, write_report

        with operation(context, STATUS) as app:
            status = STATUS(app, Config())
            drawn = plots(app, status)
            path = write_report(app.settings, html(status, drawn))
            return dg.MaterializeResult(
                metadata={
                    "report": in_markdown(markdown(status, drawn)),
                    "file": dg.MetadataValue.path(path),
                    **numbers(status),
                }
            )

    return report


def numbers(status: "Status") -> dict[str, dg.MetadataValue]:
    """What people want to see over time: bare numbers, so that the page plots them."""
    point, rate = status.recovery_point, status.success_rate
    return {
        "state": in_words(status.state),
        "health_score": dg.MetadataValue.int(status.score),
        "alerts": dg.MetadataValue.int(len(status.alerts)),
        **({"recovery_point_age_seconds": dg.MetadataValue.float(point.age)} if point else {}),
        **({"success_rate": dg.MetadataValue.float(rate)} if rate is not None else {}),
    }
