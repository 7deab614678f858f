"""Databases and media that restores replaced, and configuration that they left to be compared, removed once ``restore.keep_replaced_for`` is over: until then a restore can be undone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from twist_dr.errors import Cancelled, RestoreRefused, TwistDRError
from twist_dr.postgres import databases
from twist_dr.restore.cutover import Surroundings
from twist_dr.restore.journal import Journal
from twist_dr.restore.restored_configuration import RestoredConfiguration, everything_kept
from twist_dr.restore.settle import Superseded, half_removed, interrupted, remove_kept, settle_interrupted
from twist_dr.retention.doubts import set_back, set_forward
from twist_dr.retention.model import Doubt
from twist_dr.retention.planned import calendar_zone
from twist_dr.settings import Application
from twist_dr.system.folders import remove_tree
from twist_dr.system.words import few, unmarked
from twist_dr.watch import audit

#: So many of the newest backups tell whether the clock may be wrong: of 20 days, one each half hour.
_LOOKED_AT = 1000


@dataclass
class ReplacedOutcome:
    """What is kept, what of it is due, and what became of it. ``problems``: sentences; with any, the run fails in the end."""

    kept: list[Superseded | RestoredConfiguration] = field(default_factory=list)
    due: list[Superseded | RestoredConfiguration] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)
    removed: int = 0
    problems: list[str] = field(default_factory=list)

    def table(self) -> str:
        """All of it as a table."""
        rows = [
            f"| {each.restore_id} | {unmarked(str(each))} | {'remove' if each in self.due else 'keep'} | {_until(each)} |"
            for each in self.kept
        ]
        lines = [f"**Not carried out:** {doubt}\n" for doubt in self.doubts]
        lines += ["| restore | replaced | | kept until (UTC) |", "| --- | --- | --- | --- |", *rows]
        return "\n".join(lines) if rows else "nothing is kept"


class Replaced:
    """What restores of one application replaced, at ``now``. Trouble with one of them stops nothing else. Remove under the application's lock."""

    def __init__(self, around: Surroundings, app: Application, now: datetime, *, allow_clock: bool = False) -> None:
        self._around = around
        self._app = app
        self._now = now
        self._allow_clock = allow_clock
        self._outcome = ReplacedOutcome()

    def show(self) -> ReplacedOutcome:
        """Only look."""
        self._trying(self._look)
        return self._outcome

    def remove(self) -> ReplacedOutcome:
        """Settle what was cut short, and remove what is due. Raises ``Cancelled``, and defects."""
        report = self._app.report
        settled = self._trying(lambda: settle_interrupted(self._around, report))
        self._trying(self._finish_removals)
        self._trying(self._look)
        if not settled:
            # It may be the way back of what is unsettled.
            self._outcome.due = []
        if self._outcome.doubts:
            self._outcome.problems += [
                f"What restores replaced: nothing was removed: {doubt} To allow it, launch cleanup with allow_clock: true."
                for doubt in self._outcome.doubts
            ]
            return self._outcome
        for each in self._outcome.due:
            if self._removed(each, str(each)):
                self._outcome.removed += 1
                report.info(f"removed {each} of {each.restore_id}")
        return self._outcome

    def drop(self, restore_id: str, *, confirmed: bool) -> list[str]:
        """Remove what one restore left now, before its time is over, and whatever the clock says. Returns what went, in words.

        Raises ``RestoreRefused`` unless that is ``confirmed``, and while it is in use, or something is unsettled that may need it.
        """
        if cut_short := interrupted(self._around):
            raise RestoreRefused(
                f"{few(each.restore_id for each in cut_short)} may need what earlier restores replaced, and was cut short",
                remedy="finish or revert it first: twist-dr settle",
            )
        settings = self._app.settings
        every = everything_kept(self._around, settings.work_dir, settings.application)
        chosen: dict[str, Journal | Superseded | RestoredConfiguration] = {
            str(each): each for each in every if each.restore_id == restore_id
        }
        for journal in half_removed(self._around):
            if journal.restore_id == restore_id and journal.phase == "done":
                chosen["what an earlier removal had left"] = journal
        if not chosen:
            raise RestoreRefused(
                f"Nothing is kept of {restore_id or 'a restore without an id'}",
                remedy="see what is kept with: twist-dr list --replaced",
            )
        names = [each.database for each in chosen.values() if isinstance(each, Superseded) and each.database]
        refuse_used(self._around, names)
        if not confirmed:
            raise RestoreRefused(
                f"This would remove {', '.join(chosen)}, and {restore_id} could not be undone any more",
                remedy="to do it, type the application's name in confirm",
            )
        for what, each in chosen.items():
            self._remove(each, what)
        return list(chosen)

    def _finish_removals(self) -> None:
        """Of these nothing can be put back any more, whatever the clock says."""
        for journal in half_removed(self._around):
            if self._removed(journal, "what an earlier cleanup had left"):
                self._app.report.info(f"removed what an earlier cleanup had left of {journal.restore_id}")

    def _look(self) -> None:
        settings = self._app.settings
        self._outcome.kept = everything_kept(self._around, settings.work_dir, settings.application)
        due = [each for each in self._outcome.kept if each.keep_until is not None and each.keep_until <= self._now]
        if due and not self._allow_clock:
            self._outcome.doubts = self._doubts()
        self._outcome.due = due  # last: while nobody can tell whether the clock is right, nothing is due

    def _doubts(self) -> list[Doubt]:
        """Whether the clock may be wrong, by what a plan for a storage target goes by, too."""
        settings = self._app.settings
        rows = self._app.catalog.backups(application=settings.application, limit=_LOOKED_AT)
        if not rows:
            return []
        newest = f"the newest backup, {rows[0].backup_id},"
        return [
            *set_back(rows[0].started_at, self._now, newest),
            *set_forward((row.started_at for row in rows), self._now, calendar_zone(settings)),
        ]

    def _removed(self, which: Journal | Superseded | RestoredConfiguration, what: str) -> bool:
        return self._trying(lambda: self._remove(which, what))

    def _remove(self, which: Journal | Superseded | RestoredConfiguration, what: str) -> None:
        def record(result: str) -> None:
            details = {"what": what, "run": self._app.actor.run_id}
            audit.record(self._app, action="delete replaced", subject=which.restore_id, result=result, details=details)

        try:
            if isinstance(which, RestoredConfiguration):
                remove_tree(which.folder)
            else:
                remove_kept(which.journal if isinstance(which, Superseded) else which, self._around)
        except TwistDRError as error:
            record(f"incomplete: {error}")
            raise
        record("done")

    def _trying(self, deed: Callable[[], object]) -> bool:
        """Whether it went well; else a problem tells why it did not."""
        try:
            deed()
        except Cancelled:
            raise
        except TwistDRError as error:
            problem = f"What restores replaced: {error}"
            if problem not in self._outcome.problems:
                self._outcome.problems.append(problem)
            return False
        return True


def refuse_used(around: Surroundings, names: Sequence[str]) -> None:
    """Raise ``RestoreRefused`` while somebody is connected to one of the databases: the application is not, so somebody looks."""
    if not names:
        return
    with databases.maintenance(around.cluster) as connection:
        for name in names:
            oid = databases.find_oid(connection, name)
            if oid is not None and (found := databases.sessions(connection, oid)):
                raise RestoreRefused(
                    f"The database {name} is in use ({few(map(str, found))}), so it is not removed",
                    remedy="end these sessions first",
                )


def _until(each: Superseded | RestoredConfiguration) -> str:
    return "for ever" if each.keep_until is None else f"{each.keep_until:%Y-%m-%d %H:%M}"
