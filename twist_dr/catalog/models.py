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
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from twist_dr.catalog.rows import (
    AlertState,
    AttemptState,
    CopyState,
    RestoreKind,
    RestoreMode,
    RestoreState,
    VerificationState,
)
from twist_dr.postgres.lsn import Gap
from twist_dr.repository.manifest import Proved
from twist_dr.system.severity import Severity


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


class Gaps(TypeDecorator[tuple[Gap, ...]]):
    """Stretches of WAL, as a JSON list of objects."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: Sequence[Gap] | None, dialect: Dialect) -> list[dict[str, int | None]] | None:
        return None if value is None else [vars(gap) for gap in value]

    def process_result_value(self, value: list[dict[str, Any]] | None, dialect: Dialect) -> tuple[Gap, ...] | None:
        return None if value is None else tuple(Gap(**gap) for gap in value)


#: Ids are compared byte by byte, whatever the database's language, so that they sort by time.
_BackupId = String(64).with_variant(String(64, collation="C"), "postgresql")


class Base(DeclarativeBase):
    # SQLAlchemy 2.0 and 2.1 take other types for a float: ours is said.
    type_annotation_map = {datetime: UTCDateTime(), float: Double()}  # noqa: RUF012


class Backup(Base):
    """See ``BackupRow``. ``manifest`` is the sealed text; it stands last so that reading the rest does not read it."""

    __tablename__ = "backups"
    # An index answers every list: it has the order, and all that is filtered on, so that rows left out are never fetched. PostgreSQL
    # limits what a row of an index holds, which a long reason exceeds, and keeps manifests elsewhere: there the wide one is empty, and
    # a search reads the table.
    __table_args__ = (
        Index("ix_backups_list", "application", "started_at", "backup_id", "kind", "label"),
        Index(
            "ix_backups_search",
            *("application", "started_at", "backup_id", "kind", "label", "search"),
            postgresql_where=text("false"),
        ),
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
    chain: Mapped[tuple[str, ...] | None] = mapped_column(Lines)
    #: See ``queries.searched``.
    search: Mapped[str] = mapped_column(Text, server_default="")
    manifest: Mapped[str] = mapped_column(Text)


class Copy(Base):
    """See ``CopyRow``."""

    __tablename__ = "copies"
    # Without row ids the primary key is the table: whether a backup has a copy in some state is one look-up, not two.
    __table_args__ = (
        Index("ix_copies_state", "state", "backup_id", "target"),
        {"sqlite_with_rowid": False},
    )

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
    error_code: Mapped[str | None] = mapped_column(String(64))
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
    proved: Mapped[Proved] = mapped_column(String(16), server_default="counts")
    content_seconds: Mapped[float | None]


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
    error_code: Mapped[str | None] = mapped_column(String(64))
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
    recovery_point: Mapped[str | None] = mapped_column(Text)


class WalFrontier(Base):
    """See ``WalFrontierRow``."""

    __tablename__ = "wal_frontiers"

    application: Mapped[str] = mapped_column(String(64), primary_key=True)
    target: Mapped[str] = mapped_column(String(64), primary_key=True)
    system_identifier: Mapped[str | None] = mapped_column(String(20))
    timeline: Mapped[int | None] = mapped_column(BigInteger)
    lsn: Mapped[str | None] = mapped_column(String(20))
    at: Mapped[datetime | None]
    updated_at: Mapped[datetime]
    waiting: Mapped[int]
    oldest_seconds: Mapped[float]
    spool_bytes: Mapped[int] = mapped_column(BigInteger)
    gaps: Mapped[tuple[Gap, ...]] = mapped_column(Gaps)
    error: Mapped[str | None] = mapped_column(Text)
    error_code: Mapped[str | None] = mapped_column(String(64))


class Hold(Base):
    """See ``HoldRow``. No foreign key: a hold may name what only a storage target knows yet."""

    __tablename__ = "holds"
    __table_args__ = (Index("ix_holds_application", "application", "backup_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    application: Mapped[str] = mapped_column(String(64))
    backup_id: Mapped[str] = mapped_column(_BackupId)
    who: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    placed_at: Mapped[datetime]
    until: Mapped[datetime | None]
    released_at: Mapped[datetime | None]
    released_by: Mapped[str | None] = mapped_column(Text)


class Alert(Base):
    """See ``AlertRow``. ``open_cause`` is its cause until it is resolved: so the database itself keeps two of a cause apart."""

    __tablename__ = "alerts"
    __table_args__ = (
        UniqueConstraint("application", "open_cause", name="uq_alerts_application_open_cause"),
        Index("ix_alerts_list", "application", "raised_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    application: Mapped[str] = mapped_column(String(64))
    cause: Mapped[str] = mapped_column(String(200))
    open_cause: Mapped[str | None] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(String(64))
    severity: Mapped[Severity] = mapped_column(String(16))
    state: Mapped[AlertState] = mapped_column(String(16))
    message: Mapped[str] = mapped_column(Text)
    advice: Mapped[str] = mapped_column(Text)
    raised_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    times: Mapped[int]
    acknowledged_at: Mapped[datetime | None]
    acknowledged_by: Mapped[str | None] = mapped_column(Text)
    resolved_at: Mapped[datetime | None]
    resolved_by: Mapped[str | None] = mapped_column(Text)
    told_at: Mapped[datetime | None]
    told_severity: Mapped[Severity | None] = mapped_column(String(16))
    run_id: Mapped[str | None] = mapped_column(String(64))
    about: Mapped[tuple[str, ...] | None] = mapped_column(Lines)
    told_about: Mapped[tuple[str, ...]] = mapped_column(Lines, server_default="[]")


class Attempt(Base):
    """See ``AttemptRow``."""

    __tablename__ = "attempts"
    __table_args__ = (Index("ix_attempts_list", "application", "started_at"),)

    run_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    application: Mapped[str] = mapped_column(String(64))
    job: Mapped[str] = mapped_column(String(64))
    label: Mapped[str | None] = mapped_column(String(32))
    scheduled_for: Mapped[datetime | None]
    who: Mapped[str] = mapped_column(Text)
    started_at: Mapped[datetime]
    state: Mapped[AttemptState] = mapped_column(String(16))
    finished_at: Mapped[datetime | None]
    step: Mapped[str | None] = mapped_column(Text)
    error: Mapped[str | None] = mapped_column(Text)
    error_code: Mapped[str | None] = mapped_column(String(64))


class AuditLine(Base):
    """See ``AuditRow``. ``document`` is the text whose digest it is: what is hashed is what is kept."""

    __tablename__ = "audit"

    application: Mapped[str] = mapped_column(String(64), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    document: Mapped[str] = mapped_column(Text)
    previous: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64))


class SpaceSample(Base):
    """See ``SpaceRow``."""

    __tablename__ = "space"

    target: Mapped[str] = mapped_column(String(64), primary_key=True)
    at: Mapped[datetime] = mapped_column(primary_key=True)
    used_bytes: Mapped[int | None] = mapped_column(BigInteger)
    free: Mapped[int | None] = mapped_column(BigInteger)
    total: Mapped[int | None] = mapped_column(BigInteger)


class Delivery(Base):
    """See ``DeliveryRow``."""

    __tablename__ = "deliveries"

    application: Mapped[str] = mapped_column(String(64), primary_key=True)
    channel: Mapped[str] = mapped_column(String(64), primary_key=True)
    ok: Mapped[bool]
    at: Mapped[datetime]
    since: Mapped[datetime]
    error: Mapped[str | None] = mapped_column(Text)


class Mark(Base):
    """A small note that a part of twist-dr leaves for the next time."""

    __tablename__ = "marks"

    application: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    document: Mapped[dict[str, Any]] = mapped_column(JSON)
