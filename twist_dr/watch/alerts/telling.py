"""The ways to people, who hears of what, and the lock of those who tell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

from twist_dr.catalog import AlertRow, Catalog, DeliveryRow
from twist_dr.settings import Application, Settings
from twist_dr.watch.alerts.channels import AlertEvent, Channel, Delivery, Message
from twist_dr.watch.alerts.facts import SKEW

#: The lock of those who tell, and change, alerts.
LOCK_SCOPE = "alerts"
#: Who resolves an alert whose cause is gone.
ITSELF = "itself"
#: Of the newest alerts, those that a person has resolved are looked for.
_PUT_AWAY = 200
#: Another process that is just telling tells this, too.
_PATIENCE_SECONDS = 2.0
#: How long a channel has failed when it is tried itself, where no other one would tell of it.
_ALONE_AFTER = timedelta(hours=1)


@contextmanager
def telling(app: Application, *, patience: float = _PATIENCE_SECONDS) -> Iterator[None]:
    """While alerts are changed and told. Raises ``Busy`` when another process does. A lock that cannot be made keeps nobody silent."""
    lock = app.locks.hold("Telling alerts", scope=LOCK_SCOPE, patience=patience)
    try:
        lock.__enter__()
    except OSError as error:
        app.report.warning(f"alerts are told without a lock, and so perhaps twice: {error}")
        yield
        return
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def channels(settings: Settings) -> list[Channel]:
    """The ways to people that the settings name."""
    return [
        Channel(name, each.url, each.at_least, each.resolved, each.timeout_seconds)
        for name, each in settings.alerts.channels.items()
    ]


def channels_for(ways: Sequence[Channel], row: AlertRow, event: AlertEvent) -> list[Channel]:
    """Those who may hear of an alert: that a channel fails is not told through it, but once in a while, to see whether it still does.

    Where no other channel wants to hear of it, that is after an hour: with a single one nobody else would ever find out that it works again.
    """
    broken = row.cause.removeprefix("channel:") if row.kind == "channel" and event in ("raised", "worse") else None
    others = [channel for channel in ways if channel.name != broken]
    message = Message("", "", row.severity, event)
    if any(channel.wants(message) for channel in others) or not passed(row.raised_at, _ALONE_AFTER, row.seen_at):
        return others
    return list(ways)


def record_deliveries(app: Application, deliveries: Iterable[Delivery], now: datetime) -> None:
    """Record how messages fared; ``since`` stays while a channel goes on working, or failing."""
    known = {row.channel: row for row in app.catalog.deliveries(app.name)}
    for each in deliveries:
        before = known.get(each.channel)
        since = before.since if before is not None and before.ok == each.ok else now
        app.catalog.record_delivery(DeliveryRow(app.name, each.channel, each.ok, now, since, each.error))


def put_away(catalog: Catalog, application: str) -> set[tuple[str, str | None]]:
    """What a person has resolved for good: cause and run."""
    rows = catalog.alerts(application, state="resolved", limit=_PUT_AWAY)
    return {(row.cause, row.run_id) for row in rows if row.resolved_by != ITSELF}


def passed(since: datetime, time: timedelta, now: datetime) -> bool:
    """Whether so much time has passed; also when the clock was set back behind ``since``."""
    return now - since >= time or since > now + SKEW
