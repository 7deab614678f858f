"""twist-dr list: backups, filtered, for people, programs and spreadsheets; and what restores replaced, which drop-replaced removes early."""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TextIO

from twist_dr.cli.output import add_json, report, show

if TYPE_CHECKING:
    from twist_dr.catalog import BackupRow
    from twist_dr.settings import Settings

_BACK = re.compile(r"(\d{1,6}) ?(second|minute|hour|day|week)s?( ago)?")
#: What a spreadsheet takes for a formula at the beginning of a cell.
#: https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

# Written out, because every command builds these parsers and the modules that define the words are slow to import. A test compares.
KINDS = ("full", "base", "tenant", "configuration")
LABELS = ("manual", "scheduled", "weekly", "monthly", "pre-update", "pre-restore")
STATES = ("pending", "stored", "checked", "failed", "corrupt", "deleted")

CSV_COLUMNS = (
    "backup_id", "application", "kind", "label", "reason", "who", "started_at", "finished_at", "plain_bytes", "app_version",
    "db_schema_version", "key_id", "warnings", "copies", "verified", "verified_at", "verified_from", "run_id",
)  # fmt: skip


def moment(text: str) -> datetime:
    """A time that a person types: a date, a date and time (UTC unless it says otherwise), or ``7 days`` back from now."""
    if match := _BACK.fullmatch(text.strip()):
        try:
            return datetime.now(timezone.utc) - timedelta(**{f"{match[2]}s": int(match[1])})
        except OverflowError:
            pass
    else:
        try:
            # Python 3.10 takes no Z.
            read = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text.strip()))
            return (read if read.tzinfo else read.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
        except (ValueError, OverflowError):
            pass
    raise argparse.ArgumentTypeError(f"{text!r} is no time; write 2026-11-21, 2026-11-21T02:00 (UTC) or '7 days'")


def add_commands(commands: Any) -> None:
    """Add ``list`` and ``drop-replaced`` to the parsers of :mod:`twist_dr.cli`."""
    listing = commands.add_parser("list", help="list backups, newest first")
    listing.add_argument("--kind", choices=KINDS, help="of this kind")
    listing.add_argument("--label", choices=LABELS, help="with this label")
    listing.add_argument("--target", help="that have a copy on this storage target; --state speaks of that copy")
    listing.add_argument("--state", choices=STATES, help="that have a copy in this state")
    listing.add_argument(
        "--since", type=moment, help="begun at or after this: 2026-11-21, 2026-11-21T02:00 (UTC), or '7 days' back"
    )
    listing.add_argument("--until", type=moment, help="begun before this")
    listing.add_argument("--search", help="with this text in id, reason, maker or versions, whatever the case")
    listing.add_argument("--limit", type=_count, default=50, help="how many at most (default: 50)")
    listing.add_argument("--replaced", action="store_true", help="list what restores replaced and what is kept of it")
    form = listing.add_mutually_exclusive_group()
    add_json(form)
    form.add_argument("--csv", action="store_true", help="print CSV for a spreadsheet")
    listing.set_defaults(run=_list, parser=listing)

    drop = commands.add_parser(
        "drop-replaced",
        help="remove what one restore replaced before its time is over: it cannot be undone any more then",
    )
    drop.add_argument("restore", help="its id (twist-dr list --replaced)")
    drop.add_argument(
        "--confirm",
        default="",
        metavar="APPLICATION",
        help="the application's name, typed; without it, says what would go",
    )
    add_json(drop)
    drop.set_defaults(run=_drop_replaced)


def write_csv(rows: Iterable[BackupRow], file: TextIO) -> None:
    """The backups as CSV (RFC 4180): a header, columns that stay as they are, no cell that a spreadsheet would calculate."""
    writer = csv.writer(file)
    writer.writerow(CSV_COLUMNS)
    for row in rows:
        proof = row.last_verification
        values = {
            **{name: getattr(row, name, None) for name in CSV_COLUMNS},
            "started_at": row.started_at.isoformat(),
            "finished_at": row.finished_at.isoformat(),
            "copies": " ".join(f"{copy.target}:{copy.state}" for copy in row.copies),
            "verified": {None: "never", True: "yes", False: "no"}[proof.verified if proof else None],
            "verified_at": proof.started_at.isoformat() if proof else None,
            "verified_from": proof.target if proof else None,
        }
        writer.writerow([_cell(values[name]) for name in CSV_COLUMNS])


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) and not isinstance(value, int | float) else text


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of backups; write 0, 1, 2, ...")
    return int(text)


def _list(options: argparse.Namespace) -> None:
    from twist_dr.cli import listing
    from twist_dr.settings import open_application

    app = open_application()
    settings = app.settings
    if options.replaced:
        if options.csv:
            options.parser.error("--replaced cannot be printed as CSV; use --json")
        _list_replaced(settings, options)
        return
    if options.since and options.until and options.until <= options.since:
        options.parser.error(
            f"--until ({options.until.isoformat()}) is not after --since ({options.since.isoformat()})"
        )
    filters = {
        name: getattr(options, name) for name in ("kind", "label", "target", "state", "since", "until", "search")
    }
    rows = app.catalog.each_backup(application=app.name, limit=options.limit, **filters)
    first = list(islice(rows, 1))
    if not first and options.target is not None and options.target not in settings.storage_targets:
        # Asked only then: the catalog may know targets that have left the settings.
        options.parser.error(
            f"--target: there is no storage target {options.target!r}; choose among {', '.join(settings.storage_targets)}"
        )
    rows = chain(first, rows)
    if options.csv:
        write_csv(rows, sys.stdout)
        return

    def text() -> str:
        if first:
            return listing.backup_table(rows)
        if any(value is not None for value in filters.values()):
            return "no backups fulfil all conditions"
        return "no backups yet; make one with: twist-dr backup"

    show(options, lambda: map(listing.backup_document, rows), text)


def _list_replaced(settings: Settings, options: argparse.Namespace) -> None:
    from twist_dr.cli import listing
    from twist_dr.restore.plan import surroundings
    from twist_dr.restore.restored_configuration import everything_kept
    from twist_dr.restore.space import measured

    around = surroundings(settings)
    rows = everything_kept(around, settings.work_dir, settings.application)
    spaces = measured(around.cluster, rows)
    show(
        options,
        lambda: map(listing.replaced_document, rows, spaces),
        lambda: listing.replaced_table(rows, spaces),
    )


def _drop_replaced(options: argparse.Namespace) -> None:
    from twist_dr.operations.table import DROP_REPLACED
    from twist_dr.settings import open_application

    told = DROP_REPLACED.config(restore=options.restore, confirm=options.confirm)
    done = DROP_REPLACED(open_application(report(options)), told)
    show(
        options, lambda: done, lambda: f"removed {', '.join(done.removed)}; {done.restore_id} cannot be undone any more"
    )
