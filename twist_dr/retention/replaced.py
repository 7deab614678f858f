"""Databases and media that restores replaced, and configuration that they left to be compared, removed once ``restore.keep_replaced_for`` is over: until then a restore can be undone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from twist_dr.errors import Cancelled, TwistDRError
from twist_dr.restore.cutover import Surroundings
from twist_dr.restore.journal import Journal
from twist_dr.restore.restored_configuration import RestoredConfiguration, everything_kept
from twist_dr.restore.settle import Kept, half_removed, remove_kept, settle_interrupted
from twist_dr.retention.doubts import set_back, set_forward
from twist_dr.retention.model import Doubt
from twist_dr.retention.planned import calendar_zone
from twist_dr.retention.telling import Log
from twist_dr.system.folders import remove_tree
from twist_dr.system.words import unmarked

#: So many of the newest backups tell whether the clock may be wrong: of 20 days, one each half hour.
_LOOKED_AT = 1000


@dataclass
class ReplacedOutcome:
    """What is kept, what of it is due, and what became of it. ``problems``: sentences; with any, the run fails in the end."""

    kept: list[Kept | RestoredConfiguration] = field(default_factory=list)
    due: list[Kept | RestoredConfiguration] = field(default_factory=list)
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

    def __init__(self, around: Surroundings, log: Log, now: datetime, *, allow_clock: bool = False) -> None:
        self._around = around
        self._log = log
        self._now = now
        self._allow_clock = allow_clock
        self._outcome = ReplacedOutcome()

    def show(self) -> ReplacedOutcome:
        """Only look."""
        self._trying(self._look)
        return self._outcome

    def remove(self) -> ReplacedOutcome:
        """Settle what was cut short, and remove what is due. Raises ``Cancelled``, and defects."""
        report = self._log.report
        self._trying(lambda: settle_interrupted(self._around, report))
        self._trying(self._finish_removals)
        self._trying(self._look)
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

    def _finish_removals(self) -> None:
        """Of these nothing can be put back any more, whatever the clock says."""
        for journal in half_removed(self._around):
            if self._removed(journal, "what an earlier cleanup had left"):
                self._log.report.info(f"removed what an earlier cleanup had left of {journal.restore_id}")

    def _look(self) -> None:
        settings = self._log.app.settings
        self._outcome.kept = everything_kept(self._around, settings.work_dir, settings.application)
        due = [each for each in self._outcome.kept if each.keep_until is not None and each.keep_until <= self._now]
        if due and not self._allow_clock:
            self._outcome.doubts = self._doubts()
        self._outcome.due = due  # last: while nobody can tell whether the clock is right, nothing is due

    def _doubts(self) -> list[Doubt]:
        """Whether the clock may be wrong, by what a plan for a storage target goes by, too."""
        settings = self._log.app.settings
        rows = self._log.app.catalog.backups(application=settings.application, limit=_LOOKED_AT)
        if not rows:
            return []
        newest = f"the newest backup, {rows[0].backup_id},"
        return [
            *set_back(rows[0].started_at, self._now, newest),
            *set_forward((row.started_at for row in rows), self._now, calendar_zone(settings)),
        ]

    def _removed(self, which: Journal | Kept | RestoredConfiguration, what: str) -> bool:
        def record(result: str) -> None:
            details: dict[str, object] = {"what": what, "run": self._log.app.actor.run_id}
            self._log.record("delete replaced", which.restore_id, result, details)

        def remove() -> None:
            try:
                if isinstance(which, RestoredConfiguration):
                    remove_tree(which.folder)
                else:
                    remove_kept(which.journal if isinstance(which, Kept) else which, self._around)
            except TwistDRError as error:
                record(f"incomplete: {error}")
                raise
            record("done")

        return self._trying(remove)

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


def _until(each: Kept | RestoredConfiguration) -> str:
    return "for ever" if each.keep_until is None else f"{each.keep_until:%Y-%m-%d %H:%M}"
