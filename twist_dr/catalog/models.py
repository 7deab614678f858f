"""The catalog's tables. A change here needs a migration beside ``migrations/versions``; a test compares the two."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from twist_dr.catalog.rows import CopyState, RestoreKind, RestoreMode, RestoreState, VerificationState


class UTCDateTime(TypeDecorator[datetime]):
    """An aware time, given out in UTC. SQLite keeps no time zone, so naive UTC is what it is given."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone; the catalog takes aware times only")
        value = value.astimezone(timezone.utc)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)


class Lines(TypeDecorator[tuple[str, ...]]):
    """Some texts, as a JSON list."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: Sequence[str] | None, dialect: Dialect) -> list[str] | None:
        return None if value is None else list(value)

    def process_result_value(self, value: list[str] | None, dialect: Dialect) -> tuple[str, ...] | None:
        return None if value is None else tuple(value)


#: Ids are compared byte by byte, whatever the database's language, so that they sort by time.
_BackupId = String(64).with_variant(String(64, collation="C"), "postgresql")


class Base(DeclarativeBase):
    # SQLAlchemy 2.0 and 2.1 take other types for a float: ours is said.
    type_annotation_map = {datetime: UTCDateTime(), float: Double()}  # noqa: RUF012


class Backup(Base):
    """See ``BackupRow``. ``manifest`` is the sealed text; it stands last so that reading the rest does not read it."""

    __tablename__ = "backups"
    # One index answers every list: it has the order, and all that is filtered on, so that rows left out are never fetched.
    __table_args__ = (
        Index("ix_backups_list", "application", "started_at", "backup_id", "kind", "label"),
        Index("ix_backups_run_id", "run_id"),
    )

    backup_id: Mapped[str] = mapped_column(_BackupId, primary_key=True)
    application: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    label: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)
    who: Mapped[str] = mapped_column(Text)
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime]
    parts: Mapped[tuple[str, ...]] = mapped_column(Lines)
    plain_bytes: Mapped[int] = mapped_column(BigInteger)
    staged_bytes: Mapped[int] = mapped_column(BigInteger)
    app_version: Mapped[str | None] = mapped_column(Text)
    db_schema_version: Mapped[str | None] = mapped_column(Text)
    key_id: Mapped[str] = mapped_column(Text)
    run_id: Mapped[str | None] = mapped_column(String(64))
    warnings: Mapped[int]
    manifest: Mapped[str] = mapped_column(Text)


class Copy(Base):
    """See ``CopyRow``."""

    __tablename__ = "copies"
    # Without row ids the primary key is the table: whether a backup has a copy in some state is one look-up, not two.
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012

    backup_id: Mapped[str] = mapped_column(
        _BackupId, ForeignKey("backups.backup_id", ondelete="CASCADE"), primary_key=True
    )
    target: Mapped[str] = mapped_column(String(64), primary_key=True)
    state: Mapped[CopyState] = mapped_column(String(16))
    form: Mapped[str] = mapped_column(String(32))
    stored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    seconds: Mapped[float | None]
    updated_at: Mapped[datetime]
    checked_at: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(Text)
    run_id: Mapped[str | None] = mapped_column(String(64))


class Verification(Base):
    """See ``VerificationRow``. One backup is verified from one target once at a time."""

    __tablename__ = "verifications"
    __table_args__ = (
        UniqueConstraint("backup_id", "target", "started_at", name="uq_verifications_backup_id_target_started_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    backup_id: Mapped[str] = mapped_column(_BackupId, ForeignKey("backups.backup_id", ondelete="CASCADE"))
    target: Mapped[str] = mapped_column(String(64))
    state: Mapped[VerificationState] = mapped_column(String(16))
    started_at: Mapped[datetime]
    seconds: Mapped[float]
    restore_seconds: Mapped[float | None]
    tables: Mapped[int] = mapped_column(BigInteger)
    rows: Mapped[int] = mapped_column(BigInteger)
    files: Mapped[int] = mapped_column(BigInteger)
    server_version: Mapped[str | None] = mapped_column(Text)
    differences: Mapped[tuple[str, ...]] = mapped_column(Lines)
    notes: Mapped[tuple[str, ...]] = mapped_column(Lines)
    run_id: Mapped[str | None] = mapped_column(String(64))


class TargetTest(Base):
    """See ``TargetTestRow``."""

    __tablename__ = "target_tests"
    __table_args__ = (Index("ix_target_tests_target_at", "target", "at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    target: Mapped[str] = mapped_column(String(64))
    at: Mapped[datetime]
    ok: Mapped[bool]
    location: Mapped[str] = mapped_column(Text)
    capabilities: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    error: Mapped[str | None] = mapped_column(Text)
    seconds: Mapped[float]


class Restore(Base):
    """See ``RestoreRow``. No foreign key to the backup: the log outlives it, and a restore needs no catalog that knows it."""

    __tablename__ = "restores"
    __table_args__ = (Index("ix_restores_list", "application", "started_at"),)

    restore_id: Mapped[str] = mapped_column(_BackupId, primary_key=True)
    application: Mapped[str] = mapped_column(String(64))
    kind: Mapped[RestoreKind] = mapped_column(String(16))
    mode: Mapped[RestoreMode] = mapped_column(String(16))
    who: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    backup_id: Mapped[str | None] = mapped_column(_BackupId)
    undone_id: Mapped[str | None] = mapped_column(_BackupId)
    sources: Mapped[tuple[str, ...]] = mapped_column(Lines)
    passed_over: Mapped[tuple[str, ...]] = mapped_column(Lines)
    verified: Mapped[bool]
    parts: Mapped[tuple[str, ...]] = mapped_column(Lines)
    tables: Mapped[int] = mapped_column(BigInteger)
    rows: Mapped[int] = mapped_column(BigInteger)
    files: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[RestoreState] = mapped_column(String(16))
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    seconds: Mapped[dict[str, float]] = mapped_column(JSON)
    seconds_locked_out: Mapped[float | None]
    database: Mapped[str | None] = mapped_column(Text)
    replaced: Mapped[tuple[str, ...]] = mapped_column(Lines)
    result: Mapped[str] = mapped_column(Text)
    error: Mapped[str | None] = mapped_column(Text)
    run_id: Mapped[str | None] = mapped_column(String(64))
