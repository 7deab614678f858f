"""Proving backups, and rehearsing recoveries."""

from __future__ import annotations

from pydantic import Field

from twist_dr.operations.operation import Config
from twist_dr.settings import Application
from twist_dr.verify.backup import Verified, verify
from twist_dr.verify.drill import Drill, Rehearsed


class VerifyBackupConfig(Config):
    """All have defaults: launched as it is, the latest backup is verified from the first target with a good copy."""

    backup: str = Field(
        "latest",
        description="latest, latest-base (recovers the newest base backup and replays WAL), latest-configuration (reads it whole, opens its databases), "
        "or a backup's id. What a restore was about to replace is passed over unless it is named: latest:pre-restore, or any other label so",
    )
    target: str = Field(
        "any",
        description="any (the first storage target with a good copy, in the order of the settings), or one by name",
    )


def verify_backup(app: Application, config: VerifyBackupConfig) -> Verified:
    """Raises ``VerificationFailed``, and what :func:`verify` raises."""
    found = verify(app, config.backup, config.target)
    found.raise_failures()
    return found


class DrillConfig(Config):
    """All have defaults: launched as it is, it takes the storage target whose turn it is."""

    target: str = Field("next", description="next (each storage target in its turn), or one by name")
    recovery: bool = Field(
        True,
        description="Also recover the newest base backup to the latest point of the archived WAL, where there is such.",
    )


def drill(app: Application, config: DrillConfig) -> Rehearsed:
    """Raises ``VerificationFailed`` when a backup is not good or the time is not kept, and storage errors."""
    return Drill(app).run(config.target, recovery=config.recovery)
