"""What every step does around its work, whatever the work is.

Errors of ours become failures of the step with their own sentence, an interrupt stops all threads, log lines never raise,
and runs that died without a word are marked as failed by the next one (nobody else would: ``kill -9`` leaves a run
"started" for ever).
"""

from __future__ import annotations

import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from twist_dr.engine.progress import Report
from twist_dr.errors import TwistDRError

# Owners of jobs and sensors are beta in 1.13, and each definition would say so in every log; a contract test watches them.
warnings.filterwarnings("ignore", message="Parameter `owners`", category=dg.BetaWarning)

RUN_BACKUP = "team:system_run_backup"
CONFIGURE_BACKUP = "team:system_configure_backup"
RESTORE_BACKUP = "team:system_restore_backup"

#: No run is ever launched again by itself: a step that may be retried says so.
RUN_TAGS = {"dagster/max_retries": "0"}

_PROCESS_TAG = "twist_dr/process"

#: Attempts after the first for a failure that may pass by itself (a server that is just restarting), and seconds between them.
_RETRIES = 2
_RETRY_SECONDS = 5


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
                f"The process of this run ({mark.rsplit(' ', 2)[1]}) is gone: it was killed, or the machine went down.",
            )
            reaped.append(run.run_id)
    return reaped


def _safely(log: Callable[[str], None]) -> Callable[[str], None]:
    """A log call that falls back to standard error: no work of ours ends because a line could not be stored."""

    def tell(line: str) -> None:
        try:
            log(line)
        except Exception:
            print(line, file=sys.stderr)

    return tell


@contextmanager
def operation(context: dg.OpExecutionContext | dg.AssetExecutionContext, *, retry: bool = False) -> Iterator[Report]:
    """Around a step's work. Gives the report that the engine tells its progress to.

    With ``retry``, a failure that may pass by itself is tried again. Not by a retry policy of Dagster's: that would also
    start an interrupted step anew.
    """
    context.instance.add_run_tags(context.run.run_id, {_PROCESS_TAG: _process_mark()})
    report = Report(_safely(context.log.info), _safely(context.log.warning), bar=sys.stderr.isatty())
    for run_id in reap_dead_runs(context.instance):
        report.warning(f"run {run_id} was killed earlier and is marked as failed now")
    try:
        yield report
    except TwistDRError as error:
        if retry and error.retryable and context.retry_number < _RETRIES:
            report.warning(f"{error} Trying again in {_RETRY_SECONDS} s.")
            raise dg.RetryRequested(_RETRIES, _RETRY_SECONDS) from error
        raise dg.Failure(str(error), metadata={"error": type(error).__name__}, allow_retries=False) from None
    except BaseException:
        # An interrupt reaches this thread only; the others look at this between two chunks.
        report.stop.set()
        raise
