"""Saying whether the application is safe."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from twist_dr.operations.operation import Config
from twist_dr.settings import Application
from twist_dr.system.progress import Report

if TYPE_CHECKING:
    from twist_dr.watch.status.model import Status


def status(app: Application, config: Config, report: Report) -> Status:
    """It is told whatever it is. Raises ``CatalogUnavailable``."""
    # Not above: whoever launches something else would wait for it.
    from twist_dr.watch.status.collect import collect
    from twist_dr.watch.status.text import headline

    found = collect(app.settings, app.catalog, datetime.now(timezone.utc))
    (report.info if found.state == "safe" else report.warning)(headline(found))
    return found
