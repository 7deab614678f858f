"""Restores: one that was cut short, what is kept of earlier ones, and whether one could be done now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

from twist_dr.doctor.database import check_login_triggers
from twist_dr.doctor.findings import Check, DoctorFinding, ok, problem, warning
from twist_dr.errors import Busy
from twist_dr.postgres import databases
from twist_dr.postgres.cluster import Cluster, Snapshot
from twist_dr.postgres.dump import dump_schema
from twist_dr.postgres.lock_waits import watched_locks
from twist_dr.postgres.tools import choose_tools, find_tools
from twist_dr.restore.cutover import Surroundings
from twist_dr.restore.dump_gate import restoring_obstacles
from twist_dr.restore.exchange import check_exchangeable
from twist_dr.restore.restored_configuration import everything_kept
from twist_dr.restore.settle import half_removed, interrupted
from twist_dr.settings import Settings
from twist_dr.system.lock import Locks
from twist_dr.system.progress import Report
from twist_dr.system.words import few

#: A doctor says what is locked, and waits for nobody.
_LOCK_SECONDS = 5.0


def check_interrupted(around: Surroundings, locks: Locks, application: str) -> Check[None]:
    """A restore that was killed. One that is going on holds the application's lock."""
    check = "restores"
    found = interrupted(around)
    if not found:
        yield ok(check, "none was cut short")
        return
    try:
        with locks.hold("twist-dr doctor"):
            found = interrupted(around)
    except Busy:
        yield ok(check, f"{found[-1].restore_id} is going on")
        return
    for journal in found:
        names = (
            [journal.database.incoming] if journal.database else [str(folder.incoming) for folder in journal.folders]
        )
        where = (
            "after its cutover, before the health check"
            if journal.phase == "done"
            else f"before its cutover, and left {few(names)}"
            if journal.phase == "preparing"
            else f"in its cutover, so {application} may be closed to its users"
        )
        yield problem(check, f"{journal.restore_id} was cut short {where}", "twist-dr settle  # finishes or reverts it")


def check_kept(settings: Settings, around: Surroundings) -> Check[None]:
    """What restores replaced, and configuration that they left, takes space until it is removed."""
    check, now = "replaced", datetime.now(timezone.utc)
    every = everything_kept(around, settings.work_dir, settings.application)
    overdue = [each for each in every if each.keep_until is not None and each.keep_until <= now]
    if overdue:
        yield warning(check, f"{few(str(each) for each in overdue)} have had their time", "twist-dr cleanup")
    for journal in half_removed(around):
        yield warning(
            check,
            f"the cleanup of what {journal.restore_id} replaced was cut short, and left something of it",
            "twist-dr cleanup",
        )
    if every and not overdue:
        yield ok(check, f"{few(str(each) for each in every)} are kept; see twist-dr list --replaced")


def check_restore_rights(around: Surroundings, *, apart: bool) -> Check[None]:
    """Whether the role that restores may make databases beside the live one and switch, and whether anything forbids that.

    ``apart``: it is not the role that backs up.
    """
    check = "restore rights"
    with closing(around.cluster.connect()) as connection:
        live = connection.info.dbname
        if apart:
            yield from check_login_triggers(connection)
    with databases.maintenance(around.cluster) as connection:
        missing = databases.missing_rights(connection, live)
        obstacles = databases.obstacles(connection, live)
    for line in missing:
        yield warning(check, line.what, f"{line.remedy} (or name another role in restore.database_url)")
    for line in obstacles:
        yield DoctorFinding(check, "warning", f"a restore would be refused: {line.what}", line.remedy)
    if not missing and not obstacles:
        yield ok(check, f"a database can be restored beside {live}, and switched in")


def check_restorable(around: Surroundings, backing_up: Cluster, folders: Sequence[Path]) -> Check[None]:
    """Whether the role that restores may make all that the database holds now: told from a dump of the schema, as a backup's would be."""
    check = "restorable"

    def head() -> bytes:
        pieces: list[bytes] = []
        with Snapshot(backing_up) as snapshot:
            tools = choose_tools(find_tools(folders), snapshot.connection.info.server_version // 10000)
            with watched_locks(backing_up, Report(), timeout=_LOCK_SECONDS):
                dump_schema(backing_up, tools, snapshot.id, pieces.append)
        return b"".join(pieces)

    with databases.maintenance(around.cluster) as connection:
        live, _ = databases.find_live(around.cluster, connection)
    found = restoring_obstacles(around.cluster, live, head)
    for lines, what in ((found.refusals, "would be refused"), (found.doubts, "may fail")):
        for line in lines:
            yield DoctorFinding(check, "warning", f"a restore {what}: {line.what}", line.remedy)
    if not found.refusals and not found.doubts:
        yield ok(check, "the role that restores may make all that the database holds")


def check_restore_settings(around: Surroundings, media: Mapping[str, Path], *, can_migrate: bool) -> Check[None]:
    """What a restore goes without."""
    check = "restore settings"
    for name, folder in media.items():
        if (why := check_exchangeable(folder)) is not None:
            yield DoctorFinding(
                check, "warning", f"media.{name} could not be restored in place: {why.what}", why.remedy
            )
    if not around.health:
        yield warning(
            check,
            "nobody asks whether the application works after a restore",
            "set restore.health.url or restore.health.command",
        )
    if not around.maintenance:
        yield warning(
            check,
            "the application is not told of a cutover, so requests of that moment end in errors",
            "set restore.maintenance.file, or its command_on and command_off",
        )
    if not can_migrate:
        yield warning(
            check,
            "an older backup cannot be migrated before it is live",
            "set django.database_variable to the variable that names the database in the application's settings",
        )
