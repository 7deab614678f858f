"""The life of an alert: raised, told, told again when it gets worse or nobody minds it, resolved by itself when its cause is gone.

Whoever calls may do so as often as he likes, from several processes at once: what is known is not told twice, and nothing raises.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from twist_dr.catalog import AlertRow, CatalogUnavailable
from twist_dr.errors import Busy
from twist_dr.settings import Application, Settings
from twist_dr.system.severity import SEVERITIES, Severity
from twist_dr.watch.alerts.catalog_gone import tell_catalog_back, tell_catalog_gone
from twist_dr.watch.alerts.channels import AlertEvent, Channel, Delivery, Message, deliver_all
from twist_dr.watch.alerts.facts import Facts, gather
from twist_dr.watch.alerts.rules import findings
from twist_dr.watch.alerts.rules_common import Finding
from twist_dr.watch.alerts.telling import ITSELF, channels, channels_for, passed, put_away, record_deliveries, telling
from twist_dr.watch.alerts.words import compose

#: What lasts is noted so often, not at each tick.
_SEEN_EVERY = timedelta(hours=1)
#: A message that reached nobody is tried again so often.
_RETRY_EVERY = timedelta(minutes=5)
#: No round of telling takes longer than this and one message.
_ROUND_SECONDS = 60.0


@dataclass(frozen=True)
class Reconciled:
    """What one look came to. ``told`` goes by event; ``problem``: why alerts could not be looked after, in one sentence."""

    raised: tuple[AlertRow, ...] = ()
    resolved: tuple[AlertRow, ...] = ()
    told: Mapping[AlertEvent, tuple[AlertRow, ...]] = field(default_factory=dict)
    deliveries: tuple[Delivery, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class _Change:
    """What becomes of an alert, and what is told of it; None: nothing."""

    row: AlertRow
    event: AlertEvent | None


def reconcile(app: Application, now: datetime) -> Reconciled:
    """Compare what is with the alerts that are open, write what changed, and tell those who should know. Never raises."""
    try:
        outcome = _reconcile(app, now)
        tell_catalog_back(app.settings, now)
        return outcome
    except CatalogUnavailable as unavailable:
        app.report.warning(str(unavailable))
        tell_catalog_gone(app, unavailable, now)
        return Reconciled(problem=str(unavailable))
    except Exception as error:
        # Whoever calls has backups to make: what a defect of ours keeps from being told is told in his log.
        problem = f"alerts could not be looked after: {type(error).__name__}: {error}"
        app.report.warning(problem)
        return Reconciled(problem=problem)


def _reconcile(app: Application, now: datetime) -> Reconciled:
    facts = gather(app, now)
    if facts.note is None and not _changes(app, facts, now):
        return Reconciled()
    try:
        with telling(app):
            # What another process told while we waited is known now.
            facts = gather(app, now)
            if facts.note is not None:
                app.catalog.leave_note(app.name, facts.note)
            return _Round(app, now).carry_out(_changes(app, facts, now))
    except Busy:
        return Reconciled()


# -- what changes -----------------------------------------------------------------------------------------------------


def _changes(app: Application, facts: Facts, now: datetime) -> list[_Change]:
    """What becomes of alerts: new and worse ones first, worst first."""
    found = findings(facts, app.settings, now)
    wanted = _Wanted(app.settings, facts, now)
    fresh = [each for each in found if each.cause not in facts.open]
    closed = put_away(app.catalog, app.name) if any(each.once for each in fresh) else set()
    changes = [_raised(app.settings, each, now, wanted) for each in fresh if (each.cause, each.run_id) not in closed]
    for finding in found:
        known = facts.open.get(finding.cause)
        if known is not None:
            row, event = _lasting(known, finding, now, app.settings, wanted)
            if row != known or event is not None:
                changes.append(_Change(row, event))
    # A rule that is broken finds nothing, which does not mean that there is nothing.
    if not any(each.kind == "rule_failed" for each in found):
        gone = facts.open.keys() - {each.cause for each in found}
        changes += [_resolved(row, now) for cause, row in facts.open.items() if cause in gone]
    return changes


def _raised(settings: Settings, finding: Finding, now: datetime, wanted: _Wanted) -> _Change:
    row = AlertRow(
        None, settings.application, finding.cause, finding.kind, finding.severity, "active", finding.message, finding.advice,
        raised_at=now, seen_at=now, run_id=finding.run_id, about=tuple(sorted(finding.about)),
    )  # fmt: skip
    return _Change(row, "raised" if wanted(row, "raised") else None)


def _lasting(
    known: AlertRow, finding: Finding, now: datetime, settings: Settings, wanted: _Wanted
) -> tuple[AlertRow, AlertEvent | None]:
    """What becomes of an alert whose cause lasts."""
    row, severity = known, finding.severity
    # What an older twist-dr wrote may be about all of it.
    about = finding.about if known.about is None else frozenset(known.about)
    told_about = finding.about & (about if known.about is None else frozenset(known.told_about))
    changed = severity != known.severity or finding.run_id != known.run_id or finding.about != about
    if changed or known.about is None or passed(known.seen_at, _SEEN_EVERY, now):
        row = replace(
            row, severity=severity, message=finding.message, advice=finding.advice, run_id=finding.run_id,
            seen_at=now, times=row.times + 1, about=tuple(sorted(finding.about)), told_about=tuple(sorted(told_about)),
        )  # fmt: skip
    # Against the worst that was told: what goes to and fro between two severities is told once. That a person knows of one table, or copy,
    # does not mean that he knows of the next.
    worse = _rank(severity) > max(_rank(known.severity), _rank(known.told_severity))
    if row.state == "acknowledged" and (worse or finding.about - about):
        row = replace(row, state="active", acknowledged_at=None, acknowledged_by=None)
    if row.state != "active":
        return row, None
    event: AlertEvent | None = None
    if row.told_at is None:
        event = "raised"
    elif _rank(severity) > _rank(row.told_severity) or (
        # What grows by the minute, as a scrub finds it, is not told by the minute.
        finding.about - told_about and (known.state == "acknowledged" or passed(row.told_at, _SEEN_EVERY, now))
    ):
        event = "worse"
    elif passed(row.told_at, settings.alerts.repeat, now):
        event = "again"
    retried = event is not None and row == known and event != "again"
    return row, event if event and wanted(row, event, retried=retried) else None


def _resolved(known: AlertRow, now: datetime) -> _Change:
    row = replace(known, state="resolved", resolved_at=now, resolved_by=ITSELF)
    # Whom nobody told of it need not hear that it is over.
    return _Change(row, "resolved" if known.told_at is not None else None)


def _rank(severity: Severity | None) -> int:
    return -1 if severity is None else SEVERITIES.index(severity)


class _Wanted:
    """Whether any channel wants to hear of an alert and an event, and is worth trying."""

    def __init__(self, settings: Settings, facts: Facts, now: datetime) -> None:
        self._channels = channels(settings)
        self._resting = {
            row.channel for row in facts.deliveries if not row.ok and not passed(row.at, _RETRY_EVERY, now)
        }

    def __call__(self, row: AlertRow, event: AlertEvent, *, retried: bool = False) -> bool:
        message = Message("", "", row.severity, event)
        willing = [channel for channel in channels_for(self._channels, row, event) if channel.wants(message)]
        return any(not retried or channel.name not in self._resting for channel in willing)


# -- telling ----------------------------------------------------------------------------------------------------------


class _Round:
    """One round of writing and telling, under the lock."""

    def __init__(self, app: Application, now: datetime) -> None:
        self._app, self._now = app, now
        self._channels = channels(app.settings)
        self._until = time.monotonic() + _ROUND_SECONDS
        self._deliveries: dict[str, Delivery] = {}

    def carry_out(self, changes: Sequence[_Change]) -> Reconciled:
        raised: list[AlertRow] = []
        resolved: list[AlertRow] = []
        told: dict[AlertEvent, list[AlertRow]] = {}
        # Written before anything is told: what was told and not known would be told again and again.
        saved = [_Change(self._app.catalog.save_alert(each.row), each.event) for each in changes]
        for before, change in zip(changes, saved, strict=True):
            if before.row.id is None:
                raised.append(change.row)
            if change.row.state == "resolved":
                resolved.append(change.row)
        try:
            for change in saved:
                if change.event is not None and self._tell(change.row, change.event):
                    told.setdefault(change.event, []).append(change.row)
        finally:
            if self._deliveries:
                record_deliveries(self._app, self._deliveries.values(), self._now)
        every = tuple(self._deliveries.values())
        return Reconciled(tuple(raised), tuple(resolved), {name: tuple(rows) for name, rows in told.items()}, every)

    def _tell(self, row: AlertRow, event: AlertEvent) -> bool:
        if time.monotonic() > self._until:
            return False
        # Who gets the good news is who got the bad: by the worst that was told.
        shown = replace(row, severity=row.told_severity or row.severity) if event == "resolved" else row
        message = compose(shown, event, now=self._now, dagster_url=self._app.settings.alerts.dagster_url)
        deliveries = self._deliver(message, channels_for(self._channels, row, event))
        if not any(each.ok or each.reached for each in deliveries):
            return False
        self._app.report.info(f"told ({event}): {row.message}")
        if event != "resolved":
            worst = max(row.severity, row.told_severity or row.severity, key=_rank)
            self._app.catalog.save_alert(
                replace(row, told_at=self._now, told_severity=worst, told_about=row.about or ())
            )
        return True

    def _deliver(self, message: Message, ways: Sequence[Channel]) -> list[Delivery]:
        """Send it. A channel that failed is left out for the rest of the round: ten alerts must not wait ten times for one server."""
        deliveries = deliver_all(ways, message)
        for each in deliveries:
            self._deliveries[each.channel] = each
            if not each.ok:
                self._app.report.warning(f"alerts channel {each.channel}: {each.error}")
        dead = {each.channel for each in deliveries if not each.ok and not each.reached}
        self._channels = [channel for channel in self._channels if channel.name not in dead]
        return deliveries
