"""Saying whether the application is safe."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from twist_dr.operations.operation import Config
from twist_dr.settings import Application

if TYPE_CHECKING:
    from twist_dr.watch.status.model import Status


def status(app: Application, config: Config) -> Status:
    """It is told whatever it is. Raises ``CatalogUnavailable``."""
    # Not above: whoever launches something else would wait for it.
    from twist_dr.watch.status.collect import collect
    from twist_dr.watch.status.text import headline

    found = collect(app, datetime.now(timezone.utc))
    (app.report.info if found.state == "safe" else app.report.warning)(headline(found))
    return found
