"""Removing what one restore replaced before its time is over."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

from pydantic import Field

from twist_dr.operations.operation import Config
from twist_dr.restore.plan import surroundings
from twist_dr.settings import Application


class DropReplacedConfig(Config):
    """Told nothing, it removes nothing."""

    restore: str = Field("", description="the restore's id (twist-dr list --replaced); required")
    confirm: str = Field("", description="The application's name, typed.")


@dataclass(frozen=True)
class Dropped:
    """What went, in words."""

    restore_id: str
    removed: list[str]


def drop_replaced(app: Application, config: DropReplacedConfig) -> Dropped:
    """That restore cannot be undone any more. Raises ``RestoreRefused`` as :meth:`Replaced.drop` does, ``Busy``, ``DatabaseError``."""
    # Not above: whoever launches something else would wait for it.
    from twist_dr.retention.replaced import Replaced

    with app.exclusively("Removing what a restore replaced"):
        replaced = Replaced(surroundings(app.settings), app, datetime.now(timezone.utc))
        return Dropped(config.restore, replaced.drop(config.restore, confirmed=config.confirm == app.name))
