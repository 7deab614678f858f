"""The catalog's tables. A change here needs a migration beside ``migrations/versions``; a test compares the two."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKeyConstraint, Index, MetaData, String, Text, UniqueConstraint, text

from twist_dr.catalog.columns import Rows, TextList
from twist_dr.catalog.rows import (
    AlertRow,
    AttemptRow,
    AuditLineRow,
    BackupRow,
    CopyRow,
    DeliveryRow,
    HoldRow,
    MarkRow,
    RestoreRow,
    SpaceRow,
    TargetTestRow,
    UploadRow,
    VerificationRow,
    WalPositionRow,
)

METADATA = MetaData()

Backups = Rows(
    METADATA,
    "backups",
    BackupRow,
    Column("chain", TextList),
    #: See ``queries.searched``.
    Column("search", Text, nullable=False),
    # The sealed text; it stands last so that reading the rest does not read it.
    Column("manifest", Text, nullable=False),
    # An index answers every list: it has the order, and all that is filtered on, so that rows left out are never fetched. PostgreSQL
    # limits what a row of an index holds, which a long reason exceeds, and keeps manifests elsewhere: there the wide one is empty, and
    # a search reads the table.
    Index("ix_backups_list", "application", "started_at", "backup_id", "kind", "label"),
    Index(
        "ix_backups_search",
        *("application", "started_at", "backup_id", "kind", "label", "search"),
        postgresql_where=text("false"),
    ),
    Index("ix_backups_run_id", "run_id"),
    key=("backup_id",),
    without=("copies", "last_verification"),
)

Copies = Rows(
    METADATA,
    "copies",
    CopyRow,
    ForeignKeyConstraint(["backup_id"], ["backups.backup_id"], ondelete="CASCADE"),
    # Without row ids the primary key is the table: whether a backup has a copy in some state is one look-up, not two.
    Index("ix_copies_state", "state", "backup_id", "target"),
    key=("backup_id", "target"),
    sqlite_with_rowid=False,
)

#: One backup is verified from one target once at a time.
Verifications = Rows(
    METADATA,
    "verifications",
    VerificationRow,
    ForeignKeyConstraint(["backup_id"], ["backups.backup_id"], ondelete="CASCADE"),
    UniqueConstraint("backup_id", "target", "started_at", name="uq_verifications_backup_id_target_started_at"),
)

TargetTests = Rows(METADATA, "target_tests", TargetTestRow, Index("ix_target_tests_target_at", "target", "at"))

#: No foreign key to the backup: the log outlives it, and a restore needs no catalog that knows it.
Restores = Rows(
    METADATA, "restores", RestoreRow, Index("ix_restores_list", "application", "started_at"), key=("restore_id",)
)

WalPositions = Rows(METADATA, "wal_positions", WalPositionRow, key=("application", "target"))

#: No foreign key: a hold may name what only a storage target knows yet.
Holds = Rows(METADATA, "holds", HoldRow, Index("ix_holds_application", "application", "backup_id"))

#: ``open_cause`` is its cause until it is resolved: so the database itself keeps two of a cause apart.
Alerts = Rows(
    METADATA,
    "alerts",
    AlertRow,
    Column("open_cause", String(200)),
    UniqueConstraint("application", "open_cause", name="uq_alerts_application_open_cause"),
    Index("ix_alerts_list", "application", "raised_at"),
)

Attempts = Rows(
    METADATA, "attempts", AttemptRow, Index("ix_attempts_list", "application", "started_at"), key=("run_id",)
)
AuditLines = Rows(METADATA, "audit", AuditLineRow, key=("application", "seq"))
SpaceSamples = Rows(METADATA, "space", SpaceRow, key=("target", "at"))
Uploads = Rows(METADATA, "uploads", UploadRow, key=("target", "hour"))
Deliveries = Rows(METADATA, "deliveries", DeliveryRow, key=("application", "channel"))
Marks = Rows(METADATA, "marks", MarkRow, key=("application", "name"))
