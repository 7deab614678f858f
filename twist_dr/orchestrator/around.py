"""What every step does around its work, whatever the work is.

Errors of ours become failures of the step with their own sentence, an interrupt stops all threads, log lines never raise,
and runs that died without a word are marked as failed by the next one (nobody else would: ``kill -9`` leaves a run
"started" for ever).
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal

import dagster as dg

from twist_dr.catalog import AttemptRow, AttemptState, CatalogUnavailable
from twist_dr.errors import TwistDRError, code_of
from twist_dr.operations.operation import Operation
from twist_dr.redaction import leaving
from twist_dr.settings import Actor, Application, ScheduleSettings, Settings, user_of_this_machine
from twist_dr.system.events import Begun, Ended, Listener
from twist_dr.system.progress import Lines, Report
from twist_dr.watch.runs import KILLED, LABEL, SCHEDULED_FOR, listeners, note_killed, scheduled_for

# Owners of jobs and sensors are beta in 1.13, and each definition would say so in every log; a contract test watches them.
warnings.filterwarnings("ignore", message="Parameter `owners`", category=dg.BetaWarning)

RUN_BACKUP = "team:system_run_backup"

#: The one resource: what a step works with. A plain object, so run config cannot say where backups go.
APPLICATION = "application"

#: Whose run it is: several applications may share one Dagster instance.
APPLICATION_TAG = "twist_dr/application"

#: The sensor that every application of ours has.
DEAD_RUNS = "dead_runs"

_PROCESS_TAG = "twist_dr/process"

#: Who listens to the runs of this process besides: the terminal that launched them.
_watching: list[Listener] = []

Context = dg.OpExecutionContext | dg.AssetExecutionContext

#: How Dagster names the job of assets that are materialized by hand, and how the catalog does.
_IMPLICIT_JOB = "__ASSET_JOB"
MATERIALIZED = "materialize"

#: Who launched a run, for people, and Dagster's tag that says so.
LAUNCHERS = {"schedule": "dagster/schedule_name", "sensor": "dagster/sensor_name"}

#: Attempts after the first for a failure that may pass by itself (a server that is just restarting), and seconds between them.
_RETRIES = 2
_RETRY_SECONDS = 5


def owner(launched: Operation[Any, Any]) -> str:
    """Who owns the job of an operation: its permission."""
    return f"team:{launched.permission}"


def run_tags(settings: Settings) -> dict[str, str]:
    """Tags of all jobs. No run is ever launched again by itself: a step that may be retried says so."""
    return {"dagster/max_retries": "0", APPLICATION_TAG: settings.application}


def _machine() -> str:
    """Where process ids mean something: host, boot, and the namespace of process ids (containers may share a host's name)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        boot = namespace = "unknown"
    return f"{socket.gethostname()} {boot} {namespace}"


def _started(process: int) -> str | None:
    """When a process started, in clock ticks since boot (proc(5), stat, field 22); ``None`` when it is gone.

    A process id is used again some day; with this it is not taken for the old one.
    """
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _process_mark() -> str:
    return f"{_machine()} {os.getpid()} {_started(os.getpid())}"


def _is_dead(mark: str) -> bool:
    """Whether the process that a mark names is certainly gone. Of other machines nothing is known."""
    machine, process, started = mark.rsplit(" ", 2)
    if machine == _machine():
        return _started(int(process)) != started
    host, boot, _ = machine.split(" ", 2)
    return host == _machine().split(" ")[0] and boot not in ("unknown", _machine().split(" ")[1])


def reap_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs as failed whose process is gone; returns their ids."""
    going_on = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING])
    reaped = []
    for run in instance.get_runs(going_on):
        mark = run.tags.get(_PROCESS_TAG)
        if mark is not None and _is_dead(mark):
            instance.report_run_failed(
                run,
                f"{KILLED} (process {mark.rsplit(' ', 2)[1]})",
            )
            reaped.append(run.run_id)
    return reaped


#: Runs that Dagster does not know are taken for dead after so long: its history may have been lost.
_LOST_AFTER = timedelta(days=1)
_ENDINGS: dict[dg.DagsterRunStatus, AttemptState] = {
    dg.DagsterRunStatus.SUCCESS: "succeeded",
    dg.DagsterRunStatus.FAILURE: "failed",
    dg.DagsterRunStatus.CANCELED: "cancelled",
}


def settle_attempts(app: Application, instance: dg.DagsterInstance) -> list[str]:
    """Note the end of runs that the catalog still calls running, as Dagster knows it: it may have been locked when they ended.

    Returns a sentence for each.
    """
    catalog = app.catalog
    told = []
    try:
        for attempt in catalog.attempts(app.name, state="running"):
            run = instance.get_run_by_id(attempt.run_id)
            lost = run is None and datetime.now(timezone.utc) - attempt.started_at > _LOST_AFTER
            state = _ENDINGS.get(run.status) if run is not None else "killed" if lost else None
            if state is not None:
                error = None if state == "succeeded" else "the run ended without telling why; its page in Dagster may"
                catalog.end_attempt(attempt.run_id, state=state, error=error)
                told.append(f"{attempt.run_id} had {state}")
    except CatalogUnavailable as unavailable:
        told.append(str(unavailable))
    return told


def _safely(log: Callable[[str], None]) -> Callable[[str], None]:
    """A log call that falls back to standard error: no work of ours ends because a line could not be stored."""

    def tell(line: str) -> None:
        try:
            log(line)
        except Exception:
            # Of a full disk, that may not take it either.
            with suppress(OSError, ValueError):
                print(line, file=sys.stderr)

    return tell


@contextmanager
def watching_runs(listener: Listener) -> Iterator[None]:
    """While this lasts, it listens to what is run in this process."""
    _watching.append(listener)
    try:
        yield
    finally:
        _watching.remove(listener)


def failure(error: TwistDRError, **metadata: dg.MetadataValue) -> dg.Failure:
    """The failure of a step by an error of ours. Its sentence says all: no lines of code are kept or shown with it."""
    sys.tracebacklimit = 0
    said = str(error)
    # What Dagster's own command says last is that the run failed.
    if Path(sys.argv[0]).name == "dagster":
        atexit.register(lambda: print(said, file=sys.stderr))
    return dg.Failure(said, metadata={"error": error.code, **metadata}, allow_retries=False)


@contextmanager
def operation(context: Context, launched: Operation[Any, Any], *, retry: bool = False) -> Iterator[Application]:
    """Around a step of what was launched. Gives the application of this run, to whose report the work tells its progress.

    Whether the actor may is asked first; who listens is told what becomes of it.

    With ``retry``, a failure that may pass by itself is tried again. Not by a retry policy of Dagster's: that would also
    start an interrupted step anew.
    """
    # An earlier step of this process may have had nothing to show.
    vars(sys).pop("tracebacklimit", None)
    app = _application(context)
    report, (step, last) = app.report, _place(context)
    report.emit(Begun(launched.name))

    def ended(state: Literal["failed", "cancelled"], error: str | None, code: str) -> None:
        report.emit(Ended(launched.name, state, last=last, step=step, error=error, error_code=code))

    try:
        launched.require(app.actor)
        yield app
    except TwistDRError as error:
        if retry and error.retryable and context.retry_number < _RETRIES:
            report.warning(f"{error} Trying again in {_RETRY_SECONDS} s.")
            raise dg.RetryRequested(_RETRIES, _RETRY_SECONDS) from error
        ended("failed", str(error), error.code)
        raise failure(error) from None
    except BaseException as error:
        # An interrupt reaches this thread only; the others look at this between two chunks.
        report.stop.set()
        ended("failed" if isinstance(error, Exception) else "cancelled", *_reason(error))
        if isinstance(error, Exception) and (instead := _instead(error)) is not None:
            raise instead from None
        raise
    report.emit(Ended(launched.name, "succeeded", last=last))


def _application(context: Context) -> Application:
    """The application of this run: on whose behalf it is, and who listens to it. Runs that died without a word are marked first."""
    shared: Application = getattr(context.resources, APPLICATION)
    attempt = attempt_of(context.run, shared.name)
    report = Report(*_watching, Lines(_safely(context.log.info), _safely(context.log.warning)))
    actor = Actor(attempt.who, shared.actor.permissions, attempt.run_id, _patience(context, shared.settings))
    app = shared.of(actor, report)
    # Runs of assets that somebody materializes by hand have no job's tags.
    own = {_PROCESS_TAG: _process_mark(), APPLICATION_TAG: app.name}
    context.instance.add_run_tags(context.run.run_id, own)
    for run_id in reap_dead_runs(context.instance):
        report.warning(f"run {run_id} was killed earlier and is marked as failed now")
        note_killed(app, run_id)
    report.add(*listeners(app, attempt))
    return app


def _place(context: Context) -> tuple[str, bool]:
    """The step's name, and whether it is the last of its run."""
    step = context.op_execution_context.op.name if isinstance(context, dg.AssetExecutionContext) else context.op.name
    chosen = context.run.step_keys_to_execute
    steps = [node.name for node in context.job_def.nodes_in_topological_order]
    return step, [name for name in steps if not chosen or name in chosen][-1:] == [step]


def telling(app: Application, told: list[str]) -> Application:
    """For a sensor: the application, whose lines go to ``told``."""
    return app.of(app.actor, Report(Lines(told.append, told.append)))


@contextmanager
def without_secrets() -> Iterator[None]:
    """Around what Dagster calls and keeps the errors of: one that quotes a secret becomes a failure that does not."""
    try:
        yield
    except Exception as error:
        if (instead := _instead(error)) is not None:
            raise instead from None
        raise


def _instead(error: Exception) -> dg.Failure | None:
    """A failure in the place of an error that nobody expected, where its text, or that of its causes, quotes a secret: Dagster keeps all of it."""
    said = [line for each in _chain(error) for line in (str(each), *getattr(each, "__notes__", ()))]
    if isinstance(error, dg.Failure) or all(leaving(line) == line for line in said):
        return None
    return dg.Failure(
        leaving("".join(traceback.format_exception(error))),
        metadata={"error": code_of(error)},
        allow_retries=False,
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: BaseException) -> tuple[str | None, str]:
    """What to record of an error, and its code. A step may have made a failure of one of ours itself, to show more of it."""
    if isinstance(error, dg.Failure):
        code = error.metadata.get("error")
        return error.description, str(code.value) if code is not None else code_of(error)
    return str(error) or None, code_of(error)


def attempt_of(run: dg.DagsterRun, application: str) -> AttemptRow:
    """A run as the catalog records it: how it came about, and that it has begun."""
    by = next((f"{what} {run.tags[tag]}" for what, tag in LAUNCHERS.items() if tag in run.tags), None)
    return AttemptRow(
        run_id=run.run_id,
        application=application,
        # What somebody materializes by hand belongs to no job, and its next success may be of quite another asset.
        job=MATERIALIZED if run.job_name.startswith(_IMPLICIT_JOB) else run.job_name,
        label=run.tags.get(LABEL),
        scheduled_for=scheduled_for(run.tags.get(SCHEDULED_FOR)),
        who=by or user_of_this_machine().name,
        started_at=datetime.now(timezone.utc),
    )


def _patience(context: Context, settings: Settings) -> float:
    """Seconds that a run waits for another operation."""
    waits = SCHEDULED_FOR in context.run.tags
    schedules = settings.schedules or ScheduleSettings()
    return schedules.patience.total_seconds() if waits else 0.0
