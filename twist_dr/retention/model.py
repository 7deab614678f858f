"""What retention is planned from, and what a plan says. Times are aware, sizes bytes as stored, LSNs numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from twist_dr.backup.base.summary import PlannedBase
from twist_dr.postgres.lsn import parse_lsn
from twist_dr.repository.manifest import Kind, Label
from twist_dr.wal.history import Ancestor
from twist_dr.wal.holdings import Holdings, Stored

CopyState = Literal["pending", "stored", "checked", "failed", "corrupt", "deleted"]
#: States in which a target's bytes were found right when last looked at.
INTACT: frozenset[CopyState] = frozenset({"stored", "checked"})


@dataclass(frozen=True)
class BackupFacts:
    """A backup as one target holds it.

    ``chain`` are the ids from the full base to this one, itself included; of other kinds it is empty or the id alone. ``finished_at``
    is from when on a base can be used (its ``stopped_at``); ``taken_at`` where it is None. ``verified`` is the last verification's
    result, None without any. ``locked_until`` is the store's Object Lock. ``partial``: a full backup without some of what belongs to one.
    ``storage_class``: that of all its artifacts, None where they differ or the target has none; ``archived``: all must be restored in the store before they can be read.
    """

    id: str
    kind: Kind
    label: Label
    taken_at: datetime
    state: CopyState
    verified: bool | None = None
    stored_bytes: int | None = None
    chain: tuple[str, ...] = ()
    finished_at: datetime | None = None
    locked_until: datetime | None = None
    partial: bool = False
    storage_class: str | None = None
    archived: bool = False

    @property
    def links(self) -> tuple[str, ...]:
        """All ids that are needed to restore it, itself included."""
        return self.chain or (self.id,)

    @property
    def usable_from(self) -> datetime:
        return self.finished_at or self.taken_at


@dataclass(frozen=True)
class Hold:
    """A mark that forbids deletion, for ever when ``until`` is None. Released ones are not given to the planning."""

    backup_id: str
    who: str
    reason: str
    until: datetime | None = None


@dataclass(frozen=True)
class Doubt:
    """Why a plan must not be carried out unless a person allows it. ``clock``: this machine's or the store's; ``fraction``: it deletes too much;
    ``rebuilt``: what was known of good backups may be lost.
    """

    about: Literal["clock", "fraction", "rebuilt"]
    sentence: str

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True)
class Moving:
    """What is older than ``after``, and is kept for no other reason than that a policy keeps it, moves to the target ``to``.

    ``staying``: ids that cannot go there now, with why.
    """

    to: str
    after: timedelta
    staying: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reclassing:
    """What is older than ``after``, and is kept for no other reason than that a policy keeps it, goes to another class of the same store."""

    storage_class: str
    after: timedelta


class Decision(NamedTuple):
    """What becomes of one backup. ``reasons`` are half sentences, at least one; :attr:`reason` is all of them.

    Of what does not stay, ``to`` is the target that it moves to; None: it is deleted. Of what stays, ``storage_class`` is the one that it goes to; None: it stays in its own.

    A tuple, because a plan makes as many as there are backups.
    """

    backup: BackupFacts
    keep: bool
    reasons: tuple[str, ...]
    to: str | None = None
    storage_class: str | None = None

    @property
    def reason(self) -> str:
        return "; ".join(self.reasons)


@dataclass(frozen=True)
class TargetPlan:
    """A decision for every backup that the target holds, newest first, and the doubts about all of it. ``made_at`` is the ``now`` of it."""

    target: str
    made_at: datetime
    decisions: tuple[Decision, ...]
    doubts: tuple[Doubt, ...]

    @property
    def kept(self) -> tuple[Decision, ...]:
        return tuple(each for each in self.decisions if each.keep)

    @property
    def deleted(self) -> tuple[Decision, ...]:
        """In an order in which they can be deleted: what builds upon another goes before it."""
        going = [each for each in self.decisions if not each.keep and each.to is None]
        return tuple(sorted(going, key=lambda each: len(each.backup.chain), reverse=True))

    @property
    def moved(self) -> tuple[Decision, ...]:
        """What goes to another target, the oldest first."""
        return tuple(each for each in reversed(self.decisions) if each.to is not None)

    @property
    def reclassed(self) -> tuple[Decision, ...]:
        """What goes to another storage class, the oldest first."""
        return tuple(each for each in reversed(self.decisions) if each.storage_class is not None)

    @property
    def leaving(self) -> tuple[Decision, ...]:
        """All that the target will not hold any more."""
        return tuple(each for each in self.decisions if not each.keep)

    def forbidden_by(self, *, allow_clock: bool = False, allow_rebuilt: bool = False) -> tuple[Doubt, ...]:
        """The doubts that nobody allowed: with any, nothing may be deleted, WAL of this target included."""
        return _not_allowed(self.doubts, clock=allow_clock, rebuilt=allow_rebuilt)


@dataclass(frozen=True)
class WalBase:
    """A base backup as its WAL sees it. ``stop_lsn``: up to here it needs WAL to be restored to its own end. ``good`` as in a plan."""

    id: str
    timeline: int
    start_lsn: int
    stop_lsn: int
    finished_at: datetime
    good: bool = True

    @classmethod
    def of(cls, taken: PlannedBase, good: bool = True) -> WalBase:
        """From a base backup."""
        assert taken.base is not None
        base = taken.base
        stop = max(parse_lsn(base.stop_lsn), parse_lsn(base.last_lsn))
        return cls(taken.backup_id, base.timeline, parse_lsn(base.start_lsn), stop, base.stopped_at, good)


@dataclass(frozen=True)
class ClusterWal:
    """What a target has of one cluster: WAL, base backups, and of each timeline but the first the ancestors that its history names.

    A timeline that ``ancestors`` lacks, because its history could not be read, is unknown: then nothing of the cluster goes.
    """

    holdings: Holdings
    bases: tuple[WalBase, ...]
    ancestors: Mapping[int, Sequence[Ancestor]]

    def keeping(self, backup_ids: Collection[str]) -> ClusterWal:
        """The same with those of its bases only that a plan keeps."""
        kept = frozenset(backup_ids)
        return replace(self, bases=tuple(base for base in self.bases if base.id in kept))


@dataclass(frozen=True)
class WalStretch:
    """Archived segments in a row, and partial segments among them, with one fate. ``first`` and ``last`` are names of segments."""

    system_identifier: str
    timeline: int
    first: str
    last: str
    objects: tuple[Stored, ...]
    keep: bool
    reason: str

    @property
    def stored_bytes(self) -> int:
        return sum(each.size for each in self.objects)


@dataclass(frozen=True)
class WalPlan:
    """What becomes of all archived WAL of a target; histories always stay, and are not named."""

    made_at: datetime
    stretches: tuple[WalStretch, ...]
    doubts: tuple[Doubt, ...]

    @property
    def deleted(self) -> tuple[Stored, ...]:
        """The objects that go, oldest first within each timeline."""
        return tuple(stored for each in self.stretches if not each.keep for stored in each.objects)

    def forbidden_by(self, *, allow_clock: bool = False) -> tuple[Doubt, ...]:
        """The doubts that nobody allowed: with any, nothing may be deleted."""
        return _not_allowed(self.doubts, clock=allow_clock)


def _not_allowed(doubts: Sequence[Doubt], **allowed: bool) -> tuple[Doubt, ...]:
    return tuple(doubt for doubt in doubts if not allowed.get(doubt.about, False))
