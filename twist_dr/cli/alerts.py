"""twist-dr alerts: what is wrong now, that somebody sees to it, and whether messages arrive."""

from __future__ import annotations

import argparse
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from twist_dr.cli.output import add_json, report, show
from twist_dr.redaction import one_line

if TYPE_CHECKING:
    from twist_dr.catalog import AlertRow
    from twist_dr.settings import Application


def add_commands(commands: Any) -> None:
    """Add ``alerts`` to the parsers of :mod:`twist_dr.cli`."""
    alerts = commands.add_parser("alerts", help="what is wrong now; acknowledge, resolve, test the channels")
    alerts.add_argument("--all", action="store_true", help="resolved ones, too")
    alerts.add_argument("--limit", type=int, default=50, help="with --all: how many at most (default: 50)")
    add_json(alerts)
    alerts.set_defaults(run=_list)
    actions = alerts.add_subparsers(metavar="ACTION")
    acknowledge = actions.add_parser("acknowledge", help="say that you see to it: it is not told again")
    acknowledge.add_argument("alert", help="its number, or all")
    acknowledge.add_argument("--note", default="", help="for those who read it later")
    add_json(acknowledge)
    acknowledge.set_defaults(run=_acknowledge)
    resolve = actions.add_parser("resolve", help="close it; it comes back if its cause lasts")
    resolve.add_argument("alert", help="its number")
    add_json(resolve)
    resolve.set_defaults(run=_resolve)
    test = actions.add_parser("test", help="send a message through every channel")
    add_json(test)
    test.set_defaults(run=_test)


def _opened_known(options: argparse.Namespace) -> Application:
    """Raises ``CatalogUnavailable`` where there is no catalog: an empty one would say that nothing is wrong."""
    from twist_dr.settings import open_application
    from twist_dr.watch.status.collect import require_catalog

    app = open_application(report(options))
    require_catalog(app.settings)
    return app


def _list(options: argparse.Namespace) -> None:
    app = _opened_known(options)
    if options.all:
        rows = app.catalog.alerts(app.name, limit=options.limit)
    else:
        rows = wrong_now(app, datetime.now(timezone.utc))
    show(options, lambda: rows, lambda: _page(rows))


def wrong_now(app: Application, now: datetime) -> list[AlertRow]:
    """What is open, and what nobody has looked after yet: without the daemon that may be for days. The latter has no number."""
    from twist_dr.catalog import AlertRow
    from twist_dr.watch.alerts.facts import gather
    from twist_dr.watch.status.alerts import active_alerts

    facts = gather(app, now)
    rows = dict(facts.open)
    for each in active_alerts(app, facts, now):
        as_found: dict[str, Any] = {"severity": each.severity, "message": each.message, "advice": each.advice}
        known = rows.get(each.cause) or AlertRow(
            None, app.name, each.cause, each.kind, state="active", raised_at=now, seen_at=now, **as_found
        )
        rows[each.cause] = replace(known, **as_found)
    return list(rows.values())


def _page(rows: list[AlertRow]) -> str:
    """A line for each, and below it what happened and what to do."""
    from twist_dr.watch.alerts.words import kind_in_words

    if not rows:
        return "no alerts"
    blocks = []
    for row in rows:
        since = f"since {_minute(row.raised_at)} UTC  {row.state}" if row.id is not None else "found now, not told yet"
        head = f"{'-' if row.id is None else row.id}  {row.severity.upper()}  {kind_in_words(row.kind)}  {since}"
        if row.state == "acknowledged" and row.acknowledged_at:
            head += f" {_minute(row.acknowledged_at)} by {one_line(row.acknowledged_by or 'somebody')}"
        if row.state == "resolved" and row.resolved_at:
            head += f" {_minute(row.resolved_at)} by {one_line(row.resolved_by or 'itself')}"
        advice = [] if row.state == "resolved" else [f"    -> {row.advice}"]
        blocks.append("\n".join([head, f"    {one_line(row.message)}", *advice]))
    return "\n".join(blocks)


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(timezone.utc):%Y-%m-%d %H:%M}"


def _acknowledge(options: argparse.Namespace) -> None:
    from twist_dr.operations.table import ACKNOWLEDGE_ALERT

    told = ACKNOWLEDGE_ALERT.config(alert=options.alert, note=options.note)
    changed = ACKNOWLEDGE_ALERT(_opened_known(options), told)
    lines = [f"acknowledged {row.id}: {one_line(row.message)}" for row in changed]
    show(options, lambda: changed, lambda: "\n".join(lines or ["nothing to acknowledge"]))


def _resolve(options: argparse.Namespace) -> None:
    from twist_dr.operations.table import RESOLVE_ALERT

    row = RESOLVE_ALERT(_opened_known(options), RESOLVE_ALERT.config(alert=options.alert))
    show(options, lambda: row, lambda: f"resolved {row.id}: {one_line(row.message)}")


def _test(options: argparse.Namespace) -> int:
    from twist_dr.operations.table import TEST_ALERTS
    from twist_dr.settings import open_application

    deliveries = TEST_ALERTS(open_application(report(options)), TEST_ALERTS.config())
    lines = [f"{each.channel}: {'sent' if each.ok else f'FAILED: {each.error}'}" for each in deliveries]
    show(options, lambda: deliveries, lambda: "\n".join(lines))
    return 0 if all(each.ok for each in deliveries) else 1
