"""Compressed bytes come back whole, and damaged or spiteful ones do no harm."""

from __future__ import annotations

import gzip
import zlib

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from twist_dr.errors import ArtifactInvalid, AuthenticationFailed
from twist_dr.repository.compression import Compression, compressor, decompress
from twist_dr.storage.chunks import hashed
from twist_dr_tests.helpers import chunked, digest_of, joined, noise, said_by_python

ALL: tuple[Compression, ...] = ("zstd", "gzip", "none")


def packed(plain: bytes, compression: Compression, sizes: tuple[int, ...] = (65_537,), threads: int = 2) -> bytes:
    unit = compressor(compression, 3, threads)
    return joined([*(unit.compress(chunk) for chunk in chunked(plain, sizes)), unit.flush()])


@pytest.mark.parametrize("compression", ALL)
@settings(max_examples=15, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 2), st.lists(st.integers(500, 400_000), min_size=1, max_size=4))
def test_what_was_compressed_is_read_back_however_it_was_cut(
    compression: Compression, start: bytes, blocks: int, sizes: list[int]
) -> None:
    plain = start * 50 + bytes(700_000) * blocks
    stored = packed(plain, compression, tuple(sizes))
    assert joined(decompress(chunked(stored, (1, 100, 7)), compression, "media.tar")) == plain


def test_the_usual_tools_read_what_we_compressed() -> None:
    plain = noise(300_000) + bytes(300_000)
    assert gzip.decompress(packed(plain, "gzip")) == plain
    assert zstandard.ZstdDecompressor().decompressobj().decompress(packed(plain, "zstd")) == plain


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
@pytest.mark.parametrize("kept", [0, 1, 9, 0.5, -100])
def test_a_truncated_artifact_is_refused(compression: Compression, kept: float) -> None:
    plain = noise(3_000_000)
    stored = packed(plain, compression)
    short = stored[: int(len(stored) * kept) if 0 < kept < 1 else int(kept)]
    with pytest.raises(ArtifactInvalid, match=r"database\.dump"):
        joined(hashed(decompress(chunked(short), compression, "database.dump"), digest_of(plain), "database.dump"))


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
@pytest.mark.parametrize("place", [0, 0.1, 0.5, 0.9, 1])
def test_an_altered_artifact_is_refused(compression: Compression, place: float) -> None:
    plain = joined(noise(1000, seed) * 40 for seed in range(60))
    stored = bytearray(packed(plain, compression))
    stored[int((len(stored) - 1) * place)] ^= 0x10
    with pytest.raises(ArtifactInvalid, match=r"database\.dump"):
        joined(hashed(decompress(chunked(stored), compression, "database.dump"), digest_of(plain), "database.dump"))


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_a_refusal_further_up_the_stream_is_not_lost_in_the_decompressor(compression: Compression) -> None:
    stored = packed(noise(3_000_000), compression)

    def cut_off():
        yield stored[:1_000_000]
        raise AuthenticationFailed("database.dump: altered")

    with pytest.raises(AuthenticationFailed, match="altered"):
        joined(decompress(cut_off(), compression, "database.dump"))


@pytest.mark.parametrize(("compression", "size"), [("zstd", 1 << 30), ("gzip", 1 << 28)])
def test_a_bomb_of_zeros_is_read_in_bounded_memory(compression: Compression, size: int) -> None:
    said = said_by_python(
        "import sys\n"
        "from twist_dr.repository.compression import compressor, decompress\n"
        "from twist_dr_tests.helpers import peak_memory\n"
        "unit = compressor(sys.argv[1], 3, 1)\n"
        "block = bytes(1 << 20)\n"
        "bomb = b''.join([*(unit.compress(block) for _ in range(int(sys.argv[2]) >> 20)), unit.flush()])\n"
        "unit = None\n"
        "before, size = peak_memory(), 0\n"
        "for piece in decompress([bomb], sys.argv[1], 'bomb'):\n"
        "    assert len(piece) <= 1 << 20\n"
        "    size += len(piece)\n"
        "print(len(bomb), size, peak_memory() - before)\n",
        compression,
        size,
    )
    stored, plain, growth = map(int, said.split())
    assert plain == size
    assert stored < 2_000_000
    assert growth < 100 << 20


def test_a_zstd_stream_that_asks_for_a_window_of_gigabytes_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=30, compression_level=1)
    unit = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    stored = unit.compress(noise(1_000_000)) + unit.flush()
    with pytest.raises(ArtifactInvalid, match=r"media\.tar"):
        joined(decompress([stored], "zstd", "media.tar"))


def test_bytes_behind_the_end_of_a_gzip_stream_are_refused() -> None:
    with pytest.raises(ArtifactInvalid):
        joined(decompress([gzip.compress(b"row"), b"more"], "gzip", "media.tar"))
    with pytest.raises(ArtifactInvalid):
        joined(decompress([gzip.compress(b"row") + b"more"], "gzip", "media.tar"))


def test_bytes_of_another_kind_are_refused() -> None:
    for compression in ("zstd", "gzip"):
        with pytest.raises(ArtifactInvalid):
            joined(decompress([zlib.compress(b"row" * 1000)], compression, "media.tar"))
