"""The files of two backups compared by their indexes, which are read side by side: neither is held, nor what differs, however many there are."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import tempfile
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field

from twist_dr.catalog import SealedBackup
from twist_dr.errors import BackupError, TwistDRError
from twist_dr.repository.archive_index import ArchiveEntry, read_index
from twist_dr.repository.keys import Keyring
from twist_dr.repository.repository import Repository
from twist_dr.storage.base import StorageTarget
from twist_dr.storage.chunks import buffered

#: Parts whose files an index names.
INDEXED = ("media", "configuration")
#: Of one kind of change: what a few thousand names take. More go to a temporary file.
_MOST_HELD_BYTES = 1 << 20


class Names:
    """Names of files in the archive's order: many of them in a temporary file, which no other process sees."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_MOST_HELD_BYTES)  # noqa: SIM115 - it lives as long as we
        self._count = 0

    def add(self, name: str) -> None:
        self._file.write(json.dumps(name).encode() + b"\n")
        self._count += 1

    def __del__(self) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        """Once at a time."""
        self._file.seek(0)
        for line in self._file:
            yield json.loads(line)


@dataclass(frozen=True)
class FileChanges:
    """Names of files by what became of them."""

    added: Names = field(default_factory=Names)
    removed: Names = field(default_factory=Names)
    changed: Names = field(default_factory=Names)


def compare_files(
    before: SealedBackup, after: SealedBackup, targets: Mapping[str, StorageTarget], keyring: Keyring
) -> dict[str, FileChanges]:
    """Names of files that differ, by part, from the indexes on the storage targets. Raises ``BackupError`` when no target gives one."""
    changes = {}
    for part in INDEXED:
        name = f"{part}.files.jsonl"
        sides = [_Side(backup, name, targets, keyring) for backup in (before, after)]
        if any(side.exists for side in sides):
            changes[part] = _compare(*sides)
    return changes


def _compare(before: _Side, after: _Side) -> FileChanges:
    """The first targets that give both to their ends."""
    while True:
        try:
            with contextlib.closing(before.entries()) as old, contextlib.closing(after.entries()) as new:
                return _merge(old, new)
        except _Failed as failed:
            failed.side.pass_over(failed.why)


class _Failed(Exception):
    def __init__(self, side: _Side, why: TwistDRError | None) -> None:
        super().__init__(why)
        self.side, self.why = side, why


class _Side:
    """One backup's index, from the next target as long as one fails."""

    def __init__(self, backup: SealedBackup, name: str, targets: Mapping[str, StorageTarget], keyring: Keyring) -> None:
        self._backup, self._name, self._keyring = backup, name, keyring
        self._left = list(targets.items())
        self._failures: list[str] = []
        self._in_order = True
        self.exists = backup.manifest.artifact(name) is not None

    def pass_over(self, why: TwistDRError | None) -> None:
        """The first target that is left, for this reason; without one, its index is only to be put in order first."""
        if why is None:
            self._in_order = False
            return
        self._failures.append(f"{self._left.pop(0)[0]}: {why}")

    def entries(self) -> Generator[ArchiveEntry, None, None]:
        """In the order of :func:`_order`; none when the backup has no index. Raises ``_Failed`` and ``BackupError``."""
        if not self.exists:
            return
        if not self._left:
            raise BackupError(
                f"No storage target gives {self._name} of {self._backup.backup_id}, so its files cannot be compared. {' '.join(self._failures)}"
            )
        found = self._read(self._left[0][1])
        last = ""
        for entry in found if self._in_order else _sorted(found):
            if (key := _order(entry.path)) < last:
                raise _Failed(self, None)
            last = key
            yield entry

    def _read(self, target: StorageTarget) -> Iterator[ArchiveEntry]:
        repository = Repository(target, self._backup.application)
        try:
            manifest = repository.manifest(self._backup.backup_id, self._keyring)
            with buffered(repository.read(manifest, self._name, self._keyring)) as lines:
                yield from read_index(lines)
        except TwistDRError as error:
            raise _Failed(self, error) from error


def _order(path: str) -> str:
    """Sorts as the archive does: a folder, all that is in it, then its next neighbour."""
    return path.replace("/", "\0")


def _sorted(entries: Iterator[ArchiveEntry]) -> Iterator[ArchiveEntry]:
    """The same in that order, by way of the disk: an earlier version wrote a configuration's index in the order of its patterns."""
    with contextlib.closing(sqlite3.connect("")) as database:
        database.execute("CREATE TABLE entry (place BLOB, line BLOB)")
        rows = ((_order(each.path).encode("utf-32-be", "surrogatepass"), each.line()) for each in entries)
        database.executemany("INSERT INTO entry VALUES (?, ?)", rows)
        for (line,) in database.execute("SELECT line FROM entry ORDER BY place"):
            yield ArchiveEntry(**json.loads(line))


def _merge(before: Iterator[ArchiveEntry], after: Iterator[ArchiveEntry]) -> FileChanges:
    changes = FileChanges()
    old, new = next(before, None), next(after, None)
    #: Earlier versions recorded no attributes; the topmost folder tells, which comes first.
    recorded = [False, False]
    while old is not None or new is not None:
        here = _order(old.path) if old else None
        there = _order(new.path) if new else None
        if old is not None and (there is None or (here is not None and here < there)):
            changes.removed.add(old.path)
            old = next(before, None)
        elif new is not None and (here is None or (there is not None and there < here)):
            changes.added.add(new.path)
            new = next(after, None)
        elif old is not None and new is not None:
            recorded = [was or each.attributes is not None for was, each in zip(recorded, (old, new), strict=True)]
            if _differ(old, new, attributes=all(recorded)):
                changes.changed.add(new.path)
            old, new = next(before, None), next(after, None)
    return changes


def _differ(old: ArchiveEntry, new: ArchiveEntry, *, attributes: bool) -> bool:
    same = (old.kind, old.size, old.sha256) == (new.kind, new.size, new.sha256)
    # A further name of a file has its attributes where that first stands.
    known = attributes and old.same_as is None and new.same_as is None
    return not same or (known and old.attributes != new.attributes)
