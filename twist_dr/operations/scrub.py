"""Reading what storage targets hold again, and repairing what went bad."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from twist_dr.backup.from_settings import chosen_names
from twist_dr.operations.operation import Config
from twist_dr.settings import Application
from twist_dr.system.progress import human_bytes, human_seconds
from twist_dr.system.words import counted

if TYPE_CHECKING:
    from twist_dr.scrub.found import ScrubResult


class ScrubConfig(Config):
    """All have defaults: launched as it is, it reads what is due."""

    all: bool = Field(False, description="Read everything now, whenever it was read last.")
    backup: str = Field("", description="Only this backup, by its id; empty: the rotation goes on.")
    targets: str = Field("all", description="all enabled storage targets, or some of them by name, separated by commas")


def scrub(app: Application, config: ScrubConfig) -> ScrubResult:
    """Read what is due. Raises errors of the catalog, and when something is bad that was not repaired."""
    # Not above: whoever launches something else would wait for it.
    from twist_dr.scrub.found import ScrubOrder, raise_bad
    from twist_dr.scrub.scrub import Scrub

    order = ScrubOrder(
        chosen_names(app.settings.enabled_targets, config.targets), config.backup.strip() or None, config.all
    )
    result = Scrub(app, app.repositories(app.settings.restore.stall_seconds)).run(order)
    app.report.info(
        f"{counted(result.copies, 'copy')} and {counted(result.wal_objects, 'object')} of archived WAL read, {human_bytes(result.bytes)} in "
        f"{human_seconds(result.seconds)}; {result.bad} bad, {result.count('repaired')} of them repaired"
    )
    raise_bad(result)
    return result
