"""The whole file."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from twist_dr.postgres.url import database_of
from twist_dr.repository.kinds import KINDS
from twist_dr.repository.streams import Form
from twist_dr.settings.filling import SECRETS_FILE
from twist_dr.settings.scheduling import ScheduleKind, ScheduleSettings
from twist_dr.settings.sections import (
    AppVersionSettings,
    BackupSettings,
    BaseSettings,
    CatalogSettings,
    DatabaseSettings,
    DjangoSettings,
    EncryptionSettings,
    RcloneSettings,
    RestoreSettings,
    VerificationSettings,
    WalSettings,
)
from twist_dr.settings.targets import AnyTarget, TargetSettings
from twist_dr.settings.unattended import (
    AlertSettings,
    CleanupSettings,
    HistorySettings,
    MetricsSettings,
    ObjectiveSettings,
    ScrubSettings,
)
from twist_dr.settings.values import Name
from twist_dr.storage.machine import HeldGrant, Machine
from twist_dr.storage.options import Section, SettingsPath, absolute

if TYPE_CHECKING:
    from twist_dr.repository.secrets_file import SecretsFile


class Settings(Section):
    """The whole file."""

    application: Name
    app_version: str | AppVersionSettings | None = None
    database: DatabaseSettings
    media: dict[Name, SettingsPath] = {}
    configuration: list[str] = []
    django: DjangoSettings | None = None
    storage_targets: dict[Name, AnyTarget] = Field(min_length=1)
    encryption: EncryptionSettings
    #: What ``twist-dr secrets`` keeps, and the grants of storage targets.
    secrets: SettingsPath = Field(Path(SECRETS_FILE), validate_default=True)
    backup: BackupSettings = BackupSettings()
    verification: VerificationSettings = VerificationSettings()
    restore: RestoreSettings = RestoreSettings()
    base: BaseSettings = BaseSettings()
    wal: WalSettings | None = None
    schedules: ScheduleSettings | None = None
    objectives: ObjectiveSettings = ObjectiveSettings()
    cleanup: CleanupSettings = CleanupSettings()
    history: HistorySettings = HistorySettings()
    scrub: ScrubSettings = ScrubSettings()
    alerts: AlertSettings = AlertSettings()
    metrics: MetricsSettings = MetricsSettings()
    catalog: CatalogSettings = CatalogSettings()
    rclone: RcloneSettings = RcloneSettings()
    work_dir: SettingsPath = Field(Path("/var/lib/twist-dr"), validate_default=True)
    _read_from: tuple[Path, bytes] | None = PrivateAttr(None)

    @property
    def read_from(self) -> tuple[Path, bytes] | None:
        """The file that they were read from, and the digest of what it was then; None for what was never in a file."""
        return self._read_from

    @field_validator("configuration")
    @classmethod
    def _patterns_absolute(cls, patterns: list[str], info: ValidationInfo) -> list[str]:
        return [str(absolute(Path(pattern), info)) for pattern in patterns]

    @field_validator("media")
    @classmethod
    def _media_apart(cls, media: dict[str, Path]) -> dict[str, Path]:
        for name, path in media.items():
            for other_name, other in media.items():
                if name != other_name and (path == other or other in path.parents):
                    raise ValueError(f"folders that lie apart, but {name} lies in {other_name}")
        return media

    @model_validator(mode="after")
    def _places_apart(self) -> Settings:
        """Two targets in one folder would be one copy that is counted twice; what lies in media would be backed up with it."""
        folders = {
            f"storage_targets.{name}.path": target.folder
            for name, target in self.storage_targets.items()
            if target.folder is not None
        }
        mine = {**folders, "work_dir": self.work_dir}
        media = {f"media.{name}": path for name, path in self.media.items()}
        nested = [
            f"{name} lies in {other_name}"
            for name, path in mine.items()
            for other_name, other in {**folders, **media}.items()
            if name != other_name and (path == other or other in path.parents)
        ]
        if nested:
            raise ValueError(f"folders that lie apart, but {' and '.join(nested)}")
        return self

    @model_validator(mode="after")
    def _buckets_apart(self) -> Settings:
        """As with folders: two enabled targets in one place would be one copy."""
        seen: dict[Hashable, str] = {}
        for name, target in self.enabled_targets.items():
            if target.place is not None and (other := seen.setdefault(target.place, name)) != name:
                raise ValueError(
                    f"buckets or prefixes that differ, but storage_targets.{other} and storage_targets.{name} are one"
                )
        return self

    @model_validator(mode="after")
    def _required_targets_exist(self) -> Settings:
        if self.wal is None:
            return self
        if not self.wal_targets:
            raise ValueError("a storage target without wal: false, where the section wal sends write-ahead log")
        if unknown := [name for name in self.wal.required_targets or () if name not in self.wal_targets]:
            raise ValueError(
                f"storage targets that WAL is shipped to in wal.required_targets, and {', '.join(unknown)} is none"
            )
        return self

    @model_validator(mode="after")
    def _bundles_soon_enough(self) -> Settings:
        """What is bundled for longer than a recovery point may be old would be an alarm each time."""
        if self.wal is None:
            return self
        most = min(self.wal.warn_after, self.objectives.wal)
        for name in self.wal_targets:
            if (every := self.wal_every(name)) and every >= most:
                raise ValueError(
                    f"less than wal.warn_after and objectives.wal ({most.total_seconds():.0f} s) in wal.bundle_seconds, or wal_bundle_seconds of "
                    f"{name}: with {every.total_seconds():.0f} s what is archived there would always be too old"
                )
        return self

    @model_validator(mode="after")
    def _scheduled_targets_exist(self) -> Settings:
        for kind in get_args(ScheduleKind) if self.schedules else ():
            for number, each in enumerate(getattr(self.schedules, kind)):
                if unknown := [name for name in each.named_targets if name not in self.enabled_targets]:
                    raise ValueError(
                        f"enabled storage targets in schedules.{kind}[{number}].targets, and {', '.join(unknown)} is none"
                    )
                if kind in KINDS and (
                    unfed := [name for name in each.named_targets if name not in self.backup_targets]
                ):
                    raise ValueError(
                        f"storage targets that backups are copied to in schedules.{kind}[{number}].targets, and {', '.join(unfed)} is an archive"
                    )
        return self

    @model_validator(mode="after")
    def _archives_fit(self) -> Settings:
        """An archive is an enabled target, not of itself, and no place where what lay encrypted on purpose would lie open."""
        for name, target in self.enabled_targets.items():
            if target.archive is None:
                continue
            place, to = f"storage_targets.{name}.archive", target.archive.to
            if target.archive.is_overtaken_by(target.policies):
                raise ValueError(f"a time in {place}.after that is over before max_age lets everything go")
            if (to is None) == (target.archive.storage_class is None):
                raise ValueError(f"either to or storage_class in {place}")
            if to is None:
                if not target.has_storage_classes:
                    raise ValueError(f"to in {place}, since a target of type {target.type} has no storage classes")
                continue
            if to == name or to not in self.enabled_targets:
                raise ValueError(f"another enabled storage target in {place}.to, and {to} is none")
            if self.enabled_targets[to].encrypt and not target.encrypt:
                raise ValueError(
                    f"encrypt: true for storage_targets.{name}, since {to} keeps what it gets from there encrypted"
                )
        for name in self.enabled_targets:
            way = name
            for _ in self.enabled_targets:
                policy = self.enabled_targets[way].archive
                if policy is None or policy.to is None:
                    break
                if (way := policy.to) == name:
                    raise ValueError(f"storage_targets.{name}.archive.to that does not lead back to {name}")
        return self

    @property
    def replication_url(self) -> str:
        """The URL of a role that may replicate, to the application's database. A secret."""
        url = self.wal.replication_url if self.wal else None
        return (url or self.database.url).get_secret_value()

    @property
    def wal_slot(self) -> str:
        """The replication slot that keeps WAL for us."""
        return (self.wal.slot if self.wal else None) or f"twist_dr_{self.application}"

    @property
    def wal_spool(self) -> Path:
        return (self.wal.spool if self.wal else None) or self.work_dir / "wal" / self.application

    def wal_every(self, target: str) -> timedelta:
        """How often a target gets write-ahead log, in bundles; zero where it gets each segment at once."""
        options = self.storage_targets[target]
        seconds = options.wal_bundle_seconds
        if seconds is None:
            seconds = self.wal.bundle_seconds if self.wal and options.consumer else 0
        return timedelta(seconds=seconds)

    @property
    def enabled_targets(self) -> dict[str, TargetSettings]:
        return {name: target for name, target in self.storage_targets.items() if target.enabled}

    @property
    def backup_targets(self) -> dict[str, TargetSettings]:
        """The enabled targets that backups are copied to as they are made: all but those to which others move what is old."""
        archives = {target.archive.to for target in self.enabled_targets.values() if target.archive is not None}
        return {name: target for name, target in self.enabled_targets.items() if name not in archives}

    @property
    def wal_targets(self) -> dict[str, TargetSettings]:
        """The targets that write-ahead log is shipped to, where the settings have it at all."""
        return {name: target for name, target in self.backup_targets.items() if target.wal}

    def form(self, target: str) -> Form:
        """How a storage target keeps bytes."""
        return self.storage_targets[target].form_beside(self.backup.compression_level)

    @property
    def forms(self) -> dict[str, Form]:
        """How each of the :attr:`backup_targets` keeps bytes."""
        return {name: self.form(name) for name in self.backup_targets}

    @property
    def catalog_url(self) -> str:
        """The catalog's SQLAlchemy URL. A secret: it may hold a password."""
        return self.catalog.url.get_secret_value() if self.catalog.url else f"sqlite:///{self.work_dir / 'catalog.db'}"

    @property
    def staging_dir(self) -> Path:
        return self.work_dir / "staging" / self.application

    @property
    def scratch_dir(self) -> Path:
        return self.verification.scratch or self.work_dir / "scratch"

    @property
    def lock_dir(self) -> Path:
        return self.work_dir / "locks"

    @property
    def machine(self) -> Machine:
        """What storage targets may need of this machine. No I/O."""
        return Machine(self.work_dir / "targets", _GrantsOf(self), self.rclone.path)

    @property
    def secrets_file(self) -> SecretsFile:
        """No I/O."""
        from twist_dr.repository.secrets_file import SecretsFile

        return SecretsFile(self.secrets, self.application, self.encryption.keyring)

    @property
    def restores_dir(self) -> Path:
        """Where the journals of restores lie: what was switched, what is kept, what was cut short."""
        return self.work_dir / "restores" / self.application

    @model_validator(mode="after")
    def _one_database(self) -> Settings:
        """A restore replaces the database that its URL names: with that of a superuser's home, postgres, it would replace the wrong one."""
        if self.restore.database_url is not None:
            live, named = (
                database_of(url.get_secret_value()) for url in (self.database.url, self.restore.database_url)
            )
            if live and named != live:
                raise ValueError(
                    f"the database of database.url, {live}, in restore.database_url too; it names {named or 'none'}"
                )
        return self

    @property
    def restore_url(self) -> str:
        """The URL of the role that restores. A secret."""
        return (self.restore.database_url or self.database.url).get_secret_value()


class _GrantsOf:
    """The grants in the secrets file of these settings, which is not thought of before one is asked for."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def held(self, target: str) -> AbstractContextManager[HeldGrant]:
        return self._settings.secrets_file.held(target)
