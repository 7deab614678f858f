"""What a place that rclone carries can do, found by trying."""

from __future__ import annotations

import hashlib
import os
import tempfile
import uuid
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from twist_dr.errors import StorageError
from twist_dr.storage.base import Capabilities, Digest
from twist_dr.storage.rclone_times import moment

if TYPE_CHECKING:
    from twist_dr.storage.rclone_target import RcloneTarget

_SIZE = 1 << 10
#: A time further off is none: some servers tell none of folders, and rclone then says year 1.
_NO_TIME = timedelta(days=3650)
_NO_CLOCK = "How far its clock and this machine's are apart is not known."
_NOTE = "Nothing there refuses to overwrite: let the processes of one machine write to it, and no other."


def probe(target: RcloneTarget) -> Capabilities:
    """All of it, with an object and a folder that are removed again."""
    content = os.urandom(_SIZE)
    key = f".probe-{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory(prefix="twist-dr-") as folder:
        source = Path(folder) / "object"
        source.write_bytes(content)
        try:
            target.put(source, key, Digest(_SIZE, hashlib.sha256(content).hexdigest()))
        finally:
            with suppress(StorageError):
                target.delete(key)
    # A bucket has no folders, and objects there bear the times of their sources, as rclone sends them.
    skew, notes = (_skew(target, key), (_NOTE,)) if target.traits.staged else (None, (_NOTE, _NO_CLOCK))
    return Capabilities(False, target.traits.hash or "read-back", skew, (*notes, *target.traits.notes))


def _skew(target: RcloneTarget, name: str) -> float | None:
    """Seconds by which the server's clock is ahead of ours, by the time of a folder made now: objects may bear the times of their sources."""
    fs, before = target.session.fs, datetime.now(timezone.utc)
    target.session.ask("make a folder", lambda calls: calls.call("operations/mkdir", fs=fs, remote=name))
    try:
        after = datetime.now(timezone.utc)
        made = target.session.ask("look at a folder", lambda calls: calls.stat(fs, name))
    finally:
        target.session.ask("remove a folder", lambda calls: calls.call("operations/rmdir", fs=fs, remote=name))
    shown = moment(made.modified) if made is not None else None
    if shown is None or abs(shown - after) > _NO_TIME:
        return None
    # Servers tell whole seconds as a rule.
    nearest = min(max(shown, before - timedelta(seconds=1)), after)
    return round((shown - nearest).total_seconds(), 1)
