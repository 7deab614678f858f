"""What comes after a cutover, and after a crash: the health check, undoing, finishing or reverting what was cut short, and what is kept."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from twist_dr.errors import RestoreError, RestoreInterrupted, RestoreRefused, RestoreUndone, TwistDRError
from twist_dr.postgres import databases
from twist_dr.postgres.cluster import Connection, named_errors, read_migrations
from twist_dr.restore.cutover import Cutover, Surroundings
from twist_dr.restore.exchange import free_path, identity, same
from twist_dr.restore.hooks import Health
from twist_dr.restore.journal import DatabaseSwitch, FolderSwitch, Journal, new_restore_id
from twist_dr.system.folders import remove_tree
from twist_dr.system.progress import Report, human_seconds


@dataclass(frozen=True)
class Superseded:
    """What a restore or an undo replaced, and that is still there."""

    journal: Journal
    database: str | None
    folders: tuple[Path, ...]

    @property
    def restore_id(self) -> str:
        return self.journal.restore_id

    @property
    def keep_until(self) -> datetime | None:
        return self.journal.keep_until

    def __str__(self) -> str:
        names = self.journal.database
        database = (
            [f"database {self.database}"] if self.database else ["no database, for there was none"] if names else []
        )
        return ", ".join([*database, *map(str, self.folders)])


def kept(around: Surroundings) -> Iterator[Superseded]:
    """What is kept now, oldest first: journals tell, the server and the file system have the last word."""
    for connection, journal in around.asked_about(lambda each: each.keeps):
        if (found := _still_there(connection, journal)) is not None:
            yield found


def _still_there(connection: Connection, journal: Journal) -> Superseded | None:
    names = journal.database
    database = None
    nothing = names is not None and names.live_oid is None
    if names is not None and not nothing:
        if databases.find_oid(connection, names.kept) != names.live_oid:
            return None
        database = names.kept
    folders = tuple(folder.kept for folder in journal.folders if same(folder.kept, folder.live_identity))
    if len(folders) != len(journal.folders):
        return None
    return Superseded(journal, database, folders) if database or folders or nothing else None


def plan_undo(wanted: str, around: Surroundings, reason: str) -> Journal:
    """The journal of undoing a restore: ``latest``, or its id. Raises ``RestoreRefused`` when what it replaced is not there any more."""
    there = list(kept(around))
    have = ", ".join(each.journal.restore_id for each in there) or "nothing"
    if (gone := _removed(wanted, around)) is not None:
        raise RestoreRefused(
            f"What {gone.restore_id} replaced was removed on {gone.removal_began_at:%Y-%m-%d %H:%M} UTC, so it cannot be undone any more, and kept is {have}",
            remedy="restore a backup instead: the one labelled pre-restore, say.",
        )
    chosen = [each for each in there if wanted in ("latest", each.journal.restore_id)][-1:]
    if not chosen:
        raise RestoreRefused(
            f"There is nothing kept of {'any restore' if wanted == 'latest' else wanted} that could be put back, and kept is {have}",
            remedy="restore a backup instead: the one labelled pre-restore, say.",
        )
    done = chosen[0].journal
    now = datetime.now(timezone.utc)
    stamp = f"{now:%Y%m%dt%H%M%S}"
    database = None
    if done.database is not None:
        with databases.maintenance(around.cluster) as connection:
            database = DatabaseSwitch(
                live=done.database.live,
                live_oid=databases.find_oid(connection, done.database.live),
                incoming=done.database.kept,
                incoming_oid=done.database.live_oid,
                kept=databases.free_name(connection, done.database.live, "replaced", now),
                comes=done.database.live_oid is not None,
            )
        if database.live_oid is None and not database.comes:
            raise RestoreRefused(
                f"There was no database {database.live} before {done.restore_id}, and there is none now: nothing is to be undone."
            )
        if database.live_oid is not None:
            with around.cluster.connect() as connection:
                database.migrations = read_migrations(connection)
    return Journal(
        restore_id=new_restore_id("undo", now),
        kind="undo",
        application=done.application,
        began_at=now,
        reason=reason,
        backup_id=done.backup_id,
        restored_id=done.restore_id,
        database=database,
        folders=[_turned(folder, stamp) for folder in done.folders],
    )


def _removed(wanted: str, around: Surroundings) -> Journal | None:
    """The restore that is meant, where what it replaced was removed: ``latest`` must not mean an older one then."""
    ended = [journal for journal in around.journals.all() if journal.phase == "done"]
    meant = [journal for journal in ended if wanted in ("latest", journal.restore_id)][-1:]
    return next((journal for journal in meant if journal.removal_began_at is not None), None)


def _turned(folder: FolderSwitch, stamp: str) -> FolderSwitch:
    live = identity(folder.live)
    if live is None:
        raise RestoreError(
            f"The media folder {folder.live} is not there", remedy="make it, or mount it, then undo again"
        )
    return FolderSwitch(
        name=folder.name,
        live=folder.live,
        live_identity=live,
        incoming=folder.kept,
        incoming_identity=folder.live_identity,
        kept=free_path(folder.live.with_name(f".{folder.live.name}.replaced-{stamp}")),
        aside=free_path(folder.live.with_name(f".{folder.live.name}.aside-{stamp}")),
    )


def check_health(journal: Journal, around: Surroundings, report: Report) -> None:
    """After a cutover: ask whether the application works, and undo at once when it does not. Raises ``RestoreUndone``."""
    if not around.health:
        report.info("no health check is configured (restore.health), so nobody asked whether the application works")
        return
    complaint = around.health.complaint()
    if complaint is None:
        report.info("the application is healthy")
        _health_asked(journal, around)
        return
    report.warning(f"the application is not healthy ({complaint}); what was live before is put back")
    try:
        undo = plan_undo(journal.restore_id, around, f"health check failed: {complaint}")
        # Of the way back nobody is asked whether to go on: killed right after it, the next command must not undo it in turn.
        Cutover(undo, replace(around, health=Health()), report).run()
        _health_asked(journal, around)
    except TwistDRError as error:
        raise RestoreInterrupted(
            f"{journal.restore_id} is live, the application is not healthy with it ({complaint}), and what was live before could not be put back: "
            f"{error}",
            remedy="fix that, then launch the job undo_restore",
        ) from error
    after = around.health.complaint()
    again = (
        "It is healthy again."
        if after is None
        else f"It is not healthy now either ({after}): look at the application itself."
    )
    raise RestoreUndone(
        f"After the cutover of {journal.restore_id} the application was not healthy ({complaint}), so what was live before is live again "
        f"(locked out for {human_seconds(undo.seconds_locked_out or 0)}). {again} What was restored is kept for a look: twist-dr list --replaced"
    )


def _health_asked(journal: Journal, around: Surroundings) -> None:
    journal.health_due = False
    around.journals.save(journal)


def settle_interrupted(around: Surroundings, report: Report) -> list[str]:
    """Finish or revert every restore that was cut short; returns a sentence for each. Call it under the application's lock.

    Raises ``RestoreInterrupted`` when one cannot be now, ``RestoreUndone`` when one had switched and the application is not healthy.
    """
    told = []
    for journal in interrupted(around):
        cutover = Cutover(journal, around, report)
        if journal.phase == "done":
            if cutover.is_switched():
                told.append(f"{journal.restore_id} was cut short before its health check, which is made now")
                report.warning(told[-1])
                check_health(journal, around, report)
            else:
                _health_asked(journal, around)
            continue
        switched = cutover.settle()
        if switched:
            told.append(f"{journal.restore_id} was cut short after its switch and is finished now")
        else:
            told.append(
                f"{journal.restore_id} was cut short before its switch and is reverted now: what was live is live"
            )
        report.warning(told[-1])
        if switched:
            check_health(journal, around, report)
    return told


def remove_kept(journal: Journal, around: Surroundings) -> None:
    """Remove what a restore replaced, or the sandbox that it left, or what is left of either. From the first step on it is not offered any more.

    Safe to call again: :func:`half_removed` names what was not removed to its end. Raises ``DatabaseError``, ``RestoreError``; ``RestoreRefused``
    where somebody made it live since.
    """
    with ExitStack() as stack:
        found, connection, live = journal.left_database, None, None
        if journal.database is not None:
            # Before the first step: a server that is down takes nothing from what can be put back.
            connection = stack.enter_context(databases.maintenance(around.cluster))
            live, _ = databases.find_live(around.cluster, connection)
        _refuse_live(journal, live, around.media)
        if journal.removal_began_at is None:
            journal.removal_began_at = datetime.now(timezone.utc)
            around.journals.save(journal)
        if found is not None and connection is not None:
            name, oid = found
            with named_errors(f"to drop {name}"):
                if databases.find_oid(connection, name) == oid:
                    databases.drop(connection, name)
    for folder in journal.folders:
        if same(folder.kept, folder.live_identity):
            remove_tree(folder.kept)
    if journal.sandbox is not None:
        remove_tree(journal.sandbox)
    journal.removed_at = datetime.now(timezone.utc)
    around.journals.save(journal)


def _refuse_live(journal: Journal, live: str | None, media: Sequence[Path]) -> None:
    """Raise ``RestoreRefused`` where settings, or a link, lead the application to what is to be removed, or into it."""
    places = [f"the database {live}"] if journal.left_database and journal.left_database[0] == live else []
    going = [folder.kept for folder in journal.folders if same(folder.kept, folder.live_identity)]
    going += [journal.sandbox] if journal.sandbox is not None else []
    there = {found for each in going if (found := identity(each)) is not None}
    for path in dict.fromkeys([*media, *(folder.live for folder in journal.folders)]):
        real = Path(os.path.realpath(path))
        if there and any(identity(each) in there for each in (real, *real.parents)):
            places.append(str(path))
    if places:
        raise RestoreRefused(
            f"What {journal.restore_id} left is live ({', '.join(places)}), so it is not removed",
            remedy="lead the application elsewhere first",
        )


def half_removed(around: Surroundings) -> list[Journal]:
    """Restores of which something that they replaced is left from a removal that was cut short."""
    return [journal for journal in around.journals.all() if journal.half_removed]


def interrupted(around: Surroundings) -> list[Journal]:
    """Restores that look cut short. Some may be going on just now: only the application's lock tells."""
    return [journal for journal in around.journals.all() if journal.interrupted]
