"""Bundles: consecutive segments as one object, for targets where an object costs half a second whatever its size.

    <first>-<last>.tar      the segments as they are, in their order, and at the end SHA256SUMS, as sha256sum writes it

The tar is compressed and encrypted as a whole, as every artifact is: the stream has to be read from its beginning to be authenticated in any
case, so segments that were compressed one by one would gain nothing, and need more bytes. The sums come last, since the segments are read once.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

from twist_dr.errors import ArtifactInvalid
from twist_dr.storage.chunks import buffered, read_out
from twist_dr.system.sizes import CHUNK
from twist_dr.wal.names import LARGEST_SEGMENT, Segment

#: Plain bytes of the segments in one bundle: at 10 MB/s, half a second is 2 % of what sending it takes. Whoever reads one segment reads all of it.
MOST_BYTES = 256 << 20
#: Segments in one that is read. Its name can be anybody's, and tells how many it has.
_MOST_SEGMENTS = 4096
_SUMS = "SHA256SUMS"
_BLOCK = 512
_NAME = re.compile(r"([0-9A-F]{24})-([0-9A-F]{24})\.tar")


class PackedSegment(NamedTuple):
    """A segment as it goes into a bundle: its name, its bytes in number and in chunks."""

    name: str
    size: int
    chunks: Iterable[bytes]


def bundle_name(first: str, last: str) -> str:
    """The name, without the ending of its form, of the bundle from one segment to another. It sorts among the segments."""
    return f"{first}-{last}.tar"


def is_bundle(base: str) -> bool:
    """Whether an object is a bundle, by its name without the ending of its form."""
    return _NAME.fullmatch(base) is not None


def segments_of(base: str, segment_size: int) -> list[Segment]:
    """The segments of the object of that name, a bundle or a segment by itself; none where it is neither."""
    match = _NAME.fullmatch(base)
    ends = match.groups() if match else (base, base)
    try:
        first, last = (Segment.named(name, segment_size) for name in ends)
    except ValueError:
        return []
    count = last.number - first.number + 1
    if first.timeline != last.timeline or not (match is None or 1 < count <= _MOST_SEGMENTS):
        return []
    return [Segment(first.timeline, number, segment_size) for number in range(first.number, last.number + 1)]


def bundled(members: Iterable[PackedSegment]) -> Iterator[bytes]:
    """The bytes of a bundle. Sizes of segments are whole blocks of a tar."""
    sums = ""
    for name, size, chunks in members:
        yield _header(name, size)
        found = hashlib.sha256()
        for chunk in chunks:
            found.update(chunk)
            yield chunk
        sums += f"{found.hexdigest()}  {name}\n"
    yield _header(_SUMS, len(sums))
    yield sums.encode() + bytes(-len(sums) % _BLOCK)
    yield bytes(2 * _BLOCK)


def unbundled(chunks: Iterable[bytes], what: str) -> Iterator[tuple[str, bytes]]:
    """The chunks of a bundle's segments, each with its segment's name. Good only when the iterator has ended without an error.

    Raises ``ArtifactInvalid``, naming ``what``, and what ``chunks`` raise.
    """
    stream = buffered(chunks)
    sums = ""
    while (member := _next(stream, what)).name != _SUMS:
        if not 0 < member.size <= LARGEST_SEGMENT or member.size % _BLOCK:
            raise _invalid(what, f"{member.name} has {member.size} bytes")
        found, left = hashlib.sha256(), member.size
        while left:
            chunk = stream.read(min(CHUNK, left))
            if not chunk:
                raise _invalid(what, f"it ends within {member.name}")
            found.update(chunk)
            left -= len(chunk)
            yield member.name, chunk
        sums += f"{found.hexdigest()}  {member.name}\n"
    if member.size != len(sums) or stream.read(len(sums)) != sums.encode():
        raise _invalid(what, f"its segments are not those of its {_SUMS}")
    read_out(stream)


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member.tobuf(tarfile.USTAR_FORMAT)


def _next(stream: BinaryIO, what: str) -> tarfile.TarInfo:
    try:
        member = tarfile.TarInfo.frombuf(stream.read(_BLOCK), "ascii", "strict")
    except (tarfile.TarError, ValueError):
        raise _invalid(what, f"it ends before its {_SUMS}") from None
    if not member.isreg():
        raise _invalid(what, f"{member.name} is no file")
    return member


def _invalid(what: str, why: str) -> ArtifactInvalid:
    return ArtifactInvalid(f"{what} is no bundle of WAL: {why}", remedy="take it from another storage target")
