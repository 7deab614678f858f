"""Write-ahead log from the settings: shipped once or for ever, received, and how far it reaches. The job and the commands do it alike."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone

from twist_dr.catalog import BackupRow, Catalog, CatalogUnavailable, WalPositionRow
from twist_dr.errors import (
    Busy,
    Cancelled,
    DatabaseError,
    ManifestInvalid,
    SettingsError,
    TwistDRError,
    WalInvalid,
    WalMissing,
    WalNotShipped,
    clause_of,
    code_of,
)
from twist_dr.postgres.cluster import Cluster, named_errors
from twist_dr.postgres.lsn import Gap, format_lsn, parse_lsn
from twist_dr.postgres.tools import find_tools
from twist_dr.repository.manifest import Manifest
from twist_dr.settings import Application, Settings, WalSettings
from twist_dr.storage.base import StorageTarget
from twist_dr.storage.patience import patient
from twist_dr.system.progress import human_bytes, human_seconds
from twist_dr.system.scratch_folder import ScratchFolder, clear_left_over
from twist_dr.system.words import counted
from twist_dr.wal.archived import Known, Shipped, gaps_after
from twist_dr.wal.destinations import Destination
from twist_dr.wal.names import Segment
from twist_dr.wal.objects import WalArchive
from twist_dr.wal.own_wal import OwnWal, OwnWalCopy
from twist_dr.wal.primary import Primary, Sample
from twist_dr.wal.receiving import Receiver
from twist_dr.wal.shipping import Shipper
from twist_dr.wal.spool import Spool, Wanted

#: The lock of shipping, apart from the application's: WAL is shipped while a backup or a restore goes on.
LOCK_SCOPE = "wal"
#: How long a round waits for the receiver to have what was written when the round began.
_RECEIVER_SECONDS = 2.0
#: How long the resident process waits after a round that came to nothing (no space, a folder that cannot be read).
_TROUBLE_SECONDS = 5.0
#: How often the resident process writes to the index, unless something went wrong.
_RECORD_SECONDS = 10.0
#: A target that gives no answer for so long is left out of the round.
_PATIENCE_SECONDS = 60.0
#: How long the resident process waits for a round of somebody else to end.
_OTHERS_SECONDS = 60.0
#: How long a base backup waits for its WAL, and how often it looks.
_BASE_WAL_SECONDS = 300.0
_ASK_AGAIN_SECONDS = 0.2
_OWN_WAL = "own-wal-"


def wal_settings(settings: Settings) -> WalSettings:
    """The section ``wal``. Raises ``SettingsError`` without it."""
    if settings.wal is None:
        raise SettingsError(
            "twist-dr.yaml has no section wal, so no write-ahead log is archived",
            remedy="add it to recover to any second (see README)",
        )
    return settings.wal


def archive_on(app: Application, name: str) -> WalArchive:
    """What an enabled target has of WAL, whether any is shipped to it or not."""
    return WalArchive(patient(app.targets[name], _PATIENCE_SECONDS), app.name)


def archives(app: Application) -> dict[str, WalArchive]:
    """The archive of each target that WAL is shipped to, by name."""
    return {name: archive_on(app, name) for name in app.settings.wal_targets}


class Shipping:
    """Ships for one application, again and again. A context manager: leaving it ends threads and connections."""

    def __init__(self, app: Application) -> None:
        settings, wal = app.settings, wal_settings(app.settings)
        self._app = app
        self._wal = wal
        self._report = app.report
        self._primary = Primary(Cluster(settings.replication_url), settings.wal_slot)
        destinations = {
            name: Destination(archive, settings.form(name), settings.wal_every(name))
            for name, archive in archives(app).items()
        }
        self._shipper = Shipper(
            settings.application,
            Spool(settings.wal_spool),
            destinations,
            app.keyring,
            app.report,
            required=wal.required_targets,
            kept_off=[name for name in settings.enabled_targets if name not in settings.wal_targets],
            level=settings.backup.compression_level,
            workers=wal.workers,
        )
        self._recorded_at = 0.0
        self._unreachable = ""
        self._trouble = ""

    def __enter__(self) -> Shipping:
        return self

    def __exit__(self, *error: object) -> None:
        self._shipper.close()
        self._primary.close()

    def once(self, *, everything: bool = False) -> Shipped:
        """One round under the lock; with ``everything`` to all targets, whose turn it is or not. Raises ``Busy`` when another process ships."""
        with self._app.locks.hold("Shipping WAL", scope=LOCK_SCOPE):
            return self._round(everything=everything)

    def follow(self, stop: threading.Event) -> None:
        """Rounds for ever, until ``stop`` is set. What goes wrong is said, and tried again in the next."""
        with self._app.locks.hold(
            "Shipping WAL",
            scope=LOCK_SCOPE,
            # A round of the sensor may just be at its end, and whoever looks whether somebody ships holds the lock for a moment.
            patience=_OTHERS_SECONDS,
        ):
            while not stop.is_set():
                begun = time.monotonic()
                try:
                    shipped = self._round()
                except Cancelled:
                    return
                except (TwistDRError, OSError) as error:
                    if str(error) != self._trouble:
                        self._report.warning(str(error))
                    self._trouble = str(error)
                    stop.wait(max(self._wal.follow_seconds, _TROUBLE_SECONDS))
                    continue
                self._trouble = ""
                for name, outcome in shipped.targets.items():
                    if outcome.segments:
                        self._report.info(
                            f"{name}: {counted(outcome.segments, 'segment')}, {human_bytes(outcome.stored_bytes)}, in {human_seconds(shipped.seconds)}"
                        )
                stop.wait(max(0.0, self._wal.follow_seconds - (time.monotonic() - begun)))

    def _round(self, *, everything: bool = False) -> Shipped:
        shipped = self._shipper.ship(self._sample(), everything=everything)
        for name, outcome in shipped.targets.items():
            self._app.count_upload(name, outcome.stored_bytes)
        due = time.monotonic() - self._recorded_at > _RECORD_SECONDS
        if due or shipped.errors or shipped.gaps:
            self._record(shipped)
        return shipped

    def _sample(self) -> Sample | None:
        """What the primary says. Without it the spool is shipped all the same: that is when it counts most."""
        try:
            if self._wal.source == "receive":
                sample = self._primary.ask_when_received(_RECEIVER_SECONDS)
            else:
                sample = self._primary.ask()
        except DatabaseError as error:
            if str(error) != self._unreachable:
                self._report.warning(f"what the primary has written cannot be compared with what is archived: {error}")
            self._unreachable = str(error)
            return None
        self._unreachable = ""
        return sample

    def _record(self, shipped: Shipped) -> None:
        """An index that does not answer stops nothing."""
        try:
            application = self._app.name
            known = {row.target: row for row in self._app.catalog.wal_positions(application)}
            for name in shipped.targets:
                row = _position_row(application, name, shipped)
                gaps = dict.fromkeys([*_still_known(known.get(name), row), *row.gaps])
                self._app.catalog.record_wal_position(replace(row, gaps=tuple(gaps)))
            self._recorded_at = time.monotonic()
        except CatalogUnavailable as unavailable:
            self._report.warning(str(unavailable))


def _still_known(known: WalPositionRow | None, row: WalPositionRow) -> tuple[Gap, ...]:
    """Gaps that were recorded before. LSNs of another cluster begin anew: what was missing there is missing from nothing here."""
    if known is None or (known.system_identifier and row.system_identifier not in (None, known.system_identifier)):
        return ()
    return known.gaps


def gaps_after_newest_base(catalog: Catalog, row: WalPositionRow) -> list[Gap]:
    """Gaps that a recovery from the newest base backup on a target would meet; all, where it has none of that cluster.

    Raises ``CatalogUnavailable``.
    """
    if not row.gaps:
        return []
    newest = catalog.backups(application=row.application, kind="base", target=row.target, state="checked", limit=1)
    return gaps_after(row.gaps, _start_of(catalog, newest[0], row.system_identifier) if newest else 0)


def _start_of(catalog: Catalog, backup: BackupRow, system_identifier: str | None) -> int:
    with suppress(ManifestInvalid):
        sealed = catalog.backup(backup.application, backup.backup_id)
        if sealed is not None:
            base, server = sealed.manifest.base, sealed.manifest.postgres
            if base and server and server.system_identifier == system_identifier:
                return parse_lsn(base.start_lsn)
    return 0


def _position_row(application: str, target: str, shipped: Shipped) -> WalPositionRow:
    position, error = shipped.targets[target].position, shipped.targets[target].error
    return WalPositionRow(
        application=application,
        target=target,
        system_identifier=position.system_identifier if position else None,
        timeline=position.timeline if position else None,
        lsn=format_lsn(position.lsn) if position else None,
        at=position.at if position else None,
        updated_at=datetime.now(timezone.utc),
        waiting=shipped.waiting,
        oldest_seconds=shipped.oldest_seconds,
        spool_bytes=shipped.spool_bytes,
        gaps=tuple(shipped.gaps_of(target)),
        error=clause_of(error) if error else None,
        error_code=code_of(error) if error else None,
    )


def known_reach(app: Application, target: str | None = None, source: str = "any") -> list[Known]:
    """How far each target's archive (or that of one) was known to reach: by the catalog, and by what shipping remembers here. Not those that get no WAL any more.

    ``source``: the only target that a recovery reads, or ``any``. Recovering needs none of them: a catalog that does not answer is only said.
    """
    if app.settings.wal is None:
        return []
    kept_off = {name for name, options in app.settings.storage_targets.items() if not options.wal}
    found = []
    try:
        for row in app.catalog.wal_positions(app.name):
            if (
                row.system_identifier
                and row.timeline
                and row.lsn
                and target in (None, row.target)
                and row.target not in kept_off
            ):
                lsn = parse_lsn(row.lsn)
                asked = source in ("any", row.target)
                found.append(
                    Known(f"by the catalog {row.target}", row.system_identifier, row.timeline, lsn, row.at, asked)
                )
    except CatalogUnavailable as unavailable:
        app.report.warning(f"how far archives were known to reach is not known: {unavailable}")
    state = Spool(app.settings.wal_spool).load_state()
    for name in state.positions:
        if target in (None, name) and name not in kept_off and (position := state.position(name)) is not None:
            by = f"by what was shipped {name}"
            asked = source in ("any", name)
            found.append(Known(by, position.system_identifier, position.timeline, position.lsn, position.at, asked))
    return found


def spool_warnings(oldest_seconds: float, spool_bytes: int, wal: WalSettings) -> list[str]:
    """What is said before the disk is full: ``oldest_seconds`` the oldest file waits, ``spool_bytes`` lie there."""
    warnings = []
    if oldest_seconds > wal.warn_after.total_seconds():
        warnings.append(
            f"the oldest WAL in the spool waits since {human_seconds(oldest_seconds)}: a storage target does not take it"
        )
    if spool_bytes > wal.warn_bytes:
        warnings.append(
            f"the spool holds {human_bytes(spool_bytes)} of WAL; when its disk is full, the server keeps WAL until its own is"
        )
    return warnings


def raise_not_shipped(shipped: Shipped) -> None:
    """Raise ``WalNotShipped`` when a target lacks what it should have; ``WalMissing`` when there is a gap, ``WalInvalid`` when a file was refused.

    Those two are noticed once: an attempt after them would find nothing wrong, and pass for a success.
    """
    told = [f"{name}: {error.clause}" for name, error in sorted(shipped.errors.items())]
    told += [f"{gap}; take a new base backup" for gap in shipped.gaps]
    told += shipped.refused
    if told:
        kind = WalMissing if shipped.gaps else WalInvalid if shipped.refused else WalNotShipped
        raise kind(" ".join(line if line.endswith(".") else f"{line}." for line in told))


def receive(app: Application) -> None:
    """Receive until the report is told to stop. Raises ``Busy`` when another process of this machine receives, ``SettingsError``."""
    settings, wal = app.settings, wal_settings(app.settings)
    if wal.source != "receive":
        raise SettingsError(
            "wal.source is 'archive': the server's archiver fills the spool",
            remedy="set it to 'receive' to stream from the server",
        )
    spool = Spool(settings.wal_spool)
    tools = find_tools(settings.database.client_tools)
    with app.locks.hold("Receiving WAL", scope="receiver"):
        Receiver(Cluster(settings.replication_url), settings.wal_slot, spool, tools, app.report).run(app.report.stop)
        app.report.info("stopped; the slot keeps on the server what is written from now on")


def is_anybody_shipping(app: Application) -> bool:
    """Whether a process of this machine holds the lock of shipping now."""
    try:
        with app.locks.hold("Looking", scope=LOCK_SCOPE):
            return False
    except Busy:
        return True


class AwaitWal:
    """Waits until a target's archive holds the WAL that a base backup needs, shipping it if nobody else does.

    Call it from any thread: ``shipping`` works under its lock, for one of them at a time.
    """

    def __init__(self, app: Application, shipping: Shipping) -> None:
        self._app = app
        self._settings = app.settings
        self._shipping = shipping
        self._report = app.report

    def __call__(self, target: StorageTarget, manifest: Manifest) -> None:
        """Raises ``WalNotShipped`` when that takes too long, and storage errors. A target that gets no WAL is given this much of it, from one that has it."""
        base = manifest.base
        assert base is not None and manifest.postgres is not None
        last = parse_lsn(base.last_lsn)
        identifier = str(manifest.postgres.system_identifier)
        if wal_settings(self._settings).source == "archive":
            self._finish_segment()
        Spool(self._settings.wal_spool).want(Wanted(identifier, last))
        deadline = time.monotonic() + _BASE_WAL_SECONDS
        gets_wal = target.name in self._settings.wal_targets
        awaited = [target.name] if gets_wal else list(self._settings.wal_targets)
        while not any(self._reaches(name, identifier, last) for name in awaited):
            if self._report.stop.is_set():
                raise Cancelled("The wait for archived WAL was asked to stop.")
            if time.monotonic() > deadline:
                raise WalNotShipped(
                    f"it does not hold the WAL up to {base.last_lsn} that {manifest.backup_id} needs, {human_seconds(_BASE_WAL_SECONDS)} after "
                    "the backup",
                    remedy="see that twist-dr wal receive (or the server's archiver) and twist-dr wal ship work: twist-dr wal status",
                    target=target.name,
                )
            with suppress(Busy):
                self._shipping.once()
            if not any(self._reaches(name, identifier, last) for name in awaited):
                time.sleep(_ASK_AGAIN_SECONDS)
        start = Segment.holding(base.timeline, parse_lsn(base.start_lsn), base.wal_segment_size)
        if not gets_wal:
            self._give(target, OwnWal(identifier, start, last))
        self._check_held(target, identifier, start, last)

    def _give(self, target: StorageTarget, needed: OwnWal) -> None:
        work = self._settings.work_dir
        clear_left_over(work, _OWN_WAL)
        # Those that have it first: shipping knows of each how far it is.
        sources = sorted(
            archives(self._app).values(),
            key=lambda source: not self._reaches(source.target.name, needed.system_identifier, needed.until),
        )
        with ScratchFolder(work, _OWN_WAL) as folder:
            to = archive_on(self._app, target.name)
            OwnWalCopy(needed, sources, to, self._settings.form(target.name), self._app.keyring, folder).all()

    def _finish_segment(self) -> None:
        """Where the server archives whole segments only, it is asked to end the one that it is in."""
        connecting = Cluster(self._settings.replication_url).connect
        with suppress(DatabaseError), connecting() as connection, named_errors("to switch to the next segment"):
            connection.execute("SELECT pg_switch_wal()")

    def _reaches(self, name: str, identifier: str, lsn: int) -> bool:
        position = Spool(self._settings.wal_spool).load_state().position(name)
        return position is not None and position.system_identifier == identifier and position.lsn >= lsn

    def _check_held(self, target: StorageTarget, identifier: str, start: Segment, last: int) -> None:
        """Every segment is asked of the target itself: it is the truth, and the spool's state only what was believed."""
        archive = WalArchive(patient(target, _PATIENCE_SECONDS), self._settings.application)
        lacking = archive.lacks(identifier, start, last, self._settings.form(target.name))
        if lacking is not None:
            raise WalNotShipped(
                f"it lacks the WAL segment {lacking.name}, which lies within the base backup: it is not complete there",
                remedy="see twist-dr wal status",
                target=target.name,
            )
