"""When a plan must not be carried out before a person has looked at it: a clock that may be wrong, too much to delete at once, or a catalog that forgot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta, timezone, tzinfo
from itertools import pairwise
from statistics import median_low

from twist_dr.catalog.notes import WalWindow
from twist_dr.repository.kinds import FULL, KINDS
from twist_dr.repository.manifest import Kind
from twist_dr.retention.model import Doubt, WalPlan
from twist_dr.retention.policy import local_day, span
from twist_dr.settings import Application

#: How far clocks of different machines may be apart before one of them is called wrong.
TOLERANCE = timedelta(hours=1)
#: A clock is believed again when backups of so many days follow each other.
BELIEVED_AFTER = 3
#: A silence longer than this, and so many times longer than usual, may be a clock that was set forward.
SHORTEST_SILENCE, TIMES_USUAL = timedelta(days=7), 5
#: The usual distance is that of so many days with a backup.
RECENT_DAYS = 20


def set_back(newest: datetime | None, now: datetime, what: str) -> list[Doubt]:
    """A doubt if ``newest``, of ``what``, lies in the future."""
    if newest is None or newest - now <= TOLERANCE:
        return []
    return [
        Doubt(
            "clock",
            f"{what} is of {_utc(newest)}, but this machine's clock says {_utc(now)}: if the clock is wrong, set it; if it was wrong when that was "
            "made, allow this plan once, or remove what was made then.",
        )
    ]


def set_forward(taken: Iterable[datetime], now: datetime, time_zone: tzinfo) -> list[Doubt]:
    """A doubt if time seems to have leapt lately, between backups or since the newest: ages are wrong then. ``taken`` newest first."""
    days: list[date] = []
    for moment in taken:
        day = local_day(moment, time_zone)
        if not days or day < days[-1]:
            days.append(day)
        if len(days) > RECENT_DAYS:
            break
    distances = [newer - older for newer, older in pairwise(days)]
    limit = max(SHORTEST_SILENCE, TIMES_USUAL * median_low(distances)) if distances else SHORTEST_SILENCE
    for since, (newer, older) in enumerate(pairwise([local_day(now, time_zone), *days])):
        if since < BELIEVED_AFTER and newer - older > limit:
            return [
                Doubt(
                    "clock",
                    f"between {older} and {newer} there is no backup, which is unusually long ({span(newer - older)}): if the clock was set forward, "
                    f"what seems too old is not. Look at the clock; this plan is believed when backups of {BELIEVED_AFTER} days follow each other, or "
                    "when you allow it.",
                )
            ]
    return []


def too_much(deleted: Sequence[int | None], held: Sequence[int | None], most: float, target: str) -> list[Doubt]:
    """A doubt if more than the fraction ``most`` goes, by number or by bytes. One size per backup, None where unknown."""
    told = beyond(deleted, held, most, "backups")
    if not told:
        return []
    return [
        Doubt(
            "fraction",
            f"{told} on {target} would go, more than cleanup.max_delete_fraction ({most:g}) allows at once: look at the plan and the policy, then "
            "allow this plan once.",
        )
    ]


def beyond(deleted: Sequence[int | None], held: Sequence[int | None], most: float, what: str) -> str:
    """How much goes, in words, if it is more than the fraction ``most``, by number or by bytes; else nothing."""
    told = []
    if len(deleted) > most * len(held):
        told.append(f"{len(deleted):,} of {len(held):,} {what}")
    going, all_bytes = sum(size or 0 for size in deleted), sum(size or 0 for size in held)
    if going > most * all_bytes:
        told.append(f"{going:,} of {all_bytes:,} bytes")
    return " and ".join(told)


def shorter_window(told: str, most: float, window: timedelta, before: timedelta | None, target: str) -> Doubt:
    """Of a window that became shorter; ``before`` is None when no cleanup is known that went by one. ``told``: how much WAL goes, of :func:`beyond`."""
    was = "no cleanup went by one before" if before is None else f"it was {span(before)} before"
    return Doubt(
        "fraction",
        f"{told} on {target} would go, more than cleanup.max_delete_fraction ({most:g}) allows at once, and the WAL window is "
        f"{span(window)}, where {was}: look at wal in the policies, then allow this plan once.",
    )


def unproven(kinds: Sequence[Kind]) -> Doubt:
    """Of a catalog that was rebuilt, and in which no backup of these kinds was found good since."""
    return Doubt(
        "rebuilt",
        f"the catalog was rebuilt, and {' and '.join(f'no {kind} backup' for kind in kinds)} was verified since, so nobody can tell which one must "
        f"outlive the others: run {' and '.join(map(_verifying, kinds))}, then cleanup again.",
    )


def _verifying(kind: Kind) -> str:
    """The job that verifies one of a kind."""
    return "verify_backup" if kind == FULL.kind else f"verify_backup with backup: {KINDS[kind].latest}"


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"


class Windows:
    """Remembers the WAL windows by which cleanups of all targets went: one mistyped word makes one shorter, and all older WAL superfluous.

    A shorter one takes the place of a longer one only when what it costs was allowed."""

    def __init__(self, app: Application) -> None:
        self._app = app
        #: Not what is allowed this once: that says what a person had to be asked for.
        self._usual = app.settings.cleanup.max_delete_fraction

    def doubts(self, name: str, window: timedelta | None, wal: WalPlan, most: float) -> list[Doubt]:
        """A doubt when the window became shorter and more than the fraction ``most`` of the WAL goes. A new base may rightly free as much."""
        note = self._app.catalog.note(self._app.name, WalWindow, name)
        told = _much(wal, most)
        if window is None or not told or not _is_shorter(window, note):
            return []
        seconds = note.seconds if note else None
        before = None if seconds is None else timedelta(seconds=seconds)
        return [shorter_window(told, most, window, before, name)]

    def note(self, name: str, window: timedelta | None, wal: WalPlan) -> None:
        """``wal`` is about to be carried out."""
        note = self._app.catalog.note(self._app.name, WalWindow, name)
        if note is None or not _is_shorter(window, note) or _much(wal, self._usual):
            seconds = None if window is None else window.total_seconds()
            self._app.catalog.leave_note(self._app.name, WalWindow(seconds=seconds), name)


def _is_shorter(window: timedelta | None, note: WalWindow | None) -> bool:
    """Shorter than what was noted. No note and no window are for ever."""
    before = note.seconds if note else None
    return window is not None and (before is None or window.total_seconds() < before)


def _much(wal: WalPlan, most: float) -> str:
    everything = [stored.size for each in wal.stretches for stored in each.objects]
    return beyond([stored.size for stored in wal.deleted], everything, most, "objects of WAL")
