"""twist-dr hold and release: marks that forbid deletion."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from twist_dr.redaction import one_line

if TYPE_CHECKING:
    from twist_dr.catalog import HoldRow
    from twist_dr.engine.retention.holds import HoldNotes
    from twist_dr.settings import Application

#: A target that gives no answer for so long is told as away.
_PATIENCE_SECONDS = 20.0


def add_commands(commands: Any) -> None:
    """Add ``hold`` and ``release`` to the parsers of :mod:`twist_dr.cli`."""
    hold = commands.add_parser("hold", help="forbid the deletion of a backup; without an id, list what is held")
    hold.add_argument("backup", nargs="?", help="latest, latest:LABEL, an id, or the beginning of one")
    hold.add_argument(
        "--until", metavar="WHEN", help="2027-12-31, a time in ISO 8601, or '90 days' (default: for ever)"
    )
    hold.add_argument("--reason", help="why: whoever finds the hold years later will want to know")
    hold.add_argument("--all", action="store_true", help="list those that were released or ran out, too")
    hold.add_argument("--json", action="store_true", help="list as JSON")
    hold.set_defaults(run=_hold)
    release = commands.add_parser("release", help="end all holds of a backup")
    release.add_argument("backup", help="latest, latest:LABEL, an id, or the beginning of one")
    release.set_defaults(run=_release)


def _hold(options: argparse.Namespace) -> None:
    from twist_dr.engine.retention.use import deciding
    from twist_dr.errors import SettingsError
    from twist_dr.settings import open_application

    app = open_application()
    if options.backup is None:
        _list(app, everything=options.all, as_json=options.json)
        return
    if not (options.reason or "").strip():
        raise SettingsError("A hold needs its reason: twist-dr hold ID --reason 'the audit of 2026'.")
    now = datetime.now(timezone.utc)
    until = parse_until(options.until, now) if options.until else None
    backup_id = app.catalog.meant(app.name, options.backup).backup_id
    # Never between a cleanup's last look and its deletion: then this would say that something is kept which is gone.
    with deciding(app.settings.lock_dir, app.name, "Placing a hold"):
        _require_held(app, backup_id)
        row = app.catalog.place_hold(
            app.name, backup_id, who=app.actor.name, reason=options.reason.strip(), until=until
        )
    _note(app, "hold", backup_id, {"reason": options.reason, "until": until.isoformat() if until else None})
    print(f"{backup_id} is held {_until(until)}; end it with: twist-dr release {backup_id}")
    _write_on_targets(app, row)


def _release(options: argparse.Namespace) -> None:
    from twist_dr.engine.manifest import is_backup_id
    from twist_dr.errors import BackupNotFound
    from twist_dr.settings import open_application

    app = open_application()
    # What the catalog lost can be held still, and a target's holds outlive it.
    backup_id = (
        options.backup if is_backup_id(options.backup) else app.catalog.meant(app.name, options.backup).backup_id
    )
    missing, count = None, 0
    try:
        count = app.catalog.release_hold(app.name, backup_id, who=app.actor.name)
    except BackupNotFound as error:
        missing = error
    removed, left = _remove_from_targets(app, backup_id)
    for line in left:
        _warn(f"{line} If it is held there, it stays so: run this again when that storage target can be used.")
    count = max(count, *removed.values()) if removed else count
    if not count and missing is not None:
        raise missing
    _note(app, "release", backup_id, {"holds": count})
    holds = f"{count} hold{'s' if count != 1 else ''} ended"
    where = f", except on {', '.join(sorted(set(_enabled(app)) - set(removed)))}" if left else ""
    print(f"{backup_id} is no longer held{where} ({holds}); the next cleanup goes by the policies")


# -- on the storage targets --------------------------------------------------------------------------------------------


def _write_on_targets(app: Application, row: HoldRow) -> None:
    """A hold lies on every target too, where it outlives the catalog. A target that cannot take it is named, and holds by the catalog alone."""
    from twist_dr.engine.retention.holds import HoldNote
    from twist_dr.engine.retention.model import Hold
    from twist_dr.errors import StorageError

    app.settings.work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    note = HoldNote(Hold(row.backup_id, row.who, row.reason, row.until), row.placed_at)
    for name, notes in _enabled(app).items():
        try:
            notes.place(note, app.settings.work_dir)
        except StorageError as error:
            _warn(
                f"the hold was not written on {name}, where only the catalog knows it now: {error} "
                "Place the hold again when that storage target can be used."
            )


def _remove_from_targets(app: Application, backup_id: str) -> tuple[dict[str, int], list[str]]:
    """By target, how many holds of a backup were removed; and a sentence for each target on which they were not."""
    from twist_dr.errors import StorageError

    removed, left = dict[str, int](), []
    for name, notes in _enabled(app).items():
        try:
            removed[name] = notes.remove(backup_id)
        except StorageError as error:
            left.append(str(error))
    return removed, left


def _enabled(app: Application) -> dict[str, HoldNotes]:
    from twist_dr.engine.retention.holds import HoldNotes

    return {name: HoldNotes(place, app.keyring) for name, place in app.repositories(_PATIENCE_SECONDS).items()}


def _warn(sentence: str) -> None:
    print(f"warning: {one_line(sentence)}", file=sys.stderr)


def parse_until(text: str, now: datetime) -> datetime:
    """A day (its end, in UTC), a moment, or a time from now on. Raises ``SettingsError``."""
    from pydantic import TypeAdapter, ValidationError

    from twist_dr.engine.durations import Duration
    from twist_dr.errors import SettingsError

    try:
        until = now + TypeAdapter[timedelta](Duration).validate_python(text)
    except (ValidationError, OverflowError):
        try:
            until = datetime.fromisoformat(text)
            if len(text) == len("2027-12-31"):
                until += timedelta(days=1)
            until = (until if until.tzinfo else until.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
        except (ValueError, OverflowError):
            raise SettingsError(
                f"{text!r} is neither a day (2027-12-31), nor a time (2027-12-31T12:00:00+00:00), nor a span ('90 days')."
            ) from None
    if until <= now:
        raise SettingsError(
            f"A hold until {until:%Y-%m-%d %H:%M} would hold nothing: that is past", remedy="name a later time"
        )
    return until


def _require_held(app: Application, backup_id: str) -> None:
    from twist_dr.errors import BackupNotFound

    copies = app.catalog.copies(backup_id)
    if copies and all(copy.state == "deleted" for copy in copies):
        raise BackupNotFound(
            f"{backup_id} was deleted from every storage target, so there is nothing to hold",
            remedy="see twist-dr list",
        )


def _note(app: Application, action: str, backup_id: str, details: dict[str, Any]) -> None:
    from twist_dr import audit

    trouble = audit.record(app, action=action, subject=backup_id, result="done", details=details)
    if trouble:
        _warn(trouble)


def _list(app: Application, *, everything: bool, as_json: bool) -> None:
    from twist_dr.listing import table

    now = datetime.now(timezone.utc)
    recorded = app.catalog.holds(app.name)
    found, silent = _on_targets_alone(app, recorded)
    where = {row: names for row, names in found.items() if everything or row.active(now)}
    rows = [*(row for row in recorded if everything or row.active(now)), *where]
    for line in silent:
        _warn(f"{line} What is held there alone is not listed.")
    if as_json:
        print(json.dumps([_document(row, now, where.get(row, [])) for row in rows], indent=2))
    elif not rows:
        told = "nothing is held, as far as could be asked" if silent else "nothing is held"
        print(f"{told}; hold a backup with: twist-dr hold ID --reason TEXT")
    else:
        head = ("BACKUP", "HELD", "SINCE (UTC)", "BY", "REASON")
        print(
            table(
                head,
                [
                    (
                        row.backup_id,
                        _state(row, now) + (f", on {', '.join(where[row])} only" if row in where else ""),
                        f"{row.placed_at:%Y-%m-%d %H:%M}",
                        row.who,
                        row.reason,
                    )
                    for row in rows
                ],
            )
        )


def _on_targets_alone(app: Application, recorded: list[HoldRow]) -> tuple[dict[HoldRow, list[str]], list[str]]:
    """What targets hold though the catalog has no such hold, or has it as released, with their names; and a sentence of each that does not answer."""
    from twist_dr.catalog import HoldRow
    from twist_dr.engine.retention.model import Hold
    from twist_dr.errors import StorageError

    known = {Hold(row.backup_id, row.who, row.reason, row.until) for row in recorded if row.released_at is None}
    found, silent = dict[HoldRow, list[str]](), []
    for name, notes in _enabled(app).items():
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
        "placed_at": row.placed_at.isoformat(),
        "until": row.until.isoformat() if row.until else None,
        "released_at": row.released_at.isoformat() if row.released_at else None,
        "released_by": row.released_by,
        "only_on": only_on,
    }
