"""How long Dagster remembers: its history has no retention of its own, and ``ship_wal`` alone adds a run each minute.

Deleting a run deletes what it says of assets, so the runs stay that the newest event of each kind of each asset came from, and the newest
of each check; and events without a run (told by sensors, or for a resident process) are reached by no run's deletion.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import dagster as dg
from dagster._core.storage.dagster_run import FINISHED_STATUSES

from twist_dr.catalog.notes import HistorySize
from twist_dr.orchestrator.around import APPLICATION_TAG, DEAD_RUNS, LAUNCHERS
from twist_dr.orchestrator.jobs.history_rows import HistoryRows
from twist_dr.settings import Application
from twist_dr.system.progress import human_bytes
from twist_dr.system.words import counted
from twist_dr.watch.runs import ROUTINE_JOB

#: Runs looked at together, and how long one cleanup goes on deleting them: what was never cleaned takes several nights.
_PAGE = 500
_SECONDS = 300.0
#: Between two looks that tell how fast it grows.
_SHORTEST = timedelta(hours=1)


@dataclass
class HistoryCleanup:
    """What one cleanup did: ``left``: whether runs that were to go are there still. Sizes in bytes; None where nothing tells."""

    runs: int = 0
    left: bool = False
    before: int | None = None
    after: int | None = None
    warnings: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        size = "" if self.after is None else f"; it takes {human_bytes(self.after)}"
        more = ", more in the next cleanup" if self.left else ""
        return f"Dagster's history: {counted(self.runs, 'run')} forgotten{more}{size}"


def clean_history(instance: dg.DagsterInstance, app: Application, now: datetime) -> HistoryCleanup:
    """Delete this application's runs, events and ticks that had their time. Raises what Dagster's storages raise, ``CatalogUnavailable``."""
    done = HistoryCleanup()
    if instance.is_ephemeral:
        return done
    rows = HistoryRows(instance, app.name)
    wanted = app.settings.history
    done.before = rows.stored_bytes()
    kept = _Kept(instance, app.name, rows.told_by() | _of_open_alerts(app))
    deadline = time.monotonic() + _SECONDS
    for job, age in ((ROUTINE_JOB, wanted.wal_runs), (None, wanted.runs)):
        for page in kept.pages(job, now - age):
            rows.delete_runs(page)
            done.runs += len(page)
            if time.monotonic() > deadline or app.report.stop.is_set():
                done.left = True
                break
    rows.delete_runless(now - wanted.wal_runs)
    _delete_ticks(instance, now - wanted.ticks)
    done.warnings += rows.give_back()
    done.after = rows.stored_bytes()
    _note_size(app, done, now)
    return done


def _note_size(app: Application, done: HistoryCleanup, now: datetime) -> None:
    """For the status: the size now, and what it had grown by since the last note."""
    if done.before is None or done.after is None:
        return
    known = app.catalog.note(app.name, HistorySize)
    grown = known.bytes_per_day if known else None
    if known is not None and now - known.at > _SHORTEST:
        grown = (done.before - known.bytes) / ((now - known.at) / timedelta(days=1))
    app.catalog.leave_note(app.name, HistorySize(at=now, bytes=done.after, bytes_per_day=grown))


def _of_open_alerts(app: Application) -> set[str]:
    """Runs that people are sent to."""
    return {row.run_id for row in app.catalog.open_alerts(app.name) if row.run_id}


class _Kept:
    """Which runs stay whatever their age: ``named`` ones, those going on, and the newest of each job, launcher and end.

    The newest that a sensor launched is how Dagster knows that it has launched it: without it, it would do so again.
    """

    def __init__(self, instance: dg.DagsterInstance, application: str, named: set[str]) -> None:
        self._instance = instance
        self._application = application
        self._named = named
        self._newest: dict[tuple[object, ...], str] = {}

    def pages(self, job: str | None, before: datetime) -> Iterator[list[str]]:
        """Ids of runs that may go, oldest first. Each page has to be deleted before the next is asked for."""
        cursor: str | None = None
        while True:
            filters = self._filter(job_name=job, created_before=before, statuses=FINISHED_STATUSES)
            records = self._instance.get_run_records(filters, limit=_PAGE, cursor=cursor, ascending=True)
            runs = [record.dagster_run for record in records]
            going = [run.run_id for run in runs if not self._stays(run)]
            if going:
                yield going
            if len(runs) < _PAGE:
                return
            # A cursor is a run that is there still.
            cursor = next((run.run_id for run in reversed(runs) if run.run_id not in set(going)), cursor)

    def _stays(self, run: dg.DagsterRun) -> bool:
        if run.run_id in self._named:
            return True
        launcher = {tag: run.tags[tag] for tag in LAUNCHERS.values() if tag in run.tags}
        kind = (run.job_name, run.status, *launcher.items())
        if kind not in self._newest:
            filters = self._filter(job_name=run.job_name, statuses=[run.status], tags=launcher)
            newest = self._instance.get_run_records(filters, limit=1)
            self._newest[kind] = newest[0].dagster_run.run_id if newest else run.run_id
        return self._newest[kind] == run.run_id

    def _filter(
        self,
        *,
        job_name: str | None = None,
        created_before: datetime | None = None,
        statuses: Sequence[dg.DagsterRunStatus] = (),
        tags: dict[str, str] | None = None,
    ) -> dg.RunsFilter:
        own = {APPLICATION_TAG: self._application, **(tags or {})}
        return dg.RunsFilter(job_name=job_name, created_before=created_before, statuses=list(statuses), tags=own)


def _delete_ticks(instance: dg.DagsterInstance, before: datetime) -> None:
    """Ticks of twist-dr's schedules and sensors; the newest of each stays: Dagster reckons from it which time it has missed."""
    states = instance.all_instigator_state() if instance.schedule_storage is not None else []
    own = {state.repository_origin_id for state in states if state.instigator_name == DEAD_RUNS}
    for state in states:
        if state.repository_origin_id in own:
            newest = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
            until = min([before.timestamp(), *(tick.timestamp for tick in newest)])
            instance.purge_ticks(state.instigator_origin_id, state.selector_id, before=until)
