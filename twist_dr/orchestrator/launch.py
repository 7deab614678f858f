"""A job launched by ``twist-dr``: by the same way as ``dagster job execute`` does, but a person at a terminal watches it, not Dagster's log."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import dagster as dg
from dagster._cli.utils import get_possibly_temporary_instance_for_cli
from dagster._core.definitions.reconstruct import ReconstructableJob, ReconstructableRepository
from dagster._core.execution.plan.objects import ErrorSource, StepFailureData
from dagster._utils.interrupts import capture_interrupts

from twist_dr.cli.launching import Launched
from twist_dr.errors import LaunchRefused
from twist_dr.orchestrator.around import watching_runs
from twist_dr.orchestrator.taking import run_config
from twist_dr.redaction import leaving
from twist_dr.system.events import Listener


def launch(job: str, told: Mapping[str, Any], watching: Listener) -> Launched:
    """Run it to its end in this process. Raises ``SettingsError``, and ``LaunchRefused`` where these settings make no such job, or Dagster cannot keep it."""
    with _silence(), capture_interrupts(), _instance() as instance:
        found = _job(job)
        gc.freeze()
        gc.enable()
        with (
            watching_runs(watching),
            dg.execute_job(found, instance, run_config=run_config(job, told), raise_on_error=False) as result,
        ):
            defect = any(_unexpected(event.step_failure_data) for event in result.all_events if event.is_step_failure)
            return Launched(result.run_id, result.success, defect, dict(_results(result)))


@contextmanager
def _instance() -> Iterator[dg.DagsterInstance]:
    with ExitStack() as stack:
        try:
            instance = stack.enter_context(get_possibly_temporary_instance_for_cli("twist-dr"))
        except Exception as error:  # of Dagster, of YAML, or of whichever storage dagster.yaml names
            said = leaving((str(error).splitlines() or [type(error).__name__])[0]).rstrip(".")
            raise LaunchRefused(
                f"Dagster cannot open what it keeps its history in ({said})",
                remedy="correct DAGSTER_HOME, or dagster.yaml there",
            ) from error
        yield instance


def _job(name: str) -> ReconstructableJob:
    """The job of the code location, as ``-m twist_dr.definitions`` names it."""
    repository = ReconstructableRepository.for_module("twist_dr.definitions", "defs", os.getcwd())
    if name not in repository.get_definition().job_names:
        raise LaunchRefused(f"There is no {name} without archived WAL", remedy="give twist-dr.yaml a section wal first")
    return repository.get_reconstructable_job(name)


def _unexpected(failed: StepFailureData) -> bool:
    return failed.user_failure_data is None and failed.error_source is not ErrorSource.INTERRUPT


@contextmanager
def _silence() -> Iterator[None]:
    """What Dagster, libraries and children print goes to the run's page, or nowhere: whoever watches is told by us."""
    streams = (sys.stdout, sys.stderr)
    for stream in streams:
        stream.flush()
    kept = [os.dup(number) for number in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    try:
        yield
    finally:
        for number, (stream, before) in enumerate(zip(streams, kept, strict=True), 1):
            stream.flush()
            os.dup2(before, number)
        for descriptor in (*kept, nowhere):
            os.close(descriptor)


def _results(result: dg.JobExecutionResult) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the run's page shows, by step or asset."""
    for event in result.all_events:
        failure = event.step_failure_data.user_failure_data if event.is_step_failure else None
        if event.is_step_materialization:
            made = event.step_materialization_data.materialization
            yield "/".join(made.asset_key.path), _plain(made.metadata)
        elif event.is_successful_output and event.step_output_data.metadata:
            yield str(event.step_key), _plain(event.step_output_data.metadata)
        elif failure is not None:
            yield str(event.step_key), _plain(failure.metadata)


def _plain(metadata: Mapping[str, dg.MetadataValue[Any]]) -> dict[str, Any]:
    return {name: value.value for name, value in metadata.items()}
