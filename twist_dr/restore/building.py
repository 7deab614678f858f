"""What a restore works with, from the settings."""

from __future__ import annotations

from collections.abc import Sequence

from twist_dr.postgres.cluster import Cluster
from twist_dr.repository.repository import Repository
from twist_dr.restore.cutover import Surroundings
from twist_dr.restore.hooks import Health, Maintenance
from twist_dr.restore.journal import FileJournals, Journals
from twist_dr.restore.plan import Mode, RestorePlace
from twist_dr.settings.application import Application
from twist_dr.settings.asking import django_application, revealed
from twist_dr.settings.whole import Settings


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
