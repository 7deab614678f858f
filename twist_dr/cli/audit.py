"""twist-dr audit: who did what, and whether the log can be believed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from twist_dr.cli.backups import moment

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
    audit.add_argument("--json", action="store_true", help="print JSON")
    audit.set_defaults(run=_audit)


def note(app: Application, action: str, subject: str, result: str, details: Mapping[str, Any] | None = None) -> None:
    """Write what a command did into the audit log. What was done is done: a line that could not be written is a warning."""
    from twist_dr.watch.audit import record

    trouble = record(app, action=action, subject=subject, result=result, details=details)
    if trouble:
        print(f"warning: {trouble}", file=sys.stderr)


def _audit(options: argparse.Namespace) -> int:
    from twist_dr.settings import open_application

    app = open_application()
    if options.action == "verify":
        return _verify(app, json_wanted=options.json)
    rows = app.catalog.audit(app.name, since=options.since, limit=options.limit)
    if options.json:
        print(json.dumps([{**asdict(row), "at": row.at.isoformat()} for row in rows], indent=2))
        return 0
    from twist_dr.system.tables import table

    head = ("LINE", "TIME (UTC)", "WHO", "ACTION", "SUBJECT", "RESULT")
    lines = [
        (str(row.seq), f"{row.at:%Y-%m-%d %H:%M:%S}", row.who, row.action, row.subject, row.result) for row in rows
    ]
    print(
        table(head, lines) if lines else "the audit log has no lines" + (" of that time" if options.since else " yet")
    )
    return 0


def _verify(app: Application, *, json_wanted: bool) -> int:
    from twist_dr.watch.audit.check import verify

    found = verify(app.settings, app.catalog)
    if json_wanted:
        print(json.dumps({"sound": found.sound, **asdict(found)}, indent=2))
        return 0 if found.sound else 1
    for problem in found.problems:
        print(f"{problem.severity}: {problem.text}")
    if found.sound:
        print(f"{found.lines} lines, none changed or missing; the last one's digest is {found.digest}")
    else:
        print(
            f"The audit log of {app.name} ({found.lines} lines) was tampered with or damaged: do not believe it from the first line named on; compare with the catalog in an earlier configuration backup."
        )
    return 0 if found.sound else 1
