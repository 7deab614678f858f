"""Whether the catalog is the one that was written before. A lost one is begun anew, so that backups go on, and must not pass for a fresh start."""

from __future__ import annotations

from twist_dr.catalog import Catalog
from twist_dr.catalog.notes import Rebuilt
from twist_dr.settings import Application
from twist_dr.watch.audit.log import Anchor, places, read_anchor


def is_lost(app: Application) -> bool:
    """Whether the catalog lacks the last line that this machine wrote into its audit log, and was not rebuilt since. Raises ``CatalogUnavailable``.

    The anchor beside the catalog remembers that line, and stays as it is once the log lacks it.
    """
    beside = places(app.settings)
    try:
        # Before the catalog is asked: a line that is written meanwhile must not look lost.
        anchor = read_anchor(beside)
        written = beside.anchor.stat().st_mtime if anchor else 0.0
    except (OSError, ValueError):
        # Nothing can be told from it; twist-dr audit verify says that.
        return False
    if anchor is None or _holds(app.catalog, app.name, anchor):
        return False
    rebuilt = app.catalog.note(app.name, Rebuilt)
    return rebuilt is None or rebuilt.at.timestamp() < written


def _holds(catalog: Catalog, application: str, anchor: Anchor) -> bool:
    newest = next(iter(catalog.audit(application, limit=1)), None)
    if newest is None or newest.seq < anchor.seq:
        return False
    if newest.seq == anchor.seq:
        return newest.digest == anchor.digest
    # Other machines have written since, or a new log has outgrown the lost one.
    since = catalog.audit(application, limit=newest.seq - anchor.seq + 1)
    return any((line.seq, line.digest) == (anchor.seq, anchor.digest) for line in since)
