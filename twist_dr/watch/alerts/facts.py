"""What the rules go by: read from the catalog and this machine's disks. No storage target is asked, so that none can hold it up."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

from twist_dr.catalog import (
    AlertRow,
    AttemptRow,
    BackupRow,
    Catalog,
    DeliveryRow,
    RestoreRow,
    SpaceRow,
    TargetTestRow,
    WalPositionRow,
)
from twist_dr.catalog.notes import Repair, Repairs, ScheduleWatched, WalScrubbed, Watched
from twist_dr.catalog.summaries import NewestCopy
from twist_dr.errors import ManifestInvalid, RestoreInterrupted, TwistDRError
from twist_dr.postgres.lsn import parse_lsn
from twist_dr.repository.kinds import BACKUP_JOBS, DATA_KINDS, FULL, KINDS
from twist_dr.repository.labels import is_meant
from twist_dr.repository.manifest import Kind, Part
from twist_dr.restore.plan import journals_of
from twist_dr.settings import Application, Settings
from twist_dr.storage.machine import Grant
from twist_dr.storage.patience import bounded
from twist_dr.system.space import nearest_folder
from twist_dr.watch.alerts.catalog_lost import is_lost
from twist_dr.watch.alerts.daemon import Daemon, read_daemon
from twist_dr.watch.schedules import entries, media_differ, several_of_a_job

#: The cause of the alert that tables lost rows.
ROWS_LOST = "row_drop:full"
#: What ends the causes about full backups without media, where others are scheduled with them.
WITHOUT_MEDIA = "_without_media"
#: A clock may be so much ahead of another one.
SKEW = timedelta(minutes=5)

_RECENT = 16
_ATTEMPTS = 300
_EACH_JOB = 12
#: Those that write-ahead log, shipped in a run every minute, may have pushed out of the last runs.
_JOBS = (
    *BACKUP_JOBS,
    *(
        "verify_backup",
        "restore",
        "restore_to_time",
        "undo_restore",
        "cleanup",
        "scrub",
        "drill",
        "test_storage_targets",
    ),
)
#: Full backups whose tables are compared.
TABLES_OF = 4
_CORRUPT = 100
_RESTORES = 20
_SPACE_SINCE = _TESTS_SINCE = timedelta(days=14)
#: As providers count theirs: not from midnight on.
_A_DAY = timedelta(hours=24)
_DISK_SECONDS = 5.0
_REFUSED = 100


@dataclass(frozen=True)
class KeptGrant:
    """What is kept of an owner's grant for a target; ``error``: why that cannot be told."""

    grant: Grant | None
    error: str | None = None


@dataclass(frozen=True)
class DiskSpace:
    """Bytes of a disk."""

    free: int
    total: int

    @property
    def fraction(self) -> float:
        return self.free / self.total if self.total else 1.0


@dataclass(frozen=True)
class KnownBase:
    """What a base backup's manifest tells: whether it is full, differential or incremental, of which cluster, from which LSN on WAL is needed, what it builds upon.

    ``counted``: whether its rows were, without which no recovery of it proves anything.
    """

    sort: str
    system_identifier: str | None
    start_lsn: int
    chain: tuple[str, ...] = ()
    counted: bool = True


@dataclass(frozen=True)
class Facts:
    """What is known at one moment. Rows are newest first, without those that are dated in the future."""

    #: When we were first here.
    since: datetime
    #: Since when a schedule, by its name, and a target are as they are.
    schedules_since: Mapping[str, datetime] = field(default_factory=dict)
    targets_since: Mapping[str, datetime] = field(default_factory=dict)
    backups: Mapping[Kind, Sequence[BackupRow]] = field(default_factory=dict)
    bases: Mapping[str, KnownBase] = field(default_factory=dict)
    #: Of the newest proven base backup, the enabled targets with checked copies of its whole chain.
    chain_on: Mapping[str, frozenset[str]] = field(default_factory=dict)
    #: Rows per table, of the newest full backups with a database, and of those in ``before``.
    tables: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    #: The newest full backup that was found good, where it is not among ``backups``; then the newest with media, and the newest base backup.
    verified: BackupRow | None = None
    verified_media: BackupRow | None = None
    verified_base: BackupRow | None = None
    #: By the cause of an alert that tells of a loss and that nobody has acknowledged, the backups that began before it was raised.
    before: Mapping[str, Sequence[BackupRow]] = field(default_factory=dict)
    #: The newest full or base backup with a checked copy, by target, also one that is disabled.
    checked: Mapping[str, NewestCopy] = field(default_factory=dict)
    corrupt: Sequence[BackupRow] = ()
    #: The newest backup dated in the future.
    future: BackupRow | None = None
    attempts: Mapping[str, Sequence[AttemptRow]] = field(default_factory=dict)
    restores: Sequence[RestoreRow] = ()
    #: Of two weeks, and the last one of each target.
    target_tests: Sequence[TargetTestRow] = ()
    #: Bytes stored within 24 hours, by target whose provider limits them.
    uploaded: Mapping[str, int] = field(default_factory=dict)
    positions: Mapping[str, WalPositionRow] = field(default_factory=dict)
    refused_wal: Sequence[str] = ()
    space: Mapping[str, Sequence[SpaceRow]] = field(default_factory=dict)
    staging: DiskSpace | None = None
    deliveries: Sequence[DeliveryRow] = ()
    #: What scrubs repaired of late.
    repairs: Sequence[Repair] = ()
    #: Names of write-ahead log that they could not repair, by target.
    bad_wal: Mapping[str, Sequence[str]] = field(default_factory=dict)
    #: Of the targets whose owner is asked.
    grants: Mapping[str, KeptGrant] = field(default_factory=dict)
    #: Restores that have one, by id: what it means that it is not at its end, None for one that is.
    journals: Mapping[str, str | None] = field(default_factory=dict)
    #: As it was seen last.
    daemon: Daemon | None = None
    #: Alerts that are not resolved, by cause.
    open: Mapping[str, AlertRow] = field(default_factory=dict)
    #: This is not the catalog that was written before.
    catalog_lost: bool = False
    #: What the catalog should note of what is watched since when, where it does not yet.
    note: Watched | None = None

    def running(self, job: str) -> AttemptRow | None:
        """The newest run of a job that goes on."""
        return next((each for each in self.attempts.get(job, ()) if each.state == "running"), None)

    def settled(self, kind: Kind) -> list[BackupRow]:
        """Backups of a kind, newest first, without one that is just being made or copied."""
        going_on = {each.run_id for rows in self.attempts.values() for each in rows if each.state == "running"}
        return [row for row in self.backups.get(kind, ()) if row.run_id not in going_on]


def gather(app: Application, now: datetime) -> Facts:
    """Ask the catalog and the disks. Raises ``CatalogUnavailable``."""
    application = app.name
    noted = app.catalog.note(application, Watched)
    known = watched_now(app.settings, noted, now)
    # Runs first: a backup whose run ends between the two questions is seen whole, not as one that nobody works at.
    attempts = _attempts(app, now)
    backups, future = _backups(app, now)
    alerts = {row.cause: row for row in app.catalog.open_alerts(application)}
    before = _before(app, alerts)
    fulls = [row for row in backups["full"] if "database" in row.parts][:TABLES_OF] + before.get(ROWS_LOST, [])
    verified_base = _older_verified(app.catalog, application, "base", backups["base"])
    all_bases = [*backups["base"], *([verified_base] if verified_base else []), *before.get("size_deviation:base", [])]
    bases = {row.backup_id: details.base for row in all_bases if (details := _details(app.catalog, row)).base}
    return Facts(
        since=known.since,
        schedules_since={name: each.since for name, each in known.schedules.items()},
        targets_since=known.targets,
        backups=backups,
        bases=bases,
        chain_on=_chain_on(app, [verified_base] if verified_base else backups["base"], bases),
        tables={row.backup_id: _details(app.catalog, row).tables for row in fulls},
        verified=_older_verified(app.catalog, application, "full", backups["full"]),
        verified_media=_older_verified(app.catalog, application, "full", backups["full"], part="media")
        if app.settings.media
        else None,
        verified_base=verified_base,
        before=before,
        checked={
            name: newest
            for name in app.settings.storage_targets
            if (newest := app.catalog.newest_checked(application, name, kinds=DATA_KINDS, until=now + SKEW))
        },
        corrupt=_corrupt(app),
        future=future,
        attempts=attempts,
        restores=[row for row in app.catalog.restores(application, limit=_RESTORES) if row.started_at <= now + SKEW],
        target_tests=app.catalog.target_tests(since=now - _TESTS_SINCE),
        uploaded=_uploaded(app, now),
        positions=_positions(app),
        refused_wal=_refused(app.settings.wal_spool / "refused") if app.settings.wal else (),
        space={name: app.catalog.space(name, since=now - _SPACE_SINCE) for name in app.settings.enabled_targets},
        staging=_disk_space(app.settings.work_dir),
        deliveries=app.catalog.deliveries(application),
        repairs=(app.catalog.note(application, Repairs) or Repairs()).repairs,
        bad_wal=_bad_wal(app),
        grants=_grants(app.settings),
        journals=_journals(app.settings),
        daemon=read_daemon(app),
        open=alerts,
        catalog_lost=is_lost(app),
        note=None if known == noted else known,
    )


def _positions(app: Application) -> dict[str, WalPositionRow]:
    """Of the targets that get WAL now: what one reached that does not any more, says nothing."""
    if app.settings.wal is None:
        return {}
    wanted = app.settings.wal_targets
    return {row.target: row for row in app.catalog.wal_positions(app.name) if row.target in wanted}


def _older_verified(
    catalog: Catalog, application: str, kind: Kind, recent: Sequence[BackupRow], *, part: Part | None = None
) -> BackupRow | None:
    """The newest backup of a kind, and with a part, that was found good, where none of the recent ones was."""
    proven = (row for row in recent if row.last_verification and row.last_verification.verified)
    if not recent or any(is_meant(row.label, None) and (part is None or part in row.parts) for row in proven):
        return None
    return catalog.latest_verified(application, kind, part=part)


def _before(app: Application, alerts: Mapping[str, AlertRow]) -> dict[str, list[BackupRow]]:
    """What a loss is measured by while it is told: the backups that followed lack the same, and would make it look usual.

    Acknowledging it lets it be measured by those, and so end.
    """
    found = {}
    for cause, alert in alerts.items():
        of = cause.removesuffix(WITHOUT_MEDIA)
        kind: Kind | None = next((kind for kind in KINDS if of == f"size_deviation:{kind}"), None)
        kind = "full" if cause == ROWS_LOST else kind
        if kind is not None and alert.state == "active":
            # Those of every hour would push those of the nights out.
            nights = cause == f"size_deviation:{FULL.kind}" and media_differ(app.settings)
            rows = app.catalog.backups(
                application=alert.application, kind=kind, part="media" if nights else None, until=alert.raised_at,
                limit=_RECENT,
            )  # fmt: skip
            rows = [row for row in rows if is_meant(row.label, None)]
            counted = [row for row in rows if "database" in row.parts][:TABLES_OF]
            found[cause] = counted if cause == ROWS_LOST else rows
    return found


def _chain_on(app: Application, rows: Sequence[BackupRow], bases: Mapping[str, KnownBase]) -> dict[str, frozenset[str]]:
    proven = (
        row
        for row in rows
        if is_meant(row.label, None)
        and row.last_verification is not None
        and row.last_verification.verified
        and row.backup_id in bases
        and bases[row.backup_id].counted
    )
    newest = next((row for row in proven if any(copy.state == "checked" for copy in row.copies)), None)
    if newest is None or newest.backup_id not in bases:
        return {}
    whole = frozenset(app.settings.enabled_targets)
    for backup_id in bases[newest.backup_id].chain:
        whole &= {copy.target for copy in app.catalog.copies(backup_id) if copy.state == "checked"}
    return {newest.backup_id: whole}


def _corrupt(app: Application) -> list[BackupRow]:
    """Of each enabled target by itself: what one that is not used any more holds would push theirs out."""
    found: dict[str, BackupRow] = {}
    for name in app.settings.enabled_targets:
        rows = app.catalog.backups(application=app.name, target=name, state="corrupt", limit=_CORRUPT)
        found |= {row.backup_id: row for row in rows}
    return sorted(found.values(), key=lambda row: row.started_at, reverse=True)


def _uploaded(app: Application, now: datetime) -> dict[str, int]:
    limited = [name for name, target in app.settings.enabled_targets.items() if target.daily_upload_limit is not None]
    return {name: app.catalog.uploaded(name, since=now - _A_DAY) for name in limited}


def _bad_wal(app: Application) -> dict[str, list[str]]:
    """As the last scrub of each target left it."""
    if app.settings.wal is None:
        return {}
    noted = {name: app.catalog.note(app.name, WalScrubbed, name) for name in app.settings.enabled_targets}
    return {name: sorted(note.bad) for name, note in noted.items() if note and note.bad}


def _grants(settings: Settings) -> dict[str, KeptGrant]:
    found = {}
    for name, target in settings.storage_targets.items():
        if target.oauth is not None:
            try:
                found[name] = KeptGrant(settings.secrets_file.grant(name))
            except TwistDRError as error:
                found[name] = KeptGrant(None, error.clause)
    return found


def _journals(settings: Settings) -> dict[str, str | None]:
    """By the journals: the log of restores may not have been written when it mattered."""
    with suppress(OSError):
        try:
            journals = journals_of(settings).all()
        except RestoreInterrupted as damaged:
            return {"journal": str(damaged)}
        cut = "The {0.kind} {0.restore_id} was cut short and is not settled"
        return {each.restore_id: cut.format(each) if each.interrupted else None for each in journals}
    return {}


def watched_now(settings: Settings, known: Watched | None, now: datetime) -> Watched:
    """The note of what is watched since when, brought up to the settings: what is new or changed is watched from ``now`` on.

    Otherwise a schedule that was just written down would have been missed before it was.
    """
    known = known or Watched(since=now)
    schedules = {}
    for entry in entries(settings):
        fresh = ScheduleWatched(cron=entry.cron, time_zone=entry.time_zone, since=now)
        before = known.schedules.get(entry.name, fresh)
        # A clock that was years ahead when this was written must not silence us for years.
        same = before.since <= now and (before.cron, before.time_zone) == (entry.cron, entry.time_zone)
        schedules[entry.name] = before if same else fresh
    targets = {name: min(known.targets.get(name, now), now) for name in settings.enabled_targets}
    return Watched(since=min(known.since, now), schedules=schedules, targets=targets)


def _backups(app: Application, now: datetime) -> tuple[dict[Kind, Sequence[BackupRow]], BackupRow | None]:
    application = app.name
    found: dict[Kind, Sequence[BackupRow]] = {}
    future: list[BackupRow] = []
    for kind in KINDS:
        rows = app.catalog.backups(application=application, kind=kind, limit=_RECENT)
        ahead = [row for row in rows if row.started_at > now + SKEW]
        if ahead:
            rows = app.catalog.backups(application=application, kind=kind, until=now + SKEW, limit=_RECENT)
        future += ahead[:1]
        if kind == "full" and media_differ(app.settings):
            # Those that are made every hour push those of the nights out of the last ones.
            older = app.catalog.backups(
                application=application, kind=kind, part="media", until=now + SKEW, limit=_RECENT
            )
            rows = sorted(
                {row.backup_id: row for row in (*rows, *older)}.values(), key=lambda row: row.started_at, reverse=True
            )
        found[kind] = rows
    return found, max(future, key=lambda row: row.started_at, default=None)


def _attempts(app: Application, now: datetime) -> dict[str, Sequence[AttemptRow]]:
    """Runs by job. All of the last ones in one query; a job that ran long ago is asked for by its name, and by each of its schedules."""
    found: dict[str, list[AttemptRow]] = {}
    recent = app.catalog.attempts(app.name, limit=_ATTEMPTS)
    for row in recent:
        found.setdefault(row.job, []).append(row)
    if len(recent) == _ATTEMPTS:
        for job in _JOBS:
            if len(found.get(job, ())) < _EACH_JOB:
                found[job] = app.catalog.attempts(app.name, job=job, limit=_EACH_JOB)
        for entry in several_of_a_job(app.settings):
            older = app.catalog.attempts(app.name, job=entry.job, who=entry.launcher, limit=_EACH_JOB)
            rows = {row.run_id: row for row in (*found.get(entry.job, ()), *older)}
            found[entry.job] = sorted(rows.values(), key=lambda row: (row.started_at, row.run_id), reverse=True)
    return {job: [row for row in rows if row.started_at <= now + SKEW] for job, rows in found.items()}


@dataclass(frozen=True)
class _Details:
    tables: Mapping[str, int]
    base: KnownBase | None


#: Manifests never change: those of a few backups are kept, so that a tick does not read them again.
_KNOWN: dict[tuple[str, str], _Details] = {}
_KNOWN_MOST = 200


def _details(catalog: Catalog, row: BackupRow) -> _Details:
    key = (catalog.place, row.backup_id)
    if key not in _KNOWN:
        if len(_KNOWN) >= _KNOWN_MOST:
            _KNOWN.clear()
        _KNOWN[key] = _read_details(catalog, row)
    return _KNOWN[key]


def _read_details(catalog: Catalog, row: BackupRow) -> _Details:
    sealed = catalog.backup(row.application, row.backup_id)
    with suppress(ManifestInvalid):
        if sealed is not None:
            manifest = sealed.manifest
            identifier = manifest.postgres.system_identifier if manifest.postgres else None
            facts = manifest.base
            base = None
            if facts:
                counted = facts.restore_point is not None
                base = KnownBase(facts.sort, identifier, parse_lsn(facts.start_lsn), tuple(facts.chain), counted)
            # What format 1.0 leaves open is nobody's: by that name a newer backup has none.
            rows = {name.label: rows for name, rows in manifest.rows.items() if name.schema}
            return _Details(rows if row.kind == FULL.kind else {}, base)
    return _Details({}, None)


def _disk_space(folder: Path) -> DiskSpace | None:
    """The disk of a folder, or of the first above it that exists. None when it does not answer."""
    with suppress(OSError, TwistDRError):
        usage = bounded(lambda: shutil.disk_usage(nearest_folder(folder)), _DISK_SECONDS, "the disk of work_dir")
        return DiskSpace(usage.free, usage.total)
    return None


def _refused(folder: Path) -> Sequence[str]:
    with suppress(OSError):
        return sorted(_names(folder.iterdir()))
    return ()


def _names(paths: Iterable[Path]) -> list[str]:
    return [path.name for path in islice(paths, _REFUSED)]
