"""What somebody wants restored, and what a restore works with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from twist_dr.django_app.manage import DjangoApplication
from twist_dr.repository.keys import Keyring
from twist_dr.repository.kinds import FULL
from twist_dr.repository.manifest import Part
from twist_dr.repository.repository import Repository
from twist_dr.restore.cutover import Surroundings

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
