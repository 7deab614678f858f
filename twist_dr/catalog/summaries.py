"""Sums and counts over the whole catalog, reckoned by the database: there may be 100,000 backups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import ColumnElement, Connection, func, select

from twist_dr.catalog.database import Database
from twist_dr.catalog.models import Attempts, Backups, Copies
from twist_dr.catalog.queries import meant
from twist_dr.catalog.rows import AttemptState, CopyState
from twist_dr.repository.manifest import Kind


@dataclass(frozen=True)
class CopyCount:
    """Copies of one storage target in one state. ``stored_bytes`` of those whose size is known; ``oldest_checked_at``: the longest unread one."""

    target: str
    state: CopyState
    count: int
    stored_bytes: int
    oldest_checked_at: datetime | None


@dataclass(frozen=True)
class AttemptCount:
    """Runs of a job that began on a day (UTC) and are in a state."""

    day: date
    job: str
    state: AttemptState
    count: int


@dataclass(frozen=True)
class NewestCopy:
    """The newest backup of which a target has a checked copy, and when it began."""

    backup_id: str
    kind: Kind
    started_at: datetime


class Summaries:
    """The part of the catalog that counts."""

    _database: Database

    def copy_counts(self, application: str) -> list[CopyCount]:
        """How many copies each target has, by state."""
        query = (
            select(
                Copies.target,
                Copies.state,
                func.count(),
                func.coalesce(func.sum(Copies.stored_bytes), 0),
                func.min(Copies.checked_at),
            )
            .join(Backups.table, Backups.backup_id == Copies.backup_id)
            .where(Backups.application == application)
            .group_by(Copies.target, Copies.state)
        )
        with self._database.reading() as connection:
            return [
                CopyCount(target, state, count, int(size), oldest)
                for target, state, count, size, oldest in connection.execute(query)
            ]

    def newest_checked(
        self, application: str, target: str, *, kinds: Sequence[Kind], until: datetime
    ) -> NewestCopy | None:
        """The newest backup of some kinds, begun before ``until``, of which a target has a checked copy. What was set aside does not count."""
        query = (
            select(Backups.backup_id, Backups.kind, Backups.started_at)
            .join(Copies.table, Copies.backup_id == Backups.backup_id)
            .where(
                Backups.application == application,
                Backups.kind.in_(kinds),
                Backups.started_at < until,
                Copies.target == target,
                Copies.state == "checked",
                meant(None),
            )
            .order_by(Backups.started_at.desc(), Backups.backup_id.desc())
            .limit(1)
        )
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        return NewestCopy(*row) if row else None

    def stored_since(self, application: str, target: str, since: datetime) -> int:
        """Bytes that a target holds of backups begun since then."""
        query = (
            select(func.coalesce(func.sum(Copies.stored_bytes), 0))
            .join(Backups.table, Backups.backup_id == Copies.backup_id)
            .where(
                Backups.application == application,
                Backups.started_at >= since,
                Copies.target == target,
                Copies.state.in_(["stored", "checked"]),
            )
        )
        with self._database.reading() as connection:
            return int(connection.scalar(query) or 0)

    def attempt_counts(self, application: str, since: datetime) -> list[AttemptCount]:
        """How many runs there were, by day, job and state; oldest day first."""
        with self._database.reading() as connection:
            day = _day(connection)
            query = (
                select(day, Attempts.job, Attempts.state, func.count())
                .where(Attempts.application == application, Attempts.started_at >= since)
                .group_by(day, Attempts.job, Attempts.state)
                .order_by(day, Attempts.job, Attempts.state)
            )
            return [
                AttemptCount(date.fromisoformat(str(when)), job, state, count)
                for when, job, state, count in connection.execute(query)
            ]


def _day(connection: Connection) -> ColumnElement[str]:
    # SQLite keeps naive UTC; PostgreSQL would take the day of the session's time zone.
    if connection.dialect.name == "sqlite":
        return func.date(Attempts.started_at)
    return func.date(func.timezone("UTC", Attempts.started_at))
