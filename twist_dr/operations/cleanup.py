"""Removing what has had its time: what restores replaced, and what the retention policies of storage targets let go."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from pydantic import Field

from twist_dr.backup.from_settings import chosen_targets
from twist_dr.catalog import CatalogUnavailable
from twist_dr.errors import LaunchRefused, StorageError, TwistDRError
from twist_dr.operations.operation import Config
from twist_dr.restore.from_settings import end_killed
from twist_dr.restore.plan import surroundings
from twist_dr.settings import Application
from twist_dr.system.progress import human_bytes
from twist_dr.system.words import counted

if TYPE_CHECKING:
    from twist_dr.retention.cleanup import Retention
    from twist_dr.retention.planned import PlannedCleanup
    from twist_dr.retention.replaced import ReplacedOutcome
    from twist_dr.retention.telling import TargetOutcome


class CleanupConfig(Config):
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


class Page:
    """Where a cleanup is watched. What is about to happen is shown before, and what happened at once: here, nowhere."""

    def replaced(self, done: ReplacedOutcome) -> None: ...

    def planned(self, planned: PlannedCleanup) -> None: ...

    def deleted(self, outcome: TargetOutcome) -> None: ...

    def end(self) -> Iterable[str]:
        """What else is to be removed, where the page is kept. Returns what went wrong."""
        return ()


def cleanup(app: Application, config: CleanupConfig, page: Page | None = None) -> None:
    """Raises ``CleanupIncomplete`` with all that went wrong, after everything else was done."""
    # Not above: whoever launches something else would wait for it.
    from twist_dr.retention.recheck import CleanupIncomplete

    page = page or Page()
    names = chosen_targets(app.settings, config.targets)
    if not 0 <= config.allow_delete_fraction <= 1:
        raise LaunchRefused(
            "allow_delete_fraction is a fraction from 0 to 1", remedy="write 0 for that of the settings"
        )
    with app.exclusively("A cleanup"):
        problems = _clean(app, config, list(names), page)
    if not config.dry_run:
        # Nothing waits for it: no backup and no restore needs the history.
        problems += page.end()
    if problems:
        raise CleanupIncomplete(" ".join(line if line.endswith(".") else f"{line}." for line in problems))


def _clean(app: Application, config: CleanupConfig, names: list[str], page: Page) -> list[str]:
    """What restores replaced, then each target. Returns what went wrong."""
    from twist_dr.retention.cleanup import Retention

    problems = list(_remove_replaced(app, config, page))
    retention = Retention(
        app,
        allow_fraction=config.allow_delete_fraction or None,
        allow_clock=config.allow_clock,
        allow_rebuilt=config.allow_rebuilt,
    )
    for name in names:
        problems += _clean_target(app, config, name, retention, page)
    return problems


def _remove_replaced(app: Application, config: CleanupConfig, page: Page) -> Iterable[str]:
    """Databases and media that restores replaced, once their time is over. Returns what went wrong: it keeps no target from being cleaned."""
    from twist_dr.retention.replaced import Replaced

    replaced = Replaced(surroundings(app.settings), app, datetime.now(timezone.utc), allow_clock=config.allow_clock)
    done = replaced.show() if config.dry_run else replaced.remove()
    if not config.dry_run:
        end_killed(app)
    page.replaced(done)
    app.report.info(
        f"{done.removed} of {len(done.kept)} kept things removed" + (" (dry run)" if config.dry_run else "")
    )
    return done.problems


def _clean_target(
    app: Application,
    config: CleanupConfig,
    name: str,
    retention: Retention,
    page: Page,
) -> Iterable[str]:
    """One target: plan, show, delete, note its space. Returns what went wrong: it stops no other target."""
    if not app.settings.storage_targets[name].policies:
        app.report.info(f"{name}: no retention policy, so nothing is ever deleted there")
        if not config.dry_run:
            _note_space(app, name, None, retention)
        return []
    try:
        planned = retention.plan(name, datetime.now(timezone.utc))
    except TwistDRError as error:
        return [f"{name}: nothing was deleted: {error.clause}"]
    # Before anything goes: whoever kills the run sees what it was about to do.
    app.report.page(f"the plan for {planned.name}\n{planned.markdown()}")
    page.planned(planned)
    for line in planned.facts.warnings:
        app.report.warning(line)
    if config.dry_run:
        app.report.info(f"{planned.sentence()} (dry run: nothing was deleted)")
        return []
    outcome = retention.carry_out(planned)
    app.report.info(f"{name}: {counted(len(outcome.deleted), 'backup')} deleted, {human_bytes(outcome.freed)} freed")
    page.deleted(outcome)
    _note_space(app, name, planned.facts.used_bytes - outcome.freed, retention)
    return outcome.problems


def _note_space(app: Application, name: str, used_bytes: int | None, retention: Retention) -> None:
    """A comfort for those who plan: it fails no cleanup."""
    try:
        retention.record_space(name, used_bytes)
    except (StorageError, CatalogUnavailable) as error:
        app.report.warning(f"how much space {name} has could not be noted: {error}")
