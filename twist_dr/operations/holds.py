"""Marks that forbid deletion."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from pydantic import Field, TypeAdapter, ValidationError

from twist_dr.catalog import HoldRow
from twist_dr.errors import BackupNotFound, SettingsError, StorageError
from twist_dr.operations.operation import Config
from twist_dr.repository.manifest import is_backup_id
from twist_dr.retention.holds import HoldNote, HoldNotes
from twist_dr.retention.model import Hold
from twist_dr.settings import Application
from twist_dr.system.durations import Duration
from twist_dr.watch import audit

#: A target that gives no answer for so long is told as away.
_PATIENCE_SECONDS = 20.0


class HoldConfig(Config):
    """Told nothing, it holds the latest backup for ever, if it is told why."""

    backup: str = Field("latest", description="latest, latest:LABEL, an id, or the beginning of one")
    until: str = Field("", description="2027-12-31, a time in ISO 8601, or '90 days'; empty: for ever")
    reason: str = Field("", description="Why; required: whoever finds the hold years later will want to know.")


class ReleaseConfig(Config):
    """Told nothing, it releases the latest backup."""

    backup: str = Field("latest", description="latest, latest:LABEL, an id, or the beginning of one")


@dataclass(frozen=True)
class Released:
    """How many holds ended, and on which targets they could not be."""

    backup_id: str
    holds: int
    left: tuple[str, ...]


def hold(app: Application, config: HoldConfig) -> HoldRow:
    """In the catalog, and on every target that takes it. Raises ``SettingsError`` without a reason, ``BackupNotFound``, ``KeyringInvalid``, errors of the catalog."""
    if not config.reason.strip():
        raise SettingsError("A hold needs its reason: twist-dr hold ID --reason 'the audit of 2026'.")
    now = datetime.now(timezone.utc)
    until = parse_until(config.until, now) if config.until else None
    backup_id = app.catalog.meant(app.name, config.backup).backup_id
    # Before anything is placed: with a keyring that cannot be read no target could take it.
    notes = hold_notes(app)
    # Never between a cleanup's last look and its deletion: then this would say that something is kept which is gone.
    with app.locks.deciding("Placing a hold"):
        _require_held(app, backup_id)
        row = app.catalog.place_hold(app.name, backup_id, who=app.actor.name, reason=config.reason.strip(), until=until)
    details = {"reason": config.reason, "until": until.isoformat() if until else None}
    audit.record(app, action="hold", subject=backup_id, result="done", details=details)
    _write_on_targets(app, row, notes)
    return row


def release(app: Application, config: ReleaseConfig) -> Released:
    """In the catalog, and on every target that can be used. Raises ``BackupNotFound`` where nothing knows it, ``KeyringInvalid``, errors of the catalog."""
    # What the catalog lost can be held still, and a target's holds outlive it.
    backup_id = config.backup if is_backup_id(config.backup) else app.catalog.meant(app.name, config.backup).backup_id
    # Before anything is released: what cannot be opened on a target stays held everywhere.
    notes = hold_notes(app)
    missing, count = None, 0
    try:
        count = app.catalog.release_hold(app.name, backup_id, who=app.actor.name)
    except BackupNotFound as error:
        missing = error
    removed, left = _remove_from_targets(notes, backup_id)
    for line in left:
        app.report.warning(
            f"{line} If it is held there, it stays so: run this again when that storage target can be used."
        )
    count = max(count, *removed.values()) if removed else count
    if not count and missing is not None:
        raise missing
    audit.record(app, action="release", subject=backup_id, result="done", details={"holds": count})
    return Released(backup_id, count, tuple(sorted(set(app.targets) - set(removed))))


def _write_on_targets(app: Application, row: HoldRow, places: dict[str, HoldNotes]) -> None:
    """A hold lies on every target too, where it outlives the catalog. A target that cannot take it is named, and holds by the catalog alone."""
    app.settings.work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    note = HoldNote(Hold(row.backup_id, row.who, row.reason, row.until), row.placed_at)
    for name, notes in places.items():
        try:
            notes.place(note, app.settings.work_dir)
        except StorageError as error:
            app.report.warning(
                f"the hold was not written on {name}, where only the catalog knows it now: {error} "
                "Place the hold again when that storage target can be used."
            )


def _remove_from_targets(places: dict[str, HoldNotes], backup_id: str) -> tuple[dict[str, int], list[str]]:
    """By target, how many holds of a backup were removed; and a sentence for each target on which they were not."""
    removed, left = dict[str, int](), []
    for name, notes in places.items():
        try:
            removed[name] = notes.remove(backup_id)
        except StorageError as error:
            left.append(str(error))
    return removed, left


def hold_notes(app: Application) -> dict[str, HoldNotes]:
    """The holds on each enabled target, by name. Raises ``KeyringInvalid``."""
    return {name: HoldNotes(place, app.keyring) for name, place in app.repositories(_PATIENCE_SECONDS).items()}


def parse_until(text: str, now: datetime) -> datetime:
    """A day (its end, in UTC), a moment, or a time from now on. Raises ``SettingsError``."""

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
    copies = app.catalog.copies(backup_id)
    if copies and all(copy.state == "deleted" for copy in copies):
        raise BackupNotFound(
            f"{backup_id} was deleted from every storage target, so there is nothing to hold",
            remedy="see twist-dr list",
        )
