"""What was restored to be looked at: servers of their own, and databases beside the live one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal

from pydantic import Field

from twist_dr.catalog import CatalogUnavailable
from twist_dr.errors import DatabaseError, RestoreError, RestoreRefused
from twist_dr.operations.operation import Config
from twist_dr.recovery.sandbox import ClusterSandbox, sandboxes
from twist_dr.restore.journal import began_at
from twist_dr.restore.plan import surroundings
from twist_dr.restore.sandboxes import DatabaseSandbox, database_sandboxes, how_to_reach
from twist_dr.restore.settle import remove_kept
from twist_dr.restore.space import measured
from twist_dr.restore.to_time import sandbox_base
from twist_dr.settings import Application
from twist_dr.system.folders import tree_bytes
from twist_dr.watch import audit

Action = Literal["stop", "start", "remove"]


class SandboxConfig(Config):
    """Told nothing, it changes nothing."""

    action: Action = Field("stop", description="stop or start its server, or remove all of it")
    sandbox: str = Field("", description="the id of the restore or recovery that made it; required")


@dataclass(frozen=True)
class Sandbox:
    """One of either kind. ``bytes`` on disk, ``who`` and ``reach`` (a command): None where that cannot be told."""

    id: str
    kind: Literal["server", "database"]
    state: Literal["runs", "stopped", "there"]
    made_at: datetime | None
    who: str | None
    bytes: int | None
    what: str
    reach: str | None


def list_sandboxes(app: Application) -> list[Sandbox]:
    """All of them, oldest first. Where the live server does not answer, those on it are missing, and a warning says so."""
    found = [_of_server(app, each) for each in sandboxes(sandbox_base(app.settings))]
    around = surroundings(app.settings)
    try:
        beside = list(database_sandboxes(around))
        spaces = measured(around.cluster, beside)
        found += [_of_database(app, each, space.total) for each, space in zip(beside, spaces, strict=True)]
    except DatabaseError as error:
        app.report.warning(f"databases beside the live one are not listed: {error}")
    return sorted(found, key=lambda each: each.id)


@dataclass(frozen=True)
class ChangedSandbox:
    """What was done to which."""

    action: Action
    sandbox: str


def change_sandbox(app: Application, config: SandboxConfig) -> ChangedSandbox:
    """Raises ``RestoreError`` where there is none of that id, or where it is live or a database in use; ``RecoveryFailed``, ``DatabaseError``, and ``Busy`` for a database."""
    # Not above: whoever launches something else would wait for it.
    from twist_dr.retention.replaced import refuse_used

    around = surroundings(app.settings)
    server = next((each for each in sandboxes(sandbox_base(app.settings)) if each.folder.name == config.sandbox), None)
    if server is not None:
        if config.action != "start" and server.serves(around.cluster):
            raise RestoreRefused(
                f"The application lives on the sandbox {config.sandbox}, so it is not ended",
                remedy="lead the application elsewhere first",
            )
        with audit.noting(app, action=f"{config.action} sandbox", subject=config.sandbox):
            getattr(server, config.action)()
        return ChangedSandbox(config.action, config.sandbox)
    with app.exclusively("Removing a sandbox"):
        found = next((each for each in database_sandboxes(around) if each.journal.restore_id == config.sandbox), None)
        if found is None:
            raise RestoreError(
                f"There is no sandbox {config.sandbox or 'without an id'}", remedy="see all with: twist-dr sandboxes"
            )
        if config.action != "remove":
            raise RestoreError(
                f"The sandbox {config.sandbox} is a database on the live server, which is neither stopped nor started",
                remedy="remove it when nobody needs it any more",
            )
        with audit.noting(app, action="remove sandbox", subject=config.sandbox):
            refuse_used(around, [found.database] if found.database else [])
            remove_kept(found.journal, around)
    return ChangedSandbox(config.action, config.sandbox)


def _of_server(app: Application, sandbox: ClusterSandbox) -> Sandbox:
    name = sandbox.folder.name
    state: Literal["runs", "stopped"] = "runs" if sandbox.runs else "stopped"
    return Sandbox(
        name, "server", state, began_at(name), _who(app, name), tree_bytes(sandbox.folder), sandbox.point, sandbox.where()
    )  # fmt: skip


def _of_database(app: Application, sandbox: DatabaseSandbox, size: int | None) -> Sandbox:
    journal = sandbox.journal
    what = [f"database {sandbox.database}"] if sandbox.database else []
    what += [f"media in {folder}" for folder in sandbox.folders]
    return Sandbox(
        journal.restore_id, "database", "there", journal.began_at.astimezone(timezone.utc), _who(app, journal.restore_id), size,
        f"{', '.join(what)}, from {journal.backup_id}",
        how_to_reach(surroundings(app.settings).cluster, sandbox.database) if sandbox.database else None,
    )  # fmt: skip


def _who(app: Application, restore_id: str) -> str | None:
    """As the log of restores has it."""
    try:
        row = app.catalog.restore(app.name, restore_id)
    except CatalogUnavailable:
        return None
    return row.who if row else None
