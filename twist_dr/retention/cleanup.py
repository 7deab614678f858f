"""Retention carried out: what was planned is looked at once more, deleted, recorded in the catalog and in the audit log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial

from twist_dr.catalog import SpaceRow
from twist_dr.errors import (
    BackupError,
    Cancelled,
    EncryptionError,
    StagingFull,
    StorageError,
    TargetRefused,
    TwistDRError,
)
from twist_dr.repository.kinds import BASE, bases_of
from twist_dr.repository.manifest import MANIFEST_NAME, Kind
from twist_dr.retention.deletion import SCRATCH, Asked, Deleted, Deletion, delete_wal
from twist_dr.retention.doubts import Windows, unproven
from twist_dr.retention.facts import Looking, TargetFacts
from twist_dr.retention.holds import SCRATCH as HOLD_SCRATCH
from twist_dr.retention.incomplete import UNFINISHED_AFTER
from twist_dr.retention.model import BackupFacts, Decision, Moving, TargetPlan, WalPlan
from twist_dr.retention.moving import SCRATCH as MOVING_SCRATCH
from twist_dr.retention.moving import lacks, move
from twist_dr.retention.plan import plan_target
from twist_dr.retention.planned import PlannedCleanup, calendar_zone
from twist_dr.retention.recheck import Recheck
from twist_dr.retention.telling import TargetOutcome, Telling
from twist_dr.retention.tombstones import Tombstone
from twist_dr.retention.wal_plan import bases_of_window, plan_wal
from twist_dr.settings import Application
from twist_dr.settings.policy import longest_window
from twist_dr.storage.base import told_of
from twist_dr.system.progress import human_bytes
from twist_dr.system.scratch_folder import clear_left_over
from twist_dr.system.words import counted
from twist_dr.watch import audit

#: So many refusals in a row, and the target is left alone: it is read-only, or its credentials may not delete.
_MOST_REFUSALS = 3
#: How a person allows what a plan doubts, in the words of the run config.
_ALLOWING = {"clock": "allow_clock: true", "fraction": "allow_delete_fraction: 1", "rebuilt": "allow_rebuilt: true"}


class Retention:
    """Plans and carries out for one application. Carry out under the application's lock.

    ``allow_fraction`` in the place of ``cleanup.max_delete_fraction``, ``allow_clock`` and ``allow_rebuilt``: what a person allows this once.
    """

    def __init__(
        self,
        app: Application,
        *,
        allow_fraction: float | None = None,
        allow_clock: bool = False,
        allow_rebuilt: bool = False,
    ) -> None:
        self._app = app
        self._report = app.report
        self._fraction = app.settings.cleanup.max_delete_fraction if allow_fraction is None else allow_fraction
        self._allow_clock = allow_clock
        self._allow_rebuilt = allow_rebuilt
        self._looking = Looking(app)
        self._windows = Windows(app)

    # -- planning ------------------------------------------------------------------------------------------------------

    def plan(self, name: str, now: datetime) -> PlannedCleanup:
        """Look at a target and plan. Changes nothing. Raises storage errors and ``CatalogUnavailable``."""
        facts = self._looking.at(self._app.targets[name], now)
        plan = self._plan_with_moves(facts, now)
        # Asked of the store only for what would go: it costs a request each.
        locked = {
            each.backup.id: until
            for each in plan.leaving
            if (until := facts.repository.target.locked_until(facts.repository.key(each.backup.id, MANIFEST_NAME)))
        }
        if locked:
            facts.backups = [_locked(backup, locked.get(backup.id)) for backup in facts.backups]
            plan = self._plan(facts, facts.backups, facts.in_use, now, self._fraction)
        wal = self._plan_wal(facts, plan, now)
        doubts = self._windows.doubts(name, self._window(name), wal, self._fraction)
        wal = replace(wal, doubts=(*wal.doubts, *([] if facts.wal_doubt else doubts)))
        going: set[Kind] = {each.backup.kind for each in plan.leaving}
        if wal.deleted:
            going.add(BASE.kind)
        if lacking := self._looking.unproven(going):
            plan = replace(plan, doubts=(*plan.doubts, unproven(lacking)))
        forbidden = dict.fromkeys(
            (
                *plan.forbidden_by(allow_clock=self._allow_clock, allow_rebuilt=self._allow_rebuilt),
                *wal.forbidden_by(allow_clock=self._allow_clock),
            )
        )
        return PlannedCleanup(facts, plan, wal, tuple(forbidden))

    def _plan_with_moves(self, facts: TargetFacts, now: datetime) -> TargetPlan:
        """What cannot go to the other target now stays, and says why."""
        policy = self._app.settings.storage_targets[facts.name].archive
        if policy is not None:
            facts.moving = Moving(policy.to, policy.after)
        plan = self._plan(facts, facts.backups, facts.in_use, now, self._fraction)
        if facts.moving is None or not plan.moved:
            return plan
        staying = self._unwelcome(facts.moving.to, [each.backup for each in plan.moved], now)
        facts.moving = replace(facts.moving, staying=staying)
        return self._plan(facts, facts.backups, facts.in_use, now, self._fraction)

    def _unwelcome(self, name: str, arriving: Sequence[BackupFacts], now: datetime) -> dict[str, str]:
        """Which of the backups another target's own retention would not keep, with why; all while it cannot be asked."""
        ids = {each.id for each in arriving}
        try:
            there = self._looking.at(self._app.targets[name], now)
            backups = [each for each in there.backups if each.id not in ids] + [*arriving]
            kept = {each.backup.id for each in self._plan(there, backups, there.in_use, now, 1.0).kept}
        except TwistDRError as error:
            return dict.fromkeys(ids, f"nobody can tell what {name} holds: {error.clause}")
        return dict.fromkeys(ids - kept, "the retention there would not keep it")

    def _plan(
        self, facts: TargetFacts, backups: list[BackupFacts], in_use: Mapping[str, str], now: datetime, fraction: float
    ) -> TargetPlan:
        return plan_target(
            facts.name,
            backups,
            self._app.settings.storage_targets[facts.name].policies,
            now=now,
            time_zone=calendar_zone(self._app.settings),
            holds=self._looking.holds(facts.notes),
            in_use=in_use,
            window_bases=bases_of_window(facts.clusters, self._window(facts.name), now),
            moving=facts.moving,
            max_delete_fraction=fraction,
        )

    def _plan_wal(self, facts: TargetFacts, plan: TargetPlan, now: datetime) -> WalPlan:
        kept = [each.backup.id for each in plan.kept]
        return plan_wal([each.keeping(kept) for each in facts.clusters], self._window(facts.name), now, plan.doubts)

    def _window(self, name: str) -> timedelta | None:
        return longest_window(self._app.settings.storage_targets[name].policies)

    def recheck(self, planned: PlannedCleanup) -> Recheck:
        """For the look right before each deletion. By the plan's own time: nothing ages while it is carried out."""
        facts, now = planned.facts, planned.plan.made_at
        locked = {each.id: each.locked_until for each in facts.backups if each.locked_until is not None}

        def replan(more: Sequence[BackupFacts]) -> TargetPlan:
            backups, in_use = self._looking.again(facts)
            # How much may go was judged before anything went.
            known = [_locked(each, locked.get(each.id)) for each in backups]
            return self._plan(facts, [*known, *more], in_use, now, 1.0)

        return Recheck(planned, self._looking, self._app.keyring, replan, partial(lacks, self._app), self._allow_clock)

    # -- carrying out --------------------------------------------------------------------------------------------------

    def carry_out(self, planned: PlannedCleanup) -> TargetOutcome:
        """Delete what the plan says, unless something speaks against it now. Everything that goes wrong is in the outcome.

        Raises ``Cancelled``, and defects.
        """
        outcome = TargetOutcome(planned.name)
        if planned.forbidden:
            for doubt in planned.forbidden:
                outcome.add_problem(
                    f"nothing was deleted: {doubt} To allow it, launch cleanup with {_ALLOWING[doubt.about]}."
                )
            return outcome
        try:
            _Carrying(self, planned, outcome).all()
        except Cancelled:
            raise
        except TwistDRError as error:
            outcome.add_problem(error.clause)
        return outcome

    def record_space(self, name: str, used_bytes: int | None = None) -> None:
        """Note how much space a target has; ``used_bytes`` by all that is ours, counted unless given. Raises storage and catalog errors."""
        if used_bytes is None:
            repository = self._looking.repository(self._app.targets[name])
            used_bytes = sum(each.size for each in repository.target.list(self._app.name))
        space = self._app.targets[name].space()
        self._app.catalog.record_space(SpaceRow(name, datetime.now(timezone.utc), used_bytes, space.free, space.total))


class _Carrying:
    """One target's plan, carried out."""

    def __init__(self, retention: Retention, planned: PlannedCleanup, outcome: TargetOutcome) -> None:
        self._retention = retention
        self._planned = planned
        self._facts = planned.facts
        self._outcome = outcome
        self._report = retention._report
        self._app = retention._app
        self._telling = Telling(retention._app, self._facts, outcome)
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
        for decision in self._planned.plan.moved:
            self._stop_if_asked()
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
        return lambda: self._retention._looking.spared(backup_id, self._facts, datetime.now(timezone.utc))

    def _is_coming(self, backup_id: str) -> Asked:
        """For the end of a deletion that the catalog knows of."""
        return lambda: self._retention._looking.coming(backup_id)

    def _going_on(self, backup_id: str) -> Asked:
        """The same where the catalog has the copy as stored: its tombstone may be an old one that somebody put back, so it is decided again."""
        decide = self._recheck.still_of_begun(self._retention._looking.begun(self._facts, backup_id))
        decided = False

        def why_not() -> str | None:
            nonlocal decided
            reason = None if decided else decide()
            decided = True
            return reason or self._retention._looking.coming(backup_id)

        return why_not

    def _delete_wal(self) -> None:
        """By what is left now: a base that stayed after all keeps its WAL."""
        name, facts = self._planned.name, self._facts
        if facts.wal_doubt:
            self._report.warning(f"{name}: all WAL stays: {facts.wal_doubt}")
            return
        uses = self._retention._looking.uses()
        if used := bases_of(uses):
            self._report.info(f"{name}: WAL stays this time, as it may be read: {used[0]} ({uses[used[0]]})")
            return
        plan = self._retention._plan_wal(facts, self._recheck.plan(), self._planned.plan.made_at)
        # Before: what was allowed is not asked about again when this is cut short.
        self._retention._windows.note(name, self._retention._window(name), self._planned.wal)
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


def _locked(backup: BackupFacts, until: datetime | None) -> BackupFacts:
    return backup if until is None else replace(backup, locked_until=until)
