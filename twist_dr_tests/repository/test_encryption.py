"""Promise 4: no byte is used before it is authenticated. And: backups can be opened by a tool that we did not write."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twist_dr.errors import AuthenticationFailed
from twist_dr.repository.encryption import SEGMENT, Encryptor, associated_data, decrypt
from twist_dr.repository.keys import Key
from twist_dr_tests.helpers import KEY, OTHER_KEY, UNEVEN, chunked, joined, noise

PLACE = associated_data("erp", "20260101T020000Z-full-0001", "database.dump")
#: Around every edge between segments: 1048520 plain bytes in the first, 1048560 in each that follows.
SIZES = (0, 1, 1048519, 1048520, 1048521, 2097079, 2097080, 2097081, 3145733)
CHUNKINGS = {"uneven": UNEVEN, "whole": (1 << 30,), "segments": (SEGMENT,), "odd": (262_147,)}


def encrypted(plain: bytes, sizes: tuple[int, ...] = UNEVEN, key: Key = KEY, place: bytes = PLACE) -> bytes:
    unit = Encryptor(key, place)
    parts = [sealed for chunk in chunked(plain, sizes) for sealed in unit.update(chunk)]
    return joined([*parts, *unit.finish()])


def opened(sealed: bytes, sizes: tuple[int, ...] = UNEVEN, key: Key = KEY, place: bytes = PLACE) -> bytes:
    return joined(decrypt(chunked(sealed, sizes), key, place, "database.dump"))


def assert_refused(sealed: bytes, plain: bytes, good_segments: int, key: Key = KEY, place: bytes = PLACE) -> None:
    """It is refused, the message names the file, and only whole segments before the bad one were given."""
    given_out: list[bytes] = []
    with pytest.raises(AuthenticationFailed, match=r"database\.dump"):
        for piece in decrypt(chunked(sealed), key, place, "database.dump"):
            given_out.append(piece)
    out = joined(given_out)
    edges = (0, 1048520, 2097080, 3145640)
    assert len(out) == edges[good_segments]
    assert plain.startswith(out)


@lru_cache(maxsize=1)
def tink_primitive() -> Any:
    import tink
    from tink import secret_key_access, streaming_aead
    from tink.proto import aes_gcm_hkdf_streaming_pb2, common_pb2, tink_pb2

    streaming_aead.register()
    key = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKey(
        version=0,
        key_value=KEY.secret,
        params=aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingParams(
            ciphertext_segment_size=SEGMENT, derived_key_size=32, hkdf_hash_type=common_pb2.SHA256
        ),
    )
    entry = tink_pb2.Keyset.Key(
        key_data=tink_pb2.KeyData(
            type_url="type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey",
            value=key.SerializeToString(),
            key_material_type=tink_pb2.KeyData.SYMMETRIC,
        ),
        status=tink_pb2.ENABLED,
        key_id=1,
        output_prefix_type=tink_pb2.RAW,
    )
    keyset = tink_pb2.Keyset(primary_key_id=1, key=[entry])
    handle = tink.proto_keyset_format.parse(keyset.SerializeToString(), secret_key_access.TOKEN)
    return handle.primitive(streaming_aead.StreamingAead)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chunking", ["uneven", "whole"])
def test_tink_opens_what_we_encrypted(size: int, chunking: str) -> None:
    plain = noise(size)
    sealed = encrypted(plain, CHUNKINGS[chunking])
    with tink_primitive().new_decrypting_stream(io.BytesIO(sealed), PLACE) as stream:
        assert stream.read() == plain


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chunking", CHUNKINGS)
def test_we_open_what_tink_encrypted(size: int, chunking: str) -> None:
    plain = noise(size)
    sealed = sealed_by_tink(size)
    assert opened(sealed, CHUNKINGS[chunking]) == plain


@lru_cache(maxsize=len(SIZES))
def sealed_by_tink(size: int) -> bytes:
    class Kept(io.BytesIO):
        def close(self) -> None:
            pass

    file = Kept()
    with tink_primitive().new_encrypting_stream(file, PLACE) as stream:
        stream.write(noise(size))
    return file.getvalue()


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 3), st.lists(st.integers(100, 900_000), min_size=1, max_size=6))
def test_what_was_encrypted_is_read_back_however_it_was_cut(start: bytes, blocks: int, sizes: list[int]) -> None:
    plain = start + bytes(500_000) * blocks
    assert opened(encrypted(plain, tuple(sizes)), tuple(reversed(sizes))) == plain


def test_the_same_bytes_encrypted_twice_have_nothing_in_common() -> None:
    first, second = encrypted(b"payroll" * 100), encrypted(b"payroll" * 100)
    assert first[:41] != second[:41]
    assert first[41:] != second[41:]
    assert b"payroll" not in first


# Three whole segments and a short one, so that every kind of place is there.
PLAIN = noise(3_500_000)
SEALED = encrypted(PLAIN)


@pytest.mark.parametrize(
    ("length", "good"),
    [
        pytest.param(0, 0, id="nothing left"),
        pytest.param(1, 0, id="in the header"),
        pytest.param(39, 0, id="header less one"),
        pytest.param(40, 0, id="header only"),
        pytest.param(41, 0, id="one byte of the first segment"),
        pytest.param(55, 0, id="less than a tag"),
        pytest.param(500_000, 0, id="in the first segment"),
        pytest.param(SEGMENT - 1, 0, id="first segment less one"),
        pytest.param(SEGMENT, 0, id="at the first edge"),
        pytest.param(SEGMENT + 1, 1, id="one byte after the first edge"),
        pytest.param(SEGMENT + 16, 1, id="a tag's length after the first edge"),
        pytest.param(2 * SEGMENT, 1, id="at the second edge"),
        pytest.param(2 * SEGMENT + 9, 2, id="after the second edge"),
        pytest.param(3 * SEGMENT, 2, id="last segment dropped"),
        pytest.param(len(SEALED) - 1, 3, id="last byte dropped"),
        pytest.param(len(SEALED) - 16, 3, id="last tag dropped"),
    ],
)
def test_a_truncated_file_is_refused_wherever_it_was_cut(length: int, good: int) -> None:
    assert_refused(SEALED[:length], PLAIN, good)


@pytest.mark.parametrize("more", [b"x", bytes(16), noise(SEGMENT), SEALED])
def test_a_file_with_something_behind_its_end_is_refused(more: bytes) -> None:
    assert_refused(SEALED + more, PLAIN, 3)


def positions() -> Iterator[int]:
    yield from (0, 1, 20, 33, 39)
    for start in range(0, len(SEALED), SEGMENT):
        end = min(start + SEGMENT, len(SEALED))
        yield from (max(start, 40), (start + end) // 2, end - 17, end - 16, end - 1)


@pytest.mark.parametrize("position", sorted(set(positions())))
def test_a_single_flipped_bit_anywhere_is_refused_and_nothing_of_its_segment_is_given(position: int) -> None:
    altered = bytearray(SEALED)
    altered[position] ^= 1 << (position % 8)
    assert_refused(bytes(altered), PLAIN, position // SEGMENT)


@pytest.mark.parametrize(("first", "second", "good"), [(1, 2, 1), (2, 1, 1)])
def test_swapped_segments_are_refused(first: int, second: int, good: int) -> None:
    parts = [SEALED[start : start + SEGMENT] for start in range(0, len(SEALED), SEGMENT)]
    parts[first], parts[second] = parts[second], parts[first]
    assert_refused(joined(parts), PLAIN, good)


def test_a_segment_left_out_or_given_twice_is_refused() -> None:
    parts = [SEALED[start : start + SEGMENT] for start in range(0, len(SEALED), SEGMENT)]
    assert_refused(joined([parts[0], *parts[2:]]), PLAIN, 1)
    assert_refused(joined([parts[0], parts[1], *parts[1:]]), PLAIN, 2)


def test_a_segment_of_another_file_is_refused() -> None:
    other = encrypted(noise(3_500_000, seed=2))
    assert_refused(SEALED[:SEGMENT] + other[SEGMENT:], PLAIN, 1)


@pytest.mark.parametrize(
    "place",
    [
        ("shop", "20260101T020000Z-full-0001", "database.dump"),
        ("erp", "20260102T020000Z-full-0002", "database.dump"),
        ("erp", "20260101T020000Z-full-0001", "media.tar"),
    ],
    ids=["application", "backup", "artifact"],
)
def test_bytes_moved_to_the_place_of_another_are_refused(place: tuple[str, str, str]) -> None:
    assert_refused(SEALED, PLAIN, 0, place=associated_data(*place))


def test_bytes_written_with_another_key_are_refused_and_the_message_holds_no_key() -> None:
    assert_refused(SEALED, PLAIN, 0, key=OTHER_KEY)
    with pytest.raises(AuthenticationFailed) as caught:
        opened(SEALED, key=OTHER_KEY)
    assert OTHER_KEY.secret.hex() not in str(caught.value)


def test_a_file_that_is_not_encrypted_at_all_is_refused() -> None:
    assert_refused(b"PGDMP" + bytes(100_000), b"", 0)
