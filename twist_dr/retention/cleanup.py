"""Retention carried out: what was planned is looked at once more, deleted, recorded in the catalog and in the audit log."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial

from twist_dr.catalog import SpaceRow
from twist_dr.errors import (
    Cancelled,
    TwistDRError,
)
from twist_dr.repository.kinds import BASE
from twist_dr.repository.manifest import MANIFEST_NAME, Kind
from twist_dr.retention.carrying import Carrying
from twist_dr.retention.doubts import Windows, unproven
from twist_dr.retention.facts import Looking, TargetFacts
from twist_dr.retention.model import BackupFacts, Moving, Reclassing, TargetPlan, WalPlan
from twist_dr.retention.moving import lacks
from twist_dr.retention.plan import plan_target
from twist_dr.retention.planned import PlannedCleanup, calendar_zone
from twist_dr.retention.recheck import Recheck
from twist_dr.retention.telling import TargetOutcome
from twist_dr.retention.wal_plan import bases_of_window, plan_wal
from twist_dr.settings import Application
from twist_dr.settings.policy import longest_window

#: How long other operations wait for a cleanup where the settings have no schedules, which say it.
_PATIENCE = timedelta(hours=6)
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
        self.app = app
        self.report = app.report
        self._fraction = app.settings.cleanup.max_delete_fraction if allow_fraction is None else allow_fraction
        self._allow_clock = allow_clock
        self._allow_rebuilt = allow_rebuilt
        self.looking = Looking(app)
        self.windows = Windows(app)
        schedules = app.settings.schedules
        # Deleting is soon done, and a year of backups is sent for days. The night's backup waits for a cleanup; half of its patience is for moves.
        self.moving_until = time.monotonic() + (schedules.patience if schedules else _PATIENCE).total_seconds() / 2

    # -- planning ------------------------------------------------------------------------------------------------------

    def plan(self, name: str, now: datetime) -> PlannedCleanup:
        """Look at a target and plan. Changes nothing. Raises storage errors and ``CatalogUnavailable``."""
        facts = self.looking.at(self.app.targets[name], now)
        plan = self._plan_with_moves(facts, now)
        # Asked of the store only for what would go: it costs a request each.
        locked = {
            each.backup.id: until
            for each in (*plan.leaving, *plan.reclassed)
            if (until := facts.repository.target.locked_until(facts.repository.key(each.backup.id, MANIFEST_NAME)))
        }
        if locked:
            facts.backups = [_locked(backup, locked.get(backup.id)) for backup in facts.backups]
            plan = self._plan(facts, facts.backups, facts.in_use, now, self._fraction)
        wal = self.plan_wal(facts, plan, now)
        doubts = self.windows.doubts(name, self.window(name), wal, self._fraction)
        wal = replace(wal, doubts=(*wal.doubts, *([] if facts.wal_doubt else doubts)))
        going: set[Kind] = {each.backup.kind for each in plan.leaving}
        if wal.deleted:
            going.add(BASE.kind)
        if lacking := self.looking.unproven(going):
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
        policy = self.app.settings.storage_targets[facts.name].archive
        if policy is not None and policy.to is not None:
            facts.moving = Moving(policy.to, policy.after)
        elif policy is not None and policy.storage_class is not None:
            facts.moving = Reclassing(policy.storage_class, policy.after)
        plan = self._plan(facts, facts.backups, facts.in_use, now, self._fraction)
        if not isinstance(facts.moving, Moving) or not plan.moved:
            return plan
        staying = self._unwelcome(facts.moving.to, [each.backup for each in plan.moved], now)
        facts.moving = replace(facts.moving, staying=staying)
        return self._plan(facts, facts.backups, facts.in_use, now, self._fraction)

    def _unwelcome(self, name: str, arriving: Sequence[BackupFacts], now: datetime) -> dict[str, str]:
        """Which of the backups another target's own retention would not keep, with why; all while it cannot be asked."""
        ids = {each.id for each in arriving}
        try:
            there = self.looking.at(self.app.targets[name], now)
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
            self.app.settings.storage_targets[facts.name].policies,
            now=now,
            time_zone=calendar_zone(self.app.settings),
            holds=self.looking.holds(facts.notes),
            in_use=in_use,
            window_bases=bases_of_window(facts.clusters, self.window(facts.name), now),
            moving=facts.moving,
            max_delete_fraction=fraction,
        )

    def plan_wal(self, facts: TargetFacts, plan: TargetPlan, now: datetime) -> WalPlan:
        kept = [each.backup.id for each in plan.kept]
        return plan_wal([each.keeping(kept) for each in facts.clusters], self.window(facts.name), now, plan.doubts)

    def window(self, name: str) -> timedelta | None:
        return longest_window(self.app.settings.storage_targets[name].policies)

    def recheck(self, planned: PlannedCleanup) -> Recheck:
        """For the look right before each deletion. By the plan's own time: nothing ages while it is carried out."""
        facts, now = planned.facts, planned.plan.made_at
        locked = {each.id: each.locked_until for each in facts.backups if each.locked_until is not None}

        def replan(more: Sequence[BackupFacts]) -> TargetPlan:
            backups, in_use = self.looking.again(facts)
            # How much may go was judged before anything went.
            known = [_locked(each, locked.get(each.id)) for each in backups]
            return self._plan(facts, [*known, *more], in_use, now, 1.0)

        return Recheck(planned, self.looking, self.app.keyring, replan, partial(lacks, self.app), self._allow_clock)

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
            Carrying(self, planned, outcome).all()
        except Cancelled:
            raise
        except TwistDRError as error:
            outcome.add_problem(error.clause)
        return outcome

    def record_space(self, name: str, used_bytes: int | None = None) -> None:
        """Note how much space a target has; ``used_bytes`` by all that is ours, counted unless given. Raises storage and catalog errors."""
        if used_bytes is None:
            repository = self.looking.repository(self.app.targets[name])
            used_bytes = sum(each.size for each in repository.target.list(self.app.name))
        space = self.app.targets[name].space()
        self.app.catalog.record_space(SpaceRow(name, datetime.now(timezone.utc), used_bytes, space.free, space.total))


def _locked(backup: BackupFacts, until: datetime | None) -> BackupFacts:
    return backup if until is None else replace(backup, locked_until=until)
