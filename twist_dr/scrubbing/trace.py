"""The trace that repairs leave: whoever looks after the backups shall hear of them, though all is good again."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from twist_dr.audit import record
from twist_dr.catalog import Catalog
from twist_dr.settings import Application

#: A note of the catalog: ``{"repairs": [{"backup_id", "target", "at", "what", "source"}, ...]}``, oldest first.
REPAIRS_MARK = "repairs"
_KEPT_FOR = timedelta(days=30)
_KEPT = 200


@dataclass(frozen=True)
class Repair:
    """One repair. ``backup_id``: an id, or the key of an object of write-ahead log; ``what`` was wrong; ``source``: where good bytes came from."""

    backup_id: str
    target: str
    at: datetime
    what: str
    source: str


def repairs(catalog: Catalog, application: str) -> list[Repair]:
    """The repairs of the last 30 days, oldest first."""
    note = catalog.mark(application, REPAIRS_MARK) or {}
    return [Repair(**{**each, "at": datetime.fromisoformat(each["at"])}) for each in note.get("repairs", [])]


def note_repair(app: Application, repair: Repair) -> str | None:
    """Leave the trace of a repair, in the note and in the audit log. Returns a sentence when the latter did not take it."""
    kept = [each for each in repairs(app.catalog, app.name) if repair.at - each.at < _KEPT_FOR]
    documents = [{**asdict(each), "at": each.at.isoformat()} for each in [*kept, repair][-_KEPT:]]
    app.catalog.set_mark(app.name, REPAIRS_MARK, {"repairs": documents})
    return record(
        app, action="repair", subject=f"{repair.backup_id} on {repair.target}", result="mended",
        details={"what": repair.what, "source": repair.source, "run_id": app.actor.run_id},
    )  # fmt: skip
