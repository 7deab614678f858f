"""What planning needs of a base backup. A target may hold a thousand of them, and each manifest names every table of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from twist_dr.repository.manifest import BaseFacts, Label, Manifest


class OfCluster(Protocol):
    """The cluster that was backed up."""

    @property
    def system_identifier(self) -> str | None: ...
    @property
    def major(self) -> int: ...


class PlannedBase(Protocol):
    """A base backup as planning sees it: a manifest, or what is kept of one."""

    @property
    def backup_id(self) -> str: ...
    @property
    def base(self) -> BaseFacts | None: ...
    @property
    def postgres(self) -> OfCluster | None: ...


@dataclass(frozen=True)
class ClusterOfBase:
    """See ``OfCluster``."""

    system_identifier: str | None
    major: int


@dataclass(frozen=True)
class BaseSummary:
    """Of an authenticated manifest, what is kept when it has been read. ``base`` and ``postgres`` as there."""

    backup_id: str
    label: Label
    started_at: datetime
    base: BaseFacts | None
    postgres: ClusterOfBase | None

    @classmethod
    def of(cls, manifest: Manifest) -> BaseSummary:
        server = manifest.postgres
        cluster = None if server is None else ClusterOfBase(server.system_identifier, server.major)
        return cls(manifest.backup_id, manifest.label, manifest.started_at, manifest.base, cluster)
