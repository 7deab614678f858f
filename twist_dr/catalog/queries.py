"""Reading the catalog: a page of backups costs three queries, however many backups stand on it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Text,
    and_,
    case,
    cast,
    exists,
    false,
    func,
    literal,
    not_,
    or_,
    select,
)

from twist_dr.catalog.models import Backups, Copies, Verifications
from twist_dr.catalog.rows import BackupRow, CopyRow, CopyState, RetentionRow, SealedBackup, VerificationRow
from twist_dr.repository.kinds import BASE, FULL
from twist_dr.repository.labels import OF_NIGHTS, SET_ASIDE
from twist_dr.repository.manifest import Label, Part

#: Ids in one statement; SQLite takes 999 parameters in its oldest builds.
_AT_ONCE = 500
#: So many copies are found at once faster than by asking of each backup whether it has one.
_FEW = 20_000


def page(connection: Connection, *conditions: ColumnElement[bool], limit: int | None) -> list[BackupRow]:
    """Backups with their copies and last verifications, newest first."""
    # Which ones is told by an index alone; rows are fetched of those, not of all that are looked at.
    chosen = select(Backups.backup_id).where(*conditions).order_by(*_newest_first()).limit(limit)
    query = select(*Backups.columns).where(Backups.backup_id.in_(chosen)).order_by(*_newest_first())
    rows = connection.execute(query).all()
    ids = [row[0] for row in rows]
    copies, verified = copies_of(connection, ids), _last_verifications(connection, ids)
    whole: Iterator[list[Any]] = ([*row, tuple(copies[row[0]]), verified.get(row[0])] for row in rows)
    return [BackupRow(*values) for values in whole]


def newest(connection: Connection, *conditions: ColumnElement[bool]) -> SealedBackup | None:
    """The newest backup that fulfils the conditions, with its manifest."""
    query = select(*Backups.columns, Backups.manifest).where(*conditions).order_by(*_newest_first()).limit(1)
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
    return list(
        connection.scalars(select(Backups.backup_id).where(*conditions).order_by(*_newest_first()).limit(limit))
    )


def count(connection: Connection, *conditions: ColumnElement[bool]) -> int:
    """How many backups there are."""
    return connection.scalar(select(func.count()).select_from(Backups.table).where(*conditions)) or 0


def comes_after(row: BackupRow) -> ColumnElement[bool]:
    """The condition that a backup comes after this one, newest first."""
    earlier = or_(Backups.started_at < row.started_at, Backups.backup_id < row.backup_id)
    return and_(Backups.started_at <= row.started_at, earlier)


def has_copy(connection: Connection, target: str | None, state: CopyState | None) -> ColumnElement[bool]:
    """The condition that some copy of a backup is on ``target`` and in ``state``, each if given."""
    wanted: list[ColumnElement[bool]] = []
    if target is not None:
        wanted.append(Copies.target == target)
    if state is not None:
        wanted.append(Copies.state == state)
    # PostgreSQL knows how many there are, and chooses by itself; for SQLite we look. Few copies are all asked for first; where many fulfil
    # it, a page is full before many backups have been looked at.
    if connection.dialect.name == "sqlite":
        some = select(literal(1)).select_from(Copies.table).where(*wanted).limit(_FEW + 1).subquery()
        if (connection.scalar(select(func.count()).select_from(some)) or 0) <= _FEW:
            return Backups.backup_id.in_(select(Copies.backup_id).where(*wanted))
    return exists().where(Copies.backup_id == Backups.backup_id, *wanted)


def has_text(text: str) -> ColumnElement[bool]:
    """The condition that ``text`` is in a backup's id, reason, maker or versions, whatever the case."""
    return Backups.search.contains(searched(text), autoescape=True)


def searched(*texts: str | None) -> str:
    """Texts as they are searched for and in: in one case, by Unicode's rules and not the database's, which differ; a line each."""
    return "\n".join(text.casefold() for text in texts if text)


def copies_of(connection: Connection, backup_ids: Sequence[str]) -> dict[str, list[CopyRow]]:
    """The copies of some backups, by backup, in the order of their targets."""
    found: dict[str, list[CopyRow]] = defaultdict(list)
    for some in _portions(backup_ids):
        for row in Copies.all(connection, Copies.backup_id.in_(some), order=[Copies.target]):
            found[row.backup_id].append(row)
    return found


def retention(connection: Connection, application: str, target: str) -> list[RetentionRow]:
    """What a retention plan needs of every backup that a target has or had, oldest first.

    There may be 100,000: what few have is read by itself, and what the driver gives is taken as it is.
    """
    bases = select(Backups.backup_id, Backups.chain).where(
        Backups.application == application, Backups.kind == BASE.kind
    )
    chains = {backup_id: _chain(value) for backup_id, value in _driver_rows(connection, bases)}
    proofs = dict(
        _driver_rows(
            connection,
            select(Verifications.backup_id, Verifications.state).order_by(
                Verifications.backup_id, Verifications.started_at, Verifications.id
            ),
        )
    )
    # Those of the nights have all parts (``FullSchedule``), so of the many no row is read for this.
    lacking = or_(*(not_(has_part(part)) for part in FULL.parts))
    by_hand = (Backups.application == application, Backups.kind == FULL.kind, Backups.label.not_in(OF_NIGHTS))
    partial = {
        backup_id for (backup_id,) in _driver_rows(connection, select(Backups.backup_id).where(*by_hand, lacking))
    }
    copies = (
        select(
            *(Backups.backup_id, Backups.kind, Backups.label, Backups.started_at),
            *(Copies.state, Copies.form, Copies.stored_bytes, Copies.checked_at, Copies.updated_at),
        )
        # In the order of an index that has all that is asked of backups: SQLite then begins with it, and never reads a manifest's page.
        .join(Copies.table, Copies.backup_id == Backups.backup_id)
        .where(Backups.application == application, Copies.target == target)
        .order_by(Backups.started_at, Backups.backup_id)
    )
    moment = _from_text if connection.dialect.name == "sqlite" else _in_utc
    return [
        RetentionRow(
            backup_id, kind, label, moment(started), chains.get(backup_id, ()), state, form, size,
            None if checked is None else moment(checked), moment(updated), _FOUND[proofs.get(backup_id)],
            backup_id in partial,
        )
        for backup_id, kind, label, started, state, form, size, checked, updated in _driver_rows(connection, copies)
    ]  # fmt: skip


#: What a verification's state says of a backup.
_FOUND: Mapping[str | None, bool | None] = {"verified": True, "unverified": False, None: None}


def _driver_rows(connection: Connection, query: Select[Any]) -> list[tuple[Any, ...]]:
    """All rows as the driver gives them: making them ours takes longer than all the rest where there are hundreds of thousands."""
    cursor = connection.execute(query).cursor
    assert cursor is not None
    return list(cursor.fetchall())


def _chain(value: Any) -> tuple[str, ...]:
    """A chain as the driver gave it: JSON, which PostgreSQL's reads by itself."""
    return tuple((json.loads(value) if isinstance(value, str) else value) or ())


def _from_text(value: str) -> datetime:
    """SQLite keeps naive UTC as text."""
    return datetime.fromisoformat(f"{value}+00:00")


def _in_utc(value: datetime) -> datetime:
    return value.astimezone(timezone.utc)


def meant(asked: Label | None) -> ColumnElement[bool]:
    """The condition that the newest of some backups may be this one: ``engine.newest.is_meant`` in SQL."""
    return Backups.label != SET_ASIDE if asked is None else Backups.label == asked


def proven(part: Part | None) -> ColumnElement[bool]:
    """The condition that a backup's last verification found it good, and that it has ``part``, if given."""
    last = (
        select(Verifications.state)
        .where(Verifications.backup_id == Backups.backup_id)
        .order_by(Verifications.started_at.desc(), Verifications.id.desc())
        .limit(1)
        .correlate(Backups.table)
        .scalar_subquery()
    )
    # Most backups were never verified: whether one ever was is told by one look into a set, the last of its verifications by a query.
    ever = select(Verifications.backup_id).where(Verifications.state == "verified")
    good = and_(Backups.backup_id.in_(ever), last == "verified")
    if part is None:
        return good
    # They stand in no index: CASE reads them of the proven alone.
    return case((good, has_part(part)), else_=false())


def has_part(part: Part) -> ColumnElement[bool]:
    """The condition that a backup has ``part``: a short JSON list of fixed words, so its text tells."""
    return cast(Backups.parts, Text).like(f'%"{part}"%')


def _last_verifications(connection: Connection, backup_ids: Sequence[str]) -> dict[str, VerificationRow]:
    found: dict[str, VerificationRow] = {}
    for some in _portions(backup_ids):
        rows = Verifications.all(
            connection, Verifications.backup_id.in_(some), order=[Verifications.started_at, Verifications.id]
        )
        # Ordered by time, so that the last of each backup stays.
        found |= {row.backup_id: row for row in rows}
    return found


def _newest_first() -> tuple[ColumnElement[Any], ...]:
    return Backups.started_at.desc(), Backups.backup_id.desc()


def _portions(backup_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for begin in range(0, len(backup_ids), _AT_ONCE):
        yield backup_ids[begin : begin + _AT_ONCE]
