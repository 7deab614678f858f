"""The one table of operations: each with its name, the permission it needs, its settings, and what does it."""

from __future__ import annotations

from typing import Any

from twist_dr.operations.alerts import AcknowledgeConfig, ResolveConfig, acknowledge_alert, resolve_alert
from twist_dr.operations.backup import FullBackupConfig, backup_full
from twist_dr.operations.backup_base import BaseBackupConfig, backup_base
from twist_dr.operations.backup_configuration import ConfigurationBackupConfig, backup_configuration
from twist_dr.operations.cleanup import CleanupConfig, cleanup
from twist_dr.operations.holds import HoldConfig, ReleaseConfig, hold, release
from twist_dr.operations.keys import NewKeyConfig, add_key
from twist_dr.operations.operation import Config, Operation
from twist_dr.operations.restore import RestoreConfig, restore
from twist_dr.operations.restore_to_time import RestoreToTimeConfig, restore_to_time
from twist_dr.operations.scrub import ScrubConfig, scrub
from twist_dr.operations.settle import settle
from twist_dr.operations.status import status
from twist_dr.operations.targets import test_storage_targets
from twist_dr.operations.undo_restore import UndoRestoreConfig, undo_restore
from twist_dr.operations.verify import DrillConfig, VerifyBackupConfig, drill, verify_backup
from twist_dr.operations.wal import ship_wal

BACKUP_FULL = Operation("backup_full", "system_run_backup", FullBackupConfig, backup_full)
BACKUP_BASE = Operation("backup_base", "system_run_backup", BaseBackupConfig, backup_base)
BACKUP_CONFIGURATION = Operation(
    "backup_configuration", "system_run_backup", ConfigurationBackupConfig, backup_configuration
)
SHIP_WAL = Operation("ship_wal", "system_run_backup", Config, ship_wal)
VERIFY_BACKUP = Operation("verify_backup", "system_run_backup", VerifyBackupConfig, verify_backup)
DRILL = Operation("drill", "system_run_backup", DrillConfig, drill)
SCRUB = Operation("scrub", "system_run_backup", ScrubConfig, scrub)
CLEANUP = Operation("cleanup", "system_run_backup", CleanupConfig, cleanup)
STATUS = Operation("status", "system_run_backup", Config, status)
TEST_STORAGE_TARGETS = Operation("test_storage_targets", "system_configure_backup", Config, test_storage_targets)
RESTORE = Operation("restore", "system_restore_backup", RestoreConfig, restore)
RESTORE_TO_TIME = Operation("restore_to_time", "system_restore_backup", RestoreToTimeConfig, restore_to_time)
UNDO_RESTORE = Operation("undo_restore", "system_restore_backup", UndoRestoreConfig, undo_restore)

HOLD = Operation("hold", "system_run_backup", HoldConfig, hold)
RELEASE = Operation("release", "system_configure_backup", ReleaseConfig, release)
SETTLE = Operation("settle", "system_restore_backup", Config, settle)
ADD_KEY = Operation("add_key", "system_configure_backup", NewKeyConfig, add_key)
ACKNOWLEDGE_ALERT = Operation("acknowledge_alert", "system_run_backup", AcknowledgeConfig, acknowledge_alert)
RESOLVE_ALERT = Operation("resolve_alert", "system_run_backup", ResolveConfig, resolve_alert)

#: What is launched as the job of its name.
JOBS: tuple[Operation[Any, Any], ...] = (
    BACKUP_FULL,
    BACKUP_BASE,
    BACKUP_CONFIGURATION,
    SHIP_WAL,
    VERIFY_BACKUP,
    DRILL,
    SCRUB,
    CLEANUP,
    STATUS,
    TEST_STORAGE_TARGETS,
    RESTORE,
    RESTORE_TO_TIME,
    UNDO_RESTORE,
)
#: What is done at once, on the terminal.
CHANGES: tuple[Operation[Any, Any], ...] = (HOLD, RELEASE, SETTLE, ADD_KEY, ACKNOWLEDGE_ALERT, RESOLVE_ALERT)
#: All, by name.
OPERATIONS: dict[str, Operation[Any, Any]] = {each.name: each for each in (*JOBS, *CHANGES)}
