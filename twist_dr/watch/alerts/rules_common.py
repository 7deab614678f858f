"""What all rules share: a finding, and words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from twist_dr.catalog import AttemptRow, BackupRow
from twist_dr.repository.kinds import FULL
from twist_dr.settings import Settings
from twist_dr.system.progress import human_age
from twist_dr.system.severity import Severity
from twist_dr.watch.alerts.facts import WITHOUT_MEDIA, Facts
from twist_dr.watch.schedules import media_differ, several_of_a_job

SafetyState = Literal["safe", "degraded", "unsafe"]
#: From best to worst: the place is the exit status of ``twist-dr status``.
STATES: tuple[SafetyState, ...] = ("safe", "degraded", "unsafe")
#: What a finding makes of what it is about.
_STATE_OF: dict[Severity, SafetyState] = {
    "info": "safe",
    "warning": "degraded",
    "error": "degraded",
    "critical": "unsafe",
}

_LONGEST_ERROR = 600
_NAMED = 3


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be, now. ``cause`` is the same text as long as it lasts."""

    cause: str
    kind: str
    severity: Severity
    message: str
    #: What to do next.
    advice: str
    run_id: str | None = None
    #: It tells of something that happened, so that a person who resolves it is not told again.
    once: bool = False
    #: What has this cause now, such as tables or backups, where there may be several: that somebody knows of one does not mean that he
    #: knows of the next.
    about: frozenset[str] = frozenset()
    #: The storage target that it is about.
    target: str | None = None
    #: The state that follows, where it is another than its severity says: nobody is woken by what was just set up, and is not safe for
    #: that.
    makes: SafetyState | None = None

    @property
    def state(self) -> SafetyState:
        return self.makes or _STATE_OF[self.severity]


Rule = Callable[[Facts, Settings, datetime], Iterator[Finding]]


def by_schedule(facts: Facts, settings: Settings, job: str) -> Iterator[tuple[str, Sequence[AttemptRow]]]:
    """A job's runs, with a name; of several schedules each by itself: that of noon does not stand for that of the night. A person's runs stand for all."""
    attempts = facts.attempts.get(job, ())
    several = [entry for entry in several_of_a_job(settings) if entry.job == job]
    if not several:
        yield job, attempts
    launchers = {entry.launcher for entry in several}
    for entry in several:
        mine = [each for each in attempts if each.who == entry.launcher or each.who not in launchers]
        yield f"{job}:{entry.own_name}" if entry.own_name else job, mine


def by_media(rows: Sequence[BackupRow], settings: Settings) -> Iterator[tuple[str, Sequence[BackupRow]]]:
    """Backups, with the end of a name; those without media by themselves where others are scheduled with them."""
    if not media_differ(settings):
        yield "", rows
        return
    yield "", [row for row in rows if row.kind != FULL.kind or "media" in row.parts]
    yield WITHOUT_MEDIA, [row for row in rows if row.kind == FULL.kind and "media" not in row.parts]


def failures(attempts: Sequence[AttemptRow]) -> list[AttemptRow]:
    """The runs that failed since the last success, newest first. One that a person stopped says nothing."""
    failed: list[AttemptRow] = []
    for attempt in attempts:
        if attempt.state == "succeeded":
            break
        if attempt.state in ("failed", "killed") and not attempt.was_refused:
            failed.append(attempt)
    return failed


def in_a_row(failed: Iterable[AttemptRow]) -> int:
    """How many due times of a schedule came to nothing."""
    return len({attempt.scheduled_for for attempt in failed if attempt.scheduled_for is not None})


def what_failed(attempt: AttemptRow) -> str:
    """``backup_full failed in step copies: why``, with a full stop."""
    where = f" in step {attempt.step}" if attempt.step else ""
    how = "was killed" if attempt.state == "killed" else "failed"
    why = f": {shortened(attempt.error)}" if attempt.error else ""
    return with_full_stop(f"{attempt.job} {how}{where}{why}")


def with_full_stop(text: str) -> str:
    """With a full stop, and one."""
    return text.rstrip(". ") + "."


def shortened(text: str) -> str:
    """An error, as much of it as belongs into a message."""
    return text if len(text) <= _LONGEST_ERROR else text[:_LONGEST_ERROR].rstrip() + " ..."


def some(names: Sequence[str]) -> str:
    """``a, b, c and 4 more``."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def human(time: timedelta) -> str:
    """``26 h``, ``5 days``: for ages."""
    return human_age(time.total_seconds())
