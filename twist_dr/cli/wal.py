"""twist-dr wal: receive, ship, and say what can be recovered."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from typing import Any


def add_commands(commands: Any) -> None:
    """Add ``wal`` to the parsers of :mod:`twist_dr.cli`."""
    wal = commands.add_parser("wal", help="write-ahead log: with it, every second can be recovered").add_subparsers(
        required=True, metavar="COMMAND"
    )
    receive = wal.add_parser("receive", help="stream WAL from the server into the spool, until it is stopped")
    receive.set_defaults(run=_receive)
    ship = wal.add_parser("ship", help="ship what lies in the spool to every storage target")
    ship.add_argument("--follow", action="store_true", help="stay, and ship every second (wal.follow_seconds)")
    ship.set_defaults(run=_ship)
    status = wal.add_parser("status", help="what can be recovered from each target, gaps, frontier, slot and spool")
    status.add_argument("--json", action="store_true", help="print JSON")
    status.set_defaults(run=_status)


def _report() -> Any:
    from twist_dr.system.progress import Lines, Report

    def tell(line: str) -> None:
        print(line, flush=True)

    return Report(Lines(tell, lambda line: print(f"warning: {line}", file=sys.stderr, flush=True)))


def _stopped_by_signals() -> threading.Event:
    """Set when somebody (a service manager, Ctrl+C) asks for the end."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _receive(options: argparse.Namespace) -> None:
    from twist_dr.settings import load_settings
    from twist_dr.wal.from_settings import receive

    receive(load_settings(), _report(), _stopped_by_signals())


def _ship(options: argparse.Namespace) -> None:
    from twist_dr.postgres.lsn import format_lsn
    from twist_dr.settings import open_application
    from twist_dr.system.words import counted
    from twist_dr.wal.from_settings import Shipping, raise_failures, spool_warnings, wal_settings

    app = open_application()
    wal = wal_settings(app.settings)
    report = _report()
    with Shipping(app, report) as shipping:
        if options.follow:
            stop = _stopped_by_signals()
            # A round that is going on ends at its next file.
            threading.Thread(target=lambda: (stop.wait(), report.stop.set()), daemon=True).start()
            shipping.follow(stop)
            return
        shipped = shipping.once()
    for sentence in spool_warnings(shipped.oldest_seconds, shipped.spool_bytes, wal):
        report.warning(sentence)
    for name, outcome in shipped.targets.items():
        if outcome.frontier is not None:
            at = (
                f", everything committed before {outcome.frontier.at:%Y-%m-%d %H:%M:%S.%f %Z}"
                if outcome.frontier.at
                else ""
            )
            print(
                f"{name}: {counted(outcome.segments, 'segment')} shipped, frontier {format_lsn(outcome.frontier.lsn)}{at}"
            )
    raise_failures(shipped)


def _status(options: argparse.Namespace) -> int:
    from twist_dr.recovery.status import render, wal_status
    from twist_dr.settings import open_application

    status = wal_status(open_application())
    print(json.dumps(status.document(), indent=2) if options.json else render(status))
    return 0 if status.sound else 1
