"""Around each run, whatever it does: it is recorded, audited, and those who must know are told.

Nothing here ends a run: a catalog that does not answer, or a channel that hangs, is said in the run's log.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone

from twist_dr.catalog import AttemptRow, AttemptState, CatalogUnavailable
from twist_dr.catalog.operations import recordable
from twist_dr.settings import Application
from twist_dr.system.progress import Report
from twist_dr.watch import audit

#: Run tags that schedules set, and that a script may: when it was due (``now`` will do).
SCHEDULED_FOR = "twist_dr/scheduled_for"
LABEL = "twist_dr/label"
ROUTINE_JOB = "ship_wal"
#: Runs are remembered for so long; the audit log for ever.
_REMEMBERED = timedelta(days=400)
#: Why a run ended that could not say so itself.
KILLED = "The process of this run is gone: it was killed, or the machine went down."


def scheduled_for(text: str | None) -> datetime | None:
    """When a run was due, from its tag; one that cannot be read means now."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = datetime.now(timezone.utc)
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


class Recorder:
    """Records one run in the catalog and the audit log, and has the alerts looked at when it has ended."""

    def __init__(self, app: Application, attempt: AttemptRow, report: Report) -> None:
        self._app, self._attempt, self._report = app, attempt, report
        self._catalog = app.catalog
        self._away: CatalogUnavailable | None = None

    def begin(self) -> None:
        """The run is at work; its later steps change nothing."""
        if self._routine:
            return
        with self._tolerantly("this run could not be recorded"):
            if self._catalog.begin_attempt(self._attempt):
                audit.note_settings(self._app)
                self._audit("launch", "begun")

    def end(
        self,
        state: AttemptState,
        *,
        last: bool,
        step: str | None = None,
        error: str | None = None,
        error_code: str | None = None,
    ) -> None:
        """A step has ended, ``last``: and the run with it, if all went well."""
        if state == "succeeded" and not last:
            return
        if state == "failed" and self._attempt.is_refused_by(error_code):
            state = "refused"
        # Where it did not answer when the run began, it may now.
        self._away = None
        with self._tolerantly("this run's end could not be recorded"):
            if self._routine and not self._is_news(state, error):
                return
            self._catalog.begin_attempt(self._attempt)
            self._catalog.end_attempt(self._attempt.run_id, state=state, step=step, error=error, error_code=error_code)
            self._audit("run", state if error is None else f"{state}: {error}")
        if self._away is not None:
            # Looking after the alerts would wait for it once more, to learn the same.
            self._tell_without_catalog(self._away, replace(self._attempt, state=state, step=step, error=error))
            return
        if self._attempt.job == "cleanup":
            with self._tolerantly("old runs could not be forgotten"):
                self._catalog.forget_before(self._app.name, _now() - _REMEMBERED)
        look_after(self._app, self._report)

    def _tell_without_catalog(self, unavailable: CatalogUnavailable, ended: AttemptRow) -> None:
        """No daemon may be there to tell of it, and then nobody else would: neither that the catalog is away, nor how this run ended."""
        from twist_dr.watch.alerts.catalog_gone import tell_catalog_gone
        from twist_dr.watch.alerts.rules_common import what_failed

        # Often it is what the run failed of.
        failed = ended.state == "failed" and str(unavailable) not in (ended.error or "")
        meanwhile = what_failed(ended) if failed else ""
        tell_catalog_gone(self._app.settings, unavailable, _now(), self._report, meanwhile=meanwhile)
        _write_metrics(self._app, self._report)

    @property
    def _routine(self) -> bool:
        """Launched every minute: only its failures are worth a line, and the end of them."""
        return self._attempt.job == ROUTINE_JOB

    def _is_news(self, state: AttemptState, error: str | None) -> bool:
        """Whether a routine run ended otherwise than the one before it."""
        last = next(iter(self._catalog.attempts(self._app.name, job=ROUTINE_JOB, limit=1)), None)
        if state == "succeeded":
            return last is not None and last.state != "succeeded"
        return last is None or (last.state, last.error) != (state, None if error is None else recordable(error))

    def _audit(self, action: str, result: str) -> None:
        attempt = self._attempt
        details = {"run": attempt.run_id, "label": attempt.label}
        audit.record(self._app, action=action, subject=attempt.job, result=result, details=details)

    @contextmanager
    def _tolerantly(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._report.warning(f"{what}: {error}")
            if isinstance(error, CatalogUnavailable):
                self._away = error


def note_killed(app: Application, run_id: str, report: Report) -> None:
    """A run was found dead."""
    try:
        app.catalog.end_attempt(run_id, state="killed", error=KILLED)
    except CatalogUnavailable as unavailable:
        report.warning(str(unavailable))


def look_after(app: Application, report: Report) -> None:
    """Raise, tell and resolve alerts, and write the metrics, after something has happened."""
    from twist_dr.watch.alerts.reconcile import reconcile

    try:
        reconcile(app.settings, app.catalog, _now(), report)
    except Exception as error:
        report.warning(f"alerts could not be looked after: {error}")
    _write_metrics(app, report)


def tick(app: Application, report: Report, stopped: Collection[str]) -> None:
    """The daemon looks whether all is well, and notes that it does. ``stopped``: names of schedules that somebody switched off."""
    from twist_dr.watch.alerts.daemon import note_daemon

    try:
        note_daemon(app.settings, app.catalog, _now(), stopped)
    except Exception as error:
        report.warning(f"that the daemon runs could not be noted: {error}")
    look_after(app, report)


def _write_metrics(app: Application, report: Report) -> None:
    textfile = app.settings.metrics.textfile
    if textfile is not None:
        from twist_dr.watch.status.metrics import write_textfile

        try:
            write_textfile(app.settings, app.catalog)
        except Exception as error:
            report.warning(f"{textfile} could not be written: {error}")


def heartbeat(app: Application, report: Report) -> None:
    """Tell the watcher outside that there is a verified recovery point within the objective: proving an old backup again is no news."""
    settings = app.settings
    wanted = settings.alerts.heartbeat
    if wanted is None:
        return
    from twist_dr.watch.alerts.facts import gather
    from twist_dr.watch.alerts.heartbeat import beat
    from twist_dr.watch.alerts.points import newest_point
    from twist_dr.watch.proving import allowed_age

    now = _now()
    try:
        facts = gather(settings, app.catalog, now)
        point = newest_point(facts, settings, now)
    except CatalogUnavailable as unavailable:
        report.warning(f"no heartbeat is sent: {unavailable}")
        return
    if point is None or now - point.at > allowed_age(settings, facts.backups.get("full", ()), now):
        report.warning(
            "no heartbeat is sent: the newest verified recovery point is older than objectives.recovery_point"
        )
        return
    if problem := beat(wanted.url, wanted.timeout_seconds):
        report.warning(f"the heartbeat could not be sent: {problem}")


def _now() -> datetime:
    return datetime.now(timezone.utc)
