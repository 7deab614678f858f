"""The job that removes what has had its time: what restores replaced, and what the retention policies of storage targets let go."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of steps themselves.

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from twist_dr.backups import chosen_targets
from twist_dr.catalog import CatalogUnavailable
from twist_dr.engine.kinds import FULL
from twist_dr.engine.progress import Report, human_bytes
from twist_dr.errors import LaunchRefused, SettingsError, StorageError, TwistDRError
from twist_dr.metadata import in_markdown
from twist_dr.orchestration import APPLICATION, RUN_BACKUP, operation, run_tags
from twist_dr.restores import end_killed
from twist_dr.settings import Application, Settings
from twist_dr.settings.restoring import surroundings

if TYPE_CHECKING:
    from twist_dr.retention import Retention


class CleanupConfig(dg.Config):
    """Launched as it is, it removes what is due."""

    allow_clock: bool = Field(
        False, description="Delete although the plan doubts this machine's clock, or the targets'. Look at them first."
    )
    allow_delete_fraction: float = Field(
        0.0,
        description="Let this fraction (up to 1) of a target's backups, or of its WAL, go at once, this time. 0: cleanup.max_delete_fraction of the settings.",
    )
    allow_rebuilt: bool = Field(
        False,
        description="Delete although the catalog was rebuilt and no backup was verified since: the last good one may go.",
    )
    dry_run: bool = Field(False, description="Only show what would be removed.")
    targets: str = Field("all", description="all, or names of storage targets with commas between")


def cleanup_job(settings: Settings) -> dg.JobDefinition:
    """The job ``cleanup``."""

    @dg.op(name="clean_up", required_resource_keys={APPLICATION})
    def clean_up(context: dg.OpExecutionContext, config: CleanupConfig) -> None:
        # Not above: every other run would wait for it.
        from twist_dr.retention import CleanupIncomplete

        with operation(context) as (app, report):
            names = chosen_targets(app.settings, config.targets)
            if not 0 <= config.allow_delete_fraction <= 1:
                raise LaunchRefused("allow_delete_fraction is a fraction from 0 to 1; 0 means that of the settings.")
            with app.exclusively("A cleanup", report):
                problems = _clean(context, app, config, list(names), report)
            if not config.dry_run:
                # Nothing waits for it: no backup and no restore needs the history.
                problems += _clean_history(context, app, report)
            if problems:
                raise CleanupIncomplete(" ".join(line if line.endswith(".") else f"{line}." for line in problems))

    @dg.job(
        name="cleanup",
        description="Remove what has had its time: copies, WAL and broken remains by each storage target's retention, databases and media that "
        "restores replaced, Dagster's history. It shows its plan first; dry_run only shows it.",
        tags=run_tags(settings),
        owners=[RUN_BACKUP],
    )
    def job() -> None:
        clean_up()

    return job


def _clean(
    context: dg.OpExecutionContext, app: Application, config: CleanupConfig, names: list[str], report: Report
) -> list[str]:
    """What restores replaced, then each target. Returns what went wrong."""
    from twist_dr.retention import Retention

    problems = list(_remove_replaced(context, app, config, report))
    retention = Retention(
        app,
        report,
        allow_fraction=config.allow_delete_fraction or None,
        allow_clock=config.allow_clock,
        allow_rebuilt=config.allow_rebuilt,
    )
    for name in names:
        problems += _clean_target(context, app, config, name, retention, report)
    return problems


def _remove_replaced(
    context: dg.OpExecutionContext, app: Application, config: CleanupConfig, report: Report
) -> Iterable[str]:
    """Databases and media that restores replaced, once their time is over. Returns what went wrong: it keeps no target from being cleaned."""
    from twist_dr.retention.replaced import Replaced
    from twist_dr.retention.telling import Log

    replaced = Replaced(
        surroundings(app.settings), Log(app, report), datetime.now(timezone.utc), allow_clock=config.allow_clock
    )
    done = replaced.show() if config.dry_run else replaced.remove()
    if not config.dry_run:
        end_killed(app, report)
    metadata = {"plan": in_markdown(done.table()), "removed": dg.MetadataValue.int(done.removed)}
    context.add_output_metadata(metadata)
    report.info(f"{done.removed} of {len(done.kept)} kept things removed" + (" (dry run)" if config.dry_run else ""))
    return done.problems


def _clean_target(
    context: dg.OpExecutionContext,
    app: Application,
    config: CleanupConfig,
    name: str,
    retention: "Retention",
    report: Report,
) -> Iterable[str]:
    """One target: plan, show, delete, note its room. Returns what went wrong: it stops no other target."""
    if not app.settings.storage_targets[name].policies:
        report.info(f"{name}: no retention policy, so nothing is ever deleted there")
        if not config.dry_run:
            _note_space(name, None, retention, report)
        return []
    try:
        planned = retention.plan(name, datetime.now(timezone.utc))
    except TwistDRError as error:
        return [f"{name}: nothing was deleted: {str(error).removeprefix(f'{name}: ')}"]
    # Before anything goes: whoever kills the run sees what it was about to do.
    report.page(f"the plan for {planned.name}\n{planned.markdown()}")
    _show(context, app.name, name, {"plan": in_markdown(planned.markdown())}, report)
    for line in planned.facts.warnings:
        report.warning(line)
    if config.dry_run:
        report.info(f"{planned.sentence()} (dry run: nothing was deleted)")
        return []
    outcome = retention.carry_out(planned)
    report.info(f"{name}: {len(outcome.deleted)} backups deleted, {human_bytes(outcome.freed)} freed")
    counts = {"deleted": dg.MetadataValue.int(len(outcome.deleted)), "freed_bytes": dg.MetadataValue.int(outcome.freed)}
    _show(context, app.name, name, counts, report)
    _note_space(name, planned.facts.used_bytes - outcome.freed, retention, report)
    return outcome.problems


def _clean_history(context: dg.OpExecutionContext, app: Application, report: Report) -> Iterable[str]:
    """What Dagster remembers. Returns what went wrong: nothing else depends on it."""
    from twist_dr.jobs.history import clean_history

    try:
        done = clean_history(context.instance, app.settings, app.catalog, datetime.now(timezone.utc), report)
    except (
        SettingsError
    ) as error:  # of storages that are not Dagster's own: for a person to know, and nothing to wait for
        report.warning(str(error))
        return []
    except Exception as error:  # Dagster's storages raise errors of many libraries
        return [f"Dagster's history could not be shortened: {error}"]
    for line in done.warnings:
        report.warning(line)
    report.info(done.sentence())
    return []


def _show(
    context: dg.OpExecutionContext,
    application: str,
    name: str,
    metadata: Mapping[str, dg.MetadataValue[Any]],
    report: Report,
) -> None:
    """On the run's page and the target's asset, at once: metadata of a step's output is lost when the step fails."""
    try:
        context.log_event(dg.AssetObservation([application, FULL.copies, name], metadata=metadata))
    except Exception as error:  # as with log lines: the orchestrator's storage is not what this depends on
        report.warning(f"the run's page lacks {', '.join(metadata)} of {name}: {error}")


def _note_space(name: str, used_bytes: int | None, retention: "Retention", report: Report) -> None:
    """A comfort for those who plan: it fails no cleanup."""
    try:
        retention.record_space(name, used_bytes)
    except (StorageError, CatalogUnavailable) as error:
        report.warning(f"how much room {name} has could not be noted: {error}")
