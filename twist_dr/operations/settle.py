"""Finishing or reverting restores that were cut short."""

from __future__ import annotations

from twist_dr.errors import TwistDRError
from twist_dr.operations.operation import Config
from twist_dr.restore.building import surroundings
from twist_dr.restore.from_settings import end_killed
from twist_dr.restore.settle import settle_interrupted
from twist_dr.settings import Application
from twist_dr.system.progress import Report
from twist_dr.watch import audit


def settle(app: Application, config: Config, report: Report) -> list[str]:
    """Returns a sentence for each. Raises ``RestoreInterrupted`` when one cannot be now, ``RestoreUndone``, ``Busy``."""
    with app.lock("Settling a restore"):
        try:
            told = settle_interrupted(surroundings(app.settings), report)
        except TwistDRError as error:
            _note(app, "restores that were cut short", f"failed: {type(error).__name__}", report)
            raise
        if told:
            _note(app, "; ".join(told), "done", report)
        end_killed(app, report)
    return told


def _note(app: Application, subject: str, result: str, report: Report) -> None:
    if trouble := audit.record(app, action="settle", subject=subject, result=result):
        report.warning(trouble)
