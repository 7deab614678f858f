"""Phase two: what was prepared becomes live, in one transaction, while the application waits.

    maintenance on -> transactions end -> nobody let in -> sessions ended
      -> BEGIN; live becomes kept; incoming becomes live; media folders exchanged; COMMIT
      -> maintenance off -> health check

The commit decides: before it everything is taken back, after it everything is finished, whoever comes after a crash. Which
side of it we are on is read from the server: the live name belongs to one OID or the other.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from twist_dr.engine.exchange import exchange, same, settle_exchange
from twist_dr.engine.postgres import databases
from twist_dr.engine.postgres.cluster import Cluster, named_errors
from twist_dr.engine.progress import Report, human_seconds
from twist_dr.engine.restore.hooks import Health, Maintenance
from twist_dr.engine.restore.journal import DatabaseSwitch, FolderSwitch, Journal, Journals
from twist_dr.engine.staging import fsync_folder
from twist_dr.engine.unpack import remove_tree
from twist_dr.errors import CutoverFailed, RestoreInterrupted, TwistDRError

if TYPE_CHECKING:
    from twist_dr.engine.postgres.cluster import Connection


@dataclass(frozen=True)
class Surroundings:
    """What a cutover works with. ``cluster`` leads to the live database as the role that restores."""

    cluster: Cluster
    journals: Journals
    maintenance: Maintenance = field(default_factory=Maintenance)
    health: Health = field(default_factory=Health)
    grace_seconds: float = 10.0
    keep_for: timedelta = timedelta(days=7)


class Cutover:
    """One cutover, from its journal. The journal's incoming databases and folders are complete and closed to others."""

    def __init__(self, journal: Journal, around: Surroundings, report: Report) -> None:
        self.journal = journal
        self._around = around
        self._report = report

    # -- forward ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Switch. Raises ``CutoverFailed`` with everything as it was before, ``RestoreInterrupted`` when that cannot be had now."""
        journal, around = self.journal, self._around
        # What costs time is done before the application waits: connections, and the journal's way to the disk.
        with closing(databases.connect_for_maintenance(around.cluster)) as connection:
            self._refuse_obstacles(connection)
            if journal.database is not None and journal.database.incoming_oid is not None:
                # The server's own workers in there would hold the rename up.
                databases.end_sessions(connection, journal.database.incoming_oid)
            journal.phase = "switching"
            around.journals.save(journal)
            begun = time.monotonic()
            try:
                around.maintenance.on(around.cluster)
                if journal.database is not None:
                    begun = self._switch_database(connection, journal.database, begun)
                else:
                    self._exchange_folders()
                around.maintenance.off(around.cluster)
                journal.phase = "switched"
            except BaseException as error:
                if not self._is_switched():
                    self.revert(error)
                    raise
                self._report.warning(f"after the switch: {error}")
        journal.seconds_locked_out = round(time.monotonic() - begun, 4)
        self._report.info(f"switched; the application was locked out for {human_seconds(journal.seconds_locked_out)}")
        self.finish()

    def _refuse_obstacles(self, connection: Connection) -> None:
        if self.journal.database is None:
            return
        with named_errors("to look at the live database"):
            found = databases.obstacles(connection, self.journal.database.live)
        if found:
            raise CutoverFailed(f"{found[0][0].upper()}{'; '.join(found)[1:]}.")

    def _switch_database(self, connection: Connection, names: DatabaseSwitch, begun: float) -> float:
        around = self._around
        if not databases.wait_until_idle(connection, names.live_oid, around.grace_seconds):
            busy = [session for session in databases.sessions(connection, names.live_oid) if session.busy]
            self._report.warning(
                f"{len(busy)} transactions were not done after {human_seconds(around.grace_seconds)} and are ended: "
                f"{', '.join(map(str, busy[:3]))}"
            )
        if not around.maintenance:
            # Without a maintenance mode the application was served until here.
            begun = time.monotonic()
        with named_errors("to close the live database"):
            databases.close(connection, names.live)
            databases.end_sessions(connection, names.live_oid)
        databases.switch(
            connection,
            live=names.live,
            incoming=names.incoming,
            kept=names.kept,
            before_commit=self._exchange_folders,
        )
        return begun

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
                around.maintenance.off(around.cluster)
        except (TwistDRError, OSError) as error:
            raise RestoreInterrupted(
                f"{journal.restore_id} has switched, and its end is not done: {error} Then run: twist-dr settle"
            ) from error
        journal.phase = "done"
        journal.keep_until = datetime.now(timezone.utc) + around.keep_for
        around.journals.save(journal)

    # -- back ------------------------------------------------------------------------------------------------------

    def revert(self, why: BaseException | None = None) -> None:
        """Before the commit: media back, people let in, maintenance off, what was restored removed. Safe to call again.

        Raises ``RestoreInterrupted`` when a part cannot be done now.
        """
        journal, around = self.journal, self._around
        try:
            for folder in journal.folders:
                self._settle_folder(folder, forward=False)
            if journal.database is not None:
                with closing(databases.connect_for_maintenance(around.cluster)) as connection:
                    if journal.phase != "preparing":
                        with named_errors("to let people in again"):
                            databases.reopen(connection, journal.database.live)
                    if journal.kind == "restore":
                        with named_errors("to remove what was restored"):
                            _drop_incoming(connection, journal.database)
            if journal.phase != "preparing":
                around.maintenance.off(around.cluster)
            if journal.kind == "restore":
                for folder in journal.folders:
                    _remove_incoming(folder)
                if journal.sandbox is not None:
                    remove_tree(journal.sandbox)
        except (TwistDRError, OSError) as error:
            raise RestoreInterrupted(
                f"{journal.restore_id} was to be taken back{f' because of: {why}' if why else ''} and cannot be now: {error} "
                "Then run: twist-dr settle"
            ) from error
        journal.phase = "reverted"
        around.journals.save(journal)

    def settle(self) -> bool:
        """After a crash: finish what has switched, revert what has not; returns whether it has switched."""
        switched = self.journal.phase == "switched" or self._is_switched()
        if switched:
            self.finish()
        else:
            self.revert()
        return switched

    def _is_switched(self) -> bool:
        """Whether the commit has happened. Asked of the server with a connection of its own: ours may have broken in the commit."""
        journal = self.journal
        if journal.phase == "preparing":
            return False
        if journal.database is None:
            return all(same(folder.live, folder.incoming_identity) for folder in journal.folders)
        try:
            with closing(databases.connect_for_maintenance(self._around.cluster)) as connection:
                return databases.find_oid(connection, journal.database.live) == journal.database.incoming_oid
        except TwistDRError as error:
            raise RestoreInterrupted(
                f"Whether {journal.restore_id} has switched cannot be seen: {error} When the server answers, run: twist-dr settle"
            ) from error

    def _settle_folder(self, folder: FolderSwitch, *, forward: bool) -> None:
        wanted = folder.incoming_identity if forward else folder.live_identity
        if wanted is not None and folder.incoming_identity is not None:
            settle_exchange(folder.live, folder.incoming, folder.aside, wanted)


def _drop_incoming(connection: Connection, names: DatabaseSwitch) -> None:
    # By name and OID: a crash may have come between CREATE DATABASE and our note of its OID, and the name is ours alone.
    oid = databases.find_oid(connection, names.incoming)
    if oid is not None and names.incoming_oid in (None, oid) and oid != names.live_oid:
        databases.drop(connection, names.incoming)


def _remove_incoming(folder: FolderSwitch) -> None:
    # After a crash in the middle of unpacking its identity is not known; that it is not the live one's must be.
    known = folder.incoming_identity is None or same(folder.incoming, folder.incoming_identity)
    if known and not same(folder.incoming, folder.live_identity):
        remove_tree(folder.incoming)
