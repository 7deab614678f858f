"""A target's plan carried out, step by step: what is there after a kill is whole, and the next cleanup goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from twist_dr.errors import (
    BackupError,
    Cancelled,
    EncryptionError,
    StagingFull,
    StorageError,
    TargetRefused,
)
from twist_dr.repository.kinds import bases_of
from twist_dr.retention.deletion import SCRATCH, Asked, Deleted, Deletion, delete_wal
from twist_dr.retention.holds import SCRATCH as HOLD_SCRATCH
from twist_dr.retention.incomplete import UNFINISHED_AFTER
from twist_dr.retention.model import Decision
from twist_dr.retention.moving import SCRATCH as MOVING_SCRATCH
from twist_dr.retention.moving import move, note_archived, reclass
from twist_dr.retention.planned import PlannedCleanup
from twist_dr.retention.telling import TargetOutcome, Telling
from twist_dr.retention.tombstones import Tombstone
from twist_dr.storage.base import told_of
from twist_dr.system.progress import human_bytes
from twist_dr.system.scratch_folder import clear_left_over
from twist_dr.system.words import counted
from twist_dr.watch import audit

if TYPE_CHECKING:
    from twist_dr.retention.cleanup import Retention

#: So many refusals in a row, and the target is left alone: it is read-only, or its credentials may not delete.
_MOST_REFUSALS = 3


class Carrying:
    """One target's plan, carried out."""

    def __init__(self, retention: Retention, planned: PlannedCleanup, outcome: TargetOutcome) -> None:
        self._retention = retention
        self._planned = planned
        self._facts = planned.facts
        self._outcome = outcome
        self._report = retention.report
        self._app = retention.app
        self._telling = Telling(retention.app, self._facts, outcome)
        self._recheck = retention.recheck(planned)
        self._app.settings.work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._deletion = Deletion(
            self._facts.repository,
            self._app.keyring,
            self._app.settings.work_dir,
            lambda: self._app.locks.deciding("Deleting a copy"),
        )

    def all(self) -> None:
        """Raises storage errors and ``CatalogUnavailable``."""
        for prefix in (SCRATCH, HOLD_SCRATCH, MOVING_SCRATCH):
            clear_left_over(self._app.settings.work_dir, prefix)
        for backup_id, why in self._facts.bases.unreadable.items():
            # It stays each time, and the target fills up meanwhile: somebody must see to it.
            self._outcome.add_problem(f"{backup_id} stays, and with it all WAL: {why}")
        if self._facts.strangers:
            self._outcome.add_problem(
                f"{told_of(self._facts.strangers)}; nothing there is read or deleted: find out who put it there, and remove it."
            )
        self._settle_tombstones()
        self._delete_backups()
        self._move_backups()
        self._reclass_backups()
        note_archived(self._app, self._planned.name, self._facts.ground)
        self._delete_incomplete()
        self._delete_wal()

    def _settle_tombstones(self) -> None:
        """What an earlier cleanup had begun; a tombstone of others says nothing."""
        kept = {each.backup.id for each in self._planned.plan.kept}
        ground, begun = self._facts.ground, self._facts.begun
        for backup_id in sorted(ground.forged):
            self._deletion.spare(backup_id)
        for backup_id in sorted(ground.tombstones):
            folder = ground.folders.get(backup_id)
            known = backup_id in begun and begun[backup_id].state != "deleted"
            if backup_id in self._facts.staged or backup_id in kept:
                self._deletion.spare(backup_id)
            elif folder is None and not known:
                # Ended and recorded: the tombstone alone is left, as a store may lock that too (Object Lock).
                self._deletion.spare(backup_id)
            elif (folder is None or not folder.sealed) and backup_id in begun:
                gone = self._telling.gone(backup_id, "begun by an earlier cleanup")
                still = self._going_on(backup_id) if known else self._is_coming(backup_id)
                self._telling.told(self._deletion.finish(backup_id, gone, still))

    def _delete_backups(self) -> None:
        refusals = 0
        for decision in self._planned.plan.deleted:
            self._stop_if_asked()
            deleted = self._delete(decision)
            refusals = refusals + 1 if deleted.fate == "refused" else 0
            if refusals == _MOST_REFUSALS:
                raise TargetRefused(
                    f"it refused {counted(refusals, 'deletion')} in a row, so no more were tried",
                    remedy=f"allow these credentials to delete, or drop storage_targets.{self._planned.name}.retention",
                    target=self._planned.name,
                )

    def _delete(self, decision: Decision) -> Deleted:
        backup_id, actor = decision.backup.id, self._app.actor
        tombstone = Tombstone(backup_id, actor.name, decision.reason, datetime.now(timezone.utc), actor.run_id)
        deleted = self._deletion.delete(
            tombstone, self._recheck.still(decision.backup), self._telling.gone(backup_id, decision.reason)
        )
        if deleted.fate in ("kept", "refused", "untrusted"):
            self._facts.stayed[backup_id] = f"it stayed when it was to go: {deleted.reason.rstrip('.')}"
        self._telling.told(deleted, decision.to)
        return deleted

    def _move_backups(self) -> None:
        """Each is stored on the other target and checked there before it goes from this one: a kill in between leaves both, and the next cleanup ends it."""
        for decision in self._as_time_allows(self._planned.plan.moved):
            assert decision.to is not None
            try:
                self._telling.stored(
                    move(self._app, self._facts.repository, decision.backup.id, decision.to), decision.backup.id
                )
            except (StorageError, StagingFull) as error:
                self._outcome.add_problem(f"nothing more is moved to {decision.to}: {error.clause}")
                return
            except (BackupError, EncryptionError) as error:
                self._outcome.add_problem(error.clause)
                continue
            if self._delete(decision).fate == "refused":
                return

    def _reclass_backups(self) -> None:
        """Each stays where it is. A kill in between leaves some of its artifacts in the old class, and the next cleanup ends it."""
        repository = self._app.repositories()[self._planned.name]
        for decision in self._as_time_allows(self._planned.plan.reclassed):
            backup_id, storage_class = decision.backup.id, decision.storage_class
            now = next((each for each in self._recheck.plan().decisions if each.backup.id == backup_id), None)
            if storage_class is None or now is None or now.storage_class != storage_class:
                continue
            try:
                done = reclass(self._app, repository, backup_id, storage_class)
                self._facts.ground.folders[backup_id].note_class(storage_class, archived=done.archived)
                self._telling.reclassed(backup_id, storage_class, done.size)
            except StorageError as error:
                self._outcome.add_problem(f"nothing more goes to the storage class {storage_class}: {error.clause}")
                return
            except (BackupError, EncryptionError) as error:
                self._outcome.add_problem(error.clause)

    def _as_time_allows(self, decisions: Sequence[Decision]) -> Iterator[Decision]:
        """The first in any case; what is late then waits for the next cleanup, so that nothing misses its time by this one."""
        for number, decision in enumerate(decisions):
            self._stop_if_asked()
            if number and time.monotonic() > self._retention.moving_until:
                left = counted(len(decisions) - number, "backup")
                self._report.info(f"{self._planned.name}: {left} more will move with the next cleanup")
                return
            yield decision

    def _delete_incomplete(self) -> None:
        for incomplete in self._facts.incomplete:
            if not incomplete.keep:
                self._stop_if_asked()
                backup_id = incomplete.folder.backup_id
                deleted = self._deletion.remove_incomplete(backup_id, self._spared(backup_id))
                self._telling.told_of_incomplete(deleted, incomplete.reason)
        with suppress(TargetRefused):  # not every credential may look for uploads
            if swept := self._facts.repository.target.sweep(
                max(UNFINISHED_AFTER, self._app.settings.cleanup.incomplete_after)
            ):
                self._report.info(f"{self._planned.name}: removed {swept} unfinished uploads of earlier days")

    def _spared(self, backup_id: str) -> Asked:
        """For the removal of incomplete backups: somebody may copy anew into the old folder by now."""
        return lambda: self._retention.looking.spared(backup_id, self._facts, datetime.now(timezone.utc))

    def _is_coming(self, backup_id: str) -> Asked:
        """For the end of a deletion that the catalog knows of."""
        return lambda: self._retention.looking.coming(backup_id)

    def _going_on(self, backup_id: str) -> Asked:
        """The same where the catalog has the copy as stored: its tombstone may be an old one that somebody put back, so it is decided again."""
        decide = self._recheck.still_of_begun(self._retention.looking.begun(self._facts, backup_id))
        decided = False

        def why_not() -> str | None:
            nonlocal decided
            reason = None if decided else decide()
            decided = True
            return reason or self._retention.looking.coming(backup_id)

        return why_not

    def _delete_wal(self) -> None:
        """By what is left now: a base that stayed after all keeps its WAL."""
        name, facts = self._planned.name, self._facts
        if facts.wal_doubt:
            self._report.warning(f"{name}: all WAL stays: {facts.wal_doubt}")
            return
        uses = self._retention.looking.uses()
        if used := bases_of(uses):
            self._report.info(f"{name}: WAL stays this time, as it may be read: {used[0]} ({uses[used[0]]})")
            return
        plan = self._retention.plan_wal(facts, self._recheck.plan(), self._planned.plan.made_at)
        # Before: what was allowed is not asked about again when this is cut short.
        self._retention.windows.note(name, self._retention.window(name), self._planned.wal)
        if not plan.deleted:
            return
        done = delete_wal(facts.archive, plan.deleted)
        self._outcome.wal_objects, self._outcome.freed = done.objects, self._outcome.freed + done.freed
        details = {
            "first": plan.deleted[0].key,
            "last": plan.deleted[max(done.objects - 1, 0)].key,
            "bytes": done.freed,
        }
        result = "done" if not done.refused else f"refused: {done.refused}"
        subject = f"{counted(done.objects, 'object')} on {name}"
        audit.record(self._app, action="delete WAL", subject=subject, result=result, details=details)
        self._report.info(f"{name}: {counted(done.objects, 'object')} of WAL deleted, {human_bytes(done.freed)}")
        if done.locked:
            self._report.info(f"{name}: the rest stays: {done.locked}")
        if done.refused:
            self._outcome.add_problem(done.refused)

    def _stop_if_asked(self) -> None:
        if self._report.stop.is_set():
            raise Cancelled(
                "The cleanup was asked to stop, and what it had not begun is there",
                remedy="start it again when you wish",
            )
