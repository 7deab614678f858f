"""Rules about what could be recovered now: a proven point that is young enough, write-ahead log without gaps, a clock that can be trusted."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from twist_dr.catalog import WalPositionRow
from twist_dr.errors import WalConflict
from twist_dr.settings import Settings
from twist_dr.system.progress import human_bytes
from twist_dr.system.severity import Severity
from twist_dr.system.words import command, counted
from twist_dr.wal.archived import gaps_after
from twist_dr.watch.alerts.facts import SKEW, Facts
from twist_dr.watch.alerts.points import Point, newest_media, newest_point, set_aside
from twist_dr.watch.alerts.rules_common import Finding, human, shortened, some, with_full_stop
from twist_dr.watch.proving import allowed_age, allowed_media_age
from twist_dr.watch.schedules import entries

#: How many times the objective the write-ahead log may be behind before it is the worst.
_FAR_BEHIND = 4


def recovery_point(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """There is no proven recovery point, or the newest is older than the objective."""
    most = allowed_age(settings, facts.backups.get("full", ()), now)
    point = newest_point(facts, settings, now)
    if point is not None and now - point.at <= most:
        yield from _short_lived(facts, settings, now, point)
        return
    message = (
        f"The newest verified recovery point is {human(now - point.at)} old ({point})"
        if point
        else f"There is no verified recovery point: {_why_none(facts, settings)}"
    )
    # Whoever has just set it up knows that there is nothing yet.
    fresh = point is None and now - _begun(facts) <= most
    severity: Severity = "info" if fresh else "critical"
    yield Finding(
        "no_recovery_point", "no_recovery_point", severity, f"{message}; {human(most)} is the objective.",
        f"Make a backup and prove it: {command('backup_full')} && {command('verify_backup')}", makes="unsafe",
    )  # fmt: skip


def _why_none(facts: Facts, settings: Settings) -> str:
    if not any(facts.backups.values()):
        return "no backup was ever made"
    aside = set_aside(facts)
    replaced = f"{some(aside)} was verified, and holds what a restore was about to replace" if aside else ""
    if not facts.checked.keys() & settings.enabled_targets.keys():
        return f"{replaced}{', and ' if aside else ''}no enabled storage target holds a checked copy of a full or base backup{' beside it' if aside else ''}"
    if aside:
        return replaced
    proofs = [row.last_verification for row in facts.backups.get("full", ())]
    if facts.verified or any(proof and proof.verified for proof in proofs):
        return "verified backups are on no enabled storage target"
    return "no backup was verified"


def _short_lived(facts: Facts, settings: Settings, now: datetime, point: Point) -> Iterator[Finding]:
    """All that is proven was made before an update: a retention does not keep that for long."""
    if newest_point(facts, settings, now, lasting=True) is None:
        yield Finding(
            "only_pre_update", "no_recovery_point", "warning",
            f"The only verified recovery point ({point}) was made before an update, and takes no place in a retention's days, weeks and months.",
            f"Make a backup and prove it: {command('backup_full')} && {command('verify_backup')}",
        )  # fmt: skip


def media(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """The newest proven backup with media is older than the objective, while what is proven of the database is young: the files would come back old."""
    most, point = allowed_media_age(settings, now), newest_media(facts, settings)
    proven = newest_point(facts, settings, now)
    if most is None or (point is not None and now - point.at <= most):
        return
    if proven is None or now - proven.at > allowed_age(settings, facts.backups.get("full", ()), now):
        return  # Told as such, with the same to do.
    # Nor can there be any yet where they were just scheduled.
    since = [facts.schedules_since.get(each.name, now) for each in entries(settings) if each.takes_media]
    severity: Severity = "info" if now - max([_begun(facts), *since]) <= most else "error"
    found = (
        f"The newest verified backup with media is {human(now - point.at)} old ({point})"
        if point
        else "No backup with media was verified"
    )
    yield Finding(
        "media_age", "media_age", severity, f"{found}; {human(most)} is the objective.",
        f"Make a backup with media and prove it: {command('backup_full')} && {command('verify_backup')}",
    )  # fmt: skip


def _begun(facts: Facts) -> datetime:
    """When this installation began: a lost catalog forgets, the backups in it do not."""
    rows = [row.started_at for rows in facts.backups.values() for row in rows]
    attempts = [attempt.started_at for rows in facts.attempts.values() for attempt in rows]
    return min([facts.since, *rows, *attempts])


def wal_position(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """What a target's archive reaches to is too old: nothing ships, the target does not take it, or nobody knows."""
    if settings.wal is None:
        return
    most = settings.objectives.wal
    for name in settings.wal_targets:
        row = facts.positions.get(name)
        since = max(facts.since, facts.targets_since.get(name, facts.since))
        if row is not None and row.at is not None and row.at > now + SKEW:
            yield _from_the_future(row, row.at, most, now)
            continue
        at = row.at if row is not None and row.at is not None else since
        age = now - at
        if age <= most:
            if row is None or row.at is None:
                yield Finding(
                    f"wal_unknown:{name}", "archived_position", "info", f"{name} has no write-ahead log whose time is known yet.",
                    "See that write-ahead log is received and shipped: twist-dr wal status", target=name, makes="degraded",
                )  # fmt: skip
            continue
        known = (
            f"holds everything committed until {at:%Y-%m-%d %H:%M} UTC, {human(age)} ago"
            if row and row.at
            else f"has not said for {human(age)} what it holds"
        )
        if row is not None and row.updated_at > now + SKEW:
            why = f"When it was last shipped is not known: that is dated {human(row.updated_at - now)} from now."
            advice = "Set the clock (timedatectl, chronyc tracking), and see that write-ahead log is shipped: twist-dr wal status"
        elif row is None or now - row.updated_at > most:
            why = "Nothing has shipped write-ahead log" + (
                f" for {human(now - row.updated_at)}." if row else " there yet."
            )
            advice = "See that the sensor ship_wal or twist-dr wal ship --follow runs, and twist-dr wal receive: twist-dr wal status"
        else:
            why = (
                f"The last round failed: {shortened(row.error)}"
                if row.error
                else "The server has not said how far it is."
            )
            advice = "See that the server can be reached and that twist-dr wal receive (or its archiver) works: twist-dr wal status"
        yield Finding(
            f"archived_position:{name}", "archived_position", "critical" if age > most * _FAR_BEHIND else "error",
            f"{name} {known}; {human(most)} is the objective. {with_full_stop(why)}", advice, target=name,
        )  # fmt: skip


def _from_the_future(row: WalPositionRow, at: datetime, most: timedelta, now: datetime) -> Finding:
    """Nothing can hold what is not committed yet: how far this archive reaches is not known, however far off that date is."""
    silent = row.updated_at > now + SKEW or now - row.updated_at > most * _FAR_BEHIND
    shipped = f"; it was written down {human(now - row.updated_at)} ago" if row.updated_at <= now else ""
    return Finding(
        f"archived_position:{row.target}", "archived_position", "critical" if silent else "error",
        f"{row.target} is said to hold everything committed until {at:%Y-%m-%d %H:%M} UTC, {human(at - now)} from now{shipped}: a clock is wrong, or "
        "was, and how far its write-ahead log reaches is not known.",
        "Set the clocks of the server and of this machine (timedatectl, chronyc tracking), and see that write-ahead log is shipped: twist-dr wal status",
        target=row.target,
    )  # fmt: skip


def wal_integrity(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """Write-ahead log is missing for ever, is another server's, or is none."""
    for name, row in facts.positions.items():
        if name not in settings.wal_targets:
            continue
        gaps = [gap.sentence(name) for gap in gaps_after(row.gaps, _newest_base_start(facts, row))]
        if gaps:
            yield Finding(
                f"wal_gap:{name}", "wal_gap", "critical",
                f"{some(gaps)}, and no storage target has it any more: no recovery leads across, until a newer base backup.",
                f"Take a new base backup at once: {command('backup_base')}", about=frozenset(gaps), target=name,
            )  # fmt: skip
        if row.error is not None and row.error_code == WalConflict.code:
            yield Finding(
                f"wal_conflict:{name}", "wal_conflict", "critical", with_full_stop(f"{name}: {shortened(row.error)}"),
                f"Find out which of the two is production and stop the other; then take a new base backup: {command('backup_base')}", target=name,
            )  # fmt: skip
    if facts.refused_wal:
        yield Finding(
            "wal_refused", "wal_refused", "error",
            f"{counted(len(facts.refused_wal), 'file')} in the spool cannot be the write-ahead log of the name: {some(facts.refused_wal)}.",
            f"Find out who wrote them, then remove them from {settings.wal_spool / 'refused'}; take a new base backup if a gap is told as well.",
        )  # fmt: skip


def _newest_base_start(facts: Facts, position: WalPositionRow) -> int:
    starts = [
        base.start_lsn
        for row in facts.backups.get("base", ())
        if (base := facts.bases.get(row.backup_id)) is not None
        and base.system_identifier == position.system_identifier
        and any(copy.target == position.target and copy.state == "checked" for copy in row.copies)
    ]
    return starts[0] if starts else 0


def spool(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """Write-ahead log piles up on this machine."""
    row = max(facts.positions.values(), key=lambda each: each.updated_at, default=None)
    if settings.wal is None or row is None:
        return
    # Nobody counts while nobody ships: what waited then has waited on.
    waits = (
        timedelta(seconds=row.oldest_seconds) + max(now - row.updated_at, timedelta()) if row.waiting else timedelta()
    )
    many = row.spool_bytes > settings.wal.warn_bytes
    if waits <= settings.wal.warn_after and not many:
        return
    yield Finding(
        "spool", "spool", "error" if many else "warning",
        f"{counted(row.waiting, 'file', 'waits', 'wait')} in {settings.wal_spool} ({human_bytes(row.spool_bytes)} of write-ahead log), the oldest for {human(waits)}.",
        "See which target does not take it: twist-dr wal status. When that disk is full, the server keeps write-ahead log until its own is.",
    )  # fmt: skip


def clock(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """A backup is dated in the future: this machine's clock was set back, or was wrong then."""
    row = facts.future
    if row is not None and row.started_at > now + SKEW:
        yield Finding(
            "clock", "clock", "error",
            f"{row.backup_id} was taken {human(row.started_at - now)} from now by this machine's clock ({now:%Y-%m-%d %H:%M} UTC): the clock is wrong, or was.",
            "Set the clock (timedatectl, chronyc tracking). Until then ages cannot be trusted; nothing from the future counts as a recovery point.",
        )  # fmt: skip
