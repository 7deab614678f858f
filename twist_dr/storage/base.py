"""The interface of a storage target, and its contract in words.

A target keeps *objects*: bytes under a *key*. A key is a relative POSIX path (``erp/backups/<id>/manifest.json``) of
ASCII letters, digits and ``._-/``; each part is non-empty and neither ``.`` nor ``..``. Every provider keeps to the
following; ``twist_dr_tests/storage/test_contract.py`` runs it against each of them.

* Objects are written once. ``put`` of bytes that are already there is a success that sends nothing; ``put`` of other
  bytes under a used key raises :class:`ObjectExists` and leaves the old object as it was.
* An object is visible whole or not at all, whenever the writer is killed. Unfinished uploads are invisible to ``stat``,
  ``open``, ``list`` and ``children``, and ``sweep`` removes them.
* ``put`` returns only when the target holds the bytes durably *and* they were checked against size and SHA-256 as the
  target holds them. "Cannot tell" is :class:`ObjectCorrupt`.
* Nothing that others put on a target makes an operation leave it: a folder's links are not followed, its mounts not entered, its
  pipes and devices not opened. None of these is an object: ``stat`` and ``list`` do not have them, ``put`` never replaces one, ``delete``
  leaves it, and ``strangers`` names it.
* Construction does no I/O and keeps no connection. The first method that needs one makes it. Objects of these classes
  may be used from several threads at once.
* Errors are those of :mod:`twist_dr.errors` under ``StorageError``; messages name the target and never a secret.
"""

from __future__ import annotations

import builtins
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from twist_dr.errors import ObjectCorrupt, ObjectExists, TargetRefused
from twist_dr.storage.limits import UNLIMITED
from twist_dr.system.sizes import CHUNK

#: Called with the number of bytes just sent or read: ``put`` counts both the sending and the reading back, and what it
#: had to send again, so the sum tells activity, not completion; 0 now and then while the target's bandwidth makes it wait. May come from
#: several threads at once. May raise (``Cancelled``): the transfer then stops, nothing remains.
OnBytes = Callable[[int], None]

_KEY = re.compile(r"^(?!.*(?:^|/)\.{1,2}(?:/|$))[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*\Z")

#: Strangers that a sentence names.
_NAMED = 3
#: So many of them and of the signs between them take a moment, whatever lies on a target.
_FIRST = 200


def no_progress(count: int) -> None:
    """A :data:`Progress` that ignores what it is told."""


def valid_key(key: str) -> str:
    """Return ``key`` unchanged; raise ``ValueError`` unless it keeps to the form described above."""
    if not _KEY.match(key):
        raise ValueError(f"not a storage key: {key!r}")
    return key


@dataclass(frozen=True)
class Digest:
    """What bytes must be: ``size`` in bytes and ``sha256`` as 64 lower-case hexadecimal digits."""

    size: int
    sha256: str


@dataclass(frozen=True)
class StoredObject:
    """One object as its target lists it. ``size`` in bytes; ``modified`` is the target's own clock, in UTC.

    ``storage_class``: the store's word, None where it has none. ``archived``: it must be restored in the store before it can be read; a list may say so of what
    was, for a while, which ``stat`` knows.
    """

    key: str
    size: int
    modified: datetime
    storage_class: str | None = None
    archived: bool = False


@dataclass(frozen=True)
class Stranger:
    """What lies among the objects of a target and is none. ``path``: below the target's folder; ``what``: ``a symbolic link``."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path!r} is {self.what}"


def first_strangers(target: StorageTarget, prefix: str) -> builtins.list[Stranger]:
    """Those that are found at once: why somebody may miss what he expects below ``prefix``. Raises storage errors."""
    return [each for each in islice(target.strangers(prefix), _FIRST) if each is not None]


def told_of(strangers: Sequence[Stranger]) -> str:
    """The first of them, for a sentence."""
    more = f", and {len(strangers) - _NAMED} more" if len(strangers) > _NAMED else ""
    return ", ".join(map(str, strangers[:_NAMED])) + more


@dataclass(frozen=True)
class Space:
    """Space on a target, in bytes. ``None`` where the provider does not say."""

    free: int | None
    total: int | None


@dataclass(frozen=True)
class Capabilities:
    """What a test found that a target can do; recorded in the catalog."""

    #: The store itself refuses to overwrite (hard link, ``If-None-Match``), so two writers cannot race.
    write_once: bool
    #: How ``put`` checks what was stored: ``read-back`` (all bytes are read again) or ``server`` (the store computes SHA-256 over what it
    #: received, and was seen to refuse a wrong one), or the name of the digest that the provider computes over what it holds (``sha256``, ``quickxor``, ``md5``).
    checksum: str
    #: The target's clock minus ours, where it tells the time.
    clock_skew_seconds: float | None = None
    #: Anything else a person should know, as sentences.
    notes: tuple[str, ...] = ()


def compare(
    stream: BinaryIO,
    what: str,
    digest: Digest,
    progress: OnBytes = no_progress,
    *,
    target: str | None = None,
    portion: int = CHUNK,
) -> None:
    """Read ``stream`` to its end, ``portion`` bytes at a time; raise ``ObjectCorrupt``, naming ``what`` on ``target``, unless its bytes are ``digest``."""
    found, size = hashlib.sha256(), 0
    while chunk := stream.read(portion):
        found.update(chunk)
        size += len(chunk)
        progress(len(chunk))
    if (size, found.hexdigest()) != (digest.size, digest.sha256):
        raise ObjectCorrupt(
            f"{what} holds {size} bytes with SHA-256 {found.hexdigest()[:12]}…, but {digest.size} bytes with "
            f"{digest.sha256[:12]}… were recorded",
            remedy="take the backup from another target and store this copy anew",
            target=target,
        )


def other_bytes(key: str, target: str) -> ObjectExists:
    """The error that an object is there under ``key``, and is not the one to be stored."""
    return ObjectExists(
        f"{key} exists with other bytes than those to be stored, and was left as it is",
        remedy="objects are never rewritten: store under another key, or check that object and delete it if it is damaged",
        target=target,
    )


class StorageTarget(ABC):
    """A place that holds copies. See the module's docstring for the contract."""

    def __init__(self, name: str) -> None:
        self.name = name
        #: How fast bytes go there. Set by whoever makes the target from its settings; ``put`` waits for it before it sends, and ``open`` if it says so.
        self.bandwidth = UNLIMITED

    @property
    @abstractmethod
    def location(self) -> str:
        """Where it is, for people: a path or a URL, without credentials."""

    @abstractmethod
    def prepare(self) -> None:
        """Raise ``TargetUnavailable`` or ``TargetRefused`` unless the target can be used now.

        Makes what may be made (a folder).
        """

    @abstractmethod
    def put(self, source: Path, key: str, digest: Digest, progress: OnBytes = no_progress) -> None:
        """Store the file ``source`` under ``key`` and check it.

        Raises ``ObjectExists``, ``ObjectCorrupt`` (also when ``source`` itself is not ``digest``), ``TargetFull``,
        ``TargetRefused``, ``TargetUnavailable``.
        """

    @abstractmethod
    def open(self, key: str) -> BinaryIO:
        """Open the object for reading from its start, as a stream that the caller closes. Raises ``ObjectMissing``."""

    @abstractmethod
    def stat(self, key: str) -> StoredObject | None:
        """The object under ``key``, or ``None`` when it is positively known that there is none."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Every object whose key starts with ``prefix + "/"``, in key order."""

    @abstractmethod
    def children(self, prefix: str) -> builtins.list[str]:
        """Names of the next path parts below ``prefix`` that lead to at least one object, sorted.

        Cheap: one level only. The empty prefix means the whole target, here and in ``list``. An S3 store that is a
        file system inside (rclone) may also name a folder that an upload which came to nothing left empty.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove the object; success when there is none. Raises ``TargetRefused`` (read-only, Object Lock)."""

    @abstractmethod
    def sweep(self, older_than: timedelta) -> int:
        """Remove unfinished uploads below our prefix to which nothing came for ``older_than``; return how many."""

    @abstractmethod
    def space(self) -> Space:
        """Space on the target."""

    @abstractmethod
    def probe(self) -> Capabilities:
        """Find out what the target can do, with small objects of its own under a key that starts with ``.probe-``.

        Removes them.
        """

    def give_up(self) -> None:  # noqa: B027
        """Let whoever waits for the target in another thread fail now, where that can be done: we were called off, and it says nothing."""

    def locked_until(self, key: str) -> datetime | None:
        """Until when the store itself forbids to delete the object; None when it does not, or when there is none.

        ``datetime.max`` in UTC where there is no end (a legal hold).
        """
        return None

    def change_class(self, key: str, digest: Digest, storage_class: str, progress: OnBytes = no_progress) -> None:
        """Have the store keep the object in another of its storage classes, the same bytes under the same key, read before and checked after.

        Success when it is there already. Raises ``ObjectMissing``, ``ObjectCorrupt``, and ``TargetRefused`` where the store has no such class.
        """
        raise TargetRefused(
            f"it has no storage class {storage_class}",
            remedy=f"drop storage_targets.{self.name}.archive",
            target=self.name,
        )

    def strangers(self, prefix: str) -> Iterator[Stranger | None]:
        """Links, named pipes, devices, mount points below ``prefix`` or in its place: no objects, and left alone.

        ``None`` now and then, as a sign that the search goes on. A store that knows objects only has none.
        """
        return iter(())

    def check(self, key: str, digest: Digest, progress: OnBytes = no_progress) -> None:
        """Read the object as the target holds it and compare. Raises ``ObjectMissing`` or ``ObjectCorrupt``."""
        with self.open(key) as stream:
            compare(stream, key, digest, progress, target=self.name, portion=self.bandwidth.portion)
