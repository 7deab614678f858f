"""Opening an object with whichever key of the keyring fits: WAL has no manifest that would name one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from twist_dr.errors import AuthenticationFailed
from twist_dr.repository.encryption import SEGMENT as CIPHER_SEGMENT
from twist_dr.repository.encryption import decrypt
from twist_dr.repository.keys import Keyring


def opened(chunks: Iterator[bytes], keyring: Keyring, data: bytes, what: str) -> Iterator[bytes]:
    """The compressed bytes of an object, authenticated; ``data`` binds it to its place. Raises ``AuthenticationFailed``, naming ``what``."""
    first = b""
    # One byte more than a segment of the cipher, so that the first segment alone tells whether a key fits.
    while len(first) <= CIPHER_SEGMENT and (chunk := next(chunks, b"")):
        first += chunk
    # The primary is the likeliest.
    keys = sorted(keyring.keys.values(), key=lambda key: key.id != keyring.primary_id)
    for place, key in enumerate(keys, 1):
        plain = decrypt(chain([first], chunks), key, data, what)
        try:
            begin = next(plain, b"")
        except AuthenticationFailed:
            if place < len(keys):
                continue
            raise AuthenticationFailed(
                f"{what}: no key of {keyring.source} ({', '.join(sorted(keyring.keys))}) opens it: it was altered or moved, or the key that it was "
                "written with is missing",
                remedy="add that key to the keyring, or take the file from another storage target",
            ) from None
        yield begin
        yield from plain
        return
