"""The job that removes what has had its time: what restores replaced, and what the retention policies of storage targets let go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

import dagster as dg

from twist_dr.errors import SettingsError
from twist_dr.operations.cleanup import CleanupConfig, as_sentences
from twist_dr.operations.table import CLEANUP
from twist_dr.orchestrator.jobs.operation_job import operation_job
from twist_dr.orchestrator.metadata import in_markdown
from twist_dr.repository.kinds import FULL
from twist_dr.settings import Application, Settings
from twist_dr.system.events import Event, Shown


def cleanup_job(settings: Settings) -> dg.JobDefinition:
    """The job ``cleanup``."""
    return operation_job(settings, CLEANUP, _work)


def _work(context: dg.OpExecutionContext, app: Application, config: CleanupConfig) -> None:
    """Dagster's history last: no backup and no restore needs it, so nothing waits for it."""
    from twist_dr.retention.recheck import CleanupIncomplete

    app.report.add(_RunPage(context, app))
    problems = []
    try:
        CLEANUP(app, config)
    except CleanupIncomplete as incomplete:
        problems.append(str(incomplete))
    if not config.dry_run:
        problems += _clean_history(context, app)
    if problems:
        raise CleanupIncomplete(as_sentences(problems))


class _RunPage:
    """Listens for the run's page and the targets' assets, at once: metadata of a step's output is lost when the step fails."""

    def __init__(self, context: dg.OpExecutionContext, app: Application) -> None:
        self._context, self._app = context, app

    def __call__(self, event: Event) -> None:
        from twist_dr.retention.planned import PlannedCleanup
        from twist_dr.retention.replaced import ReplacedOutcome
        from twist_dr.retention.telling import TargetOutcome

        what = event.what if isinstance(event, Shown) else None
        if isinstance(what, ReplacedOutcome):
            metadata = {"plan": in_markdown(what.table()), "removed": dg.MetadataValue.int(what.removed)}
            self._context.add_output_metadata(metadata)
        elif isinstance(what, PlannedCleanup):
            self._show(what.name, {"plan": in_markdown(what.markdown())})
        elif isinstance(what, TargetOutcome):
            deleted, freed = dg.MetadataValue.int(len(what.deleted)), dg.MetadataValue.int(what.freed)
            self._show(what.name, {"deleted": deleted, "freed_bytes": freed})

    def _show(self, name: str, metadata: Mapping[str, dg.MetadataValue[Any]]) -> None:
        try:
            asset = [self._app.name, FULL.copies, name]
            self._context.log_event(dg.AssetObservation(asset, metadata=metadata))
        except Exception as error:  # as with log lines: the orchestrator's storage is not what this depends on
            self._app.report.warning(f"the run's page lacks {', '.join(metadata)} of {name}: {error}")


def _clean_history(context: dg.OpExecutionContext, app: Application) -> Iterable[str]:
    """What Dagster remembers. Returns what went wrong: nothing else depends on it."""
    from twist_dr.orchestrator.jobs.history import clean_history

    try:
        done = clean_history(context.instance, app, datetime.now(timezone.utc))
    except (
        SettingsError
    ) as error:  # of storages that are not Dagster's own: for a person to know, and nothing to wait for
        app.report.warning(str(error))
        return []
    except Exception as error:  # Dagster's storages raise errors of many libraries
        return [f"Dagster's history could not be shortened: {error}"]
    for line in done.warnings:
        app.report.warning(line)
    app.report.info(done.sentence())
    return []
