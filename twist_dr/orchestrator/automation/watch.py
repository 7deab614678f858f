"""The sensors that make silence and failure heard: one looks at what the catalog knows, one hears of every run that failed."""

from __future__ import annotations

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorStatus, InstigatorType

from twist_dr.catalog import AttemptState, CatalogUnavailable
from twist_dr.errors import code_named
from twist_dr.orchestrator.around import APPLICATION_TAG, RUN_BACKUP, attempt_of, telling, without_secrets
from twist_dr.settings import Application
from twist_dr.watch.runs import look_after, tick


def watch_sensor(app: Application) -> dg.SensorDefinition:
    """The sensor ``watch``: alerts are raised, told and resolved by it even when nothing runs."""

    @dg.sensor(
        name="watch",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Looks whether everything is as it should be, and tells people when it is not: silence is an alarm.",
        owners=[RUN_BACKUP],
    )
    @without_secrets()
    def watch(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        told: list[str] = []
        tick(telling(app, told), _stopped(context))
        return dg.SkipReason("; ".join(told)[:500] or "nothing new")

    return watch


def _stopped(context: dg.SensorEvaluationContext) -> list[str]:
    """Schedules of this code location that somebody switched off."""
    origin = context.code_location_origin
    states = context.instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE)
    return [
        state.instigator_name
        for state in states
        if state.status == InstigatorStatus.STOPPED
        and (
            origin is None or state.origin.repository_origin.code_location_origin.location_name == origin.location_name
        )
    ]


def failed_runs_sensor(app: Application) -> dg.SensorDefinition:
    """The sensor ``failed_runs``. A job tells of its own failure; this hears of runs that could not: killed, or refused before a step began."""

    # All locations: runs of "dagster job execute" belong to none, and would not be heard of otherwise.
    @dg.run_failure_sensor(
        name="failed_runs",
        monitor_all_code_locations=True,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Records runs that failed without a word of their own, with the step, the reason and a link in the alert.",
    )
    @without_secrets()
    def failed_runs(context: dg.RunFailureSensorContext) -> dg.SkipReason:
        run = context.dagster_run
        try:
            if app.catalog.attempt(run.run_id) is None and not _is_ours(run, app.name):
                return dg.SkipReason(f"{run.run_id} is not ours")
            attempt = attempt_of(run, app.name)
            app.catalog.begin_attempt(attempt)
            step, reason, code = _cause(context)
            state: AttemptState = "refused" if attempt.is_refused_by(code) else "failed"
            app.catalog.end_attempt(run.run_id, state=state, step=step, error=reason, error_code=code)
        except CatalogUnavailable as unavailable:
            # Dagster does not tell of this run again; the sensor dead_runs asks for all that have no end.
            return dg.SkipReason(str(unavailable))
        told: list[str] = []
        look_after(telling(app, told))
        return dg.SkipReason("; ".join(told)[:500] or f"{run.run_id} had told of itself")

    # Dagster 1.13 takes no owners for sensors of this kind, though they have them like all others; a contract test watches it.
    failed_runs._owners = [RUN_BACKUP]
    return failed_runs


def _is_ours(run: dg.DagsterRun, application: str) -> bool:
    """Whether a run that the catalog does not know is this application's: every job of ours bears its name as a tag."""
    return run.tags.get(APPLICATION_TAG) == application


def _cause(context: dg.RunFailureSensorContext) -> tuple[str | None, str, str | None]:
    """The step that failed, the first line of its error, and the error's code. A run may fail without either."""
    for event in context.get_step_failure_events():
        error = event.step_failure_data.error
        if error is not None:
            cause = error.cause or error
            told = (error.message or cause.message).strip().splitlines()
            # Dagster puts the class before the message.
            return (
                event.step_key,
                (told or [""])[0].removeprefix("dagster._core.definitions.events.Failure: "),
                code_named(cause.cls_name) if cause.cls_name else None,
            )
    return None, (context.failure_event.message or "the run failed").splitlines()[0], None
