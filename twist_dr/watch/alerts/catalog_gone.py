"""When there is no catalog: nothing can be looked after, and that must be told, though nothing can be remembered there."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from twist_dr.catalog import AlertRow, CatalogUnavailable
from twist_dr.errors import Busy
from twist_dr.settings import Application, Settings
from twist_dr.system.documents import NOTE, read_file, read_mapping
from twist_dr.watch.alerts.channels import deliver_all
from twist_dr.watch.alerts.telling import ITSELF, channels, passed, telling
from twist_dr.watch.alerts.words import compose

#: A catalog that is locked, or whose server restarts, is there again in a moment.
_CATALOG_GRACE = timedelta(minutes=5)
_CATALOG_EVERY = timedelta(hours=1)

#: Where no file can be written, this process at least remembers.
_REMEMBERED: dict[Path, dict[str, str]] = {}


def _memory(settings: Settings) -> Path:
    return settings.work_dir / "alerts" / f"{settings.application}-catalog.json"


def tell_catalog_gone(app: Application, unavailable: CatalogUnavailable, now: datetime, *, meanwhile: str = "") -> None:
    """Tell that nothing can be told. At most once an hour, by a small file: the catalog remembers nothing now.

    ``meanwhile``: a sentence of what else went wrong, which no alert can tell.
    """
    try:
        with telling(app):
            _tell_without_catalog(app, unavailable, now, meanwhile)
    except Busy:
        return
    except Exception as error:
        app.report.warning(f"that the catalog is not there could not be told: {type(error).__name__}: {error}")


def _tell_without_catalog(app: Application, unavailable: CatalogUnavailable, now: datetime, meanwhile: str) -> None:
    settings = app.settings
    path = _memory(settings)
    known = _recall(path)
    since = datetime.fromisoformat(known["since"]) if "since" in known else now
    told = datetime.fromisoformat(known["told_at"]) if "told_at" in known else None
    remembered = {"since": since.isoformat()} | ({"told_at": told.isoformat()} if told else {})
    waited = not unavailable.retryable or passed(since, _CATALOG_GRACE, now)
    if waited and (told is None or passed(told, _CATALOG_EVERY, now)):
        alert = _catalog_alert(settings, f"{unavailable} {meanwhile}".rstrip(), since, now)
        message = compose(alert, "raised" if told is None else "again", now=now)
        deliveries = deliver_all(channels(settings), message)
        for each in deliveries:
            if not each.ok:
                app.report.warning(f"alerts channel {each.channel}: {each.error}")
        # Also when nobody was reached: without a catalog a server that hangs must not be asked at each tick.
        remembered["told_at"] = now.isoformat()
    _remember(path, remembered)


def tell_catalog_back(settings: Settings, now: datetime) -> None:
    """Tell that the catalog is there again, to those who heard that it was not."""
    path = _memory(settings)
    known = _recall(path) if path in _REMEMBERED or path.exists() else {}
    if not known:
        return
    _REMEMBERED.pop(path, None)
    try:
        path.unlink()
    except FileNotFoundError:
        # Another process was quicker, and tells.
        return
    except OSError:
        pass
    if "told_at" in known:
        since = datetime.fromisoformat(known["since"])
        row = _catalog_alert(settings, "The catalog could not be used.", since, now)
        gone = replace(row, state="resolved", resolved_at=now, resolved_by=ITSELF)
        deliver_all(channels(settings), compose(gone, "resolved", now=now))


def _catalog_alert(settings: Settings, message: str, since: datetime, now: datetime) -> AlertRow:
    advice = "Until it is back no other alert can be raised. Backups do not depend on it; see twist-dr doctor."
    return AlertRow(
        None, settings.application, "catalog", "catalog_unavailable", "critical", "active", message, advice, since, now
    )  # fmt: skip


def _recall(path: Path) -> dict[str, str]:
    with suppress(OSError, ValueError):
        known = read_mapping(read_file(path, NOTE.size), NOTE)
        datetime.fromisoformat(known["since"])
        return dict(known)
    return _REMEMBERED.get(path, {})


def _remember(path: Path, known: dict[str, str]) -> None:
    _REMEMBERED[path] = known
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        path.write_text(json.dumps(known))
