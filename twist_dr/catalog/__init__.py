"""The catalog: an index of what happened. The storage targets are the truth about backups; it can be rebuilt from them.

SQLAlchemy; SQLite by default, PostgreSQL in production. No Dagster here.
"""

from twist_dr.catalog.catalog import Catalog
from twist_dr.catalog.errors import CatalogLocked, CatalogTooNew, CatalogUnavailable, CatalogUnreachable
from twist_dr.catalog.rows import (
    THERE,
    AlertRow,
    AlertState,
    AttemptRow,
    AttemptState,
    AuditRow,
    BackupRow,
    CopyRow,
    CopyState,
    DeliveryRow,
    HoldRow,
    RestoreKind,
    RestoreMode,
    RestoreRow,
    RestoreState,
    RetentionRow,
    SealedBackup,
    SpaceRow,
    TargetTestRow,
    VerificationRow,
    VerificationState,
    WalPositionRow,
)

__all__ = [
    "THERE",
    "AlertRow",
    "AlertState",
    "AttemptRow",
    "AttemptState",
    "AuditRow",
    "BackupRow",
    "Catalog",
    "CatalogLocked",
    "CatalogTooNew",
    "CatalogUnavailable",
    "CatalogUnreachable",
    "CopyRow",
    "CopyState",
    "DeliveryRow",
    "HoldRow",
    "RestoreKind",
    "RestoreMode",
    "RestoreRow",
    "RestoreState",
    "RetentionRow",
    "SealedBackup",
    "SpaceRow",
    "TargetTestRow",
    "VerificationRow",
    "VerificationState",
    "WalPositionRow",
]
