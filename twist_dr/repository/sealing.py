"""Documents under a MAC: whoever lacks the keys can neither make one nor change one.

A document is canonical JSON: keys sorted, no spaces, UTF-8. Its field ``mac`` is HMAC-SHA256, in hexadecimal, over the canonical JSON of
all other fields, under HKDF-SHA256(key, no salt, info ``twist-dr 1 <kind> mac``): so no document of one kind passes for one of another.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

from twist_dr.errors import EncryptionError
from twist_dr.repository.keys import Key, Keyring


def canonical(document: dict[str, Any]) -> bytes:
    """Raises ``ValueError`` for NaN and halves of surrogate pairs: json reads them, and no document of ours holds them."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def mac_of(document: dict[str, Any], key: Key, kind: str) -> str:
    """The MAC of a document without its field ``mac``. Raises what :func:`canonical` raises."""
    return hmac.new(key.mac_secret(kind), canonical(document), hashlib.sha256).hexdigest()


def fits(mac: object, document: dict[str, Any], key: Key, kind: str, data: bytes = b"") -> bool:
    """Whether ``mac`` is that of the rest of the document. With ``data``, the text that it was read from, quickly where that is canonical.

    To write a manifest of thousands of tables again takes longer than all else about it. Where the text without its field ``mac`` has that MAC,
    whoever had the key wrote it so. Elsewhere than between two fields of the outermost object the field cannot have been put: within a string
    it makes no JSON, and within another object ``mac`` would not have been found in the document.
    """
    try:
        if not isinstance(mac, str):
            return False
        before, field, after = data.partition(b',"mac":"' + mac.encode() + b'"')
        if field:
            found = hmac.new(key.mac_secret(kind), before, hashlib.sha256)
            found.update(after)
            if hmac.compare_digest(mac.encode(), found.hexdigest().encode()):
                return True
        return hmac.compare_digest(mac.encode(), mac_of(document, key, kind).encode())
    except (ValueError, RecursionError):
        return False


def seal(document: dict[str, Any], key: Key, kind: str) -> bytes:
    """The document's bytes, with the key's name and the MAC."""
    named = {**document, "key": {"id": key.id, "check_value": key.check_value}}
    return canonical({**named, "mac": mac_of(named, key, kind)})


def is_genuine(document: dict[str, Any], keyring: Keyring, kind: str) -> bool:
    """Whether somebody who had one of the keys sealed it. False also where the keyring lacks the key that it names."""
    unsigned = {name: value for name, value in document.items() if name != "mac"}
    try:
        named = unsigned["key"]
        key = keyring.find(str(named["id"]), str(named["check_value"]))
    except (LookupError, TypeError, EncryptionError):
        return False
    return fits(document.get("mac"), unsigned, key, kind)
