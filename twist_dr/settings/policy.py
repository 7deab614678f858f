"""A policy of retention, as the settings have it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated

from pydantic import ConfigDict, Field

from twist_dr.repository.labels import GRACE
from twist_dr.repository.manifest import Kind, Label
from twist_dr.settings.values import Name
from twist_dr.storage.options import spelled
from twist_dr.system.durations import Duration

_Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Policy:
    """What is wanted on a target, as the settings have it; ``docs/retention.md`` says what it means."""

    __pydantic_config__ = ConfigDict(extra="forbid", hide_input_in_errors=True)

    #: To which backups it applies, None to all.
    kinds: Annotated[frozenset[Kind], Field(min_length=1)] | None = None
    labels: Annotated[frozenset[Label], Field(min_length=1)] | None = None
    #: Rules that keep: the newest good backup of so many periods, and so many of a label.
    daily: _Count = 0
    weekly: _Count = 0
    monthly: _Count = 0
    yearly: _Count = 0
    last: Mapping[Label, _Count] = field(default_factory=dict)
    #: Caps: what goes although a rule would keep it.
    max_age: Duration | None = None
    max_count: _Count | None = None
    max_bytes: _Count | None = None
    #: How long what no schedule made stays, whatever else is said.
    grace: Duration = GRACE
    #: For so long any second stays recoverable.
    wal: Duration | None = None

    def selects(self, kind: Kind, label: Label) -> bool:
        """Whether it applies to backups of that kind and label."""
        return (self.kinds is None or kind in self.kinds) and (self.labels is None or label in self.labels)


@dataclass(frozen=True)
class ArchivePolicy:
    """What is older than ``after`` and is kept moves to the target ``to``, or goes to another ``storage_class`` of the same: one of the two."""

    __pydantic_config__ = ConfigDict(extra="forbid", hide_input_in_errors=True)

    after: Duration
    to: Name | None = None
    storage_class: Annotated[str, spelled(r"[A-Z][A-Z0-9_]*", "a class as S3 calls it, such as GLACIER")] | None = None

    def is_overtaken_by(self, policies: Iterable[Policy]) -> bool:
        """Whether the policies let everything go before it could move."""
        ages = [policy.max_age for policy in policies]
        return bool(ages) and all(age is not None and age <= self.after for age in ages)


def longest_window(policies: Iterable[Policy]) -> timedelta | None:
    """For how long any second is to stay recoverable on a target with these policies; None when none says."""
    return max((policy.wal for policy in policies if policy.wal is not None), default=None)
