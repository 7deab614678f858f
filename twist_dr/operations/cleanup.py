"""Removing what has had its time: what restores replaced, and what the retention policies of storage targets let go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from pydantic import Field

from twist_dr.backup.from_settings import chosen_names
from twist_dr.catalog import CatalogUnavailable
from twist_dr.errors import LaunchRefused, StorageError, TwistDRError
from twist_dr.operations.operation import Config
from twist_dr.restore.from_settings import end_killed
from twist_dr.restore.plan import surroundings
from twist_dr.settings import Application
from twist_dr.system.events import Shown
from twist_dr.system.progress import human_bytes
from twist_dr.system.words import counted

if TYPE_CHECKING:
    from twist_dr.retention.cleanup import Retention
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


@dataclass(frozen=True)
class Cleaned:
    """What went: of what restores had replaced, and by storage target the ids of backups; ``moved``: those that lie on another target now."""

    replaced: int
    targets: Mapping[str, Sequence[str]]
    moved: Mapping[str, Sequence[str]]


def cleanup(app: Application, config: CleanupConfig) -> Cleaned:
    """Each plan is :class:`Shown` before it is carried out, and what became of it at once.

    Raises ``CleanupIncomplete`` with all that went wrong, after everything else was done.
    """
    # Not above: whoever launches something else would wait for it.
    from twist_dr.retention.recheck import CleanupIncomplete

    names = chosen_names(app.settings.enabled_targets, config.targets)
    if not 0 <= config.allow_delete_fraction <= 1:
        raise LaunchRefused(
            "allow_delete_fraction is a fraction from 0 to 1", remedy="write 0 for that of the settings"
        )
    with app.exclusively("A cleanup"):
        replaced, outcomes = _clean(app, config, names)
    if problems := [*replaced.problems, *(line for each in outcomes for line in each.problems)]:
        raise CleanupIncomplete(as_sentences(problems))
    return Cleaned(
        replaced.removed, {each.name: each.deleted for each in outcomes}, {each.name: each.moved for each in outcomes}
    )


def as_sentences(problems: Iterable[str]) -> str:
    return " ".join(line if line.endswith(".") else f"{line}." for line in problems)


def _clean(app: Application, config: CleanupConfig, names: list[str]) -> tuple[ReplacedOutcome, list[TargetOutcome]]:
    """What restores replaced, then each target."""
    from twist_dr.retention.cleanup import Retention

    replaced = _remove_replaced(app, config)
    retention = Retention(
        app,
        allow_fraction=config.allow_delete_fraction or None,
        allow_clock=config.allow_clock,
        allow_rebuilt=config.allow_rebuilt,
    )
    return replaced, [_clean_target(app, config, name, retention) for name in names]


def _remove_replaced(app: Application, config: CleanupConfig) -> ReplacedOutcome:
    """Databases and media that restores replaced, once their time is over. What goes wrong keeps no target from being cleaned."""
    from twist_dr.retention.replaced import Replaced

    replaced = Replaced(surroundings(app.settings), app, datetime.now(timezone.utc), allow_clock=config.allow_clock)
    done = replaced.show() if config.dry_run else replaced.remove()
    if not config.dry_run:
        end_killed(app)
    app.report.emit(Shown(done))
    app.report.info(
        f"{done.removed} of {len(done.kept)} kept things removed" + (" (dry run)" if config.dry_run else "")
    )
    return done


def _clean_target(app: Application, config: CleanupConfig, name: str, retention: Retention) -> TargetOutcome:
    """One target: plan, show, delete, note its space. What goes wrong stops no other target."""
    from twist_dr.retention.telling import TargetOutcome

    nothing = TargetOutcome(name)
    target = app.settings.storage_targets[name]
    if not target.policies and target.archive is None:
        app.report.info(f"{name}: no retention policy, so nothing is ever deleted there")
        if not config.dry_run:
            _note_space(app, name, None, retention)
        return nothing
    try:
        planned = retention.plan(name, datetime.now(timezone.utc))
    except TwistDRError as error:
        nothing.add_problem(f"nothing was deleted: {error.clause}")
        return nothing
    # Before anything goes: whoever kills the run sees what it was about to do.
    app.report.page(f"the plan for {planned.name}\n{planned.markdown()}")
    app.report.emit(Shown(planned))
    for line in planned.facts.warnings:
        app.report.warning(line)
    if config.dry_run:
        app.report.info(f"{planned.sentence()} (dry run: nothing was deleted)")
        return nothing
    outcome = retention.carry_out(planned)
    moved = f", {len(outcome.moved)} moved" if outcome.moved else ""
    moved += f", {len(outcome.reclassed)} in another storage class" if outcome.reclassed else ""
    app.report.info(
        f"{name}: {counted(len(outcome.deleted), 'backup')} deleted{moved}, {human_bytes(outcome.freed)} freed"
    )
    app.report.emit(Shown(outcome))
    _note_space(app, name, planned.facts.used_bytes - outcome.freed, retention)
    return outcome


def _note_space(app: Application, name: str, used_bytes: int | None, retention: Retention) -> None:
    """A comfort for those who plan: it fails no cleanup."""
    try:
        retention.record_space(name, used_bytes)
    except (StorageError, CatalogUnavailable) as error:
        app.report.warning(f"how much space {name} has could not be noted: {error}")
