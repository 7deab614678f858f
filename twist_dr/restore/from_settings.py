"""Restores from the settings and the catalog: which backup, the backup before, and the log. The jobs say what and in which order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import datetime, timezone
from typing import Any

from twist_dr.backup.from_settings import Copying, clear_staging, plan_backup, record_sealed
from twist_dr.backup.take import ALL_PARTS, take_full_backup
from twist_dr.catalog import BackupRow, Catalog, CatalogUnavailable, RestoreRow
from twist_dr.errors import BackupNotFound, RestoreRefused, TwistDRError
from twist_dr.repository.kinds import FULL, KINDS
from twist_dr.repository.labels import SET_ASIDE, is_meant, split_label
from twist_dr.repository.manifest import Label, Part
from twist_dr.repository.sources import Sources
from twist_dr.restore.plan import journals_of
from twist_dr.restore.record import RestoreRecord
from twist_dr.settings import Application

LATEST_VERIFIED = "latest-verified"
LATEST = "latest"

#: What the log of restores has of a restore's record, under the same names.
_LOGGED = {each.name for each in fields(RestoreRow)} & {each.name for each in fields(RestoreRecord)}


@dataclass(frozen=True)
class Chosen:
    """A backup to restore. ``parts`` that it has, of those that were asked for; None while only its id is known.

    ``newer``: what must be said of a newer one that is not taken; empty when there is none. ``label``: None while only its id is known.
    """

    backup_id: str
    verified: bool
    parts: tuple[Part, ...] | None
    newer: str = ""
    label: Label | None = None

    @property
    def doubts(self) -> list[str]:
        """What a person must be told before this one is restored."""
        told = (
            []
            if self.verified
            else [f"{self.backup_id} was never verified by a restore, or its last verification failed"]
        )
        if self.label == SET_ASIDE:
            told.append(
                f"{self.backup_id} is labelled {SET_ASIDE}: it holds what a restore was about to replace, damage included"
            )
        return [*told, *([self.newer] if self.newer else [])]


def choose_backup(app: Application, wanted: str, parts: tuple[Part, ...] | None, *, allow_unverified: bool) -> Chosen:
    """The backup that ``wanted`` names: ``latest-verified``, ``latest``, one of these with a label behind a colon, or an id. ``parts`` None asks for all that it has.

    Without a label what a restore was about to replace is passed over: it is mostly what somebody wanted to be rid of. Raises ``RestoreRefused`` when it is not known to be verified and that is not allowed, ``BackupNotFound``, ``CatalogUnavailable``.
    """
    catalog, application = app.catalog, app.name
    needed: Part = "database" if parts is None or "database" in parts else parts[0]
    word, label = split_label(wanted)
    if word == LATEST_VERIFIED:
        row = catalog.latest_verified(application, part=needed, label=label)
        if row is None:
            raise _none_verified(catalog, application, needed, label)
    elif word == LATEST:
        try:
            row = catalog.meant(application, wanted)
        except BackupNotFound as none:
            raise RestoreRefused(f"{none} Or name one, or run: twist-dr catalog rebuild --from TARGET") from None
    else:
        try:
            row = catalog.backup(application, wanted)
        except CatalogUnavailable:
            # The index is gone; the storage targets are the truth, and whether it was verified nobody knows.
            if not allow_unverified:
                raise
            row = None
    if row is not None and row.kind != FULL.kind:
        raise RestoreRefused(
            f"{row.backup_id} is a {row.kind} backup, and this job restores full ones",
            remedy=KINDS[row.kind].instead,
        )
    verified = bool(row and row.last_verification and row.last_verification.verified)
    if not verified and not allow_unverified:
        backup_id = row.backup_id if row else wanted
        raise RestoreRefused(
            f"{backup_id} is not known to be verified by a restore",
            remedy="launch the job verify_backup with it first, or set allow_unverified: true.",
        )
    if row is None:
        return Chosen(wanted, False, parts)
    return Chosen(
        row.backup_id,
        verified,
        tuple(part for part in ALL_PARTS if part in row.parts) if parts is None else parts,
        _newer_words(catalog, application, row, needed) if word == LATEST_VERIFIED and label is None else "",
        row.label,
    )


def _none_verified(catalog: Catalog, application: str, needed: Part, label: Label | None) -> RestoreRefused:
    """Nothing is there for ``latest-verified``."""
    labelled = f" labelled {label}" if label else ""
    told = f"No backup of {application} with a {needed}{labelled} is verified"
    aside = None if label else catalog.latest_verified(application, part=needed, label=SET_ASIDE)
    if aside is not None:
        told += f" but {aside.backup_id}, which holds what a restore was about to replace (latest-verified:{SET_ASIDE} names it)"
    return RestoreRefused(told, remedy="launch the job verify_backup, or name a backup and set allow_unverified: true.")


def _newer_words(catalog: Catalog, application: str, row: BackupRow, needed: Part) -> str:
    """That an older backup is taken than the newest that is known, and why."""
    rows = catalog.backups(application=application, kind="full", since=row.started_at)
    newest = next(
        (
            each
            for each in rows
            if each.backup_id > row.backup_id and needed in each.parts and is_meant(each.label, None)
        ),
        None,
    )
    if newest is None:
        return ""
    bad = [f"{copy.target}: {copy.error}" for copy in newest.copies if copy.state == "corrupt" and copy.error]
    why = f"its copies are bad or lost ({'; '.join(bad)})" if bad else "no verification has found it good"
    return f"{newest.backup_id} is newer, and is not taken: {why}. What came after {row.backup_id} is not in this one."


class RestoreLog:
    """Writes the log of restores. A catalog that does not answer stops no restore: it is said once, and the run's page has it all."""

    def __init__(self, app: Application, *, verified: bool) -> None:
        self._app = app
        self._report = app.report
        self._verified = verified
        self._told = False

    def note_recovery(self, record: RestoreRecord) -> None:
        """The same for a recovery, whose base backup is chosen only when it is planned."""
        with suppress(CatalogUnavailable):
            row = self._app.catalog.backup(self._app.name, record.backup_id) if record.backup_id else None
            self._verified = bool(row and row.last_verification and row.last_verification.verified)
        self.note(record)

    def note(self, record: RestoreRecord) -> None:
        """Record a restore as far as it has come."""
        told: dict[str, Any] = {name: getattr(record, name) for name in _LOGGED}
        for name, value in told.items():
            # The record goes on; a row stays as it was written.
            told[name] = tuple(value) if isinstance(value, list) else dict(value) if isinstance(value, dict) else value
        row = RestoreRow(
            **told,
            application=self._app.name,
            who=self._app.actor.name,
            undone_id=record.restored_id,
            verified=self._verified,
            run_id=self._app.actor.run_id,
        )
        try:
            self._app.catalog.record_restore(row)
        # Not only when it is out of reach: between a cutover and its health check, nothing of an index may come in the way.
        except Exception as error:
            if not self._told:
                self._report.warning(f"the log of restores was not written: {str(error) or type(error).__name__}")
                self._told = True


def end_killed(app: Application, *, but: str = "") -> None:
    """Under the application's lock, after settling: what the log still calls running was killed. Its journal says what became of it.

    A plan holds no lock, and is left as it is. A catalog that does not answer is only said: the journals have it all.
    """
    catalog, journals = app.catalog, journals_of(app.settings)
    try:
        for row in catalog.restores(app.name, state="running"):
            if row.mode == "plan" or row.restore_id == but:
                continue
            journal = journals.load(row.restore_id) if journals.has(row.restore_id) else None
            if journal is not None and journal.interrupted:
                # Not settled yet: nobody can say what became of it.
                continue
            done = journal is not None and journal.phase == "done"
            told = (
                "it was killed after its switch, and finished later"
                if done
                else "it was killed before its switch: what was live stayed live"
            )
            catalog.record_restore(
                replace(
                    row,
                    state="done" if done else "settled",
                    result=told,
                    finished_at=row.finished_at or datetime.now(timezone.utc),
                )
            )
    except TwistDRError as error:
        app.report.warning(f"the log of restores was not put right: {error}")


def mark_corrupt_copies(app: Application, sources: Sources | None) -> None:
    """Note in the catalog what a restore found of bad copies, so that the next list says it."""
    if sources is None:
        return
    for name, error in sources.corrupt.items():
        app.report.warning(f"the copy of {sources.backup_id} on {name} is bad: {error}")
        with suppress(CatalogUnavailable):
            for copy in app.catalog.copies(sources.backup_id):
                if copy.target == name:
                    app.catalog.record_copy(sources.backup_id, name, state="corrupt", form=copy.form, error=error)


def pre_restore_backup(app: Application, reason: str) -> Callable[[], str]:
    """What makes a full backup labelled pre-restore and returns its id. Call it under the application's lock.

    One good copy is enough: the restore may be needed because a storage target is gone. It raises ``RestoreRefused`` when the
    backup fails or no target takes it.
    """

    def back_up() -> str:
        try:
            return make()
        except TwistDRError as error:
            raise RestoreRefused(
                f"The backup before the restore failed, so the restore was not started: {error}",
                remedy="set pre_restore_backup: false to restore without it",
            ) from error

    def make() -> str:
        forms = app.settings.forms
        plan = plan_backup(app, label="pre-restore", reason=reason, parts=ALL_PARTS, targets=forms)
        manifest = take_full_backup(plan, app.cluster, app.keyring, app.staging, app.report)
        record_sealed(app, manifest, app.actor.run_id)
        copying, repositories = Copying(app, manifest), app.repositories()
        with app.staging.using(manifest.backup_id) as folder:
            places = {name: (repositories[name], form) for name, form in forms.items()}
            stored = list(copying.side_by_side(folder, places))
        clear_staging(app)
        if not stored:
            copying.raise_failures()
        return manifest.backup_id

    return back_up
