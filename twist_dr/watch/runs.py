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
from twist_dr.system.events import Begun, Ended, Event, Listener, Proven
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


def listeners(app: Application, attempt: AttemptRow) -> tuple[Listener, ...]:
    """All that an orchestrator's run is told to, beside its own log."""
    log = RunLog(app, attempt)
    return log, AlertListener(app, log), Heartbeat(app)


class RunLog:
    """Listens for the begin and the end of a run: both go to the catalog and to the audit log."""

    def __init__(self, app: Application, attempt: AttemptRow) -> None:
        self._app, self._attempt = app, attempt
        self._catalog = app.catalog
        #: What there is to be told of the run's end; None while it has not ended, and where that is no news.
        self.ended: AttemptRow | None = None
        self.away: CatalogUnavailable | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Begun):
            self._begin()
        elif isinstance(event, Ended) and (event.last or event.state != "succeeded"):
            self._end(event)

    def _begin(self) -> None:
        """The run is at work; its later steps change nothing."""
        if self._routine:
            return
        with self._tolerantly("this run could not be recorded"):
            if self._catalog.begin_attempt(self._attempt):
                audit.note_settings(self._app)
                self._audit("launch", "begun")

    def _end(self, event: Ended) -> None:
        refused = event.state == "failed" and self._attempt.is_refused_by(event.error_code)
        state: AttemptState = "refused" if refused else event.state
        step, error = event.step, event.error
        self.ended = replace(self._attempt, state=state, step=step, error=error)
        # Where it did not answer when the run began, it may now.
        self.away = None
        with self._tolerantly("this run's end could not be recorded"):
            if self._routine and not self._is_news(state, error):
                self.ended = None
                return
            self._catalog.begin_attempt(self._attempt)
            self._catalog.end_attempt(
                self._attempt.run_id, state=state, step=step, error=error, error_code=event.error_code
            )
            self._audit("run", state if error is None else f"{state}: {error}")
        if self._attempt.job == "cleanup" and self.away is None:
            with self._tolerantly("old runs could not be forgotten"):
                self._catalog.forget_before(self._app.name, _now() - _REMEMBERED)

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
            self._app.report.warning(f"{what}: {error}")
            if isinstance(error, CatalogUnavailable):
                self.away = error


class AlertListener:
    """Listens for the end of a run, after its :class:`RunLog`: those who must know are told, and the metrics are written."""

    def __init__(self, app: Application, log: RunLog) -> None:
        self._app, self._log = app, log

    def __call__(self, event: Event) -> None:
        ended = self._log.ended
        if not isinstance(event, Ended) or ended is None:
            return
        if self._log.away is not None:
            # Looking after the alerts would wait for the catalog once more, to learn the same.
            self._tell_without_catalog(self._log.away, ended)
        else:
            look_after(self._app)

    def _tell_without_catalog(self, unavailable: CatalogUnavailable, ended: AttemptRow) -> None:
        """No daemon may be there to tell of it, and then nobody else would: neither that the catalog is away, nor how this run ended."""
        from twist_dr.watch.alerts.catalog_gone import tell_catalog_gone
        from twist_dr.watch.alerts.rules_common import what_failed

        # Often it is what the run failed of.
        failed = ended.state == "failed" and str(unavailable) not in (ended.error or "")
        meanwhile = what_failed(ended) if failed else ""
        tell_catalog_gone(self._app, unavailable, _now(), meanwhile=meanwhile)
        _write_metrics(self._app)


class Heartbeat:
    """Listens for proofs: the watcher outside is told that there is a verified recovery point within the objective. Proving an old backup again is no news."""

    def __init__(self, app: Application) -> None:
        self._app = app

    def __call__(self, event: Event) -> None:
        app = self._app
        settings = app.settings
        wanted = settings.alerts.heartbeat
        if wanted is None or not isinstance(event, Proven):
            return
        from twist_dr.watch.alerts.facts import gather
        from twist_dr.watch.alerts.heartbeat import beat
        from twist_dr.watch.alerts.points import newest_point
        from twist_dr.watch.proving import allowed_age

        now = _now()
        try:
            facts = gather(app, now)
            point = newest_point(facts, settings, now)
        except Exception as error:
            app.report.warning(f"no heartbeat is sent: {error}")
            return
        if point is None or now - point.at > allowed_age(settings, facts.backups.get("full", ()), now):
            app.report.warning(
                "no heartbeat is sent: the newest verified recovery point is older than objectives.recovery_point"
            )
            return
        if problem := beat(wanted.url, wanted.timeout_seconds):
            app.report.warning(f"the heartbeat could not be sent: {problem}")


def note_killed(app: Application, run_id: str) -> None:
    """A run was found dead."""
    try:
        app.catalog.end_attempt(run_id, state="killed", error=KILLED)
    except CatalogUnavailable as unavailable:
        app.report.warning(str(unavailable))


def look_after(app: Application) -> None:
    """Raise, tell and resolve alerts, and write the metrics, after something has happened."""
    from twist_dr.watch.alerts.reconcile import reconcile

    try:
        reconcile(app, _now())
    except Exception as error:
        app.report.warning(f"alerts could not be looked after: {error}")
    _write_metrics(app)


def tick(app: Application, stopped: Collection[str]) -> None:
    """The daemon looks whether all is well, and notes that it does. ``stopped``: names of schedules that somebody switched off."""
    from twist_dr.watch.alerts.daemon import note_daemon

    try:
        note_daemon(app, _now(), stopped)
    except Exception as error:
        app.report.warning(f"that the daemon runs could not be noted: {error}")
    look_after(app)


def _write_metrics(app: Application) -> None:
    textfile = app.settings.metrics.textfile
    if textfile is not None:
        from twist_dr.watch.status.metrics import write_textfile

        try:
            write_textfile(app)
        except Exception as error:
            app.report.warning(f"{textfile} could not be written: {error}")


def _now() -> datetime:
    return datetime.now(timezone.utc)
