"""The catalog: an index of what happened. The storage targets are the truth about backups; it can be rebuilt from them.

SQLAlchemy; SQLite by default, PostgreSQL in production. No Dagster here.
"""

from twist_dr.catalog.catalog import Catalog
from twist_dr.catalog.errors import CatalogLocked, CatalogTooNew, CatalogUnavailable, CatalogUnreachable
from twist_dr.catalog.rows import (
    BackupRow,
    CopyRow,
    CopyState,
    RestoreKind,
    RestoreMode,
    RestoreRow,
    RestoreState,
    SealedBackup,
    TargetTestRow,
    VerificationRow,
    VerificationState,
)

__all__ = [
    "BackupRow",
    "Catalog",
    "CatalogLocked",
    "CatalogTooNew",
    "CatalogUnavailable",
    "CatalogUnreachable",
    "CopyRow",
    "CopyState",
    "RestoreKind",
    "RestoreMode",
    "RestoreRow",
    "RestoreState",
    "SealedBackup",
    "TargetTestRow",
    "VerificationRow",
    "VerificationState",
]
