"""Settings of the application, its backups, verifications, restores and write-ahead log."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator

from twist_dr.settings.values import PostgresUrl, TableText
from twist_dr.storage.options import Section, SettingsPath, WebAddress, absolute, spelled
from twist_dr.system.durations import Duration


class DatabaseSettings(Section):
    """The database to protect. ``url`` as libpq takes it; ``client_tools`` are folders with pg_dump, tried before all others.

    ``lock_timeout``: how long a backup waits for a lock that another session holds, which it names meanwhile.
    """

    url: PostgresUrl
    client_tools: list[SettingsPath] = []
    lock_timeout: Duration = timedelta(minutes=5)


class DjangoSettings(Section):
    """How to call manage.py: ``manage`` is the command, run in ``folder`` with ``environment`` and a few words of ours (PATH, HOME, ...)."""

    manage: list[str] = Field(min_length=1)
    folder: SettingsPath
    environment: dict[str, SecretStr] = {}
    #: The environment variable from which the application's settings take the database (its URL or its name). With it, a restored database
    #: can be migrated before it is live.
    database_variable: str | None = Field(None, min_length=1)


class EncryptionSettings(Section):
    """``keyring``: a file, or ``env:NAME`` for a keyring in an environment variable."""

    keyring: str

    @field_validator("keyring")
    @classmethod
    def _located(cls, location: str, info: ValidationInfo) -> str:
        return location if location.startswith("env:") else str(absolute(Path(location), info))


class BackupSettings(Section):
    """How backups are made. ``compression_threads`` counts for zstd."""

    compression_level: int = Field(3, ge=1, le=19)
    compression_threads: int = Field(default_factory=lambda: min(4, os.cpu_count() or 1), ge=1, le=64)


class VerificationSettings(Section):
    """How backups are proven."""

    #: URL of an existing server to restore into, for machines without server programs; never the production server.
    server: PostgresUrl | None = None
    #: Tables (``schema.table``, or ``table`` in public; ``"a.b".c`` where a name has a dot in it) that must exist and hold rows.
    key_tables: list[TableText] = []
    #: Parallel restore jobs.
    jobs: int = Field(default_factory=lambda: max(2, min(8, os.cpu_count() or 1)), ge=1, le=64)
    #: Folder for the scratch server and the dump.
    scratch: SettingsPath | None = None
    #: Whether servers with the database's own code, recovered ones too, are refused where they cannot be kept away from files and network
    #: (``required``), or run with what is to be had (``where-possible``).
    isolation: Literal["required", "where-possible"] = "required"
    #: What is restored is dumped again and must be what was dumped (``full``), or only its rows are counted (``counts``).
    content: Literal["full", "counts"] = "full"
    #: Whether a run's log may show the first row that differs.
    show_rows: bool = False
    #: Which scheduled full backups are verified: each, or the first of a day or week (ISO 8601, in the schedules' time zone).
    when: Literal["each", "daily", "weekly"] = "each"
    #: Smaller ones are verified each time.
    each_below_gib: float | None = Field(None, gt=0)


Command = Annotated[list[str], Field(min_length=1)]


class AppVersionSettings(Section):
    """``command`` prints the application's version; run in ``django.folder`` with ``django.environment``, for 10 s at most."""

    command: Command


class MaintenanceSettings(Section):
    """How the application is told that it is down for a moment. Every way that is given is used.

    ``file`` exists while it lasts. ``command_on`` and ``command_off`` are run. ``sql_on`` is run in the live database before
    it is replaced, ``sql_off`` in the one that is live afterwards.
    """

    file: SettingsPath | None = None
    command_on: Command | None = None
    command_off: Command | None = None
    sql_on: str | None = None
    sql_off: str | None = None

    @model_validator(mode="after")
    def _pairs(self) -> MaintenanceSettings:
        if (self.command_on is None) != (self.command_off is None) or (self.sql_on is None) != (self.sql_off is None):
            raise ValueError("command_on and command_off together, and sql_on and sql_off together")
        return self


class HealthSettings(Section):
    """How it is seen that the application works: ``url`` answers 200 to 299, ``command`` ends with 0, within ``timeout_seconds``."""

    url: WebAddress | None = None
    command: Command | None = None
    timeout_seconds: float = Field(30, gt=0)


class SandboxSettings(Section):
    """What is run in sandboxes in the place of ``restore.after_restore_sql`` and ``restore.after_restore_commands``."""

    #: Run in the restored database before it is live, as are the commands.
    after_restore_sql: list[str] = []
    after_restore_commands: list[Command] = []


class RestoreSettings(Section):
    """How backups are restored."""

    #: A role that may create and rename databases, where that of ``database.url`` may not.
    database_url: PostgresUrl | None = None
    #: Parallel restore jobs.
    jobs: int = Field(default_factory=lambda: max(2, min(8, os.cpu_count() or 1)), ge=1, le=64)
    #: How long transactions of the application may go on before they are ended.
    grace_seconds: float = Field(10, ge=0)
    #: A storage target that gives no megabyte for so long is passed over.
    stall_seconds: float = Field(30, gt=0)
    keep_replaced_for: Duration = timedelta(days=7)
    #: What all commands of this section get beside a few words of ours (PATH, HOME, ...).
    environment: dict[str, SecretStr] = {}
    maintenance: MaintenanceSettings = MaintenanceSettings()
    health: HealthSettings = HealthSettings()
    #: Commands that may refuse a restore.
    validators: list[Command] = []
    after_restore_sql: list[str] = []
    after_restore_commands: list[Command] = []
    sandbox: SandboxSettings | None = None


class BaseSettings(Section):
    """How base backups are made. ``max_chain``: how many backups, the full one included, may build on each other. ``checksums``: the rows of
    each table are read once more at the restore point, so that a verification compares them and not only how many they are."""

    max_chain: int = Field(7, ge=1, le=100)
    checksums: bool = False


class WalSettings(Section):
    """Write-ahead log on its way to the storage targets; with this section, base backups and recovery to any second."""

    #: ``receive`` (``twist-dr wal receive`` streams it from the server) or ``archive`` (the server's archiver puts it into the spool's
    #: folder ``archived``).
    source: Literal["receive", "archive"] = "receive"
    #: A role with REPLICATION, where that of ``database.url`` has it not.
    replication_url: PostgresUrl | None = None
    #: The replication slot that keeps WAL on the server until it was received.
    slot: Annotated[str, spelled(r"[a-z0-9_]{1,63}", "1 to 63 lower-case letters, digits and '_'")] | None = None
    #: Where it lies until the targets have it.
    spool: SettingsPath | None = None
    #: Those that must have a segment before it leaves the spool; all enabled ones unless given.
    required_targets: list[str] | None = Field(None, min_length=1)
    #: How often the sensor ships.
    interval_seconds: int = Field(60, ge=5)
    #: How often ``twist-dr wal ship --follow`` does.
    follow_seconds: float = Field(1, gt=0)
    #: On consumer drives, where an object costs half a second, segments that were completed within that time are stored as one, and the open
    #: segment is stored as often: so much of the newest can be lost there. 0: at once. A target's ``wal_bundle_seconds`` is for any kind.
    bundle_seconds: int = Field(60, ge=0)
    workers: int = Field(default_factory=lambda: max(2, min(8, os.cpu_count() or 1)), ge=1, le=64)
    #: Said loudly: an unshipped segment of that age, and a spool of that size.
    warn_after: Duration = timedelta(minutes=15)
    warn_bytes: int = Field(4 << 30, gt=0)


class RcloneSettings(Section):
    """``path``: the rclone program to use in the place of the wheel's (extra ``drives``)."""

    path: SettingsPath | None = None


class CatalogSettings(Section):
    """``url``: SQLAlchemy URL of the index of what happened; SQLite in ``work_dir`` unless set."""

    url: SecretStr | None = None
