"""What becomes of a cleanup's deeds: the catalog is brought up to date, the audit log has each, the run says it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from twist_dr.backup.storing import StoredCopy
from twist_dr.errors import BackupNotFound, StorageError
from twist_dr.retention.deletion import Deleted
from twist_dr.retention.facts import TargetFacts
from twist_dr.settings import Application
from twist_dr.system.progress import human_bytes
from twist_dr.watch import audit


@dataclass
class TargetOutcome:
    """What became of one target. ``problems``: sentences; with any, the run fails in the end."""

    name: str
    deleted: list[str] = field(default_factory=list)
    #: To another target.
    moved: list[str] = field(default_factory=list)
    #: To another storage class.
    reclassed: list[str] = field(default_factory=list)
    freed: int = 0
    wal_objects: int = 0
    incomplete: int = 0
    problems: list[str] = field(default_factory=list)

    def add_problem(self, clause: str) -> None:
        """What went wrong, in words that do not name the target."""
        self.problems.append(f"{self.name}: {clause}")


class Telling:
    """Of what is done on one target."""

    def __init__(self, app: Application, facts: TargetFacts, outcome: TargetOutcome) -> None:
        self._app = app
        self._facts = facts
        self._outcome = outcome

    def gone(self, backup_id: str, why: str) -> Callable[[int], None]:
        """What is written down once a backup is none any more, before the rest of it and the tombstone go."""

        def note(size: int) -> None:
            name, catalog = self._facts.name, self._app.catalog
            copy = catalog.copy(backup_id, name)
            with suppress(BackupNotFound):  # finished after the catalog was lost
                catalog.record_copy(backup_id, name, state="deleted", form=copy.form if copy else "unknown")
            details = {"why": why, "run": self._app.actor.run_id, "bytes": size}
            audit.record(
                self._app, action="delete copy", subject=f"{backup_id} on {name}", result="done", details=details
            )
            self._facts.ground.folders.pop(backup_id, None)
            with suppress(StorageError):  # those that ran out: nothing else lets a backup go
                self._facts.notes.remove(backup_id)

        return note

    def stored(self, copy: StoredCopy, backup_id: str) -> None:
        """A backup lies on the target that it moves to. Before it goes from this one: so the catalog never knows of fewer copies than there are."""
        catalog, run_id = self._app.catalog, self._app.actor.run_id
        here = catalog.copy(backup_id, self._facts.name)
        form = here.form if here else copy.form.name
        catalog.record_copy(
            backup_id, copy.target, state="checked", form=form,
            stored_bytes=copy.bytes, seconds=copy.seconds, run_id=run_id,
        )  # fmt: skip
        self._app.count_upload(copy.target, copy.bytes)
        details = {"from": self._facts.name, "run": run_id, "bytes": copy.bytes}
        subject = f"{backup_id} on {copy.target}"
        audit.record(self._app, action="store moved copy", subject=subject, result="done", details=details)

    def reclassed(self, backup_id: str, storage_class: str, size: int) -> None:
        """The artifacts of a backup, read and checked just now, are in another storage class."""
        name, catalog, report = self._facts.name, self._app.catalog, self._app.report
        if (copy := catalog.copy(backup_id, name)) is not None:
            catalog.record_copy(backup_id, name, state="checked", form=copy.form)
        details = {"class": storage_class, "run": self._app.actor.run_id, "bytes": size}
        subject = f"{backup_id} on {name}"
        audit.record(self._app, action="change storage class", subject=subject, result="done", details=details)
        self._outcome.reclassed.append(backup_id)
        report.info(f"{name}: {backup_id} is in the storage class {storage_class} now, {human_bytes(size)}")

    def told(self, deleted: Deleted, to: str | None = None) -> None:
        """What became of a backup; :meth:`gone` was called before if it is none any more. ``to``: where it moved."""
        self._outcome.freed += deleted.freed
        if deleted.fate == "deleted":
            (self._outcome.deleted if to is None else self._outcome.moved).append(deleted.backup_id)
        elif deleted.fate != "incomplete":
            self._audit("delete copy", deleted, deleted.reason)
        self._say(deleted, deleted.backup_id if to is None else f"{deleted.backup_id}, which lies on {to} now")

    def told_of_incomplete(self, deleted: Deleted, why: str) -> None:
        """What became of incomplete backups."""
        self._outcome.incomplete += deleted.fate == "deleted"
        self._outcome.freed += deleted.freed
        self._audit("delete incomplete backup", deleted, why)
        self._say(deleted, f"incomplete backup {deleted.backup_id}")

    def _say(self, deleted: Deleted, what: str) -> None:
        name, report = self._facts.name, self._app.report
        if deleted.fate == "deleted":
            report.info(f"{name}: deleted {what}, {human_bytes(deleted.freed)}")
        elif deleted.fate == "kept":
            report.warning(f"{name}: {what} stays after all: {deleted.reason}")
        else:
            self._outcome.add_problem(deleted.reason)

    def _audit(self, action: str, deleted: Deleted, why: str) -> None:
        result = "done" if deleted.fate == "deleted" else f"{deleted.fate}: {deleted.reason}"
        subject = f"{deleted.backup_id} on {self._facts.name}"
        details = {"why": why, "run": self._app.actor.run_id}
        audit.record(self._app, action=action, subject=subject, result=result, details=details)
