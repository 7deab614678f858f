"""twist-dr wal: receive, ship, and say what can be recovered."""

from __future__ import annotations

import argparse
import signal
import threading
from typing import TYPE_CHECKING, Any

from twist_dr.cli.output import add_json, report, say, show

if TYPE_CHECKING:
    from twist_dr.system.progress import Report


def add_commands(commands: Any) -> None:
    """Add ``wal`` to the parsers of :mod:`twist_dr.cli`."""
    wal = commands.add_parser("wal", help="write-ahead log: with it, every second can be recovered").add_subparsers(
        required=True, metavar="COMMAND"
    )
    receive = wal.add_parser("receive", help="stream WAL from the server into the spool, until it is stopped")
    receive.set_defaults(run=_receive)
    ship = wal.add_parser("ship", help="ship what lies in the spool to every storage target that gets it")
    ship.add_argument("--follow", action="store_true", help="stay, and ship every second (wal.follow_seconds)")
    ship.set_defaults(run=_ship)
    status = wal.add_parser(
        "status", help="what can be recovered from each target, gaps, archived position, slot and spool"
    )
    add_json(status)
    status.set_defaults(run=_status)


def _stopped_by_signals(report: Report) -> threading.Event:
    """What is set when somebody (a service manager, Ctrl+C) asks for the end."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: report.stop.set())
    return report.stop


def _receive(options: argparse.Namespace) -> None:
    from twist_dr.operations.table import RECEIVE_WAL
    from twist_dr.settings import open_application

    told = report(options)
    _stopped_by_signals(told)
    RECEIVE_WAL(open_application(told), RECEIVE_WAL.config())


def _ship(options: argparse.Namespace) -> None:
    from twist_dr.operations.table import SHIP_WAL
    from twist_dr.postgres.lsn import format_lsn
    from twist_dr.settings import open_application
    from twist_dr.system.words import counted
    from twist_dr.wal.from_settings import Shipping, raise_not_shipped, spool_warnings, wal_settings

    told = report(options)
    app = open_application(told)
    SHIP_WAL.require(app.actor)
    wal = wal_settings(app.settings)
    with Shipping(app) as shipping:
        if options.follow:
            # A round that is going on ends at its next file.
            shipping.follow(_stopped_by_signals(told))
            return
        shipped = shipping.once(everything=True)
    for sentence in spool_warnings(shipped.oldest_seconds, shipped.spool_bytes, wal):
        told.warning(sentence)
    for name, outcome in shipped.targets.items():
        if outcome.position is not None:
            at = (
                f", everything committed before {outcome.position.at:%Y-%m-%d %H:%M:%S.%f %Z}"
                if outcome.position.at
                else ""
            )
            say(
                f"{name}: {counted(outcome.segments, 'segment')} shipped, archived position {format_lsn(outcome.position.lsn)}{at}"
            )
    raise_not_shipped(shipped)


def _status(options: argparse.Namespace) -> int:
    from twist_dr.recovery.status import render_wal_status, wal_status
    from twist_dr.settings import open_application

    status = wal_status(open_application())
    show(options, status.document, lambda: render_wal_status(status))
    return 0 if status.sound else 1
