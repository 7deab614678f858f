"""Finishing or reverting restores that were cut short."""

from __future__ import annotations

from twist_dr.errors import TwistDRError
from twist_dr.operations.operation import Config
from twist_dr.restore.from_settings import end_killed
from twist_dr.restore.plan import surroundings
from twist_dr.restore.settle import settle_interrupted
from twist_dr.settings import Application
from twist_dr.watch import audit


def settle(app: Application, config: Config) -> list[str]:
    """Returns a sentence for each. Raises ``RestoreInterrupted`` when one cannot be now, ``RestoreUndone``, ``Busy``."""
    with app.locks.hold("Settling a restore"):
        try:
            told = settle_interrupted(surroundings(app.settings), app.report)
        except TwistDRError as error:
            subject = "restores that were cut short"
            audit.record(app, action="settle", subject=subject, result=f"failed: {type(error).__name__}")
            raise
        if told:
            audit.record(app, action="settle", subject="; ".join(told), result="done")
        end_killed(app)
    return told
