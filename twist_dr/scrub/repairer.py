"""Repairing, one thing at a time: good bytes are fetched without a lock, and put in place under the application's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime, timedelta, timezone

from twist_dr.catalog import Catalog
from twist_dr.catalog.notes import Repair, Repairs
from twist_dr.catalog.rows import CopyRow
from twist_dr.errors import BackupError, Busy, Cancelled, EncryptionError, ObjectMissing, StorageError, WalError
from twist_dr.repository.kinds import KINDS
from twist_dr.repository.manifest import kind_of
from twist_dr.repository.repository import Repository
from twist_dr.retention.tombstones import is_being_deleted
from twist_dr.scrub.found import ScrubFinding, ScrubOutcome
from twist_dr.scrub.reading import CopyRead
from twist_dr.scrub.repair import Fetched, Others, fetch_good, store_good
from twist_dr.scrub.throttle import Throttle
from twist_dr.scrub.wal_reading import WalObject, fetch_good_wal, store_good_wal
from twist_dr.settings import Application
from twist_dr.system.progress import human_bytes
from twist_dr.system.scratch_folder import ScratchFolder, clear_left_over
from twist_dr.system.words import counted
from twist_dr.wal.objects import WalArchive
from twist_dr.watch.audit import record

_PREFIX = "repair-"
#: How long a repair waits for another operation where the settings have no schedules, which say it.
_PATIENCE = timedelta(minutes=10)
_LOOK_UP_SECONDS = 1.0
#: Why something cannot be repaired. Anything else is a defect, and ends the run.
_NOT_REPAIRED = (StorageError, BackupError, WalError, EncryptionError, Busy)


#: The trace that repairs leave, so that whoever looks after the backups hears of them though all is good again.
_KEPT_FOR = timedelta(days=30)
_KEPT = 200


class Repairer:
    """Repairs copies and objects of write-ahead log of one application. ``throttles`` by target, for reading as for writing."""

    def __init__(
        self, app: Application, repositories: Mapping[str, Repository], throttles: Mapping[str, Throttle]
    ) -> None:
        self._app = app
        self._repositories = repositories
        self._throttles = throttles
        self._report = app.report
        clear_left_over(app.settings.work_dir, _PREFIX)

    # -- copies ------------------------------------------------------------------------------------------------------

    def copy(self, read: CopyRead) -> ScrubFinding:
        """Repair a copy of which something is bad, and tell what became of it. Raises ``Cancelled``, and errors of the catalog."""
        row = self._row(read)
        if row is None:
            return self._gone(read)
        if not read.gone:
            # Recorded at once: whatever happens now, nobody takes this copy for good.
            self._record_corrupt(read, row)
        never_stored = row.state in ("failed", "pending")
        if never_stored and (kind := KINDS[kind_of(read.backup_id)]).physical:
            command = f"dagster asset materialize -m twist_dr.definitions --select 'key:{self._app.name}/{kind.copies}/{read.target}'"
            return self._found(read, "never stored", f"A base backup needs its chain and WAL beside it; run: {command}")
        fetched = Fetched()
        try:
            self._app.settings.work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._in_use(read.backup_id), ScratchFolder(self._app.settings.work_dir, _PREFIX) as folder:
                fetch_good(read, self._others(read.target), folder, self._app.keyring, fetched)
                return self._put_in_place(read, fetched)
        except _NOT_REPAIRED as error:
            # What is missing may be so because a cleanup is at work; it has ended, or the catalog says so by now.
            row = self._row(read)
            if row is None:
                return self._gone(read)
            if never_stored:
                return self._found(read, "never stored", str(error))
            self._record_corrupt(read, row)
            self._report.warning(f"{read.backup_id} on {read.target} was not repaired: {error}")
            return self._found(read, "not repaired", str(error))
        finally:
            self._record_bad_sources(read, fetched)

    def _put_in_place(self, read: CopyRead, fetched: Fetched) -> ScrubFinding:
        with self._locked():
            # Nothing deletes this backup now: what was deleted before is recorded so, or has a tombstone.
            row = self._row(read)
            if row is None:
                return self._gone(read)
            repository = self._repositories[read.target]
            if row.state not in ("failed", "pending"):
                self._record_corrupt(read, row)
            store_good(read, fetched, repository, self._throttles[read.target])
            self._app.count_upload(read.target, sum(digest.size for _, digest in fetched.files))
            # What was good was read just before, what was bad was checked as it was stored.
            repository.held(repository.manifest(read.backup_id, self._app.keyring))
            self._app.catalog.record_copy(
                read.backup_id,
                read.target,
                state="checked",
                form=row.form,
                stored_bytes=read.size,
                run_id=self._app.actor.run_id,
            )
        sources = ", ".join(fetched.sources) or "the catalog's manifest"
        never_stored = row.state in ("failed", "pending")
        if never_stored:
            # Nothing went bad: the copy had failed, which was told then.
            self._report.info(f"{read.backup_id} was missing on {read.target}, and is stored there from {sources}")
        else:
            self._trace(read.backup_id, read.target, read.told, sources)
        return self._found(
            read,
            "stored" if never_stored else "repaired",
            f"{'Stored' if never_stored else 'Repaired'} from {sources}: {counted(len(fetched.files), 'object')}, {human_bytes(sum(digest.size for _, digest in fetched.files))}.",
        )

    def _row(self, read: CopyRead) -> CopyRow | None:
        """The copy as the catalog knows it now; None when it was deleted, or is being so."""
        # In this order: a deletion records what it did before it removes its tombstone.
        if read.gone and self._is_being_deleted(read):
            return None
        row = self._app.catalog.copy(read.backup_id, read.target)
        return None if row is None or row.state == "deleted" else row

    def _is_being_deleted(self, read: CopyRead) -> bool:
        try:
            return is_being_deleted(self._repositories[read.target], read.backup_id, self._app.keyring)
        except StorageError:
            return False

    def _in_use(self, backup_id: str) -> AbstractContextManager[None]:
        """No cleanup begins to delete this backup, here or where good bytes come from."""
        return self._app.locks.in_use([backup_id], "a repair reads it")

    def _record_corrupt(self, read: CopyRead, row: CopyRow) -> None:
        if row.state not in ("failed", "pending"):
            self._app.catalog.record_copy(read.backup_id, read.target, state="corrupt", form=row.form, error=read.told)

    def _record_bad_sources(self, read: CopyRead, fetched: Fetched) -> None:
        """A copy that was found bad when it should have helped another is bad, too: the next scrub repairs it."""
        for copy in self._app.catalog.copies(read.backup_id):
            if copy.target in fetched.bad and copy.state in ("checked", "stored"):
                self._app.catalog.record_copy(
                    read.backup_id, copy.target, state="corrupt", form=copy.form, error=fetched.bad[copy.target]
                )

    def _others(self, target: str) -> Others:
        others = [repository for name, repository in self._repositories.items() if name != target]
        return Others(others, self._throttles)

    # -- write-ahead log ---------------------------------------------------------------------------------------------

    def wal(
        self, each: WalObject, archive: WalArchive, told: str, *, needed: Callable[[], bool] | None = None
    ) -> ScrubFinding:
        """Repair an object of the archive; with ``needed``, put it where it is missing, if that says under the lock that it is needed still.

        Raises ``Cancelled``, and errors of the catalog.
        """
        name = archive.target.name
        others = [
            WalArchive(repository.target, repository.application)
            for other, repository in self._repositories.items()
            if other != name
        ]
        try:
            self._app.settings.work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            with ScratchFolder(self._app.settings.work_dir, _PREFIX) as folder:
                good = fetch_good_wal(each, others, self._app.keyring, folder, dict(self._throttles))
                with self._locked():
                    if needed is not None and not needed():
                        return ScrubFinding(each.key, name, told, "gone", "What needed it was deleted meanwhile.")
                    missing = needed is not None
                    store_good_wal(each, good, archive, self._app.keyring, self._throttles[name], missing=missing)
        except ObjectMissing:
            return ScrubFinding(each.key, name, told, "gone", "Deleted while it was read.")
        except _NOT_REPAIRED as error:
            self._report.warning(f"{each.key} on {name} was not repaired: {error}")
            return ScrubFinding(each.key, name, told, "not repaired", str(error))
        self._trace(each.key, name, told, good.source)
        return ScrubFinding(each.key, name, told, "repaired", f"Repaired from {good.source}.")

    # -- what both need ----------------------------------------------------------------------------------------------

    def _trace(self, what: str, target: str, told: str, sources: str) -> None:
        self._report.warning(f"{what} on {target} was bad and is repaired from {sources}: {told}")
        repair = Repair(backup_id=what, target=target, at=datetime.now(timezone.utc), what=told, source=sources)
        note_repair(self._app, repair)

    def _found(self, read: CopyRead, outcome: ScrubOutcome, result: str) -> ScrubFinding:
        return ScrubFinding(read.backup_id, read.target, read.told, outcome, result)

    def _gone(self, read: CopyRead) -> ScrubFinding:
        self._report.info(f"{read.backup_id} was deleted from {read.target} while it was read")
        return self._found(read, "gone", "Deleted while it was read.")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The application's lock, waited for as long as the schedules say. Raises ``Busy`` after that, ``Cancelled`` before."""
        schedules = self._app.settings.schedules
        patience = schedules.patience if schedules else _PATIENCE
        deadline = time.monotonic() + patience.total_seconds()
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(self._app.locks.hold("The repair of a copy", patience=_LOOK_UP_SECONDS))
                    break
                except Busy:
                    if self._report.stop.is_set():
                        raise Cancelled(
                            "The repair was stopped while it waited", remedy="the next scrub begins with it"
                        ) from None
                    if time.monotonic() > deadline:
                        raise
            yield


def repairs(catalog: Catalog, application: str) -> tuple[Repair, ...]:
    """The repairs of the last 30 days, oldest first."""
    return (catalog.note(application, Repairs) or Repairs()).repairs


def note_repair(app: Application, repair: Repair) -> None:
    """Leave the trace of a repair, in the note and in the audit log."""
    kept = [each for each in repairs(app.catalog, app.name) if repair.at - each.at < _KEPT_FOR]
    app.catalog.leave_note(app.name, Repairs(repairs=(*kept, repair)[-_KEPT:]))
    record(
        app, action="repair", subject=f"{repair.backup_id} on {repair.target}", result="repaired",
        details={"what": repair.what, "source": repair.source, "run_id": app.actor.run_id},
    )  # fmt: skip
