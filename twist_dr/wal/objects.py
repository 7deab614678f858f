"""The archive of write-ahead log on a storage target: the layout, and reading with every byte checked.

    <application>/wal/<system_identifier>/<timeline>/<segment>.zst.enc
                                                    /<first>-<last>.tar.zst.enc                  a bundle of segments: see bundles.py
                                                    /<segment>.<end>.<claim>.partial.zst.enc     a partial segment: see partial_segment.py
                                         /<timeline>.history.enc

WAL holds every role's password hash, so it is stored encrypted on every target. The name is part of what is authenticated:
no object can be put in another's place. Which segments are there, and where their bytes lie, is asked here: nobody else knows of bundles.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path

from twist_dr.errors import ArtifactInvalid, AuthenticationFailed, ObjectCorrupt, ObjectMissing, WalInvalid, about
from twist_dr.repository.compression import SUFFIXES, Compression, decompress
from twist_dr.repository.keys import Keyring
from twist_dr.repository.streams import Form
from twist_dr.storage.base import Digest, StorageTarget
from twist_dr.storage.chunks import read_chunks
from twist_dr.wal.bundles import is_bundle, segments_of, unbundled
from twist_dr.wal.history import Ancestor, joined_history, parse_history
from twist_dr.wal.holdings import ArchivedObject, Holdings, Stored
from twist_dr.wal.names import SEGMENT_NAME, Segment, history_name, kind_of, timeline_of
from twist_dr.wal.opening import opened
from twist_dr.wal.pages import PageCheck, read_first_page
from twist_dr.wal.partial_segment import PartialSegment

_IDENTIFIER = re.compile(r"[0-9]{1,20}")
#: The end of an object's name, by its form. The shortest is last: the others end with it.
_ENDINGS: dict[str, Compression] = {
    f"{suffix}.enc": compression for compression, suffix in sorted(SUFFIXES.items(), key=lambda each: -len(each[1]))
}
#: Objects that are asked how large segments are: where so many are bad, so are the others, or the key is another one.
_MOST_ASKED = 16
#: History files are a few lines; the design stores them as they are.
HISTORY_FORM = Form("none", True)

#: Bundles of one target as it listed them, by folder: their names and keys.
Bundles = dict[str, list[tuple[str, str]]]


def associated_data(application: str, system_identifier: str, name: str) -> bytes:
    """What binds an object to its place. The three hold no newline, so no two places give the same bytes."""
    return "\n".join(("twist-dr wal 1", application, system_identifier, name)).encode()


@dataclass(frozen=True)
class WalArchive:
    """One application's archived WAL on one target."""

    target: StorageTarget
    application: str

    # -- the layout ------------------------------------------------------------------------------------------------

    def folder(self, system_identifier: str) -> str:
        return f"{self.application}/wal/{system_identifier}"

    def key(self, system_identifier: str, timeline: int, name: str, form: Form) -> str:
        """Where a segment or partial segment of that name (without ending) lies."""
        return f"{self.folder(system_identifier)}/{timeline:08X}/{name}{form.confidential.plain.suffix}"

    def history_key(self, system_identifier: str, timeline: int) -> str:
        return f"{self.folder(system_identifier)}/{history_name(timeline)}{HISTORY_FORM.suffix}"

    # -- what is there -----------------------------------------------------------------------------------------------

    def clusters(self) -> list[str]:
        """System identifiers of the clusters whose WAL is here."""
        children = self.target.children(f"{self.application}/wal")
        return [name for name in children if _IDENTIFIER.fullmatch(name)]

    def holdings(self, system_identifier: str, segment_size: int, timeline: int | None = None) -> Holdings:
        """Everything that the target has of a cluster, or of one of its timelines; ``segment_size`` in bytes. Raises storage errors."""
        found = Holdings(system_identifier, segment_size)
        folder = self.folder(system_identifier)
        for base, stored in self._listed(folder if timeline is None else f"{folder}/{timeline:08X}"):
            if kind_of(base) == "history":
                found.histories.add(timeline_of(base))
            elif (partial := PartialSegment.named(base, segment_size)) is not None:
                found.partials[partial] = stored
            else:
                for segment in segments_of(base, segment_size):
                    found.add(segment, stored)
        return found

    def objects(self) -> Iterator[ArchivedObject]:
        """All objects with segments or histories of all clusters, in the order of the keys. Partial segments are left out."""
        for base, stored in self._listed(f"{self.application}/wal"):
            parts = stored.key.split("/")
            if len(parts) >= 4 and (kind_of(base) in ("segment", "history") or is_bundle(base)):
                form = Form(_ENDINGS[parts[-1][len(base) :]], True)
                yield ArchivedObject(stored.key, stored.size, parts[2], base, form)

    def segment_size(self, system_identifier: str, keyring: Keyring) -> int | None:
        """Bytes of a cluster's segments, from the first good object that says so; ``None`` without any. Raises storage errors."""
        mine = (
            stored
            for base, stored in self._listed(self.folder(system_identifier))
            if SEGMENT_NAME.match(base) and ".00000000." not in base
        )
        for stored in islice(mine, _MOST_ASKED):
            # A partial segment of a few bytes says nothing; what is bad, or gone by now, keeps no other from saying it.
            with suppress(WalInvalid, AuthenticationFailed, ArtifactInvalid, ObjectCorrupt, ObjectMissing):
                for _, chunk in self.contents(system_identifier, stored.key, keyring):
                    return read_first_page(chunk, f"{self.target.name}: {stored.key}").segment_size
        return None

    def has(self, key: str) -> bool:
        return self.target.stat(key) is not None

    def has_segment(self, system_identifier: str, segment: Segment, form: Form) -> bool:
        """Whether a whole segment is there, by itself in this form or in whatever object is listed. Raises storage errors."""
        key = self.key(system_identifier, segment.timeline, segment.name, form)
        return self.has(key) or segment in self.holdings(system_identifier, segment.size, segment.timeline).segments

    def places(self, system_identifier: str, name: str, bundles: Bundles | None = None) -> Iterator[str]:
        """Keys of the objects that hold a segment or history of PostgreSQL's ``name``, however packed; asked of the target itself.

        Bundles are listed when no object of its own holds it, or the caller asks on. ``bundles`` is filled, and asked first: for who asks of many.
        """
        folder = self.folder(system_identifier)
        if kind_of(name) == "segment":
            folder = f"{folder}/{name[:8]}"
        for ending in _ENDINGS:
            if self.has(key := f"{folder}/{name}{ending}"):
                yield key
        if kind_of(name) == "segment":
            bundles = {} if bundles is None else bundles
            if folder not in bundles:
                bundles[folder] = [(base, stored.key) for base, stored in self._listed(folder) if is_bundle(base)]
            # Names of one timeline sort as its segments do, whatever their size.
            yield from (key for base, key in bundles[folder] if base[:24] <= name <= base[25:49])

    def lacks(self, system_identifier: str, first: Segment, until: int, form: Form) -> Segment | None:
        """The first segment that is not here, from ``first`` to the one that ends at or after ``until`` (LSN); that may be a partial segment.

        Each is asked of the target itself, unless a listing, made when one is not by itself there, has it. Raises storage errors.
        """
        listed: Holdings | None = None
        for segment in first.until(until):
            if not (
                (listed is not None and segment in listed.segments)
                or self.has(self.key(system_identifier, segment.timeline, segment.name, form))
            ):
                listed = listed or self.holdings(system_identifier, segment.size, segment.timeline)
                if listed.covering(segment, until) is None:
                    return segment
        return None

    def _listed(self, prefix: str) -> Iterator[tuple[str, Stored]]:
        """What lies below a prefix and has an ending of ours, each with its name without it."""
        for each in self.target.list(prefix):
            base = _without_ending(each.key.rpartition("/")[2])
            if base is not None:
                yield base, Stored(each.key, each.size, each.modified)

    # -- reading -----------------------------------------------------------------------------------------------------

    def read(self, system_identifier: str, key: str, keyring: Keyring) -> Generator[bytes, None, None]:
        """The plain bytes of the object under ``key``, authenticated. Good only when the iterator has ended without an error.

        Raises ``AuthenticationFailed``, ``ArtifactInvalid`` and storage errors.
        """
        name = key.rpartition("/")[2]
        base = _without_ending(name)
        if base is None:
            raise ArtifactInvalid(f"{key}: not a name of archived WAL.", target=self.target.name)
        compression = _ENDINGS[name[len(base) :]]
        data = associated_data(self.application, system_identifier, base)

        def stored() -> Iterator[bytes]:
            with self.target.open(key) as stream:
                yield from read_chunks(stream)

        with about(self.target.name):
            yield from decompress(opened(stored(), keyring, data, key), compression, key)

    def contents(self, system_identifier: str, key: str, keyring: Keyring) -> Iterator[tuple[str, bytes]]:
        """The same bytes, each chunk with the name of what it is of: the object's own, or of each segment in a bundle. Raises what :meth:`read` raises."""
        base, chunks = name_of(key), self.read(system_identifier, key, keyring)
        if is_bundle(base):
            with about(self.target.name):
                yield from unbundled(chunks, key)
        else:
            yield from ((base, chunk) for chunk in chunks)

    def segments(self, system_identifier: str, key: str, keyring: Keyring) -> Iterator[tuple[Segment, bytes]]:
        """The chunks of all whole segments in an object, every page looked at: just those that its name says.

        Good only when the iterator has ended without an error. Raises ``WalInvalid``, and what :meth:`read` raises.
        """
        found: list[Segment] = []
        with about(self.target.name):
            for name, chunks in groupby(self.contents(system_identifier, key, keyring), key=itemgetter(0)):
                check: PageCheck | None = None
                for _, chunk in chunks:
                    if check is None:
                        found.append(_named(name, read_first_page(chunk, key).segment_size, key))
                        check = PageCheck(found[-1], system_identifier, key)
                    check.update(chunk)
                    yield found[-1], chunk
                if check is not None:
                    check.finish()
            if not found or found != segments_of(name_of(key), found[0].size):
                raise WalInvalid(
                    f"{key} does not hold the segments that its name says", remedy="take it from another storage target"
                )

    def read_beginning(self, system_identifier: str, key: str, keyring: Keyring) -> None:
        """Authenticate the beginning of an object, which says that it lies in its own place. Raises what :meth:`read` raises."""
        with closing(self.read(system_identifier, key, keyring)) as chunks:
            next(chunks, b"")

    def has_genuine(self, system_identifier: str, keyring: Keyring) -> bool:
        """Whether anything here of a cluster is authentic. Raises storage errors."""
        for _, stored in self._listed(self.folder(system_identifier)):
            with suppress(AuthenticationFailed, ArtifactInvalid, ObjectMissing):
                self.read_beginning(system_identifier, stored.key, keyring)
                return True
        return False

    def history(self, system_identifier: str, timeline: int, keyring: Keyring) -> list[Ancestor]:
        """The ancestors of a timeline. Raises ``WalInvalid``, and what :meth:`read` raises."""
        with about(self.target.name):
            data = self.history_bytes(system_identifier, timeline, keyring)
            return parse_history(data, timeline, history_name(timeline))

    def history_bytes(self, system_identifier: str, timeline: int, keyring: Keyring) -> bytes:
        """A history file as PostgreSQL wrote it."""
        key = self.history_key(system_identifier, timeline)
        with about(self.target.name):
            return joined_history(self.read(system_identifier, key, keyring), key)

    # -- writing -----------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Raises ``TargetUnavailable`` or ``TargetRefused`` unless the target can be used now."""
        self.target.prepare()

    def put(self, packed: Path, key: str, digest: Digest) -> None:
        """Store and check. Raises ``ObjectExists`` when other stored bytes are there (the plain ones may still be the same)."""
        self.target.put(packed, key, digest)

    def remove(self, key: str) -> None:
        self.target.delete(key)

    def holds(self, system_identifier: str, key: str, keyring: Keyring, plain: Mapping[str, Iterable[bytes]]) -> bool:
        """Whether the object under ``key`` has just these plain bytes of each of these names; what else it has is not asked."""
        left = dict(plain)
        try:
            for name, chunks in groupby(self.contents(system_identifier, key, keyring), key=itemgetter(0)):
                if name in left and not _same((chunk for _, chunk in chunks), iter(left.pop(name))):
                    return False
        except (AuthenticationFailed, ArtifactInvalid, ObjectMissing):
            return False
        return all(_same(iter(()), iter(chunks)) for chunks in left.values())


def name_of(key: str) -> str:
    """The name of an object of ours, without the ending of its form."""
    return str(_without_ending(key.rpartition("/")[2]))


def holds_several(key: str) -> bool:
    """Whether the object under ``key`` holds several segments."""
    return is_bundle(name_of(key))


def _named(name: str, size: int, what: str) -> Segment:
    try:
        return Segment.named(name, size)
    except ValueError:
        raise WalInvalid(
            f"{what}: its cluster has segments of {size} bytes", remedy="take it from another storage target"
        ) from None


def _without_ending(name: str) -> str | None:
    """An object's name without what its form adds; ``None`` when it has no ending of ours."""
    for ending in _ENDINGS:
        if name.endswith(ending):
            return name.removesuffix(ending)
    return None


def _same(some: Iterator[bytes], other: Iterator[bytes]) -> bool:
    """Whether two streams hold the same bytes, whatever their chunks."""
    left = right = b""
    while True:
        if not left:
            left = next((chunk for chunk in some if chunk), b"")
        if not right:
            right = next((chunk for chunk in other if chunk), b"")
        if not left or not right:
            return not left and not right
        count = min(len(left), len(right))
        if left[:count] != right[:count]:
            return False
        left, right = left[count:], right[count:]
