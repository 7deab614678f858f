"""Restoring a backup: told nothing, it plans the restore of the latest verified one and changes nothing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from twist_dr.backup.take import ALL_PARTS
from twist_dr.errors import RestoreRefused
from twist_dr.operations.operation import Config
from twist_dr.operations.restoring import alone, recorded, refuse_careless
from twist_dr.repository.manifest import Part
from twist_dr.repository.table_names import split_names
from twist_dr.restore.from_settings import (
    RestoreLog,
    choose_backup,
    end_killed,
    mark_corrupt_copies,
    pre_restore_backup,
)
from twist_dr.restore.plan import RestoreRequest, restore_place
from twist_dr.restore.record import RestoreRecord
from twist_dr.restore.restore import Restore
from twist_dr.settings import Application, Settings
from twist_dr.system.events import Planned


class RestoreConfig(Config):
    """All have safe defaults: launched as it is, nothing changes."""

    backup: str = Field(
        "latest-verified",
        description="latest-verified, latest, or a backup's id (twist-dr list). What a restore was about to replace is passed over unless it is named: "
        "by its id, or latest:pre-restore",
    )
    source: str = Field(
        "any",
        description="any (the first storage target with a good copy, in the order of the settings), or one by name",
    )
    mode: Literal["plan", "sandbox", "replace", "schema"] = Field(
        "plan",
        description="plan: change nothing, show what would happen. sandbox: a database beside the live one. replace: cut over. "
        "schema: the tables named in 'tables', into a schema of their own in the live database.",
    )
    parts: str = Field(
        "all",
        description="all that the backup has, or some of: database, media, configuration (which is only unpacked into a folder)",
    )
    tables: str = Field(
        "",
        description='some tables only, separated by commas; a name with a comma or dot in it in double quotes: public.a, "with,comma", "a"."b.c"; '
        "for the modes sandbox and schema",
    )
    run_migrations: bool = Field(
        True, description="Run the code's newer migrations in the restored database before it is live."
    )
    allow_unverified: bool = Field(False, description="Restore a backup that no verification has proven.")
    pre_restore_backup: bool = Field(
        True,
        description="For replace: first a full backup, labelled pre-restore; if it fails, the restore does not start.",
    )
    reason: str = Field("", description="Why; required unless it is a plan.")
    confirm: str = Field("", description="For replace: the application's name, typed.")


def restore(app: Application, config: RestoreConfig) -> RestoreRecord:
    """Raises ``RestoreRefused``, and whatever a restore raises; what came of it is :class:`Shown` all the same."""
    parts, tables = _check(config, app.settings)
    with alone(app, "A restore", config.mode):
        chosen = choose_backup(app, config.backup, parts, allow_unverified=config.allow_unverified)
        for line in chosen.doubts:
            app.report.warning(line)
        if config.mode == "plan":
            app.report.emit(Planned({"backup": chosen.backup_id}))
        sources = [place for name, place in app.repositories().items() if config.source in ("any", name)]
        request = RestoreRequest(
            backup_id=chosen.backup_id,
            mode=config.mode,
            parts=_parts_of(chosen.parts, tables),
            tables=tables,
            run_migrations=config.run_migrations,
            reason=config.reason,
        )
        back_up = pre_restore_backup(app, f"before the restore of {chosen.backup_id}: {config.reason}")
        log = RestoreLog(app, verified=chosen.verified)
        work = Restore(
            request,
            restore_place(app, sources, config.mode),
            app.report,
            back_up=back_up if config.mode == "replace" and config.pre_restore_backup else None,
            note=log.note,
        )
        work.record.warnings += chosen.doubts
        with recorded(app, work.record, log):
            try:
                work.run()
            finally:
                mark_corrupt_copies(app, work.sources)
                if config.mode != "plan":
                    end_killed(app, but=work.record.restore_id)
    return work.record


def _check(config: RestoreConfig, settings: Settings) -> tuple[tuple[Part, ...] | None, tuple[str, ...]]:
    """The parts and tables of the config, when it makes sense; parts None stands for all that the backup has."""
    try:
        tables = tuple(split_names(config.tables))
    except ValueError as error:
        raise RestoreRefused(f"tables: {error}.") from None
    wanted = [part.strip() for part in config.parts.split(",") if part.strip()]
    if not wanted or (wanted != ["all"] and any(part not in ALL_PARTS for part in wanted)):
        raise RestoreRefused(
            f"{config.parts!r} names no parts", remedy=f"write 'all', or some of {', '.join(ALL_PARTS)} in parts"
        )
    refuse_careless(
        settings, "A restore", source=config.source, mode=config.mode, reason=config.reason, confirm=config.confirm
    )
    if tables and config.mode == "replace":
        raise RestoreRefused(
            "Single tables never replace live ones",
            remedy="use mode schema (beside them in the live database) or sandbox",
        )
    if config.mode == "schema" and not tables:
        raise RestoreRefused("The mode schema is for some tables", remedy="name them in tables, or choose another mode")
    parts = None if wanted == ["all"] else tuple(part for part in ALL_PARTS if part in wanted)
    return parts, tables


def _parts_of(parts: tuple[Part, ...] | None, tables: tuple[str, ...]) -> tuple[Part, ...]:
    if tables:
        return ("database",)
    return ALL_PARTS if parts is None else parts
