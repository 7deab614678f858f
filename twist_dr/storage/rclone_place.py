"""A place that rclone carries, to look at, read and clear: what there is, and what each asking must make sure of."""

from __future__ import annotations

import builtins
import http.client
import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import BinaryIO, TypeVar

from twist_dr.errors import ObjectCorrupt, ObjectMissing, StorageError, TargetUnavailable
from twist_dr.storage.base import Space, StorageTarget, StoredObject
from twist_dr.storage.machine import Machine
from twist_dr.storage.names import DEEPEST, INCOMING, begun_at, in_key_order, is_part, key_parts
from twist_dr.storage.rclone_calls import Item, RcloneCalls, RcloneFailed
from twist_dr.storage.rclone_lock import PlaceLock
from twist_dr.storage.rclone_options import RcloneOptions, Traits
from twist_dr.storage.rclone_session import RcloneLimits, RcloneSession
from twist_dr.storage.rclone_times import moment
from twist_dr.storage.resuming import Answer, ResumingReader
from twist_dr.system.sizes import CHUNK

T = TypeVar("T")

#: How often in a row going on with a broken reading may bring nothing.
_READ_ATTEMPTS = 5


class RclonePlace(StorageTarget):
    """All that the contract asks but ``put``."""

    def __init__(self, name: str, options: RcloneOptions, machine: Machine, limits: RcloneLimits) -> None:
        super().__init__(name)
        self.options = options
        self.session = RcloneSession(name, options, machine, limits)
        #: Names that are known to be there in just these letters.
        self._exact: set[str] = set()
        self._lock = PlaceLock(machine, options.place, name)

    @property
    def location(self) -> str:
        return self.options.called

    @property
    def traits(self) -> Traits:
        """What the place is like."""
        return self.options.traits

    def prepare(self) -> None:
        self.session.ask("use the target", lambda calls: calls.call("operations/mkdir", fs=self.session.fs, remote=""))
        self._require_root()

    def open(self, key: str) -> BinaryIO:
        key_parts(key)
        return self._open(key)

    def stat(self, key: str) -> StoredObject | None:
        key_parts(key)
        found = self._item(key)
        return _stored(key, found) if found is not None else None

    def list(self, prefix: str) -> Iterator[StoredObject]:
        parts = key_parts(prefix) if prefix else []
        yield from self._walk(prefix, len(parts))

    def children(self, prefix: str) -> builtins.list[str]:
        if prefix:
            key_parts(prefix)
        return sorted(item.name for item in self._entries(prefix))

    def delete(self, key: str) -> None:
        *folders, _ = key_parts(key)
        if self._item(key) is None:
            return
        self._remove(key)
        if self._item(key) is not None:
            raise TargetUnavailable(
                f"{key} is still there after it was deleted", remedy="run again later", target=self.name
            )
        if self.traits.staged:
            self._remove_empty(folders)

    def sweep(self, older_than: timedelta) -> int:
        limit = datetime.now(timezone.utc) - older_than
        removed = 0
        for item in self._listed(INCOMING):
            begun = begun_at(item.name)
            # Within a bandwidth sending may take days: what was written to since then is under way.
            written = moment(item.modified) or limit
            if begun is not None and not item.is_folder and begun <= limit.timestamp() and written <= limit:
                self._remove(f"{INCOMING}/{item.name}")
                removed += 1
        for item in self._entries(""):
            if item.name.startswith(".probe-"):
                below = self._walk(item.name, 1) if item.is_folder else iter([_stored(item.name, item)])
                for each in builtins.list(below):
                    if each.modified <= limit:
                        self.delete(each.key)
        return removed

    def space(self) -> Space:
        return self._about()

    def give_up(self) -> None:
        self.session.give_up()

    def _about(self, attempts: int | None = None) -> Space:
        def question(calls: RcloneCalls) -> Space:
            try:
                about = calls.call("operations/about", fs=self.session.fs)
            except RcloneFailed as failure:
                if "doesn't support about" in failure.said:
                    return Space(None, None)
                raise
            return Space(about.get("free"), about.get("total"))

        return self.session.ask("ask for the space", question, attempts)

    # -- looking -------------------------------------------------------------------------------------------------------

    def _item(self, key: str) -> Item | None:
        """The object under that key. A folder is none. Raises ``TargetUnavailable`` when the target's own folder is not there."""
        found = self._look(key, no_folder=True)
        if found is None:
            self._require_root()
        return found if found is not None and not found.is_folder else None

    def _look(self, remote: str, *, no_folder: bool = False) -> Item | None:
        """What lies there: an object or a folder. A folder is not looked for where no move could replace one."""
        no_folder = no_folder or self.traits.folder_ids
        hashes = (self.traits.hash,) if self.traits.hash else ()

        def question(calls: RcloneCalls) -> Item | None:
            return calls.stat(self.session.fs, remote, hashes, no_folder=no_folder)

        return self.session.ask(f"look up {remote}", _or_none(question))

    def _listed(self, folder: str) -> builtins.list[Item]:
        """All that lies in a folder; nothing where there positively is no such folder."""

        def question(calls: RcloneCalls) -> builtins.list[Item]:
            return calls.list(self.session.fs, folder)

        found = self.session.ask(f"list {folder or 'the target'}", _or_none(question))
        if found is None:
            self._require_root()
        return found or []

    def _require_root(self) -> None:
        """Raise ``TargetUnavailable`` unless the target's own folder is there: one that is away must never look like an empty one."""
        try:
            self.session.ask("look at the target's folder", lambda calls: calls.list(self.session.fs, ""))
        except ObjectMissing:
            raise TargetUnavailable(
                f"the folder {self.location} does not exist",
                remedy=f"create it, see what became of it, or correct storage_targets.{self.name}",
                target=self.name,
            ) from None

    def _entries(self, folder: str) -> builtins.list[Item]:
        """Objects and folders of a folder whose names can be parts of a key, in key order."""
        found = [
            item
            for item in self._listed(folder)
            if is_part(item.name) and (folder or item.name != INCOMING) and (item.is_folder or item.size >= 0)
        ]
        return sorted(found, key=lambda item: in_key_order(item.name, is_folder=item.is_folder))

    def _walk(self, folder: str, depth: int) -> Iterator[StoredObject]:
        for item in self._entries(folder):
            key = f"{folder}/{item.name}" if folder else item.name
            if not item.is_folder:
                yield _stored(key, item)
            elif depth + 1 < DEEPEST:
                yield from self._walk(key, depth + 1)

    def _open(self, remote: str) -> BinaryIO:
        def fetch(position: int) -> Answer:
            body = self.session.ask(f"read {remote}", lambda calls: calls.open(self.session.fs, remote, position))
            size = body.headers["Content-Length"]
            if size is None:
                body.close()
                raise ObjectCorrupt(
                    f"{remote}: {self.options.noun} does not tell how many bytes it has",
                    remedy="take the backup from another storage target",
                    target=self.name,
                )
            return Answer(body, int(size), body.headers["Content-Range"])

        broken = (OSError, http.client.HTTPException)
        reader = ResumingReader(remote, self.name, fetch, _READ_ATTEMPTS, broken)
        return io.BufferedReader(self.bandwidth.paced(reader), CHUNK)

    # -- removing --------------------------------------------------------------------------------------------------------

    def _remove(self, remote: str) -> None:
        def question(calls: RcloneCalls) -> None:
            calls.call("operations/deletefile", fs=self.session.fs, remote=remote)

        # What is shown for a while after it went is missing only when it is asked for by its id. Whoever must know whether it is gone looks.
        with suppress(ObjectMissing):
            self.session.ask(f"delete {remote}", _or_none(question))

    def _remove_empty(self, folders: builtins.list[str]) -> None:
        """Remove the folders that a deletion left empty; one that stays does no harm."""
        with suppress(StorageError), self._lock.held():
            while folders and not self._listed("/".join(folders)):
                self._remove_folder("/".join(folders))
                self._exact.discard("/".join(folders))
                folders = folders[:-1]

    def _remove_folder(self, path: str) -> None:
        """One that is shown as empty. The lock is held."""

        def question(calls: RcloneCalls) -> None:
            calls.call("operations/rmdir", fs=self.session.fs, remote=path)

        self.session.ask("remove an empty folder", question, attempts=1)


def _or_none(question: Callable[[RcloneCalls], T]) -> Callable[[RcloneCalls], T | None]:
    """The same, with nothing for an answer where rclone says that there is no such thing."""

    def asked(calls: RcloneCalls) -> T | None:
        try:
            return question(calls)
        except RcloneFailed as failure:
            if failure.status == 404:
                return None
            raise

    return asked


def _stored(key: str, item: Item) -> StoredObject:
    # Of what has no time nobody knows that it is old: it counts as new, which keeps retention from it.
    return StoredObject(key, item.size, moment(item.modified) or datetime.now(timezone.utc))
