"""What somebody wants restored, and what a restore works with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from twist_dr.django_app.manage import DjangoApplication
from twist_dr.postgres.cluster import Cluster
from twist_dr.repository.keys import Keyring
from twist_dr.repository.kinds import FULL
from twist_dr.repository.manifest import Part
from twist_dr.repository.repository import Repository
from twist_dr.restore.cutover import Surroundings
from twist_dr.restore.hooks import Health, Maintenance
from twist_dr.restore.journal import FileJournals, Journals
from twist_dr.settings.application import Application
from twist_dr.settings.asking import django_application, revealed
from twist_dr.settings.whole import Settings

#: ``plan`` changes nothing. ``sandbox``: a database beside the live one. ``replace``: cut over. ``schema``: some tables into a
#: schema of their own in the live database. ``cluster``: only in recoveries, a data folder of its own.
Mode = Literal["plan", "sandbox", "replace", "schema", "cluster"]


@dataclass(frozen=True)
class RestoreRequest:
    """What somebody asked for. ``tables`` (``schema.table``): only those, and only in a sandbox or a schema of their own.

    ``name``: what the backup is called in sentences, where its id says nothing to anybody. ``as_of``: the moment that it holds, where that
    is not when it was taken.
    """

    backup_id: str
    mode: Mode = "plan"
    parts: Sequence[Part] = FULL.parts
    tables: Sequence[str] = ()
    run_migrations: bool = True
    reason: str = ""
    name: str = ""
    as_of: datetime | None = None

    @property
    def called(self) -> str:
        """What it is called in sentences."""
        return self.name or self.backup_id


@dataclass(frozen=True)
class RestorePlace:
    """What a restore works with. ``repositories`` in the order in which they are tried; ``patience`` as in ``Sources``.

    ``media`` are the live folders by name. ``work_dir`` takes what is fetched, sandboxes' media and configuration, ``scratch`` scratch servers.
    ``environment``: what the settings name for commands. ``after_sql`` and ``after_commands`` are run in the restored database before anybody else sees it.
    """

    application: str
    around: Surroundings
    repositories: Sequence[Repository]
    keyring: Keyring
    work_dir: Path
    scratch: Path
    media: Mapping[str, Path] = field(default_factory=dict)
    django: DjangoApplication | None = None
    client_tools: Sequence[Path] = ()
    key_tables: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    validators: Sequence[Sequence[str]] = ()
    after_sql: Sequence[str] = ()
    after_commands: Sequence[Sequence[str]] = ()
    jobs: int = 2
    patience: float | None = None


def journals_of(settings: Settings) -> Journals:
    """Whoever reads or writes an application's journals has them from here. No I/O."""
    return FileJournals(settings.restores_dir)


def surroundings(settings: Settings) -> Surroundings:
    """What a cutover, an undo and ``twist-dr settle`` work with. No I/O."""
    restore = settings.restore
    environment = revealed(restore.environment)
    return Surroundings(
        cluster=Cluster(settings.restore_url),
        journals=journals_of(settings),
        maintenance=Maintenance(**dict(restore.maintenance), environment=environment),
        health=Health(**dict(restore.health), environment=environment),
        grace_seconds=restore.grace_seconds,
        keep_for=restore.keep_replaced_for,
        media=tuple(settings.media.values()),
    )


def restore_place(app: Application, repositories: Sequence[Repository], mode: Mode) -> RestorePlace:
    """What a restore in that mode works with. Raises ``KeyringInvalid``."""
    settings, restore = app.settings, app.settings.restore
    # Without rules of its own, a sandbox gets those of the real thing: better a too quiet copy than one that mails.
    after = restore.sandbox if mode == "sandbox" and restore.sandbox is not None else restore
    return RestorePlace(
        application=settings.application,
        around=surroundings(settings),
        repositories=repositories,
        keyring=app.keyring,
        work_dir=settings.work_dir,
        scratch=settings.scratch_dir,
        media=settings.media,
        django=django_application(settings),
        client_tools=settings.database.client_tools,
        key_tables=settings.verification.key_tables,
        environment=revealed(restore.environment),
        validators=restore.validators,
        after_sql=after.after_restore_sql,
        after_commands=after.after_restore_commands,
        jobs=restore.jobs,
        patience=restore.stall_seconds,
    )
