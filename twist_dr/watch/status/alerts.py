"""What is wrong now, found out afresh: right even when nobody has looked after the alerts for days."""

from __future__ import annotations

from datetime import datetime

from twist_dr.catalog import AlertRow
from twist_dr.settings import Application
from twist_dr.watch.alerts.facts import Facts
from twist_dr.watch.alerts.rules import findings
from twist_dr.watch.alerts.rules_common import Finding
from twist_dr.watch.alerts.telling import put_away
from twist_dr.watch.status.model import ActiveAlert


def active_alerts(app: Application, facts: Facts, now: datetime) -> tuple[ActiveAlert, ...]:
    """What the alert rules find, worst first, with what is known of those that people were told of.

    What tells of something that happened once is left out when a person has said that it is dealt with.
    """
    found = findings(facts, app.settings, now)
    closed = put_away(app.catalog, app.name) if any(finding.once for finding in found) else set()
    return tuple(
        _active(finding, facts.open.get(finding.cause))
        for finding in found
        if not (finding.once and finding.cause not in facts.open and (finding.cause, finding.run_id) in closed)
    )


def _active(finding: Finding, known: AlertRow | None) -> ActiveAlert:
    return ActiveAlert(
        cause=finding.cause,
        state=finding.state,
        target=finding.target,
        kind=finding.kind,
        severity=finding.severity,
        message=finding.message,
        advice=finding.advice,
        since=known.raised_at if known else None,
        id=known.id if known else None,
        acknowledged_by=known.acknowledged_by if known else None,
    )
