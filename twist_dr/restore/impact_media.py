"""What the live media folders have that a backup has not: two walks side by side, nothing opened."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from errno import ENOENT, ENOTDIR
from itertools import groupby
from pathlib import Path

from twist_dr.repository.archive_index import ArchiveEntry
from twist_dr.restore.impact import Files, MediaImpact, go_on_unless
from twist_dr.system.words import shown

_MOST_EXAMPLES = 20
_MOST_NOTES = 20
#: A float holds today's time to a quarter of a microsecond; some file systems round to a whole one.
_SAME_TIME_SECONDS = 2e-6


def media_impact(
    folders: Mapping[str, Path], index: Iterator[ArchiveEntry], *, stop: threading.Event | None = None
) -> list[MediaImpact]:
    """Each live media folder against the backup's index, which is read to its end; sorted by name.

    Both are walked in the order of :class:`~twist_dr.repository.archive.ArchiveWriter`, so neither is held in memory. Files
    are compared by kind, size and time, links by what they lead to; nothing is opened. Folders are not counted, only what
    is in them. Raises what ``index`` raises, and ``Cancelled`` soon after ``stop`` is set.
    """
    found = {}
    for name, entries in groupby(index, lambda entry: entry.path.partition("/")[0]):
        if name in folders:
            found[name] = _FolderComparison(name, folders[name], stop).compare(entries)
        else:
            go_on_unless(stop)
            note = f"the backup has media of {shown(name)}, which the settings do not have; they would be left out"
            found[name] = MediaImpact(shown(name), notes=[note])
    for name in folders.keys() - found.keys():
        note = f"the backup has no media of {name}; {folders[name]} would stay as it is"
        found[name] = MediaImpact(name, notes=[note])
    return [found[name] for name in sorted(found)]


@dataclass(frozen=True)
class _Found:
    """What lies in a live folder. ``path`` as in the index, ``real`` where it is; ``kind`` as there, or ``unreadable``."""

    path: str
    real: str
    kind: str
    size: int = 0
    modified: float = 0.0
    why: str = ""


class _Tally:
    def __init__(self) -> None:
        self._count = self._bytes = 0
        self._examples: list[str] = []

    def add(self, path: str, size: int) -> None:
        self._count += 1
        self._bytes += size
        if len(self._examples) < _MOST_EXAMPLES:
            self._examples.append(shown(path))

    @property
    def files(self) -> Files:
        return Files(self._count, self._bytes, self._examples)


class _FolderComparison:
    """Two walks side by side."""

    def __init__(self, name: str, root: Path, stop: threading.Event | None) -> None:
        self._name, self._root, self._stop = name, root, stop
        self._gone, self._changed, self._back = _Tally(), _Tally(), _Tally()
        self._unreadable: list[_Found] = []
        self._hidden = ""
        """Where we could not look: what the backup has below it may be there or not."""

    def compare(self, entries: Iterator[ArchiveEntry]) -> MediaImpact:
        walk = _walk(os.path.realpath(self._root), self._name)
        live, entry = next(walk, None), next(entries, None)
        missing = live is None
        while live is not None or entry is not None:
            go_on_unless(self._stop)
            if entry is None or (live is not None and _order(live.path) < _order(entry.path)):
                assert live is not None
                self._only_live(live)
                live = next(walk, None)
            elif live is None or live.path != entry.path:
                self._only_backup(entry)
                entry = next(entries, None)
            else:
                self._both(live, entry)
                live, entry = next(walk, None), next(entries, None)
        return MediaImpact(
            self._name, self._gone.files, self._changed.files, self._back.files, self._notes(missing=missing)
        )

    def _only_live(self, live: _Found) -> None:
        if live.kind == "unreadable":
            self._cannot_look(live)
        elif live.kind != "folder":
            self._gone.add(live.path, live.size)

    def _only_backup(self, entry: ArchiveEntry) -> None:
        hidden = self._hidden and entry.path.startswith(self._hidden)
        if entry.kind != "folder" and not hidden:
            self._back.add(entry.path, entry.size)

    def _both(self, live: _Found, entry: ArchiveEntry) -> None:
        if live.kind == "unreadable":
            self._cannot_look(live)
        elif live.kind != entry.kind or (live.kind != "folder" and not _same(live, entry)):
            self._changed.add(live.path, live.size)

    def _cannot_look(self, live: _Found) -> None:
        self._unreadable.append(live)
        self._hidden = f"{live.path}/"

    def _notes(self, *, missing: bool) -> list[str]:
        if missing:
            return [f"the media folder {self._root} is not there; mount it, or correct media.{self._name}"]
        some, more = self._unreadable[:_MOST_NOTES], len(self._unreadable) - _MOST_NOTES
        notes = [f"{shown(each.real)} cannot be read ({each.why}) and was not compared" for each in some]
        return notes + ([f"{self._name}: {more:,} more cannot be read and were not compared"] if more > 0 else [])


def _order(path: str) -> str:
    """Sorts as the archive does: a folder, all that is in it, then its next neighbour."""
    return path.replace("/", "\0")


def _same(live: _Found, entry: ArchiveEntry) -> bool:
    if live.kind == "link":
        try:
            target = os.readlink(live.real)
        except OSError:  # changed under our hands
            return False
        return hashlib.sha256(os.fsencode(target)).hexdigest() == entry.sha256
    return live.size == entry.size and abs(live.modified - entry.modified) <= _SAME_TIME_SECONDS


def _walk(root: str, name: str) -> Iterator[_Found]:
    """A folder and all below it; nothing when it is not there."""
    folders: list[tuple[str, str, Iterator[str]]] = []
    found, children = _look(root, name)
    while True:
        if found is not None:
            yield found
            if children is not None:
                folders.append((found.real, found.path, iter(children)))
        while folders and (child := next(folders[-1][2], None)) is None:
            folders.pop()
        if not folders:
            return
        real, path, _ = folders[-1]
        assert child is not None
        found, children = _look(f"{real}/{child}", f"{path}/{child}")


def _look(real: str, path: str) -> tuple[_Found | None, list[str] | None]:
    """What is there, and its sorted names when it is a folder. None for what has gone, and what backups leave out."""
    try:
        status = os.lstat(real)
        if stat.S_ISDIR(status.st_mode):
            return _Found(path, real, "folder"), sorted(os.listdir(real))
    except OSError as error:
        if error.errno in (ENOENT, ENOTDIR):
            return None, None
        return _Found(path, real, "unreadable", why=os.strerror(error.errno or 0)), None
    if stat.S_ISREG(status.st_mode):
        return _Found(path, real, "file", status.st_size, status.st_mtime), None
    return (_Found(path, real, "link"), None) if stat.S_ISLNK(status.st_mode) else (None, None)
