"""A place that rclone carries, as a storage target: an SSH server, a share, a drive, a bucket.

Where the place has folders, an object is sent under a temporary name in ``.incoming``, checked there, and moved to its own name. Moving overwrites
without a word, so looking whether the name is free and moving go under a lock that all processes of this machine see; several machines
have none in common, hence ``write_once=False``. In a bucket an object appears at once and whole, so it is sent under its own name, and deleted if it fails the check,
under a lock of that name.
"""

from __future__ import annotations

import builtins
import os
import time
import uuid
from contextlib import suppress
from itertools import count
from pathlib import Path

from twist_dr.errors import (
    KeyClash,
    KeyTooLong,
    ObjectCorrupt,
    ObjectTooLarge,
    StorageError,
    TargetBusy,
)
from twist_dr.storage.base import (
    Capabilities,
    Digest,
    OnBytes,
    compare,
    no_progress,
    other_bytes,
)
from twist_dr.storage.machine import Machine
from twist_dr.storage.names import INCOMING, key_parts, temporary_name
from twist_dr.storage.rclone_calls import Item, RcloneCalls, RcloneFailed, RcloneGone, RcloneSilent
from twist_dr.storage.rclone_errors import full_instead
from twist_dr.storage.rclone_hashes import Expected
from twist_dr.storage.rclone_lock import PlaceLock
from twist_dr.storage.rclone_options import RcloneOptions
from twist_dr.storage.rclone_place import RclonePlace
from twist_dr.storage.rclone_session import RcloneLimits
from twist_dr.system.interrupts import uninterrupted

#: Seconds between two looks at a transfer: the first soon, for small objects; never rarer than the last.
_FIRST_LOOK, _LAST_LOOK = 0.002, 0.2
#: How long a transfer that was stopped may take to end, before what it sent is removed.
_STOP_SECONDS = 15.0
#: Bytes that rclone may hold before it sends them, without a word meanwhile: a part of an upload.
_HELD_BYTES = 16 << 20
#: The server may still do what it was asked in the last request before the connection was cut.
_LATE_SECONDS = 0.3


class RcloneTarget(RclonePlace):
    """The place that ``options`` say."""

    def __init__(
        self,
        name: str,
        options: RcloneOptions,
        machine: Machine,
        limits: RcloneLimits = RcloneLimits(),  # noqa: B008
    ) -> None:
        super().__init__(name, options, machine, limits)
        #: Bytes per second that rclone was told to keep within.
        self._told_rate: float | None = None
        self._machine, self._limits = machine, limits

    def put(self, source: Path, key: str, digest: Digest, progress: OnBytes = no_progress) -> None:
        parts = key_parts(key)
        self._require_fit(key, digest)
        if self.traits.staged:
            self._put(source, key, parts, digest, progress)
            return
        # One at a time: who fails deletes what lies under the key, and nobody else shall have stored that, or found it good.
        with PlaceLock(self._machine, (self.options.place, key), self.name).held():
            self._put(source, key, parts, digest, progress)

    def _put(self, source: Path, key: str, parts: builtins.list[str], digest: Digest, progress: OnBytes) -> None:
        there = self._item(key)
        if there is not None:
            self._require_exact(parts[:-1], parts[-1])
            self._require_same(key, self._wanted_again(source, digest), there, progress)
            return
        for depth, folder in enumerate(parts[:-1]):
            self._require_exact(parts[:depth], folder)
        wanted = self._wanted(source, digest)
        put = self._put_staged if self.traits.staged else self._put_directly
        for attempt in count(1):
            try:
                return put(source, key, wanted, progress)
            except _NotSent as failed:
                error = self._full_or(self.session.error(f"store {key}", failed.why), digest)
                # What went wrong otherwise may go wrong again, after as many bytes: whoever runs the backup decides.
                self.session.again(error, failed.why, attempt, None if isinstance(error, TargetBusy) else 1)

    def probe(self) -> Capabilities:
        from twist_dr.storage.rclone_probe import probe

        self.prepare()
        return probe(self)

    # -- the steps of put ----------------------------------------------------------------------------------------------

    def _require_same(self, key: str, wanted: Expected, there: Item, progress: OnBytes) -> None:
        """Return if the object that is there has these bytes, as the target holds them; else ``ObjectExists``."""
        try:
            if there.size != wanted.digest.size:
                raise ObjectCorrupt("other size")
            self._check_stored(key, wanted, progress)
        except ObjectCorrupt:
            raise other_bytes(key, self.name) from None

    def _require_fit(self, key: str, digest: Digest) -> None:
        """Raise what says why no such object can lie there."""
        traits = self.traits
        whole = f"{self.options.backend.path}/{key}".lstrip("/")
        if traits.largest_object is not None and digest.size > traits.largest_object:
            raise ObjectTooLarge(
                f"{key} has {digest.size} bytes, and {self.options.noun} takes {traits.largest_object} at most",
                remedy="store it on another target",
                target=self.name,
            )
        if traits.longest_path is not None and len(whole) > traits.longest_path:
            raise KeyTooLong(
                f"{whole} has {len(whole)} characters, and {self.options.noun} takes {traits.longest_path} at most",
                remedy="use a folder nearer to the root, or a shorter name",
                target=self.name,
            )

    def _require_exact(self, folders: builtins.list[str], name: str) -> None:
        """Raise ``KeyClash`` where something of that name in other letters stands for it."""
        whole = "/".join((*folders, name))
        if not self.traits.case_insensitive or whole in self._exact:
            return
        names = {item.name for item in self._listed("/".join(folders))}
        other = next((each for each in names if each.lower() == name.lower()), None)
        if other is not None and name not in names:
            raise KeyClash(
                f"{whole} and {other} there differ in the case of letters only, and {self.options.noun} takes them for one",
                remedy="use another name, or another folder",
                target=self.name,
            )
        self._exact.add(whole)

    def _wanted(self, source: Path, digest: Digest) -> Expected:
        """What is to be stored. A source whose other bytes would be found before anybody sees them is read once, as it is sent."""
        known = Expected.known(digest, self.traits.hash)
        if self.traits.staged and (known.hash is not None or self.traits.hash is None):
            with suppress(OSError), source.open("rb") as stream:
                if os.fstat(stream.fileno()).st_size == digest.size:
                    return known
        return self._measured(source, digest)

    def _measured(self, source: Path, digest: Digest) -> Expected:
        """The same, with the provider's hash of it. Raises ``ObjectCorrupt`` unless the source is ``digest``."""
        try:
            return Expected.of(source, digest, self.traits.hash, self.name)
        except OSError as error:
            raise ObjectCorrupt(
                f"nothing was stored: the file {source} to be stored cannot be read ({error.strerror})",
                remedy="make it anew",
                target=self.name,
            ) from error

    def _wanted_again(self, source: Path, digest: Digest) -> Expected:
        """The same where the object is there already: then the source is a help, and need not be there."""
        known = Expected.known(digest, self.traits.hash)
        if self.traits.hash is not None and known.hash is None:
            with suppress(ObjectCorrupt):
                return self._measured(source, digest)
        return known

    def _put_staged(self, source: Path, key: str, wanted: Expected, progress: OnBytes) -> None:
        temporary = f"{INCOMING}/{temporary_name()}"
        try:
            try:
                self._send(source, temporary, wanted.digest, progress)
            except _NotSent:
                # The answer to the last bytes may be all that got lost.
                if self.session.silent or wanted.hash is None or self._look(temporary) is None:
                    raise
            try:
                self._check_stored(temporary, wanted, progress)
            except ObjectCorrupt:
                self._measured(source, wanted.digest)  # The fault may be the source's.
                raise
            taken = self._publish(temporary, key)
        except BaseException:
            self._discard(temporary)
            raise
        if taken is not None:  # another writer was first
            self._discard(temporary)
            self._require_same(key, wanted, taken, progress)

    def _put_directly(self, source: Path, key: str, wanted: Expected, progress: OnBytes) -> None:
        try:
            self._send(source, key, wanted.digest, progress)
            self._check_stored(key, wanted, progress)
        except BaseException:
            self._discard(key)
            raise

    def _send(self, source: Path, remote: str, digest: Digest, progress: OnBytes) -> None:
        """Copy the file there, and tell of each byte. Given up when none goes for the seconds of the limits."""
        group, told, pause, before = uuid.uuid4().hex, 0, _FIRST_LOOK, 0
        calls, heard = self.session.calls(), time.monotonic()
        self._keep_within(0)
        try:
            job: int | None = None
            try:
                # A transfer that nobody knows of could not be stopped.
                with uninterrupted():
                    job = calls.begin_copy(source, self.session.fs, remote, group)
                ended = False
                while not ended:
                    time.sleep(pause)
                    pause = min(pause * 1.3, _LAST_LOOK)
                    ended = calls.ended(job)
                    sent = digest.size if ended else min(calls.sent(group), digest.size)
                    rate = self._keep_within(max(0, sent - told))
                    if sent != before:  # fewer: it begins anew
                        before, heard = sent, time.monotonic()
                    held = _HELD_BYTES / rate if rate is not None else 0.0
                    silence = time.monotonic() - heard
                    if sent > told:
                        progress(sent - told)
                        told = sent
                    elif silence < held:
                        progress(0)  # it is silent because it was told to be slow
                    if not ended and silence > self._limits.silent_seconds + held:
                        self.session.give_up()
                        raise RcloneSilent
            except BaseException:
                if job is not None:
                    self._stop(calls, job)
                raise
        except (RcloneFailed, RcloneGone) as failure:
            raise _NotSent(failure) from None

    def _keep_within(self, sent: int) -> float | None:
        """Have rclone keep within the target's bandwidth, which may change with the hour and with who else sends; ``sent``: bytes since the last time."""
        rate = self.bandwidth.share(sent)
        before = self._told_rate
        if (rate is None) != (before is None) or (rate and before and not 0.9 < rate / before < 1.1):
            self.session.limit("off" if rate is None else f"{max(1, int(rate))}B:off")
            self._told_rate = rate
        return rate

    def _stop(self, calls: RcloneCalls, job: int) -> None:
        """End a transfer, so that it makes nothing any more."""
        end = time.monotonic() + _STOP_SECONDS
        with suppress(RcloneFailed, RcloneGone):
            calls.stop(job)
            while not calls.ended(job) and time.monotonic() < end:
                time.sleep(_FIRST_LOOK)
        time.sleep(_LATE_SECONDS)

    def _check_stored(self, key: str, wanted: Expected, progress: OnBytes) -> None:
        """Make sure that the target holds these bytes: by the provider's own hash of them where it is believed and known, else by reading them."""
        digest, stored = wanted.digest, self._item(key) if wanted.hash is not None else None
        told = stored.hashes.get(self.traits.hash or "") if stored is not None else None
        if stored is None or not told:
            with self._open(key) as stream:
                compare(stream, key, digest, progress, target=self.name, portion=self.bandwidth.portion)
        elif (stored.size, told) != (digest.size, wanted.hash):
            raise ObjectCorrupt(
                f"{key} has {stored.size} bytes with the {self.traits.hash} {told[:12]}… there, where {digest.size} with {str(wanted.hash)[:12]}… were sent",
                remedy="take the backup from another target and store this copy anew",
                target=self.name,
            )

    def _publish(self, temporary: str, key: str) -> Item | None:
        """Move what was checked to its name; the object that is there already, if one is."""
        with self._lock.held():
            taken = self._look(key)
            if taken is None:
                self._move(temporary, key)
            return taken

    def _move(self, temporary: str, key: str) -> None:
        """The lock is held."""
        fs = self.session.fs

        def question(calls: RcloneCalls) -> None:
            calls.call("operations/movefile", srcFs=fs, srcRemote=temporary, dstFs=fs, dstRemote=key)

        try:
            self.session.ask(f"store {key}", question)
        except StorageError:
            # Its answer may be all that got lost.
            if self._look(temporary) is not None or self._look(key) is None:
                raise

    def _discard(self, remote: str) -> None:
        """Remove what is not wanted; why it is not matters more than that this fails, and a sweep comes later. Of a provider that says nothing, nothing is asked."""
        if not self.session.silent:
            with suppress(StorageError):
                self._remove(remote)

    def _full_or(self, error: StorageError, digest: Digest) -> StorageError:
        """The same error, or ``TargetFull`` where there is less space than the object needs: servers name that badly."""
        if self.session.silent:
            return error
        with suppress(StorageError):
            free = self._about(attempts=1).free
            if free is not None and free < digest.size:
                return full_instead(error, free, digest.size)
        return error


class _NotSent(Exception):
    """A transfer failed."""

    def __init__(self, why: RcloneFailed | RcloneGone) -> None:
        super().__init__()
        self.why = why
