"""twist-dr hold and release: marks that forbid deletion."""

from __future__ import annotations

import argparse
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from twist_dr.cli.output import add_json, report, show, warn
from twist_dr.system.tables import table
from twist_dr.system.words import counted

if TYPE_CHECKING:
    from twist_dr.catalog import HoldRow
    from twist_dr.settings import Application


def add_commands(commands: Any) -> None:
    """Add ``hold`` and ``release`` to the parsers of :mod:`twist_dr.cli`."""
    hold = commands.add_parser("hold", help="forbid the deletion of a backup; without an id, list what is held")
    hold.add_argument("backup", nargs="?", help="latest, latest:LABEL, an id, or the beginning of one")
    hold.add_argument(
        "--until", metavar="WHEN", help="2027-12-31, a time in ISO 8601, or '90 days' (default: for ever)"
    )
    hold.add_argument("--reason", help="why: whoever finds the hold years later will want to know")
    hold.add_argument("--all", action="store_true", help="list those that were released or ran out, too")
    add_json(hold)
    hold.set_defaults(run=_hold)
    release = commands.add_parser("release", help="end all holds of a backup")
    release.add_argument("backup", help="latest, latest:LABEL, an id, or the beginning of one")
    add_json(release)
    release.set_defaults(run=_release)


def _hold(options: argparse.Namespace) -> None:
    from twist_dr.operations.table import HOLD
    from twist_dr.settings import open_application

    app = open_application(report(options))
    if options.backup is None:
        _list(app, options)
        return
    told = HOLD.config(backup=options.backup, until=options.until or "", reason=options.reason or "")
    row = HOLD(app, told)
    said = f"{row.backup_id} is held {_until(row.until)}; end it with: twist-dr release {row.backup_id}"
    show(options, lambda: _document(row, row.placed_at, []), lambda: said)


def _release(options: argparse.Namespace) -> None:
    from twist_dr.operations.table import RELEASE
    from twist_dr.settings import open_application

    done = RELEASE(open_application(report(options)), RELEASE.config(backup=options.backup))
    where = f", except on {', '.join(done.left)}" if done.left else ""
    said = f"{done.backup_id} is no longer held{where} ({counted(done.holds, 'hold')} ended); the next cleanup goes by the policies"
    show(options, lambda: done, lambda: said)


def _list(app: Application, options: argparse.Namespace) -> None:
    now = datetime.now(timezone.utc)
    recorded = app.catalog.holds(app.name)
    found, silent = _on_targets_alone(app, recorded)
    where = {row: names for row, names in found.items() if options.all or row.active(now)}
    rows = [*(row for row in recorded if options.all or row.active(now)), *where]
    for line in silent:
        warn(f"{line} What is held there alone is not listed.")
    none = "nothing is held, as far as could be asked" if silent else "nothing is held"
    show(
        options,
        lambda: [_document(row, now, where.get(row, [])) for row in rows],
        lambda: _table(rows, where, now) if rows else f"{none}; hold a backup with: twist-dr hold ID --reason TEXT",
    )


def _table(rows: list[HoldRow], where: dict[HoldRow, list[str]], now: datetime) -> str:
    lines = [
        (
            row.backup_id,
            _state(row, now) + (f", on {', '.join(where[row])} only" if row in where else ""),
            f"{row.placed_at:%Y-%m-%d %H:%M}",
            row.who,
            row.reason,
        )
        for row in rows
    ]
    return table(("BACKUP", "HELD", "SINCE (UTC)", "BY", "REASON"), lines)


def _on_targets_alone(app: Application, recorded: list[HoldRow]) -> tuple[dict[HoldRow, list[str]], list[str]]:
    """What targets hold though the catalog has no such hold, or has it as released, with their names; and a sentence of each that does not answer."""
    from twist_dr.catalog import HoldRow
    from twist_dr.errors import StorageError
    from twist_dr.operations.holds import hold_notes
    from twist_dr.retention.model import Hold

    known = {Hold(row.backup_id, row.who, row.reason, row.until) for row in recorded if row.released_at is None}
    found, silent = dict[HoldRow, list[str]](), []
    for name, notes in hold_notes(app).items():
        try:
            for note in notes.all():
                if note.hold not in known and (hold := note.binding) not in known:
                    row = HoldRow(None, app.name, hold.backup_id, hold.who, hold.reason, note.placed_at, hold.until)
                    found.setdefault(row, []).append(name)
        except StorageError as error:
            silent.append(str(error))
    return found, silent


def _state(row: HoldRow, now: datetime) -> str:
    if row.released_at is not None:
        return f"released {row.released_at:%Y-%m-%d} by {row.released_by}"
    return _until(row.until) if row.active(now) else f"ran out {row.until:%Y-%m-%d %H:%M}"


def _until(until: datetime | None) -> str:
    return "for ever" if until is None else f"until {until:%Y-%m-%d %H:%M} UTC"


def _document(row: HoldRow, now: datetime, only_on: list[str]) -> dict[str, Any]:
    return {
        "backup_id": row.backup_id,
        "active": row.active(now),
        "who": row.who,
        "reason": row.reason,
        "placed_at": row.placed_at,
        "until": row.until,
        "released_at": row.released_at,
        "released_by": row.released_by,
        "only_on": only_on,
    }
