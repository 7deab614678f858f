"""The scrub of archived write-ahead log: a rotation of its own for each target, as its objects have no rows in the catalog."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta, timezone
from functools import partial

from twist_dr.backup.base.summary import BaseSummary, PlannedBase
from twist_dr.catalog.notes import WalScrubbed
from twist_dr.catalog.rows import THERE
from twist_dr.errors import ObjectMissing, StorageError
from twist_dr.postgres.lsn import parse_lsn
from twist_dr.repository.emptied import emptied
from twist_dr.repository.kinds import BASE
from twist_dr.repository.repository import Repository
from twist_dr.retention.ground import survey_wal
from twist_dr.retention.model import ClusterWal
from twist_dr.retention.tombstones import is_being_deleted
from twist_dr.scrub.found import ScrubFinding, ScrubOrder
from twist_dr.scrub.rotation import objects_due
from twist_dr.scrub.throttle import Throttle
from twist_dr.scrub.wal_reading import (
    BAD,
    Reached,
    WalObject,
    is_there,
    lacking,
    leave_deleted,
    lost_wal,
    missing_wal,
    read_wal,
    wal_objects,
)
from twist_dr.settings import Application
from twist_dr.settings.policy import longest_window
from twist_dr.wal.holdings import Holdings
from twist_dr.wal.names import Segment
from twist_dr.wal.objects import WalArchive

#: Objects between two notes of how far the rotation is.
_NOTE_EVERY = 50

#: Begins to repair an object; the last argument, of one that is missing: whether something needs it still.
StartRepair = Callable[[WalObject, WalArchive, str, Callable[[], bool] | None], Future[ScrubFinding]]


class WalScrub:
    """Reads what targets have archived. ``objects``: how many were read. Safe for several threads, each with its own target."""

    def __init__(self, app: Application, throttles: Mapping[str, Throttle], repair: StartRepair) -> None:
        self.objects = 0
        self._app = app
        self._report = app.report
        self._throttles = throttles
        self._repair = repair
        self._counting = threading.Lock()

    def read(self, repository: Repository, order: ScrubOrder, elapsed: timedelta) -> None:
        """Objects whose badness is known first, then the rotation from where it was."""
        name = repository.target.name
        archive = WalArchive(repository.target, self._app.name)
        objects = wal_objects(archive)
        if not objects:
            return
        note = self._app.catalog.note(self._app.name, WalScrubbed, name)
        known_bad, after = (note.bad, note.after) if note else ({}, None)
        bad = {each.key: known_bad[each.key] for each in objects if each.key in known_bad}
        period = self._app.settings.scrub.period
        due = objects if order.everything else objects_due(objects, after=after, period=period, elapsed=elapsed)
        known = set(bad)
        first = [each for each in objects if each.key in known]
        repairing: dict[str, Future[ScrubFinding]] = {}
        self._report.info(f"{name}: reading {len(due)} of {len(objects)} objects of archived WAL")
        try:
            for number, each in enumerate([*first, *(each for each in due if each.key not in known)], 1):
                self._look(archive, each, bad, repairing)
                after = each.key if each.key not in known else after
                if number % _NOTE_EVERY == 0:
                    self._note(name, after, bad)
            for key, repaired in repairing.items():
                if repaired.result().outcome in ("repaired", "gone"):
                    bad.pop(key, None)
        finally:
            self._note(name, after, bad)

    def _look(
        self, archive: WalArchive, each: WalObject, bad: dict[str, str], repairing: dict[str, Future[ScrubFinding]]
    ) -> None:
        try:
            read_wal(archive, each, self._app.keyring)
        except ObjectMissing:  # deleted since it was listed
            bad.pop(each.key, None)
            return
        except BAD as error:
            self._report.warning(str(error))
            bad[each.key] = str(error)
            repairing[each.key] = self._repair(each, archive, str(error), None)
        else:
            bad.pop(each.key, None)
        with self._counting:
            self.objects += 1
        self._throttles[archive.target.name](each.size)

    def find_missing(self, repository: Repository, others: Sequence[Repository]) -> None:
        """What base backups need of the log must be there whether its turn has come or not, and what other targets have of its stretch.

        Raises storage errors; ``TargetUnavailable`` also when a target that held WAL holds none, and no base that says what it should hold.
        """
        name = repository.target.name
        # Read now: the copies were read for hours, and a cleanup may have deleted some meanwhile, with their WAL.
        rows = self._app.catalog.retention_rows(self._app.name, name)
        held = [row.backup_id for row in rows if row.kind == BASE.kind and row.state in THERE]
        known = (self._app.catalog.backup(self._app.name, backup_id) for backup_id in held)
        bases = [
            BaseSummary.of(row.manifest)
            for row in known
            if row is not None and not is_being_deleted(repository, row.backup_id, self._app.keyring)
        ]
        archive = WalArchive(repository.target, self._app.name)
        form = self._app.settings.form(name)
        needed = missing_wal(archive, bases, form)
        for each, told in needed.items():
            self._report.warning(told)
            self._repair(each, archive, told, partial(self._is_needed, repository, each, bases))
        clusters = survey_wal(archive, bases, held, self._app.keyring)
        for cluster, lost in zip(clusters, self._lost(archive, clusters, others), strict=True):
            for each, told in lacking(archive, lost, form).items():
                if each not in needed:
                    self._report.warning(told)
                    self._repair(each, archive, told, partial(self._is_within, repository, archive, each, cluster))

    def _lost(
        self, archive: WalArchive, clusters: Sequence[ClusterWal], others: Sequence[Repository]
    ) -> list[Holdings]:
        """By cluster, what this target has lost and another holds: nothing where it has to have no more than its bases need."""
        name = archive.target.name
        if not self._app.settings.storage_targets[name].wal:
            return [Holdings(each.holdings.system_identifier, each.holdings.segment_size) for each in clusters]
        reached = self._reached(name)
        if reached is not None and not clusters and not archive.clusters():
            anew = "take a new base backup, with which its archive begins anew"
            raise emptied(archive.target, self._app.name, held="write-ahead log", on_purpose=anew)
        lost = [lost_wal(each, self._held_by(others, each), reached) for each in clusters]
        if policies := self._app.settings.storage_targets[name].policies:
            leave_deleted(lost, clusters, longest_window(policies), datetime.now(timezone.utc))
        return lost

    def _held_by(self, others: Sequence[Repository], cluster: ClusterWal) -> list[Holdings]:
        held = []
        for other in others:
            archive = WalArchive(other.target, self._app.name)
            try:
                held.append(archive.holdings(cluster.holdings.system_identifier, cluster.holdings.segment_size))
            except StorageError as error:
                self._report.info(f"nobody can tell what {archive.target.name} has of the write-ahead log: {error}")
        return held

    def _reached(self, name: str) -> Reached | None:
        """How far shipping has come by the catalog; None where nothing is shipped, or nothing is known."""
        if self._app.settings.wal is None:
            return None
        for row in self._app.catalog.wal_positions(self._app.name):
            if row.target == name and row.system_identifier and row.timeline and row.lsn:
                return Reached(row.system_identifier, row.timeline, parse_lsn(row.lsn))
        return None

    def _is_within(self, repository: Repository, archive: WalArchive, each: WalObject, cluster: ClusterWal) -> bool:
        """Whether an object is missing still, and what made it one of the target's own was not deleted meanwhile. Asked under the application's lock."""
        first = min(cluster.holdings.segments, default=None)
        begins = first is not None and archive.has(cluster.holdings.segments[first].key)
        begins = begins or any(self._stays(repository, base.id) for base in cluster.bases)
        return begins and not is_there(archive, each)

    def _is_needed(self, repository: Repository, each: WalObject, bases: Sequence[PlannedBase]) -> bool:
        """Whether a base that needs a segment is there still. Asked under the application's lock, so that no cleanup is at work."""
        return any(self._stays(repository, base.backup_id) for base in bases if _needs(base, each))

    def _stays(self, repository: Repository, backup_id: str) -> bool:
        """Whether it was not deleted, nor begun to be by a cleanup that was cut short perhaps before it could record that."""
        name, keyring = repository.target.name, self._app.keyring
        return self._app.catalog.is_held(backup_id, name) and not is_being_deleted(repository, backup_id, keyring)

    def _note(self, name: str, after: str | None, bad: Mapping[str, str]) -> None:
        note = WalScrubbed(after=after, bad=dict(bad), at=datetime.now(timezone.utc))
        self._app.catalog.leave_note(self._app.name, note, name)


def _needs(taken: PlannedBase, each: WalObject) -> bool:
    """Whether a base backup needs a segment to be restored to its own end."""
    base, facts = taken.base, taken.postgres
    if base is None or facts is None or facts.system_identifier != each.system_identifier:
        return False
    segment = Segment.named(each.name, base.wal_segment_size)
    first = Segment.holding(base.timeline, parse_lsn(base.start_lsn), base.wal_segment_size)
    return segment.timeline == base.timeline and first.start <= segment.start < parse_lsn(base.last_lsn)
