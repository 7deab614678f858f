"""Receiving and shipping write-ahead log."""

from __future__ import annotations

from twist_dr.operations.operation import Config
from twist_dr.settings import Application
from twist_dr.wal.archived import Shipped
from twist_dr.wal.from_settings import Shipping, raise_not_shipped, receive, spool_warnings, wal_settings
from twist_dr.watch import audit


def ship_once(app: Application) -> Shipped:
    """One round, and what is to be said of the spool. What a target lacks is in the result. Raises ``Busy`` when another process ships."""
    with Shipping(app) as shipping:
        shipped = shipping.once()
    for sentence in spool_warnings(shipped.oldest_seconds, shipped.spool_bytes, wal_settings(app.settings)):
        app.report.warning(sentence)
    return shipped


def ship_wal(app: Application, config: Config) -> Shipped:
    """Raises ``WalNotShipped``, ``WalMissing`` and ``WalInvalid``, as :func:`raise_failures`."""
    shipped = ship_once(app)
    raise_not_shipped(shipped)
    return shipped


def receive_wal(app: Application, config: Config) -> None:
    """Stream WAL into the spool until ``report.stop`` is set. Raises ``Busy`` when another process receives, ``SettingsError``."""
    wal_settings(app.settings)
    subject = app.settings.wal_slot
    audit.record(app, action="receive WAL", subject=subject, result="begun")
    with audit.noting(app, action="receive WAL", subject=subject):
        receive(app)
