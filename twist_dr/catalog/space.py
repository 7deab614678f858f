"""How much space storage targets have, remembered so that it is seen when one fills up."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone

from twist_dr.catalog import Catalog, CatalogUnavailable, SpaceRow
from twist_dr.errors import StorageError
from twist_dr.storage.base import StorageTarget
from twist_dr.storage.patience import patient
from twist_dr.system.progress import Report

#: No target needs so long to say how much space it has.
_PATIENCE_SECONDS = 10.0


def record_space(catalog: Catalog, targets: Iterable[StorageTarget], report: Report) -> None:
    """Ask each target, and record what it says. One that does not answer stops nothing. How much is ours there, a cleanup counts."""
    try:
        for target in targets:
            free = total = None
            try:
                space = patient(target, _PATIENCE_SECONDS).space()
                free, total = space.free, space.total
            except StorageError as error:
                report.warning(f"{target.name} does not say how much space it has: {error}")
            catalog.record_space(SpaceRow(target.name, datetime.now(timezone.utc), None, free, total))
    except CatalogUnavailable as unavailable:
        report.warning(str(unavailable))
