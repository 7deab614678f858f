"""The WAL window by which cleanups of a target went: one mistyped word makes it shorter, and all older WAL superfluous."""

from __future__ import annotations

from datetime import timedelta

from twist_dr.catalog.notes import WalWindow
from twist_dr.retention.doubts import beyond, shorter_window
from twist_dr.retention.model import Doubt, WalPlan
from twist_dr.settings import Application


class Windows:
    """Remembers the windows of all targets. A shorter one takes the place of a longer one only when what it costs was allowed."""

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
