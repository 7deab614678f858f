"""How much what restores left takes on the disks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from twist_dr.postgres import databases
from twist_dr.postgres.cluster import Cluster
from twist_dr.system.folders import tree_bytes


class Left(Protocol):
    """A database and folders that a restore left behind."""

    @property
    def database(self) -> str | None: ...
    @property
    def folders(self) -> Sequence[Path]: ...


@dataclass(frozen=True)
class SpaceTaken:
    """Bytes on disk; None where that cannot be told, 0 where there is nothing."""

    database: int | None
    files: int | None

    @property
    def total(self) -> int | None:
        return None if self.database is None or self.files is None else self.database + self.files


def measured(cluster: Cluster, rows: Sequence[Left]) -> list[SpaceTaken]:
    """Of each. Connects only where one has a database. Raises ``DatabaseError``."""
    names = [row.database for row in rows if row.database is not None]
    sizes = dict[str, int | None]()
    if names:
        with databases.maintenance(cluster) as connection:
            sizes = {name: databases.size_of(connection, name) for name in names}
    return [SpaceTaken(sizes[row.database] if row.database else 0, _files(row.folders)) for row in rows]


def _files(folders: Sequence[Path]) -> int | None:
    sizes = [tree_bytes(folder) for folder in folders]
    return None if None in sizes else sum(size for size in sizes if size is not None)
