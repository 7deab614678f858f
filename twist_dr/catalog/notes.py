"""The notes that parts of twist-dr leave in the catalog for the next time: each has a name, and a type for what it holds.

Later versions may know more fields: what is unknown is left out, and what was not written yet has a default.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, PlainSerializer

if TYPE_CHECKING:
    from twist_dr.catalog.catalog import Catalog

#: As ISO 8601, in UTC.
Moment = Annotated[
    datetime, AfterValidator(lambda moment: moment.astimezone(timezone.utc)), PlainSerializer(datetime.isoformat)
]


class Noted(BaseModel):
    """A part of a note."""

    model_config = ConfigDict(frozen=True)


class Note(Noted):
    """A note. ``mark`` is its name; of one kind there may be several, each of something: ``mark:of``."""

    mark: ClassVar[str]


class ScheduleWatched(Noted):
    """A schedule as it was when it began to be watched."""

    cron: str
    time_zone: str
    since: Moment


class Watched(Note):
    """What the alerts watch since when."""

    mark: ClassVar[str] = "alerts"
    since: Moment
    schedules: dict[str, ScheduleWatched] = {}
    targets: dict[str, Moment] = {}


class DaemonTick(Note):
    """A tick of the orchestrator's daemon: the settings ``file`` that it goes by with its fingerprint, and schedules that are ``stopped``."""

    mark: ClassVar[str] = "daemon"
    at: Moment
    file: str | None
    settings: str
    version: str
    stopped: tuple[str, ...] = ()


class Fingerprints(Note):
    """The settings' values as salted hashes, by path; of a salt."""

    model_config = ConfigDict(frozen=True, extra="allow")
    mark: ClassVar[str] = "settings"

    @property
    def by_path(self) -> dict[str, str]:
        return dict(self.model_extra or {})


class Rebuilt(Note):
    """The catalog was rebuilt from a storage target."""

    mark: ClassVar[str] = "rebuilt"
    at: Moment


class WalWindow(Note):
    """The window by which the last cleanup of a storage target went; None when its write-ahead log went by no window."""

    mark: ClassVar[str] = "wal window"
    seconds: float | None


class Scrubbed(Note):
    """When each storage target was last read to the end of what was due."""

    mark: ClassVar[str] = "scrub"
    targets: dict[str, Moment] = {}


class ArchivedCopies(Note):
    """The copies on a storage target that must be restored in its store before they can be read: storage class by backup."""

    mark: ClassVar[str] = "archived"
    copies: dict[str, str] = {}


class WalScrubbed(Note):
    """The rotation through a storage target's write-ahead log: the last key that was read, and why keys that are ``bad`` are."""

    mark: ClassVar[str] = "scrub:wal"
    after: str | None = None
    bad: dict[str, str] = {}
    at: Moment


class Repair(Noted):
    """One repair. ``backup_id``: an id, or the key of an object of write-ahead log; ``what`` was wrong; ``source``: where good bytes came from."""

    backup_id: str
    target: str
    at: Moment
    what: str
    source: str


class Repairs(Note):
    """What scrubs repaired of late, oldest first."""

    mark: ClassVar[str] = "repairs"
    repairs: tuple[Repair, ...] = ()


class WayBack(Noted):
    """One way back that a drill rehearsed, and the seconds of its phases."""

    backup_id: str
    phases: dict[str, float]
    seconds: float


class Drilled(Note):
    """What the last drill measured, and what went wrong."""

    mark: ClassVar[str] = "drill"
    at: Moment
    target: str
    ok: bool
    error: str | None
    objective_seconds: float | None
    ways: dict[str, WayBack]
    run_id: str | None


class HistorySize(Note):
    """What Dagster's history took when cleanup last shortened it: ``bytes`` after that, ``bytes_per_day`` that it had grown by."""

    mark: ClassVar[str] = "history"
    at: Moment
    bytes: int
    bytes_per_day: float | None = None


def archived_copies(catalog: Catalog, application: str, target: str) -> dict[str, str]:
    """The copies on a target that cannot be read at once, as last known: storage class by backup."""
    return dict((catalog.note(application, ArchivedCopies, target) or ArchivedCopies()).copies)
