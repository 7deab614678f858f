"""Encrypted streams: Tink's streaming AEAD, AES256_GCM_HKDF_1MB.

The format (https://developers.google.com/tink/streaming-aead/aes_gcm_hkdf_streaming)::

    header   1 byte 0x28 | 32 bytes salt | 7 bytes nonce prefix                                      40 bytes
    segment  AES-256-GCM under HKDF-SHA256(key, salt, info=associated data), tag of 16 bytes at its end
             nonce = prefix (7) | number of the segment, big-endian (4) | 1 on the last one, else 0 (1)

A segment is 1 MiB of ciphertext, tag included; the first is shorter by the header, the last may be shorter, and is there
even when it is empty. The mark in the nonce of the last segment makes a stream cut at a segment's edge fail.

The associated data goes into the key of the file, so bytes moved to another backup, name or application do not open.
``twist_dr_tests/repository/test_encryption.py`` reads and writes the same bytes with the ``tink`` package.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator

from twist_dr.errors import FROM_ANOTHER, AuthenticationFailed
from twist_dr.repository.keys import Key

SEGMENT = 1 << 20
TAG = 16
SALT = 32
PREFIX = 7
HEADER = 1 + SALT + PREFIX
FIRST_PLAIN = SEGMENT - HEADER - TAG
NEXT_PLAIN = SEGMENT - TAG
_MOST_SEGMENTS = 1 << 32


def associated_data(application: str, backup_id: str, name: str) -> bytes:
    """What binds a file to its place. The three hold no newline, so no two places give the same bytes."""
    return "\n".join(("twist-dr artifact 1", application, backup_id, name)).encode()


class _Segments:
    """The cipher of one file: seals and opens segments by number."""

    def __init__(self, key: Key, salt: bytes, prefix: bytes, data: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        self._cipher = AESGCM(HKDF(algorithm=SHA256(), length=32, salt=salt, info=data).derive(key.secret))
        self._prefix = prefix

    def seal(self, number: int, plain: bytes | memoryview, last: bool) -> bytes:
        return self._cipher.encrypt(self._nonce(number, last), plain, None)

    def open(self, number: int, sealed: bytes | memoryview, last: bool) -> bytes:
        return self._cipher.decrypt(self._nonce(number, last), sealed, None)

    def _nonce(self, number: int, last: bool) -> bytes:
        if number >= _MOST_SEGMENTS:
            raise OverflowError("an encrypted stream holds at most 2**32 segments of 1 MiB")
        return self._prefix + number.to_bytes(4, "big") + (b"\x01" if last else b"\x00")


class Encryptor:
    """Turns plain chunks into the encrypted stream, one segment in memory at a time."""

    def __init__(self, key: Key, data: bytes) -> None:
        salt, prefix = secrets.token_bytes(SALT), secrets.token_bytes(PREFIX)
        self._segments = _Segments(key, salt, prefix, data)
        self._header = bytes([HEADER]) + salt + prefix
        self._number = 0
        self._pending = bytearray()

    def update(self, chunk: bytes) -> Iterator[bytes]:
        """Take plain bytes, give what is ready. A segment is only sealed when a byte after it is known: it might be the last."""
        self._pending += chunk
        offset = 0
        with memoryview(self._pending) as view:
            while len(view) - offset > (wanted := FIRST_PLAIN if self._number == 0 else NEXT_PLAIN):
                yield self._take(view[offset : offset + wanted], last=False)
                offset += wanted
        del self._pending[:offset]

    def finish(self) -> Iterator[bytes]:
        """Seal the last segment, empty or not."""
        yield self._take(bytes(self._pending), last=True)

    def _take(self, plain: bytes | memoryview, last: bool) -> bytes:
        sealed = self._segments.seal(self._number, plain, last)
        if self._number == 0:
            sealed = self._header + sealed
        self._number += 1
        return sealed


def decrypt(chunks: Iterable[bytes], key: Key, data: bytes, what: str) -> Iterator[bytes]:
    """The plain bytes of an encrypted stream, segment by segment; each is authenticated before it is given.

    The stream as a whole is good only once the iterator has ended: the mark of the last segment is checked there.
    Raises ``AuthenticationFailed``, which names ``what``.
    """
    from cryptography.exceptions import InvalidTag

    pending = bytearray()
    segments: _Segments | None = None
    number = 0

    def refuse() -> AuthenticationFailed:
        return AuthenticationFailed(
            f"{what}: the encrypted bytes are truncated, altered, or belong to another file or key (segment {number})",
            remedy=FROM_ANOTHER,
        )

    def take(length: int, last: bool) -> bytes:
        nonlocal number
        assert segments is not None
        try:
            plain = segments.open(number, bytes(pending[:length]), last)
        except InvalidTag:
            raise refuse() from None
        del pending[:length]
        number += 1
        return plain

    for chunk in chunks:
        pending += chunk
        if segments is None:
            if len(pending) < HEADER:
                continue
            if pending[0] != HEADER:
                raise refuse()
            segments = _Segments(key, bytes(pending[1 : 1 + SALT]), bytes(pending[1 + SALT : HEADER]), data)
            del pending[:HEADER]
        while len(pending) > (wanted := SEGMENT - HEADER if number == 0 else SEGMENT):
            yield take(wanted, last=False)
    if segments is None or len(pending) < TAG:
        raise refuse()
    yield take(len(pending), last=True)
