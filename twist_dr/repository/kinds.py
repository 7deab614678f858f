"""What differs by kind of backup, once: what one is made of, what makes it and what its copies are called, what comes back from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from twist_dr.repository.manifest import CONFIDENTIAL_PARTS, Kind, Part, is_backup_id, kind_of


@dataclass(frozen=True)
class KindSpec:
    """One kind. Its job is named after it, and so is the step that makes it."""

    kind: Kind
    parts: tuple[Part, ...]
    """All that one may have."""
    artifacts: str
    """A pattern of the names of its artifacts."""
    copies: str
    """The step that copies it; the assets of its copies are ``<application>/<this>/<target>``."""
    latest: str
    """The word for the newest one."""
    brings_data: bool = False
    """Whether the application's data comes back from one."""
    physical: bool = False
    """Files of the cluster: one may build upon others, is worth something only with the WAL up to its end, and has no rows of unlogged tables."""
    max_age: timedelta | None = None
    """How old the newest may be, on its page; None: as the objectives say."""
    instead: str = ""
    """What to do with one that the job ``restore`` cannot restore."""

    @property
    def job(self) -> str:
        return f"backup_{self.kind}"

    @property
    def step(self) -> str:
        return f"{self.kind}_backup"

    @property
    def group(self) -> str:
        """The group of its assets: a lineage page with all of them in one cannot be read."""
        return f"{self.step}s"

    @property
    def always_encrypted(self) -> bool:
        return CONFIDENTIAL_PARTS.issuperset(self.parts)


FULL = KindSpec(
    "full",
    parts=("database", "media", "configuration"),
    artifacts=r"database\.dump|roles\.sql|extension-(?:rows\.(?:sql|json)|members\.dump)|(?:media|configuration)\.(?:tar|files\.jsonl)",
    copies="copies",
    latest="latest",
    brings_data=True,
)
BASE = KindSpec(
    "base",
    parts=("cluster",),
    artifacts=r"base\.tar|[0-9]{1,10}\.tar|backup_manifest|server\.json",  # tablespaces go by their OIDs
    copies="base_copies",
    latest="latest-base",
    brings_data=True,
    physical=True,
    max_age=timedelta(days=8),  # weekly, with a day to spare
    instead="recover from it with the job restore_to_time",
)
CONFIGURATION = KindSpec(
    "configuration",
    parts=("configuration",),
    artifacts=r"(?:configuration|dagster)\.(?:tar|files\.jsonl)|contents\.json|catalog\.(?:sqlite|dump)|dagster(?:-[0-9]{1,4})?\.dump",
    copies="configuration_copies",
    latest="latest-configuration",
    max_age=timedelta(days=2),  # daily, with a day to spare
    instead="bring it back by hand into a new folder, with: twist-dr recover --backup ID --configuration-to FOLDER",
)
KINDS: dict[Kind, KindSpec] = {each.kind: each for each in (FULL, BASE, CONFIGURATION)}
#: Kinds that the application's data comes back from.
DATA_KINDS: tuple[Kind, ...] = tuple(each.kind for each in KINDS.values() if each.brings_data)
BACKUP_JOBS: tuple[str, ...] = tuple(each.job for each in KINDS.values())


def bases_of(backup_ids: Iterable[str]) -> list[str]:
    """Those that are base backups; what is no id is none."""
    return [each for each in backup_ids if is_backup_id(each) and kind_of(each) == BASE.kind]
