"""The application as all that works for it sees it: its settings, and what they lead to."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from twist_dr.settings.actor import Actor, user_of_this_machine
from twist_dr.settings.reading import load_settings
from twist_dr.settings.whole import Settings
from twist_dr.system.lock import FileLocks, Locks
from twist_dr.system.progress import Report

if TYPE_CHECKING:
    from twist_dr.catalog import Catalog
    from twist_dr.postgres.cluster import Cluster
    from twist_dr.repository.keys import Keyring
    from twist_dr.repository.repository import Repository
    from twist_dr.repository.staging import StagingArea
    from twist_dr.storage.base import StorageTarget


@dataclass(frozen=True, eq=False)
class Application:
    """Built once by whoever begins something, and passed on as one. ``actor``: on whose behalf; ``report``: what is told on the way, to
    whoever listens.

    Inert: making it does no I/O, and each thing is made, or read, when it is first asked for; then it stays the same to the end of
    what was begun. The orchestrator shares it among runs and takes one :meth:`of` its own for each, so that none works with yesterday's keys.
    """

    settings: Settings
    actor: Actor
    report: Report = field(default_factory=Report)

    def of(self, actor: Actor, report: Report) -> Application:
        """The same for another actor, with nothing read yet."""
        return replace(self, actor=actor, report=report)

    @property
    def name(self) -> str:
        return self.settings.application

    @cached_property
    def catalog(self) -> Catalog:
        """No I/O."""
        from twist_dr.catalog import Catalog

        return Catalog(self.settings.catalog_url)

    @cached_property
    def keyring(self) -> Keyring:
        """Raises ``KeyringInvalid``."""
        from twist_dr.repository.keys import load_keyring

        return load_keyring(self.settings.encryption.keyring)

    @cached_property
    def targets(self) -> Mapping[str, StorageTarget]:
        """The enabled storage targets by name, in the order of the settings. No I/O."""
        from twist_dr.settings.building import build_targets

        return build_targets(self.settings)

    def repositories(self, patience: float | None = None) -> dict[str, Repository]:
        """The application's backups on each enabled target, by name. ``patience`` as in ``patient``. No I/O."""
        from twist_dr.repository.repository import Repository
        from twist_dr.storage.patience import patient

        return {name: Repository(patient(target, patience), self.name) for name, target in self.targets.items()}

    def count_upload(self, target: str, size: int) -> None:
        """Note that so many bytes were stored on a target whose provider limits them by the day. An index that does not answer stops nothing."""
        from twist_dr.catalog import CatalogUnavailable

        if size and self.settings.storage_targets[target].daily_upload_limit is not None:
            try:
                self.catalog.count_upload(target, size)
            except CatalogUnavailable as unavailable:
                self.report.warning(str(unavailable))

    @property
    def cluster(self) -> Cluster:
        """The live database's server. No connection is made."""
        from twist_dr.postgres.cluster import Cluster

        return Cluster(self.settings.database.url.get_secret_value())

    @property
    def staging(self) -> StagingArea:
        from twist_dr.repository.staging import StagingArea

        return StagingArea(self.settings.staging_dir)

    @cached_property
    def locks(self) -> Locks:
        """No I/O."""
        return FileLocks(self.settings.lock_dir, self.name)

    def exclusively(self, operation: str) -> AbstractContextManager[None]:
        """The application's lock, waited for as long as the actor is patient. Raises ``Busy``."""
        return self.locks.hold(operation, patience=self.actor.patience, waiting=self.report.info)


def open_application(report: Report | None = None) -> Application:
    """For a terminal: the settings as they are found, and this machine's user. Raises ``SettingsError``."""
    return Application(load_settings(), user_of_this_machine(), report or Report())
