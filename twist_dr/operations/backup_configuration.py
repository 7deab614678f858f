"""Making configuration backups: configured files, our catalog and the orchestrator's history; always encrypted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from pydantic import Field

from twist_dr.backup.configuration import History, take_configuration_backup
from twist_dr.backup.from_settings import chosen_targets, plan_configuration_backup, record_sealed
from twist_dr.errors import VerificationFailed
from twist_dr.operations.backup import copied
from twist_dr.operations.operation import Config
from twist_dr.repository.manifest import Label, Manifest
from twist_dr.settings import Application, settings_file
from twist_dr.verify.configuration import read_configuration, staged
from twist_dr.verify.verification import VerificationResult
from twist_dr.watch.audit import audit_anchor, note_key_use

#: Where nobody says where it is.
_UNKNOWN = History(
    missing="dagster: the backup was not launched by it, so none of its history is in the backup; launch the job backup_configuration"
)


class ConfigurationBackupConfig(Config):
    """All have defaults: launched as it is, everything is backed up to every enabled storage target."""

    label: Label = Field("manual", description="What the backup is for.")
    reason: str = Field("", description="Why it is made, for those who find it later.")
    targets: str = Field("all", description="all enabled storage targets, or some of them by name, separated by commas")


@dataclass(frozen=True)
class Taken:
    """A configuration backup, and what came of reading it back. One that is not good is in staging no more."""

    manifest: Manifest
    found: VerificationResult
    work_dir: Path

    def raise_failures(self) -> None:
        """Raise ``VerificationFailed`` unless it is good."""
        if not self.found.verified:
            raise VerificationFailed(
                f"{self.manifest.backup_id} is NOT good: {'; '.join(self.found.differences[:5])}. It was removed",
                remedy=f"see to the disk of {self.work_dir}, then run the backup again",
            )


def backup_configuration(app: Application, config: ConfigurationBackupConfig) -> Manifest:
    """Raises ``CopyFailed`` unless all targets have it, ``VerificationFailed`` when it cannot be read back."""
    taken = take_configuration(app, config)
    taken.raise_failures()
    return copied(app, taken.manifest)


def take_configuration(
    app: Application,
    config: ConfigurationBackupConfig,
    history: History = _UNKNOWN,
    own: Sequence[Path] = (),
) -> Taken:
    """A configuration backup, sealed in staging and read back. ``own``: the files that tell the orchestrator and us what to do."""
    with app.exclusively("A configuration backup"):
        manifest = _take(app, config, history, own)
    found = _prove(app, manifest)
    if found.verified:
        record_sealed(app, manifest, app.actor.run_id)
        note_key_use(app, "encrypt", manifest.backup_id)
    return Taken(manifest, found, app.settings.work_dir)


def _take(app: Application, config: ConfigurationBackupConfig, history: History, own: Sequence[Path]) -> Manifest:
    settings = app.settings
    file = settings_file().absolute()
    contents = {
        "application": settings.application,
        "twist_dr": version("twist-dr"),
        "dagster": version("dagster"),
        "dagster_history": history.told,
        "settings": str(file),
        "manifests": "in the catalog: table backups, column manifest",
        "keyring": f"not in this backup, unless a pattern of configuration finds it; it was {settings.encryption.keyring}",
    }
    plan = plan_configuration_backup(
        app, history.places, label=config.label, reason=config.reason, targets=chosen_targets(settings, config.targets),
        own_files=[*(own or [file]), settings.secrets, audit_anchor(settings)], history_missing=history.missing, contents=contents,
    )  # fmt: skip
    return take_configuration_backup(plan, app.keyring, app.staging, app.report)


def _prove(app: Application, manifest: Manifest) -> VerificationResult:
    """Read the sealed backup back. One that is not good is no backup any more."""
    staging, good = app.staging, False
    try:
        with staging.using(manifest.backup_id) as folder:
            for form, read in staged(manifest, folder, app.keyring).items():
                found = read_configuration(
                    manifest, read, f"staging ({form})",
                    scratch=staging.root, client_tools=app.settings.database.client_tools, report=app.report,
                )  # fmt: skip
                if not found.verified:
                    return found
        good = True
        return found
    finally:
        if not good:
            staging.remove(manifest.backup_id)
