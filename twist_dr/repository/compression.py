"""Compression of artifacts: zstd (the default), gzip, or none."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Literal, Protocol

from twist_dr.errors import FROM_ANOTHER, ArtifactInvalid
from twist_dr.storage.chunks import buffered

Compression = Literal["zstd", "gzip", "none"]

SUFFIXES: dict[Compression, str] = {"zstd": ".zst", "gzip": ".gz", "none": ""}
#: The highest level of each, the lowest is 1. Those of zstd beyond it need more memory than a run may have.
HIGHEST: dict[Compression, int] = {"zstd": 19, "gzip": 9}

#: A zstd frame may ask its reader for a window of any size; more than this (bytes) is not one of ours.
_MOST_WINDOW = 1 << 27
#: Decompressed bytes given at a time, at most about this many, whatever the ratio.
_PIECE = 1 << 20


class Compressor(Protocol):
    """What zlib's and zstandard's compression objects have in common."""

    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def compressor(compression: Compression, level: int, threads: int) -> Compressor:
    """A fresh compressor. ``threads`` counts for zstd only: above one, it works in the background while the caller reads on."""
    if compression == "zstd":
        import zstandard

        parameters = zstandard.ZstdCompressionParameters.from_level(
            level, threads=threads if threads > 1 else 0, write_checksum=True
        )
        return zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    if compression == "gzip":
        return zlib.compressobj(min(level, HIGHEST["gzip"]), wbits=31)
    return _Plain()


def decompress(chunks: Iterable[bytes], compression: Compression, what: str) -> Iterator[bytes]:
    """The plain bytes of a compressed stream in pieces of bounded size. Raises ``ArtifactInvalid``, which names ``what``."""
    if compression == "zstd":
        yield from _unzstd(chunks, what)
    elif compression == "gzip":
        yield from _gunzip(chunks, what)
    else:
        yield from chunks


def _damaged(what: str) -> ArtifactInvalid:
    return ArtifactInvalid(f"{what}: the compressed bytes are damaged or cut short", remedy=FROM_ANOTHER)


def _unzstd(chunks: Iterable[bytes], what: str) -> Iterator[bytes]:
    import zstandard

    unit = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW)
    # A stream reader unfolds no more than it is asked for: 100 KB of zstd can hold gigabytes of zeros.
    # A stream that ends early ends quietly here; the recorded SHA-256 of the plain bytes tells.
    with unit.stream_reader(buffered(chunks), closefd=False) as reader:
        while True:
            try:
                plain = reader.read(_PIECE)
            except zstandard.ZstdError:
                raise _damaged(what) from None
            if not plain:
                return
            yield plain


def _gunzip(chunks: Iterable[bytes], what: str) -> Iterator[bytes]:
    unit = zlib.decompressobj(wbits=31)
    try:
        for chunk in chunks:
            while chunk:
                if unit.eof:
                    raise _damaged(what)
                if plain := unit.decompress(chunk, _PIECE):
                    yield plain
                chunk = unit.unconsumed_tail or unit.unused_data
    except zlib.error:
        raise _damaged(what) from None
    if not unit.eof:
        raise _damaged(what)
