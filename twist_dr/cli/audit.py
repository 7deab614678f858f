"""twist-dr audit: who did what, and whether the log can be believed."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from twist_dr.cli.backups import moment
from twist_dr.cli.output import add_json, show

if TYPE_CHECKING:
    from twist_dr.settings import Application


def add_commands(commands: Any) -> None:
    """Add ``audit`` to the parsers of :mod:`twist_dr.cli`."""
    audit = commands.add_parser("audit", help="the audit log: who did what, when, and how it ended")
    audit.add_argument(
        "action", nargs="?", choices=["list", "verify"], default="list", help="verify: find changed and missing lines"
    )
    audit.add_argument("--since", type=moment, help="from this UTC date or time on, or '7 days' back")
    audit.add_argument("--limit", type=int, default=100, help="how many at most, the newest ones (default: 100)")
    add_json(audit)
    audit.set_defaults(run=_audit)


def _audit(options: argparse.Namespace) -> int:
    from twist_dr.settings import open_application
    from twist_dr.system.tables import table

    app = open_application()
    if options.action == "verify":
        return _verify(app, options)
    rows = app.catalog.audit(app.name, since=options.since, limit=options.limit)
    head = ("LINE", "TIME (UTC)", "WHO", "ACTION", "SUBJECT", "RESULT")
    lines = [
        (str(row.seq), f"{row.at:%Y-%m-%d %H:%M:%S}", row.who, row.action, row.subject, row.result) for row in rows
    ]
    none = "the audit log has no lines" + (" of that time" if options.since else " yet")
    show(options, lambda: rows, lambda: table(head, lines) if lines else none)
    return 0


def _verify(app: Application, options: argparse.Namespace) -> int:
    from twist_dr.system.words import counted
    from twist_dr.watch.audit.check import verify_log

    found = verify_log(app)
    lines = counted(found.lines, "line")
    told = (
        f"{lines}, none changed or missing; the last one's digest is {found.digest}"
        if found.sound
        else f"The audit log of {app.name} ({lines}) was tampered with or damaged: do not believe it from the first line named on; "
        "compare with the catalog in an earlier configuration backup."
    )
    show(
        options,
        lambda: {"sound": found.sound, **asdict(found)},
        lambda: "\n".join([*(f"{problem.severity}: {problem.text}" for problem in found.problems), told]),
    )
    return 0 if found.sound else 1
