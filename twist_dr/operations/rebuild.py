"""Rebuilding the catalog from a storage target: the target is the truth, the catalog an index."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timezone

from pydantic import Field

from twist_dr.catalog import THERE
from twist_dr.catalog.notes import Rebuilt
from twist_dr.errors import BackupError, EncryptionError, LaunchRefused, ObjectCorrupt, ObjectMissing
from twist_dr.operations.operation import Config
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.repository import Repository
from twist_dr.retention.holds import HoldNotes
from twist_dr.retention.model import Hold
from twist_dr.settings import Application
from twist_dr.storage.base import StorageTarget
from twist_dr.watch import audit


class RebuildConfig(Config):
    """From where."""

    target: str = Field("", description="the storage target by name; required")


@dataclass(frozen=True)
class RebuildResult:
    """How many backups were recorded, how many folders hold one that cannot be read, and how many holds came back."""

    recorded: int
    refused: int
    holds: int = 0


def rebuild(app: Application, config: RebuildConfig) -> RebuildResult:
    """:func:`rebuild_catalog` from a target by name. Raises ``LaunchRefused`` where there is none of that name, and storage errors."""
    target = app.targets.get(config.target)
    if target is None:
        raise LaunchRefused(
            f"{config.target!r} is no enabled storage target", remedy=f"choose among {', '.join(app.targets)}"
        )
    with audit.noting(app, action="rebuild catalog", subject=f"from {target.name}") as details:
        result = rebuild_catalog(app, target)
        details |= asdict(result)
    return result


def rebuild_catalog(app: Application, target: StorageTarget) -> RebuildResult:
    """Record every backup of an application that a target holds with the holds there, and copies that it lacks now as deleted. The rest stays.

    Leaves a note: until backups are verified anew, no cleanup trusts what the catalog knows of good ones.

    A copy whose objects are all there with their sizes counts as ``stored``: its bytes were not read. So one that is known as ``corrupt``
    stays so, until somebody reads it. Folders without a
    manifest are no backups and are passed over. Raises storage errors when the target cannot be listed.
    """
    repository, catalog, keyring = Repository(target, app.name), app.catalog, app.keyring
    target.prepare()
    recorded = refused = 0
    # Before anything else: whenever this is cut short, what is held is not deleted, and nothing is before something is verified.
    catalog.leave_note(app.name, Rebuilt(at=datetime.now(timezone.utc)))
    holds = _bring_back_holds(app, repository)
    ids = repository.backup_ids()
    there = {backup_id for backup_id in ids if repository.has_manifest(backup_id)}
    _note_missing(app, repository, there)
    for backup_id in ids:
        if backup_id not in there:
            app.report.info(f"{backup_id} has no manifest: it was never finished")
            continue
        try:
            manifest, sealed = repository.sealed(backup_id, keyring)
        except (BackupError, EncryptionError) as error:
            app.report.warning(f"{backup_id}: {error}")
            refused += 1
            continue
        catalog.record_backup(manifest, sealed, run_id=None)
        _record_copy(app, repository, manifest)
        recorded += 1
    return RebuildResult(recorded, refused, holds)


def _bring_back_holds(app: Application, repository: Repository) -> int:
    """Place in the catalog what the target holds and the catalog does not know. One that it knows as released lies there still: it holds."""
    known = {
        Hold(row.backup_id, row.who, row.reason, row.until)
        for row in app.catalog.holds(app.name)
        if row.released_at is None
    }
    count = 0
    for note in HoldNotes(repository, app.keyring).all():
        hold = note.binding
        if note.hold in known or hold in known:
            continue
        if note.doubt:
            app.report.warning(f"{hold.backup_id} is held for ever: {hold.reason}")
        app.catalog.place_hold(app.name, hold.backup_id, who=hold.who, reason=hold.reason, until=hold.until)
        known.add(hold)
        count += 1
    return count


def _note_missing(app: Application, repository: Repository, there: set[str]) -> None:
    """Copies that the catalog knows and the target does not hold any more are recorded as deleted."""
    name = repository.target.name
    for row in app.catalog.backups(application=app.name, target=name):
        copy = next(copy for copy in row.copies if copy.target == name)
        if copy.state in THERE and row.backup_id not in there:
            app.catalog.record_copy(row.backup_id, name, state="deleted", form=copy.form)
            app.report.warning(f"{row.backup_id} is not on {name} any more")


def _record_copy(app: Application, repository: Repository, manifest: Manifest) -> None:
    name, catalog = repository.target.name, app.catalog
    try:
        held = repository.held(manifest)
    except (ObjectCorrupt, ObjectMissing) as error:
        app.report.warning(str(error))
        form = manifest.storage_targets.get(name, "unknown")
        catalog.record_copy(manifest.backup_id, name, state="corrupt", form=form, error=error)
        return
    forms = sorted({form.name for form, _ in held.values()}, key=len)
    known = catalog.copy(manifest.backup_id, name)
    if known is not None and known.state == "corrupt":
        app.report.warning(
            f"{manifest.backup_id} on {name} counts as corrupt until its bytes are read again; run scrub"
        )
    elif known is None or known.state != "checked":
        size = sum(stored.size for _, stored in held.values())
        catalog.record_copy(
            manifest.backup_id, name, state="stored", form=forms[0] if forms else "none", stored_bytes=size
        )
