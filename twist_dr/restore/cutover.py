"""Phase two: what was prepared becomes live, in one transaction, while the application waits.

    maintenance on -> transactions end -> nobody let in -> sessions ended
      -> BEGIN; live becomes kept; incoming becomes live; media folders exchanged; COMMIT
      -> maintenance off -> health check

The commit decides: before it everything is taken back, after it everything is finished, whoever comes after a crash. Which
side of it we are on is read from the server: the live name belongs to one OID or the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from twist_dr.errors import CutoverFailed, Obstacle, RestoreInterrupted, TwistDRError, clause_of
from twist_dr.postgres import databases
from twist_dr.postgres.backend import Backend, backend, end_backend
from twist_dr.postgres.cluster import Cluster, Connection, named_errors
from twist_dr.restore.exchange import exchange, identity, same, settle_exchange
from twist_dr.restore.hooks import Health, Maintenance
from twist_dr.restore.journal import DatabaseSwitch, FolderSwitch, Journal, Journals
from twist_dr.system.folders import fsync_folder, remove_tree
from twist_dr.system.interrupts import uninterrupted
from twist_dr.system.progress import Report, human_seconds
from twist_dr.system.words import counted

#: How long a server that is restarting, or full of clients that come back, is waited for when a cutover must be taken back or finished.
_PATIENCE_SECONDS = 60.0
#: How often the renames are tried.
_RENAMES = 3


@dataclass(frozen=True)
class Surroundings:
    """What a cutover works with. ``cluster`` leads to the live database as the role that restores, ``media`` are the application's folders."""

    cluster: Cluster
    journals: Journals
    maintenance: Maintenance = field(default_factory=Maintenance)
    health: Health = field(default_factory=Health)
    grace_seconds: float = 10.0
    keep_for: timedelta = timedelta(days=7)
    media: tuple[Path, ...] = ()

    def asked_about(self, wanted: Callable[[Journal], bool]) -> Iterator[tuple[Connection, Journal]]:
        """Those journals, oldest first, each with a session that can ask the server about it; none is opened where there are none.

        Raises ``DatabaseError``, ``RestoreError``.
        """
        if journals := [journal for journal in self.journals.all() if wanted(journal)]:
            with databases.maintenance(self.cluster) as connection:
                for journal in journals:
                    yield connection, journal


class Cutover:
    """One cutover, from its journal. The journal's incoming databases and folders are complete and closed to others."""

    def __init__(self, journal: Journal, around: Surroundings, report: Report) -> None:
        self.journal = journal
        self._around = around
        self._report = report
        self._backend: Backend | None = None

    # -- forward ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Switch. Raises ``CutoverFailed`` with everything as it was before, ``RestoreInterrupted`` when that cannot be had now."""
        journal, around = self.journal, self._around
        try:
            # Left before anything is taken back: what the connection still holds in the server would be waited for.
            with databases.maintenance(around.cluster, "to switch") as connection:
                self._backend = backend(connection)
                self._refuse_obstacles(connection)
                self._look_at_folders()
                # What costs time is done before the application waits: connections, and the journal's way to the disk.
                if journal.database is not None and journal.database.incoming_oid is not None:
                    # The server's own workers in there would hold the rename up.
                    databases.end_sessions(connection, journal.database.incoming_oid)
                journal.phase = "switching"
                around.journals.save(journal)
                begun = self._switch(connection)
        except BaseException as error:
            with uninterrupted():
                if not self.is_switched():
                    self.revert(error)
                    raise
                self._report.warning(f"after the switch: {str(error) or type(error).__name__}")
        else:
            journal.seconds_locked_out = round(time.monotonic() - begun, 4)
            self._report.info(
                f"switched; the application was locked out for {human_seconds(journal.seconds_locked_out)}"
            )
        with uninterrupted():
            self.finish()

    def _switch(self, connection: Connection) -> float:
        """The step itself; returns when it began for the application, by the monotonic clock."""
        journal, around = self.journal, self._around
        begun = time.monotonic()
        around.maintenance.on(self._served(before=True))
        if journal.database is not None:
            begun = self._switch_database(connection, journal.database, begun)
        else:
            self._exchange_folders()
        around.maintenance.off(self._served(before=False))
        journal.phase = "switched"
        return begun

    def _served(self, *, before: bool) -> Cluster | None:
        """What leads to the live database, before or after the switch; None when there is none then."""
        names = self.journal.database
        there = names is None or (names.live_oid is not None if before else names.comes)
        return self._around.cluster if there else None

    def _refuse_obstacles(self, connection: Connection) -> None:
        names = self.journal.database
        if names is None:
            return
        with named_errors("to look at the live database"):
            found = databases.obstacles(connection, names.live)
            expected = [(names.live, names.live_oid), *([(names.incoming, names.incoming_oid)] if names.comes else [])]
            for name, oid in expected:
                if databases.find_oid(connection, name) != oid:
                    found.append(
                        Obstacle(
                            f"the database {name} was renamed, dropped or made anew meanwhile",
                            "leave it in place, then start again",
                        )
                    )
        if found:
            raise CutoverFailed(f"{found[0][0].upper()}{'; '.join(found)[1:]}.")

    def _look_at_folders(self) -> None:
        """Preparing takes hours: whatever folder is live now is the one that is replaced, and kept."""
        for folder in self.journal.folders:
            found = identity(folder.live)
            if found is None:
                raise CutoverFailed(
                    f"The media folder {folder.live} is not there any more", remedy="put it back, then restore again"
                )
            folder.live_identity = found

    def _switch_database(self, connection: Connection, names: DatabaseSwitch, begun: float) -> float:
        if names.live_oid is not None:
            self._wait_for_transactions(connection, names.live_oid)
        if not self._around.maintenance:
            # Without a maintenance mode the application was served until here.
            begun = time.monotonic()
        if names.live_oid is not None:
            with named_errors("to close the live database"):
                databases.close(connection, names.live)
                databases.end_sessions(connection, names.live_oid)
        for left in reversed(range(_RENAMES)):
            try:
                databases.switch(
                    connection,
                    live=names.live,
                    incoming=names.incoming if names.comes else None,
                    kept=names.replaced,
                    before_commit=self._exchange_folders,
                )
                break
            except databases.StillInUse:
                # In a storm of clients that come back, one slipped in just before the door was shut.
                if not left:
                    raise
                for oid in (names.live_oid, names.incoming_oid):
                    databases.end_sessions(connection, oid or 0)
        return begun

    def _wait_for_transactions(self, connection: Connection, oid: int) -> None:
        grace = self._around.grace_seconds
        if not databases.wait_until_idle(connection, oid, grace):
            busy = [session for session in databases.sessions(connection, oid) if session.busy]
            self._report.warning(
                f"{counted(len(busy), 'transaction', 'was', 'were')} not done after {human_seconds(grace)}, and ended: {', '.join(map(str, busy[:3]))}"
            )

    def _exchange_folders(self) -> None:
        for folder in self.journal.folders:
            exchange(folder.live, folder.incoming, aside=folder.aside)

    def finish(self) -> None:
        """What is left to do after the commit: media in place, maintenance off, what was replaced named as kept. Safe to call again.

        Raises ``RestoreInterrupted`` when a part cannot be done now.
        """
        journal, around = self.journal, self._around
        try:
            for folder in journal.folders:
                self._settle_folder(folder, forward=True)
                if folder.incoming.exists() and not folder.kept.exists():
                    folder.incoming.rename(folder.kept)
                    fsync_folder(folder.kept.parent)
            if journal.phase == "switching":
                around.maintenance.off(self._served(before=False))
            journal.keep_until = datetime.now(timezone.utc) + around.keep_for
            # Whether the application works is still to be asked; whoever comes after a crash does it.
            journal.health_due = bool(around.health)
            around.journals.save(journal.model_copy(update={"phase": "done"}))
        except (TwistDRError, OSError) as error:
            raise RestoreInterrupted(
                f"{journal.restore_id} has switched: what it prepared is live. Its end is not done: {clause_of(error)}",
                remedy="then run: twist-dr settle",
            ) from error
        journal.phase = "done"

    # -- back ------------------------------------------------------------------------------------------------------

    def revert(self, why: BaseException | None = None) -> None:
        """Before the commit: media back, people let in, maintenance off, what was restored removed. Safe to call again.

        Raises ``RestoreInterrupted`` when a part cannot be done now.
        """
        journal, around = self.journal, self._around
        try:
            if journal.phase != "preparing":
                self._open_again()
            # Only now what takes its time, and what may fail without anybody noticing: the application is served.
            if journal.kind == "restore":
                self._remove_prepared()
            around.journals.save(journal.model_copy(update={"phase": "reverted"}))
        except (TwistDRError, OSError) as error:
            because = f" because of: {str(why) or type(why).__name__}" if why is not None else ""
            raise RestoreInterrupted(
                f"{journal.restore_id} was to be taken back{because} and cannot be now: {clause_of(error)}",
                remedy="then run: twist-dr settle",
            ) from error
        journal.phase = "reverted"

    def _open_again(self) -> None:
        for folder in self.journal.folders:
            self._settle_folder(folder, forward=False)
        names = self.journal.database
        if names is not None and names.live_oid is not None:
            with databases.maintenance(
                self._around.cluster, "to let people in again", patience=_PATIENCE_SECONDS
            ) as connection:
                databases.reopen(connection, names.live)
        self._around.maintenance.off(self._served(before=True))

    def _remove_prepared(self) -> None:
        journal = self.journal
        if journal.database is not None:
            with databases.maintenance(
                self._around.cluster, "to remove what was restored", patience=_PATIENCE_SECONDS
            ) as connection:
                _drop_incoming(connection, self._around.cluster, journal.database)
        for folder in journal.folders:
            _remove_incoming(folder)
            folder.unmake()
        if journal.sandbox is not None:
            remove_tree(journal.sandbox)

    def settle(self) -> bool:
        """After a crash: finish what has switched, revert what has not; returns whether it has switched."""
        switched = self.journal.phase == "switched" or self.is_switched()
        if switched:
            self.finish()
        else:
            self.revert()
        return switched

    def is_switched(self) -> bool:
        """Whether the commit has happened. Asked of the server with a connection of its own: ours may have broken in the commit."""
        journal = self.journal
        if journal.phase == "preparing":
            return False
        if journal.database is None:
            return all(same(folder.live, folder.incoming_identity) for folder in journal.folders)
        try:
            with databases.maintenance(
                self._around.cluster, "to look at what is live", patience=_PATIENCE_SECONDS
            ) as connection:
                if self._backend is not None:
                    end_backend(connection, self._backend)
                return databases.find_oid(connection, journal.database.live) == journal.database.incoming_oid
        except TwistDRError as error:
            raise RestoreInterrupted(
                f"Whether {journal.restore_id} has switched cannot be seen: {error}",
                remedy="when the server answers, run: twist-dr settle",
            ) from error

    def _settle_folder(self, folder: FolderSwitch, *, forward: bool) -> None:
        wanted = folder.incoming_identity if forward else folder.live_identity
        if wanted is not None and folder.incoming_identity is not None:
            settle_exchange(folder.live, folder.incoming, folder.aside, wanted)


def _drop_incoming(connection: Connection, cluster: Cluster, names: DatabaseSwitch) -> None:
    oid = databases.find_oid(connection, names.incoming)
    if oid is None or oid == names.live_oid or names.incoming_oid not in (None, oid):
        return
    # A crash may have come between CREATE DATABASE and our note of its OID. What has something in it is somebody else's:
    # another installation may restore under the same name, in the same second.
    if names.incoming_oid is None and not databases.is_empty(cluster, names.incoming):
        return
    databases.drop(connection, names.incoming)


def _remove_incoming(folder: FolderSwitch) -> None:
    # After a crash in the middle of unpacking its identity is not known; that it is not the live one's must be.
    known = folder.incoming_identity is None or same(folder.incoming, folder.incoming_identity)
    if known and not same(folder.incoming, folder.live_identity):
        remove_tree(folder.incoming)
