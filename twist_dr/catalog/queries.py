"""Reading the catalog: a page of backups costs three queries, however many backups stand on it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import ColumnElement, Connection, Text, case, cast, exists, false, func, select
from sqlalchemy.orm import InstrumentedAttribute

from twist_dr.catalog.models import Backup, Copy, Restore, TargetTest, Verification
from twist_dr.catalog.rows import (
    BackupRow,
    CopyRow,
    CopyState,
    RestoreRow,
    SealedBackup,
    TargetTestRow,
    VerificationRow,
)
from twist_dr.engine.manifest import Part

#: Ids in one statement; SQLite takes 999 parameters in its oldest builds.
_AT_ONCE = 500


def _columns(model: type[Any], row: type[Any], *, without: Sequence[str] = ()) -> list[InstrumentedAttribute[Any]]:
    """The columns that fill a row, in the order of its fields."""
    return [getattr(model, field.name) for field in fields(row) if field.name not in without]


_COPY = _columns(Copy, CopyRow)
_VERIFICATION = _columns(Verification, VerificationRow)
_TARGET_TEST = _columns(TargetTest, TargetTestRow)
_RESTORE = _columns(Restore, RestoreRow)
_BACKUP = _columns(Backup, BackupRow, without=("copies", "last_verification"))


def page(connection: Connection, *conditions: ColumnElement[bool], limit: int | None) -> list[BackupRow]:
    """Backups with their copies and last verifications, newest first."""
    rows = connection.execute(select(*_BACKUP).where(*conditions).order_by(*_newest_first()).limit(limit)).all()
    ids = [row[0] for row in rows]
    copies, verified = copies_of(connection, ids), _last_verifications(connection, ids)
    whole: Iterator[list[Any]] = ([*row, tuple(copies[row[0]]), verified.get(row[0])] for row in rows)
    return [BackupRow(*values) for values in whole]


def newest(connection: Connection, *conditions: ColumnElement[bool]) -> SealedBackup | None:
    """The newest backup that fulfils the conditions, with its manifest."""
    query = select(*_BACKUP, Backup.manifest).where(*conditions).order_by(*_newest_first()).limit(1)
    row = connection.execute(query).first()
    if row is None:
        return None
    *columns, manifest = row
    backup_id = columns[0]
    copies = tuple(copies_of(connection, [backup_id])[backup_id])
    verified = _last_verifications(connection, [backup_id]).get(backup_id)
    values: list[Any] = [*columns, copies, verified, manifest.encode()]
    return SealedBackup(*values)


def ids(connection: Connection, *conditions: ColumnElement[bool], limit: int) -> list[str]:
    """Ids of backups, newest first."""
    return list(connection.scalars(select(Backup.backup_id).where(*conditions).order_by(*_newest_first()).limit(limit)))


def count(connection: Connection, *conditions: ColumnElement[bool]) -> int:
    """How many backups there are."""
    return connection.scalar(select(func.count()).select_from(Backup).where(*conditions)) or 0


def has_copy(target: str | None, state: CopyState | None) -> ColumnElement[bool]:
    """The condition that some copy of a backup is on ``target`` and in ``state``, each if given."""
    wanted = [Copy.backup_id == Backup.backup_id]
    if target is not None:
        wanted.append(Copy.target == target)
    if state is not None:
        wanted.append(Copy.state == state)
    return exists().where(*wanted)


def copies_of(connection: Connection, backup_ids: Sequence[str]) -> dict[str, list[CopyRow]]:
    """The copies of some backups, by backup, in the order of their targets."""
    found: dict[str, list[CopyRow]] = defaultdict(list)
    for some in _portions(backup_ids):
        for row in connection.execute(select(*_COPY).where(Copy.backup_id.in_(some)).order_by(Copy.target)):
            found[row[0]].append(CopyRow(*row))
    return found


def verifications_of(connection: Connection, backup_id: str) -> list[VerificationRow]:
    """The verifications of a backup, newest first."""
    query = (
        select(*_VERIFICATION)
        .where(Verification.backup_id == backup_id)
        .order_by(Verification.started_at.desc(), Verification.id.desc())
    )
    return [VerificationRow(*row) for row in connection.execute(query)]


def latest_target_tests(connection: Connection) -> list[TargetTestRow]:
    """The latest test of each storage target, by name."""
    latest = select(func.max(TargetTest.id)).group_by(TargetTest.target)
    query = select(*_TARGET_TEST).where(TargetTest.id.in_(latest)).order_by(TargetTest.target)
    return [TargetTestRow(*row) for row in connection.execute(query)]


def restores(connection: Connection, *conditions: ColumnElement[bool], limit: int | None) -> list[RestoreRow]:
    """The log of restores, newest first."""
    query = (
        select(*_RESTORE).where(*conditions).order_by(Restore.started_at.desc(), Restore.restore_id.desc()).limit(limit)
    )
    return [RestoreRow(*row) for row in connection.execute(query)]


def proven(part: Part | None) -> ColumnElement[bool]:
    """The condition that a backup's last verification found it good, and that it has ``part``, if given."""
    last = (
        select(Verification.state)
        .where(Verification.backup_id == Backup.backup_id)
        .order_by(Verification.started_at.desc(), Verification.id.desc())
        .limit(1)
        .correlate(Backup)
        .scalar_subquery()
    )
    good = last == "verified"
    if part is None:
        return good
    # Parts are a short JSON list of fixed words, so its text tells. They stand in no index: CASE reads them of the proven alone.
    return case((good, cast(Backup.parts, Text).like(f'%"{part}"%')), else_=false())


def _last_verifications(connection: Connection, backup_ids: Sequence[str]) -> dict[str, VerificationRow]:
    found: dict[str, VerificationRow] = {}
    for some in _portions(backup_ids):
        query = (
            select(*_VERIFICATION)
            .where(Verification.backup_id.in_(some))
            .order_by(Verification.started_at, Verification.id)
        )
        # Ordered by time, so that the last of each backup stays.
        found |= {row.backup_id: VerificationRow(*row) for row in connection.execute(query)}
    return found


def _newest_first() -> tuple[ColumnElement[Any], ...]:
    return Backup.started_at.desc(), Backup.backup_id.desc()


def _portions(backup_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for begin in range(0, len(backup_ids), _AT_ONCE):
        yield backup_ids[begin : begin + _AT_ONCE]
