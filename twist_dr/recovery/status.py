"""What can be recovered: from which second to which, from each storage target; and whether that goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from twist_dr.catalog import CatalogUnavailable, WalPositionRow
from twist_dr.errors import TwistDRError
from twist_dr.postgres.cluster import Cluster
from twist_dr.postgres.lsn import format_lsn
from twist_dr.recovery.archives import Archives
from twist_dr.recovery.bases import by_cluster, find_bases
from twist_dr.recovery.coverage import Range, gap_words, gaps, recoverable
from twist_dr.recovery.vanished import Vanished
from twist_dr.repository.keys import Keyring
from twist_dr.repository.repository import Repository
from twist_dr.settings import Application, Settings
from twist_dr.settings.policy import longest_window
from twist_dr.system.progress import Lines, Report, human_bytes, human_seconds
from twist_dr.system.tables import table
from twist_dr.system.words import counted
from twist_dr.wal.archived import ArchivedPosition, Known
from twist_dr.wal.from_settings import archive_on, spool_warnings, wal_settings
from twist_dr.wal.objects import WalArchive
from twist_dr.wal.primary import Primary, Sample
from twist_dr.wal.spool import Spool


@dataclass
class ArchiveStatus:
    """One target. ``ranges`` and ``gaps`` are those of the cluster whose bases are newest; ``vanished``: what is said of
    WAL at its end that was there and is not. ``row`` is what was recorded of the last round. ``bundle_seconds``: how often WAL goes there; 0: at once.
    """

    name: str
    ranges: list[Range] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    vanished: str = ""
    position: ArchivedPosition | None = None
    row: WalPositionRow | None = None
    error: str | None = None
    #: Whether WAL goes there; else what its base backups need, and nothing is missed.
    gets_wal: bool = True
    bundle_seconds: float = 0.0


@dataclass
class WalStatus:
    """All of it, as of ``at``. ``warnings``: what is wrong, or will be; without any, the status is ``sound``."""

    at: datetime
    targets: list[ArchiveStatus] = field(default_factory=list)
    sample: Sample | None = None
    spool_bytes: int = 0
    waiting: int = 0
    oldest_seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.warnings

    def document(self) -> dict[str, Any]:
        """For ``--json``: times in ISO 8601, LSNs as PostgreSQL writes them."""
        slot = self.sample.slot if self.sample else None
        return {
            "at": self.at.isoformat(),
            "sound": self.sound,
            "warnings": self.warnings,
            "targets": [_target_document(target) for target in self.targets],
            "primary": None
            if self.sample is None
            else {
                "system_identifier": self.sample.system_identifier,
                "timeline": self.sample.timeline,
                "lsn": format_lsn(self.sample.lsn),
            },
            "slot": None
            if slot is None
            else {
                "active": slot.active,
                "status": slot.status,
                "received": format_lsn(slot.received) if slot.received is not None else None,
            },
            "spool": {
                "bytes": self.spool_bytes,
                "waiting": self.waiting,
                "oldest_seconds": round(self.oldest_seconds, 1),
            },
        }


def wal_status(app: Application) -> WalStatus:
    """Look at every target, the spool and the primary. Raises ``SettingsError`` and ``KeyringInvalid``; all else is in the status."""
    settings, wal = app.settings, wal_settings(app.settings)
    status = WalStatus(datetime.now(timezone.utc))
    keyring = app.keyring
    spool = Spool(settings.wal_spool)
    state = spool.load_state()
    rows = _rows(app, status)
    for name in settings.backup_targets:
        archive = archive_on(app, name)
        if name in settings.wal_targets:
            target = ArchiveStatus(name, position=state.position(name), row=rows.get(name))
        else:
            target = ArchiveStatus(name, gets_wal=False)
        target.bundle_seconds = settings.wal_every(name).total_seconds()
        repository = Repository(archive.target, app.name)
        _look_at_target(target, repository, archive, keyring, status, _wanted_since(settings, name, status.at))
        status.targets.append(target)
    _look_at_primary(settings, status)
    waiting = spool.waiting()
    status.waiting = len(waiting)
    status.oldest_seconds = max((file.age_seconds for file in waiting), default=0.0)
    status.spool_bytes = spool.size()
    status.warnings += spool_warnings(status.oldest_seconds, status.spool_bytes, wal)
    for target in status.targets:
        _judge(target, wal.warn_after.total_seconds(), status)
    return status


def _rows(app: Application, status: WalStatus) -> dict[str, WalPositionRow]:
    try:
        return {row.target: row for row in app.catalog.wal_positions(app.name)}
    except CatalogUnavailable as unavailable:
        status.warnings.append(str(unavailable))
        return {}


def _wanted_since(settings: Settings, name: str, now: datetime) -> datetime | None:
    """The moment from which on a target's retention keeps any second recoverable; None when it keeps all that a base leads to."""
    window = longest_window(settings.storage_targets[name].policies)
    return None if window is None else now - window


def _look_at_target(
    target: ArchiveStatus,
    repository: Repository,
    archive: WalArchive,
    keyring: Keyring,
    status: WalStatus,
    since: datetime | None,
) -> None:
    report = Report(Lines(lambda line: None, status.warnings.append))
    try:
        # Said by its own sentence, and not as a target without base backups.
        archive.clusters()
        bases = find_bases([repository], keyring, report)
        groups = list(by_cluster(bases).values())
        if not groups and not target.gets_wal:
            return
        if not groups:
            target.error = "no base backup, so nothing can be recovered; launch the job backup_base"
            return
        newest = groups[0]
        facts, base = newest[-1].postgres, newest[-1].base
        assert facts is not None and base is not None
        held = Archives([archive], keyring, report, str(facts.system_identifier), base.wal_segment_size)
        if held.unreachable:
            target.error = held.unreachable[target.name].clause
            return
        target.ranges = recoverable(newest, held)
        target.vanished = _vanished(target, held)
        if target.gets_wal:
            target.gaps = [gap_words(*gap) for gap in gaps(newest, held, since=since)]
        if not target.ranges:
            target.error = "no base backup has the WAL that it needs, so nothing can be recovered; see the gaps, and launch the job backup_base"
    except TwistDRError as error:
        target.error = error.clause


def _vanished(target: ArchiveStatus, held: Archives) -> str:
    """What of the WAL that was shipped there last is not there; empty when all of it is."""
    position = target.position
    if position is None or position.system_identifier != held.system_identifier:
        return ""
    end = held.end_on(position.timeline)
    if end >= position.lsn:
        return ""
    known = Known("what was shipped there", position.system_identifier, position.timeline, position.lsn, position.at)
    return Vanished(known, end, None).sentence()


def _look_at_primary(settings: Settings, status: WalStatus) -> None:
    primary = Primary(Cluster(settings.replication_url), settings.wal_slot)
    try:
        status.sample = primary.ask()
    except TwistDRError as error:
        status.warnings.append(f"the primary does not answer: {error}")
        return
    finally:
        primary.close()
    slot = status.sample.slot
    if settings.wal is not None and settings.wal.source == "receive":
        if slot is None:
            status.warnings.append(f"the replication slot {settings.wal_slot} is missing; start: twist-dr wal receive")
        elif slot.status == "lost":
            status.warnings.append(f"the replication slot {settings.wal_slot} is lost; take a new base backup")
        elif not slot.active:
            status.warnings.append(
                f"nobody receives from the slot {settings.wal_slot}, and the server keeps WAL for it; start: twist-dr wal receive"
            )


def _judge(target: ArchiveStatus, most_seconds: float, status: WalStatus) -> None:
    if target.error is not None:
        status.warnings.append(f"{target.name}: {target.error}")
    if target.row is not None and target.row.error is not None:
        status.warnings.append(f"{target.name}: the last round failed: {target.row.error}")
    status.warnings += [f"{target.name}: {gap}" for gap in target.gaps]
    if target.vanished:
        status.warnings.append(f"{target.name}: {target.vanished}")
    if not target.gets_wal:
        return
    age = position_age(target, status.at)
    if age is None:
        status.warnings.append(f"{target.name}: until when can be recovered is not known")
    elif age > most_seconds:
        status.warnings.append(f"{target.name}: the archived position is {human_seconds(age)} old")


def until_at(target: ArchiveStatus, each: Range) -> datetime | None:
    """Up to when a range is known to hold every commit: by what lies on the target, or by what was shipped last from here."""
    position = target.position
    shipped = (
        position.at
        if position is not None
        and position.timeline == each.timeline
        and each.from_lsn < position.lsn <= each.until_lsn
        else None
    )
    return max((at for at in (each.until_at, shipped) if at is not None), default=None)


def position_age(target: ArchiveStatus, now: datetime) -> float | None:
    """Seconds since the last moment whose commits are all on the target."""
    return (now - target.position.at).total_seconds() if target.position and target.position.at else None


def render_wal_status(status: WalStatus) -> str:
    """For a terminal."""
    rows = [row for target in status.targets for row in _table_rows(target, position_age(target, status.at))]
    lines = [table(("TARGET", "FROM (UTC)", "UNTIL (UTC)", "TIMELINE", "BASE", "POSITION", "AGE"), rows)]
    lines += [
        f"\n{target.name}: WAL goes there every {human_seconds(target.bundle_seconds)}, in bundles: if it alone is left, so much is lost"
        for target in status.targets
        if target.bundle_seconds
    ]
    if status.sample is not None:
        slot = status.sample.slot
        told = (
            "no slot"
            if slot is None
            else f"slot {slot.status or 'unknown'}, {'active' if slot.active else 'NOT active'}"
        )
        lines.append(
            f"\nprimary: cluster {status.sample.system_identifier}, timeline {status.sample.timeline}, at {format_lsn(status.sample.lsn)}; {told}"
        )
    lines.append(
        f"spool: {counted(status.waiting, 'file', 'waits', 'wait')}; {human_bytes(status.spool_bytes)} with the open segment and the last one"
        + (f", the oldest since {human_seconds(status.oldest_seconds)}" if status.waiting else "")
    )
    lines += [f"warning: {line}" for line in status.warnings]
    return "\n".join(lines)


def _table_rows(target: ArchiveStatus, age: float | None) -> Iterator[tuple[str, ...]]:
    """A row for each range; only the first says whose they are, and the archived position."""
    name = target.name
    position = format_lsn(target.position.lsn) if target.position else "" if target.gets_wal else "wal: false"
    old = human_seconds(age) if age is not None else ""
    if not target.ranges:
        yield name, "-", "-", "-", "-", position, old
    for each in target.ranges:
        known = until_at(target, each)
        until = _second(known) if known else format_lsn(each.until_lsn)
        yield name, _second(each.from_at), until, str(each.timeline), each.base, position, old
        name = position = old = ""


def _second(when: datetime) -> str:
    return f"{when.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S}"


def _target_document(target: ArchiveStatus) -> dict[str, Any]:
    position = target.position
    return {
        "name": target.name,
        "wal": target.gets_wal,
        "error": target.error,
        "ranges": [
            {**each.document(), "until": known.isoformat() if (known := until_at(target, each)) else None}
            for each in target.ranges
        ],
        "gaps": target.gaps,
        "vanished": target.vanished or None,
        "bundle_seconds": target.bundle_seconds,
        "archived_position": None
        if position is None
        else {
            "lsn": format_lsn(position.lsn),
            "timeline": position.timeline,
            "at": position.at.isoformat() if position.at else None,
            "system_identifier": position.system_identifier,
        },
    }
