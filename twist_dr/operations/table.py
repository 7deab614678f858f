"""The one table of operations: each with its name, the permission it needs, its settings, and what does it."""

from __future__ import annotations

from typing import Any

from twist_dr.operations.alerts import AcknowledgeConfig, ResolveConfig, acknowledge_alert, resolve_alert, test_alerts
from twist_dr.operations.authorize import AuthorizeConfig, authorize_target
from twist_dr.operations.backup import FullBackupConfig, backup_full
from twist_dr.operations.backup_base import BaseBackupConfig, backup_base
from twist_dr.operations.backup_configuration import ConfigurationBackupConfig, backup_configuration
from twist_dr.operations.cleanup import CleanupConfig, cleanup
from twist_dr.operations.holds import HoldConfig, ReleaseConfig, hold, release
from twist_dr.operations.keys import NewKeyConfig, add_key
from twist_dr.operations.operation import Config, Operation
from twist_dr.operations.rebuild import RebuildConfig, rebuild
from twist_dr.operations.replaced import DropReplacedConfig, drop_replaced
from twist_dr.operations.restore import RestoreConfig, restore
from twist_dr.operations.restore_to_time import RestoreToTimeConfig, restore_to_time
from twist_dr.operations.sandboxes import SandboxConfig, change_sandbox
from twist_dr.operations.scrub import ScrubConfig, scrub
from twist_dr.operations.secrets import RemoveSecretConfig, SetSecretConfig, remove_secret, rotate_secrets, set_secret
from twist_dr.operations.settle import settle
from twist_dr.operations.status import status
from twist_dr.operations.targets import test_storage_targets
from twist_dr.operations.undo_restore import UndoRestoreConfig, undo_restore
from twist_dr.operations.verify import DrillConfig, VerifyBackupConfig, drill, verify_backup
from twist_dr.operations.wal import receive_wal, ship_wal

BACKUP_FULL = Operation(
    "backup_full", "system_run_backup", FullBackupConfig, backup_full,
    does="Back up database, media and configuration, and copy them to every storage target.",
)  # fmt: skip
BACKUP_BASE = Operation(
    "backup_base", "system_run_backup", BaseBackupConfig, backup_base,
    does="Copy the files of the PostgreSQL cluster, all or what changed, to every storage target.",
)  # fmt: skip
BACKUP_CONFIGURATION = Operation(
    "backup_configuration", "system_run_backup", ConfigurationBackupConfig, backup_configuration,
    does="Copy the configuration, twist-dr's catalog and Dagster's history, always encrypted, to every storage target.",
)  # fmt: skip
SHIP_WAL = Operation(
    "ship_wal", "system_run_backup", Config, ship_wal,
    does="Ship what lies in the spool to every storage target that gets it: write-ahead log, with which every second can be recovered.",
)  # fmt: skip
VERIFY_BACKUP = Operation(
    "verify_backup", "system_run_backup", VerifyBackupConfig, verify_backup,
    does="Restore a backup for real into a scratch server and compare it with what was recorded.",
)  # fmt: skip
DRILL = Operation(
    "drill", "system_run_backup", DrillConfig, drill,
    does="Restore the newest full backup into a scratch server, and recover the newest base backup to the latest point, from one storage "
    "target after the other; measure each phase, and compare with objectives.recovery_time. Nothing live is touched.",
)  # fmt: skip
SCRUB = Operation(
    "scrub", "system_run_backup", ScrubConfig, scrub,
    does="Read copies and archived WAL again, the longest unread first, so that each is read within scrub.period; repair what is bad or "
    "missing from a good copy.",
)  # fmt: skip
CLEANUP = Operation(
    "cleanup", "system_run_backup", CleanupConfig, cleanup, plan={"dry_run": True},
    does="Remove what has had its time: copies, WAL and incomplete backups by each storage target's retention, or move what its archive says; databases and media that "
    "restores replaced, Dagster's history. It shows its plan first; dry_run only shows it.",
)  # fmt: skip
STATUS = Operation(
    "status", "system_run_backup", Config, status,
    does="Say whether the application is safe, and draw the report: open it on the page of the asset report. Scripts: twist-dr status.",
)  # fmt: skip
TEST_STORAGE_TARGETS = Operation(
    "test_storage_targets", "system_configure_backup", Config, test_storage_targets,
    does="Write, read back, compare and delete a small object on every storage target, and record what each can do.",
)  # fmt: skip
RESTORE = Operation(
    "restore", "system_restore_backup", RestoreConfig, restore, plan={"mode": "plan"},
    does="Restore a backup: plan it (the default), into a sandbox beside the live database, or cut over to it and keep what it replaces.",
)  # fmt: skip
RESTORE_TO_TIME = Operation(
    "restore_to_time", "system_restore_backup", RestoreToTimeConfig, restore_to_time, plan={"mode": "plan", "folder": ""},
    does="Recover to any second, LSN, transaction or named point: plan it (the default), into a sandbox, in the place of the "
    "live database, or as a data folder on a recovery host.",
)  # fmt: skip
UNDO_RESTORE = Operation(
    "undo_restore", "system_restore_backup", UndoRestoreConfig, undo_restore, plan={"confirm": ""},
    does="Put back what a restore replaced, database and media, and keep what is live until then in turn.",
)  # fmt: skip

HOLD = Operation("hold", "system_run_backup", HoldConfig, hold)
RELEASE = Operation("release", "system_configure_backup", ReleaseConfig, release)
SETTLE = Operation("settle", "system_restore_backup", Config, settle)
ADD_KEY = Operation("add_key", "system_configure_backup", NewKeyConfig, add_key)
SET_SECRET = Operation("set_secret", "system_configure_backup", SetSecretConfig, set_secret)
REMOVE_SECRET = Operation("remove_secret", "system_configure_backup", RemoveSecretConfig, remove_secret)
AUTHORIZE_TARGET = Operation("authorize_target", "system_configure_backup", AuthorizeConfig, authorize_target)
ROTATE_SECRETS = Operation("rotate_secrets", "system_configure_backup", Config, rotate_secrets)
ACKNOWLEDGE_ALERT = Operation("acknowledge_alert", "system_run_backup", AcknowledgeConfig, acknowledge_alert)
RESOLVE_ALERT = Operation("resolve_alert", "system_run_backup", ResolveConfig, resolve_alert)
TEST_ALERTS = Operation("test_alerts", "system_configure_backup", Config, test_alerts)
REBUILD_CATALOG = Operation("rebuild_catalog", "system_configure_backup", RebuildConfig, rebuild)
CHANGE_SANDBOX = Operation("change_sandbox", "system_restore_backup", SandboxConfig, change_sandbox)
DROP_REPLACED = Operation("drop_replaced", "system_restore_backup", DropReplacedConfig, drop_replaced)
RECEIVE_WAL = Operation("receive_wal", "system_run_backup", Config, receive_wal)

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
CHANGES: tuple[Operation[Any, Any], ...] = (
    HOLD,
    RELEASE,
    SETTLE,
    ADD_KEY,
    SET_SECRET,
    REMOVE_SECRET,
    ROTATE_SECRETS,
    AUTHORIZE_TARGET,
    ACKNOWLEDGE_ALERT,
    RESOLVE_ALERT,
    TEST_ALERTS,
    REBUILD_CATALOG,
    CHANGE_SANDBOX,
    DROP_REPLACED,
    RECEIVE_WAL,
)
#: All, by name.
OPERATIONS: dict[str, Operation[Any, Any]] = {each.name: each for each in (*JOBS, *CHANGES)}
