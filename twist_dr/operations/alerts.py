"""Saying of an alert that somebody sees to it, or that it is over; and trying whether alerts arrive."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from pydantic import Field

from twist_dr.catalog import AlertRow, CatalogUnavailable
from twist_dr.errors import TwistDRError
from twist_dr.operations.operation import Config
from twist_dr.settings import Application
from twist_dr.watch import audit

if TYPE_CHECKING:
    from twist_dr.watch.alerts.channels import Delivery

#: A round of telling that is going on ends within this.
_PATIENCE_SECONDS = 120.0


class AlertNotFound(TwistDRError):
    """No such alert."""


class AcknowledgeConfig(Config):
    """Which alerts, and a word for those who read it later."""

    alert: str = Field("all", description="its number, or all")
    note: str = Field("", description="for those who read it later")


class ResolveConfig(Config):
    """Which alert."""

    alert: str = Field("", description="its number; required")


def acknowledge_alert(app: Application, config: AcknowledgeConfig) -> list[AlertRow]:
    """It is not told again. Returns those that nobody had acknowledged. Raises ``AlertNotFound``, ``CatalogUnavailable``."""
    # Not above: whoever launches something else would wait for it.
    from twist_dr.watch.alerts.telling import telling

    now = datetime.now(timezone.utc)
    by = f"{app.actor.name} ({config.note})" if config.note else app.actor.name
    # Whoever tells writes the same rows.
    with telling(app, patience=_PATIENCE_SECONDS):
        rows = app.catalog.open_alerts(app.name)
        chosen = rows if config.alert == "all" else [_one(app.name, rows, config.alert)]
        changed = [
            replace(row, state="acknowledged", acknowledged_at=now, acknowledged_by=by)
            for row in chosen
            if row.state == "active"
        ]
        for row in changed:
            app.catalog.save_alert(row)
            _audit(app, "acknowledge_alert", row, {"note": config.note} if config.note else {})
    return changed


def resolve_alert(app: Application, config: ResolveConfig) -> AlertRow:
    """It comes back if its cause lasts. Raises ``AlertNotFound``, ``CatalogUnavailable``."""
    from twist_dr.watch.alerts.telling import telling

    now = datetime.now(timezone.utc)
    with telling(app, patience=_PATIENCE_SECONDS):
        found = _one(app.name, app.catalog.open_alerts(app.name), config.alert)
        row = replace(found, state="resolved", resolved_at=now, resolved_by=app.actor.name)
        app.catalog.save_alert(row)
        _audit(app, "resolve_alert", row, {})
    return row


def test_alerts(app: Application, config: Config) -> list[Delivery]:
    """A message through every channel, and what became of it on each. Raises ``TwistDRError`` where there is no channel."""
    from twist_dr.watch.alerts.channels import Message, deliver_all
    from twist_dr.watch.alerts.telling import channels, record_deliveries

    ways = channels(app.settings)
    if not ways:
        raise TwistDRError("twist-dr.yaml names no alerts.channels, so nobody is told anything", remedy="add one")
    body = f"{app.actor.name} tries whether alerts of {app.name} arrive here. Nothing is wrong.\n"
    # Critical, so that every channel wants it.
    deliveries = deliver_all(ways, Message(f"[{app.name}] TEST: alerts arrive", body, "critical", "raised"))
    try:
        record_deliveries(app, deliveries, datetime.now(timezone.utc))
    except CatalogUnavailable as unavailable:
        app.report.warning(str(unavailable))
    failed = [each.channel for each in deliveries if not each.ok]
    result = f"failed: {', '.join(failed)}" if failed else "done"
    audit.record(app, action="test_alerts", subject=", ".join(way.name for way in ways), result=result)
    return deliveries


def _one(application: str, rows: list[AlertRow], number: str) -> AlertRow:
    row = next((row for row in rows if str(row.id) == number), None)
    if row is None:
        raise AlertNotFound(f"{application} has no open alert {number}", remedy="see all with: twist-dr alerts")
    return row


def _audit(app: Application, action: str, row: AlertRow, details: dict[str, Any]) -> None:
    audit.record(app, action=action, subject=f"alert {row.id} ({row.cause})", result="done", details=details)
