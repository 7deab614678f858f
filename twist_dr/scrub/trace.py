"""The trace that repairs leave: whoever looks after the backups shall hear of them, though all is good again."""

from __future__ import annotations

from datetime import timedelta

from twist_dr.catalog import Catalog
from twist_dr.catalog.notes import Repair, Repairs
from twist_dr.settings import Application
from twist_dr.watch.audit import record

_KEPT_FOR = timedelta(days=30)
_KEPT = 200


def repairs(catalog: Catalog, application: str) -> tuple[Repair, ...]:
    """The repairs of the last 30 days, oldest first."""
    return (catalog.note(application, Repairs) or Repairs()).repairs


def note_repair(app: Application, repair: Repair) -> None:
    """Leave the trace of a repair, in the note and in the audit log."""
    kept = [each for each in repairs(app.catalog, app.name) if repair.at - each.at < _KEPT_FOR]
    app.catalog.leave_note(app.name, Repairs(repairs=(*kept, repair)[-_KEPT:]))
    record(
        app, action="repair", subject=f"{repair.backup_id} on {repair.target}", result="repaired",
        details={"what": repair.what, "source": repair.source, "run_id": app.actor.run_id},
    )  # fmt: skip
