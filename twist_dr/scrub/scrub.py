"""One scrub: what is due is read, targets side by side; what is bad is repaired as it is found, one thing after the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta, timezone

from twist_dr.catalog import CatalogUnavailable
from twist_dr.catalog.notes import ArchivedCopies, Scrubbed, archived_copies
from twist_dr.catalog.rows import THERE, RetentionRow
from twist_dr.errors import (
    BackupError,
    BackupNotFound,
    Cancelled,
    EncryptionError,
    ManifestForeign,
    ManifestInvalid,
    ObjectArchived,
    TwistDRError,
    clause_of,
)
from twist_dr.repository.first_good import NO_MANIFEST, first_good
from twist_dr.repository.manifest import Manifest, open_manifest
from twist_dr.repository.repository import Repository
from twist_dr.retention.ground import strangers
from twist_dr.scrub.found import ScrubFinding, ScrubOrder, ScrubResult
from twist_dr.scrub.reading import read_copy
from twist_dr.scrub.repairer import Repairer
from twist_dr.scrub.rotation import CopyToRead, copies_due, elapsed_since
from twist_dr.scrub.throttle import Throttle
from twist_dr.scrub.wal import WalScrub
from twist_dr.scrub.wal_reading import WalObject
from twist_dr.settings import Application
from twist_dr.storage.base import OnBytes, told_of
from twist_dr.system.progress import human_bytes
from twist_dr.system.words import counted
from twist_dr.wal.objects import WalArchive

#: Pending for longer than any upload takes: the run died.
_ABANDONED = timedelta(days=1)


class Scrub:
    """One scrub of one application. Takes no lock but for a repair's last step."""

    def __init__(
        self, app: Application, repositories: Mapping[str, Repository], *, now: datetime | None = None
    ) -> None:
        self._app = app
        self._repositories = repositories
        self._report = app.report
        self._now = now or datetime.now(timezone.utc)
        most = app.settings.scrub.max_mib_per_second
        rate = None if most is None else most * (1 << 20)
        self._throttles = {name: Throttle(rate, app.report.stop) for name in repositories}
        self._repairer = Repairer(app, repositories, self._throttles)
        self._repairing = ThreadPoolExecutor(1, "repair")
        self._repaired: list[Future[ScrubFinding]] = []
        self._wal = WalScrub(app, self._throttles, self._repair_wal)
        self._counting = threading.Lock()
        self.result = ScrubResult()

    def run(self, order: ScrubOrder) -> ScrubResult:
        """Read what is due and repair what is bad. What a target fails of is in the result. Raises ``Cancelled``, ``BackupNotFound`` and errors of the catalog."""
        begun = time.monotonic()
        if order.backup is not None and self._app.catalog.backup(self._app.name, order.backup) is None:
            raise BackupNotFound(
                f"The catalog has no backup {order.backup} of {self._app.name}", remedy="see all with: twist-dr list"
            )
        last = self._app.catalog.note(self._app.name, Scrubbed) or Scrubbed()
        with ThreadPoolExecutor(max(1, len(order.targets)), "scrub") as pool, self._repairing:
            try:
                for reading in [pool.submit(self._target, name, order, last) for name in order.targets]:
                    reading.result()
                self.result.found += [repaired.result() for repaired in self._repaired]
            except BaseException:
                # An interrupt reaches this thread only; the others look at this between two chunks.
                self._report.stop.set()
                self._repairing.shutdown(wait=False, cancel_futures=True)
                raise
        self.result.wal_objects = self._wal.objects
        self._note_scrubbed(order, last)
        self.result.bytes = sum(throttle.bytes for throttle in self._throttles.values())
        self.result.oldest = self._oldest(order)
        self.result.seconds = round(time.monotonic() - begun, 3)
        return self.result

    # -- one target --------------------------------------------------------------------------------------------------

    def _target(self, name: str, order: ScrubOrder, last: Scrubbed) -> None:
        """Whatever a target's failure is, it is that target's alone. Raises ``Cancelled``, and errors of the catalog."""
        repository = self._repositories[name]
        elapsed = elapsed_since(last.targets.get(name), self._now, self._app.settings.scrub.period)
        try:
            rows = [row for row in self._app.catalog.retention_rows(self._app.name, name) if self._is_there(row)]
            # An absent disk must not be taken for one of which every copy was lost, and be filled.
            if any(row.state in THERE for row in rows):
                repository.need_backups()
            self._strangers(repository)
            self._copies(repository, rows, order, elapsed)
            if order.backup is None:
                self._wal.read(repository, order, elapsed)
                others = [each for other, each in self._repositories.items() if other != name]
                self._wal.find_missing(repository, others)
        except (Cancelled, CatalogUnavailable):
            raise
        except Exception as error:
            self.result.unread[name] = clause_of(error)
            self._report.warning(f"{name} cannot be read: {self.result.unread[name]}")

    def _strangers(self, repository: Repository) -> None:
        if found := strangers(repository):
            told = f"{repository.target.name}: {told_of(found)}; nothing there is read or deleted: find out who put it there, and remove it."
            self._report.warning(told)
            self.result.unreadable.append(told)

    def _is_there(self, row: RetentionRow) -> bool:
        return row.state != "deleted" and (row.state != "pending" or self._now - row.updated_at > _ABANDONED)

    def _copies(self, repository: Repository, rows: list[RetentionRow], order: ScrubOrder, elapsed: timedelta) -> None:
        known = [
            CopyToRead(
                row.backup_id,
                row.form,
                row.stored_bytes or 0,
                row.checked_at if row.state == "checked" else None,
                row.state in ("failed", "pending", "corrupt"),
            )
            for row in rows
            if order.backup in (None, row.backup_id)
        ]
        asleep = archived_copies(self._app.catalog, self._app.name, repository.target.name)
        if any(copy.backup_id in asleep for copy in known):
            told = counted(sum(copy.backup_id in asleep for copy in known), "copy")
            self._report.info(f"{repository.target.name}: {told} in archive storage classes are not read")
            known = [copy for copy in known if copy.backup_id not in asleep]
        whole = order.everything or order.backup is not None
        period = self._app.settings.scrub.period
        due = known if whole else copies_due(known, now=self._now, period=period, elapsed=elapsed)
        if not due:
            return
        total, name = sum(copy.size for copy in due), repository.target.name
        self._report.info(f"{name}: reading {len(due)} of {len(known)} copies, {human_bytes(total)}")
        with self._report.part(f"reading {name}", total) as advance:

            def progress(count: int) -> None:
                self._throttles[name](count)
                advance(count)

            for copy in due:
                self._copy(repository, copy, progress)

    def _copy(self, repository: Repository, copy: CopyToRead, progress: OnBytes) -> None:
        name = repository.target.name
        try:
            read = read_copy(
                repository, copy.backup_id, copy.form, self._app.keyring, progress, lambda: self._elsewhere(copy, name)
            )
        except Cancelled:
            raise
        except ObjectArchived as error:
            self._report.info(f"{copy.backup_id} on {name} is not read: {error.clause}")
            asleep = archived_copies(self._app.catalog, self._app.name, name)
            note = ArchivedCopies(copies={**asleep, copy.backup_id: "an archive class"})
            self._app.catalog.leave_note(self._app.name, note, name)
            return
        except (BackupError, EncryptionError) as error:
            self._unreadable(copy, name, error)
            return
        with self._counting:
            self.result.copies += 1
        if not read.good:
            self._report.warning(f"{copy.backup_id} on {name} is not as recorded: {read.told}")
            self._repaired.append(self._repairing.submit(self._repairer.copy, read))
        elif self._state(copy.backup_id, name) not in (None, "deleted"):
            self._app.catalog.record_copy(copy.backup_id, name, state="checked", form=copy.form, stored_bytes=read.size)

    def _unreadable(self, copy: CopyToRead, name: str, error: TwistDRError) -> None:
        """No genuine manifest anywhere, or no key for it: the first is the copy's fault, the second is not."""
        state = self._state(copy.backup_id, name)
        if state in (None, "deleted") or (state in ("failed", "pending") and isinstance(error, BackupNotFound)):
            return
        self._report.warning(str(error))
        self.result.unreadable.append(str(error))
        if isinstance(error, (BackupNotFound, ManifestInvalid, ManifestForeign)):
            self._app.catalog.record_copy(copy.backup_id, name, state="corrupt", form=copy.form, error=error)

    def _state(self, backup_id: str, name: str) -> str | None:
        copy = self._app.catalog.copy(backup_id, name)
        return copy.state if copy else None

    def _elsewhere(self, copy: CopyToRead, name: str) -> tuple[Manifest, bytes] | None:
        """The genuine manifest: the catalog's, else another target's."""
        row = self._app.catalog.backup(self._app.name, copy.backup_id)
        with suppress(BackupError, EncryptionError):
            if row is not None:
                what = f"the catalog: {copy.backup_id}"
                manifest = open_manifest(
                    row.sealed, self._app.keyring, application=self._app.name, backup_id=copy.backup_id, what=what
                )
                return manifest, row.sealed
        found = first_good(
            [repository for other, repository in self._repositories.items() if other != name],
            lambda repository: repository.sealed(copy.backup_id, self._app.keyring),
            lambda repository, error: None,
            errors=NO_MANIFEST,
        )
        return found and found[1]

    def _repair_wal(
        self, each: WalObject, archive: WalArchive, told: str, needed: Callable[[], bool] | None
    ) -> Future[ScrubFinding]:
        repaired = self._repairing.submit(self._repairer.wal, each, archive, told, needed=needed)
        self._repaired.append(repaired)
        return repaired

    # -- what stays --------------------------------------------------------------------------------------------------

    def _note_scrubbed(self, order: ScrubOrder, last: Scrubbed) -> None:
        """A target that was not read to the end keeps its time, so that the next run makes up for it."""
        if order.backup is not None:
            return
        done = {name: self._now for name in order.targets if name not in self.result.unread}
        self._app.catalog.leave_note(self._app.name, Scrubbed(targets={**last.targets, **done}))
        self._report.info(
            f"read {counted(self.result.copies, 'copy')} and {counted(self.result.wal_objects, 'object')} of WAL"
        )

    def _oldest(self, order: ScrubOrder) -> timedelta | None:
        now = datetime.now(timezone.utc)
        ages = [
            now - (row.checked_at or row.started_at)
            for name in order.targets
            for asleep in [archived_copies(self._app.catalog, self._app.name, name)]
            for row in self._app.catalog.retention_rows(self._app.name, name)
            if row.state in THERE and row.backup_id not in asleep
        ]
        return max(ages, default=None)
