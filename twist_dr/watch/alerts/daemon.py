"""The orchestrator's daemon, as its own ticks note it in the catalog: that it runs, and what the code location that it asks has loaded.

A script loads the settings afresh and proves nothing about the daemon, so only the sensor ``watch`` writes the note.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import twist_dr
from twist_dr.catalog.notes import DaemonTick
from twist_dr.settings import Application, Settings, digest_of
from twist_dr.watch.audit import fingerprint

#: The sensor looks every minute; a round of messages may take another two.
SILENT = timedelta(minutes=5)


@dataclass(frozen=True)
class Daemon:
    """What its last tick noted."""

    seen_at: datetime
    #: The settings file that it goes by; ``changed``: whether that is another one by now, None where it cannot be told.
    file: str | None
    changed: bool | None
    #: This package's, as it runs there.
    version: str
    #: Schedules that somebody switched off.
    stopped: frozenset[str] = frozenset()

    def runs(self, now: datetime) -> bool:
        """Whether it was seen a moment ago; a clock that was ahead then says nothing."""
        return abs(now - self.seen_at) <= SILENT


def why_silent(daemon: Daemon | None, now: datetime) -> str | None:
    """Why nothing is launched by itself now; None when the daemon runs."""
    if daemon is not None and daemon.runs(now):
        return None
    seen = "and never did" if daemon is None else f"last seen {daemon.seen_at:%Y-%m-%d %H:%M} UTC"
    return f"the daemon does not run ({seen})"


def note_daemon(app: Application, now: datetime, stopped: Collection[str]) -> None:
    """Note that it runs, with what the settings are that it runs with. Raises ``CatalogUnavailable``."""
    file, digest = app.settings.read_from or (None, b"")
    tick = DaemonTick(
        at=now,
        file=None if file is None else str(file),
        settings=fingerprint(app.settings, digest),
        version=twist_dr.__version__,
        stopped=tuple(sorted(stopped)),
    )
    app.catalog.leave_note(app.name, tick)


def read_daemon(app: Application) -> Daemon | None:
    """What the daemon noted last; None when it never did. Raises ``CatalogUnavailable``."""
    noted = app.catalog.note(app.name, DaemonTick)
    if noted is None:
        return None
    changed = None if noted.file is None else _changed(app.settings, Path(noted.file), noted.settings)
    return Daemon(noted.at, noted.file, changed, noted.version, frozenset(noted.stopped))


def _changed(settings: Settings, file: Path, noted: str) -> bool | None:
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return True
    except OSError:
        return None
    try:
        found = fingerprint(settings, digest_of(content))
    except OSError:  # whoever asks may not read the salt
        return None
    # With the salt of another machine, whose file is another one.
    same_machine = found.partition(":")[0] == noted.partition(":")[0]
    return found != noted if same_machine else None


def installed_version() -> str:
    """The version of this package that lies on disk: what runs may have been loaded before an upgrade."""
    text = Path(twist_dr.__file__).read_text()
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    return found[1] if found else twist_dr.__version__
