"""Google Drive, where names may repeat in a folder and a listing may lag behind what was just done, kept as a place where neither happens.

A lost answer makes an object a second time. Two processes, of which one is not shown yet what the other made, make a folder twice, and what lies in one of the
two cannot be reached by its path. So folders are made under the lock, which is held until Google shows them, and an object counts as stored when Google
shows it, once. What is there twice all the same is settled: of two objects with the same bytes one goes, two folders become one; two objects with
different bytes are told, and left. No folder is deleted, for that deletes what is in it: an empty one goes to the trash. Its id, which other processes keep,
leads there from then on, and what they store would follow it: so whoever takes a folder away notes it on this machine, and the others forget theirs.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from twist_dr.errors import ObjectCorrupt, ObjectMissing, StorageError, TargetRefused, TargetUnavailable
from twist_dr.storage.base import OnBytes
from twist_dr.storage.drive import GoogleDriveOptions
from twist_dr.storage.drive_folders import FOLDER, DriveFolders, no_answer
from twist_dr.storage.machine import Machine
from twist_dr.storage.names import INCOMING
from twist_dr.storage.rclone_calls import Item, RcloneCalls
from twist_dr.storage.rclone_hashes import Expected
from twist_dr.storage.rclone_lock import place_name
from twist_dr.storage.rclone_session import RcloneLimits
from twist_dr.storage.rclone_target import RcloneTarget

T = TypeVar("T")

#: Seconds that a listing may lag: 15 were seen, and Google promises nothing.
_LAG_SECONDS = 90.0
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 3.0


class GoogleDriveTarget(RcloneTarget):
    """The folder that ``options`` say."""

    def __init__(
        self,
        name: str,
        options: GoogleDriveOptions,
        machine: Machine,
        limits: RcloneLimits,
    ) -> None:
        super().__init__(name, options, machine, limits)
        token = self.session.tokens
        self._by_id = DriveFolders(name, token) if token is not None else None
        self._top = options.root_id
        self._above = tuple(part for part in options.backend.path.split("/") if part)
        #: Folders that are there once, by their paths from the top on.
        self._ids: dict[str, str] = {}
        #: A byte for each folder that was taken away by a process of this machine, and how many were seen here.
        self._taken_away = machine.folder / f"{place_name(options.place)}.folders"
        self._seen: int | None = None

    def prepare(self) -> None:
        try:
            self._named(self._top, INCOMING, "=")
        except ObjectMissing:
            raise TargetRefused(
                f"the folder {self._top} does not exist, or is not shared with the account that authorised",
                remedy=f"correct folder_id or shared_drive of storage_targets.{self.name}, or share it with that account",
                target=self.name,
            ) from None
        self._make_folder("")
        super().prepare()

    def _put_staged(self, source: Path, key: str, wanted: Expected, progress: OnBytes) -> None:
        self._make_folder(INCOMING)
        super()._put_staged(source, key, wanted, progress)

    def _check_stored(self, key: str, wanted: Expected, progress: OnBytes) -> None:
        self._until_shown(key, lambda: self._look(key))
        super()._check_stored(key, wanted, progress)

    def _move(self, temporary: str, key: str) -> None:
        # Not before: what was called off shall leave no folder, and while the lock is held nobody takes it away.
        self._make_locked(_folder_of(key))
        super()._move(temporary, key)
        self._settle(key)

    def _require_same(self, key: str, wanted: Expected, there: Item, progress: OnBytes) -> None:
        with self._lock.held():
            self._settle(key)
        super()._require_same(key, wanted, there, progress)

    def _remove(self, remote: str) -> None:
        super()._remove(remote)
        # It may be there twice, or be shown for a while after it went.
        for _ in _while_it_may_lag():
            if self._look(remote) is None:
                return
            super()._remove(remote)

    def _remove_folder(self, path: str) -> None:
        # Deleted, it would take with it what another machine just put there, and is not shown yet. Empty, it takes no space in the trash.
        if self._by_id is not None and (found := self._id(path)):
            self._by_id.trash(found)
        else:
            super()._remove_folder(path)
        self._note_taken_away()

    def _entries(self, folder: str) -> list[Item]:
        found = super()._entries(folder)
        twice = [name for name, count in Counter(item.name for item in found if item.is_folder).items() if count > 1]
        if twice:
            # Whoever only reads, and may not write, shall read what there is.
            with suppress(StorageError), self._lock.held():
                for name in twice:
                    path = f"{folder}/{name}" if folder else name
                    self._unite(path, self._named(self._id(folder), name, "="))
            found = super()._entries(folder)
        return list({item.name: item for item in found}.values())

    def _look(self, remote: str, *, no_folder: bool = False) -> Item | None:
        self._notice()
        return super()._look(remote, no_folder=no_folder)

    def _listed(self, folder: str) -> list[Item]:
        self._notice()
        return super()._listed(folder)

    def _open(self, remote: str) -> BinaryIO:
        self._notice()
        return super()._open(remote)

    # -- objects ---------------------------------------------------------------------------------------------------------

    def _settle(self, key: str) -> None:
        """Return when Google shows the object, and one of that name. Raises ``ObjectCorrupt``, ``TargetUnavailable``."""
        name = key.rpartition("/")[2]
        found = self._until_shown(key, lambda: self._named(self._id(_folder_of(key)), name, "!="))
        if len({(each.get("size"), each.get("sha256Checksum")) for each in found}) > 1:
            raise ObjectCorrupt(
                f"{key} is there {len(found)} times, with different bytes, and all were left as they are",
                remedy="see in Google Drive who made them, and delete what is wrong",
                target=self.name,
            )
        for _ in found[1:]:
            super()._remove(key)

    def _until_shown(self, what: str, look: Callable[[], T | None]) -> T:
        for _ in _while_it_may_lag():
            if found := look():
                return found
        # A folder that another machine took away shows nothing any more.
        self._forget_folders()
        raise TargetUnavailable(
            f"Google Drive took {what}, and does not show it after {_LAG_SECONDS:.0f} s",
            remedy="run again later",
            target=self.name,
        )

    # -- folders ---------------------------------------------------------------------------------------------------------

    def _make_folder(self, path: str) -> None:
        """Make sure that the folder is there, once, and so are those above it."""
        self._notice()
        if "/".join(self._from_top(path)) not in self._ids:
            with self._lock.held():
                self._make_locked(path)

    def _from_top(self, path: str) -> tuple[str, ...]:
        """The folders on the way to one of ours."""
        return (*self._above, *filter(None, path.split("/")))

    def _make_locked(self, path: str) -> None:
        """The same. The lock is held."""
        parts = self._from_top(path)
        above = self._top
        for depth, name in enumerate(parts, 1):
            here = "/".join(parts[:depth])
            above = self._ids.get(here) or self._one_folder(above, name, here)
            self._ids[here] = above

    def _one_folder(self, above: str, name: str, whole: str) -> str:
        def look() -> list[dict[str, Any]]:
            return self._named(above, name, "=")

        found = look()
        if not found:
            fs = f"{self.options.backend.name}:"
            self.session.ask("make a folder", lambda calls: calls.call("operations/mkdir", fs=fs, remote=whole))
            found = self._until_shown(f"the folder {whole}", look)
        if len(found) > 1:
            self._unite(whole, found)
        return str(found[0]["id"])

    def _unite(self, path: str, found: list[dict[str, Any]]) -> None:
        """Make one folder of several of that name: the first of them."""
        if self._by_id is None:
            raise TargetRefused(
                f"the folder {path} is there {len(found)} times",
                remedy="move in Google Drive what is in one of them into the other, and delete it",
                target=self.name,
            )
        self._by_id.merge([str(each["id"]) for each in found], path)
        self._note_taken_away()

    def _note_taken_away(self) -> None:
        """A folder is in the trash. The lock is held."""
        descriptor = os.open(self._taken_away, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, b".")
        finally:
            os.close(descriptor)
        self._notice()

    def _notice(self) -> None:
        """Forget the ids of folders once one was taken away."""
        try:
            taken_away = self._taken_away.stat().st_size
        except FileNotFoundError:
            taken_away = 0
        if taken_away != self._seen:
            self._forget_folders()
            self._seen = taken_away

    def _forget_folders(self) -> None:
        self.session.ask("forget the folders", lambda calls: calls.call("fscache/clear"))
        self._ids.clear()

    def _id(self, path: str) -> str:
        whole = "/".join(self._from_top(path))
        if not whole:
            return self._top
        if whole not in self._ids:
            found = self.session.ask(
                "look up a folder", lambda calls: calls.stat(f"{self.options.backend.name}:", whole)
            )
            if found is None or not found.id:
                return ""
            self._ids[whole] = found.id
        return self._ids[whole]

    def _named(self, folder: str, name: str, is_folder: str) -> list[dict[str, Any]]:
        """All of that name there, the oldest first; folders (``=``) or none (``!=``)."""
        if not folder:
            return []
        # A folder of the settings may have any name: "Search query terms and operators", Drive API reference.
        quoted = name.replace("\\", "\\\\").replace("'", "\\'")
        query = f"'{folder}' in parents and name = '{quoted}' and mimeType {is_folder} '{FOLDER}' and trashed = false"

        def question(calls: RcloneCalls) -> list[dict[str, Any]]:
            fs = f"{self.options.backend.name}:"
            return list(calls.call("backend/command", command="query", fs=fs, arg=[query])["result"] or ())

        found = self.session.ask(f"look for {name}", question)
        if not all(each.get("createdTime") and each.get("id") for each in found):
            raise no_answer(self.name)
        return sorted(found, key=lambda each: (str(each["createdTime"]), str(each["id"])))


def _while_it_may_lag() -> Iterator[None]:
    """Looks, with ever longer pauses between them, for as long as Google may not show yet what was done."""
    end, pause = time.monotonic() + _LAG_SECONDS, _FIRST_PAUSE
    yield
    while time.monotonic() <= end:
        time.sleep(pause)
        pause = min(2 * pause, _LAST_PAUSE)
        yield


def _folder_of(key: str) -> str:
    return key.rpartition("/")[0]
