"""Recovering to a point in time: told nothing, it plans the recovery of the latest state and changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from twist_dr.errors import RestoreRefused
from twist_dr.operations.operation import Config
from twist_dr.operations.restoring import alone, recorded, refuse_careless
from twist_dr.recovery.planning import RecoveryRequest
from twist_dr.restore.from_settings import RestoreLog, end_killed, mark_corrupt_copies, pre_restore_backup
from twist_dr.restore.record import RestoreRecord
from twist_dr.restore.to_time import Recovery, RecoveryOrder, why_port_is_taken
from twist_dr.settings import Application, Settings
from twist_dr.wal.from_settings import known_reach


class RestoreToTimeConfig(Config):
    """All have safe defaults: launched as it is, nothing changes."""

    to: str = Field(
        "latest",
        description="latest, a time with its zone (2026-01-31T12:00:00+00:00), lsn:0/3000000, xid:1234, or name:before_import "
        "(a restore point)",
    )
    mode: Literal["plan", "sandbox", "replace", "cluster"] = Field(
        "plan",
        description="plan: change nothing, show the base, the WAL and what would be lost. sandbox: a server of its own on its own port. "
        "replace: the application's database as of then, cut over. cluster: a data folder made ready, for the day the server is gone.",
    )
    source: str = Field(
        "any", description="any (each file from the first storage target that has it good), or one target by name"
    )
    base: str = Field("", description="a base backup's id, where the choice is not to be left to twist-dr")
    timeline: int = Field(
        0, description="a timeline by number, to go back to one that was left; 0: the newest that has the point"
    )
    accept_loss: str = Field(
        "",
        description="Where archived WAL has vanished, latest is refused. To go to the end of what is there all the same: how far that must at "
        "least reach, as the refusal names it (lsn:0/3000000), or a time.",
    )
    folder: str = Field("", description="For cluster: where to put it; a new or empty folder.")
    port: int = Field(0, description="For sandbox: the port on 127.0.0.1; 0: a free one.")
    run_migrations: bool = Field(
        True, description="For replace: run the code's newer migrations in the database before it is live."
    )
    pre_restore_backup: bool = Field(
        True, description="For replace: first a full backup, labelled pre-restore; if it fails, nothing is replaced."
    )
    reason: str = Field("", description="Why; required unless it is a plan.")
    confirm: str = Field("", description="For replace: the application's name, typed.")


def restore_to_time(app: Application, config: RestoreToTimeConfig) -> RestoreRecord:
    """Raises the errors under ``WalError`` and ``RestoreError``; what came of it is :class:`Shown` all the same."""
    order = _order(config, app.settings)
    repositories = app.repositories(app.settings.restore.stall_seconds)
    with alone(app, "A recovery", order.mode):
        back_up = pre_restore_backup(app, f"before the recovery to {config.to}: {config.reason}")
        log = RestoreLog(app, verified=False)
        recovery = Recovery(
            app,
            order,
            [place for name, place in repositories.items() if config.source in ("any", name)],
            known=known_reach(app, source=config.source),
            back_up=back_up if order.mode == "replace" and config.pre_restore_backup else None,
            note=log.note_recovery,
        )
        with recorded(app, recovery.record, log):
            try:
                recovery.run()
            finally:
                for sources in recovery.sources:
                    mark_corrupt_copies(app, sources)
                if order.mode != "plan":
                    end_killed(app, but=recovery.record.restore_id)
    return recovery.record


def _order(config: RestoreToTimeConfig, settings: Settings) -> RecoveryOrder:
    """What is asked for, when it makes sense. Cheap looks first."""
    refuse_careless(
        settings, "A recovery", source=config.source, mode=config.mode, reason=config.reason, confirm=config.confirm
    )
    if (config.mode == "cluster") != bool(config.folder.strip()):
        raise RestoreRefused(
            "The mode cluster needs a folder, and no other mode does", remedy="name a new folder in folder"
        )
    if config.folder.strip() and not Path(config.folder.strip()).is_absolute():
        raise RestoreRefused(
            f"{config.folder.strip()} is no whole path, and where a run is executed is not where you are",
            remedy="write folder from / on",
        )
    if not 0 <= config.port <= 65535 or config.timeline < 0:
        raise RestoreRefused(
            "A port is a number up to 65535, and a timeline one from 1", remedy="leave them at 0 to have them chosen"
        )
    if config.mode == "sandbox" and config.port and (why := why_port_is_taken(config.port)):
        raise RestoreRefused(
            f"The port {config.port} on 127.0.0.1 cannot be had ({why})",
            remedy="name another one, or leave port at 0 for a free one",
        )
    return RecoveryOrder(
        request=RecoveryRequest(
            config.to, config.base.strip() or None, config.timeline or None, accept_loss=config.accept_loss.strip()
        ),
        mode=config.mode,
        reason=config.reason,
        folder=Path(config.folder.strip()) if config.folder.strip() else None,
        port=config.port,
        run_migrations=config.run_migrations,
    )
