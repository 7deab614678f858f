"""The keyring: named 256-bit keys, one of them primary.

A keyring is a small YAML document, kept in a file (mode 0600) or in an environment variable::

    primary: k20261121
    keys:
      k20261121: pzQ...base64 of 32 bytes...=
      k20250101: ...          # an old one, kept for reading

New backups use the primary key; every key can read. A backup names the id of its key and a *check value*, so that a
wrong key is said at once instead of after a gigabyte. Losing the keyring means losing the backups: keep a copy of it
away from the machine and away from the storage targets.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from twist_dr.errors import KeyMissing, KeyringInvalid, WrongKey
from twist_dr.redaction import keep_secret
from twist_dr.system.documents import BY_HAND, DocumentInvalid, YamlInvalid, read_file, read_yaml

KEY_BYTES = 32
_CHECK_BYTES = 8
#: Shorter than a key in base64 (44), so that a key in the place of its name is told apart and never shown.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_ID_WORDS = "at most 40 letters, digits, '.', '_' and '-'"


def derive(secret: bytes, purpose: bytes, length: int = KEY_BYTES) -> bytes:
    """HKDF-SHA256 (RFC 5869) of ``secret`` without salt, for one ``purpose``: nothing else may use the key itself."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(algorithm=SHA256(), length=length, salt=None, info=b"twist-dr 1 " + purpose).derive(secret)


@dataclass(frozen=True)
class Key:
    """One key. ``secret`` is 32 bytes and appears in no representation."""

    id: str
    secret: bytes = field(repr=False)

    @property
    def check_value(self) -> str:
        """16 hexadecimal digits that tell keys apart and reveal nothing about them."""
        return derive(self.secret, b"key check", _CHECK_BYTES).hex()

    def mac_secret(self, kind: str) -> bytes:
        """The derived key of the MACs of one kind of document, such as ``manifest``: 32 bytes."""
        return derive(self.secret, f"{kind} mac".encode())


@dataclass(frozen=True)
class Keyring:
    """Keys by id. ``source`` says where it came from, for messages."""

    primary_id: str
    keys: Mapping[str, Key]
    source: str

    @property
    def primary(self) -> Key:
        """The key that new backups are written with."""
        return self.keys[self.primary_id]

    def find(self, key_id: str, check_value: str, what: str = "the backup") -> Key:
        """The key that ``what`` names. Raises ``KeyMissing`` or ``WrongKey``."""
        key = self.keys.get(key_id)
        if key is None:
            raise KeyMissing(
                f"{what[0].upper()}{what[1:]} needs key {key_id!r} (check value {check_value}), which the keyring {self.source} lacks (it has "
                f"{', '.join(sorted(self.keys))})",
                remedy="add that key to the keyring",
            )
        if key.check_value != check_value:
            raise WrongKey(
                f"Key {key_id!r} in the keyring {self.source} has check value {key.check_value}, but {what} was written with one of check value "
                f"{check_value}",
                remedy="put the key of that time back under this name",
            )
        return key

    def with_new_primary(self, key: Key) -> Keyring:
        """A keyring in which ``key`` is primary and all others stay for reading."""
        if key.id in self.keys:
            raise KeyringInvalid(
                f"The keyring {self.source} already has a key {key.id!r}", remedy="choose another name"
            )
        return Keyring(key.id, {**self.keys, key.id: key}, self.source)

    def to_yaml(self) -> str:
        """The document that :func:`parse_keyring` reads. It holds the secrets."""
        lines = [
            "# twist-dr keyring. Whoever has it can read every backup; without it nobody can.",
            "# Keep a copy away from this machine and away from the storage targets.",
            # In quotes: without them YAML takes 0123 for a number and yes for true.
            f'primary: "{self.primary_id}"',
            "keys:",
            *(f'  "{key.id}": {base64.b64encode(key.secret).decode()}' for key in self.keys.values()),
        ]
        return "\n".join(lines) + "\n"


def new_key(key_id: str | None = None) -> Key:
    """A fresh random key, named after today unless told otherwise. Raises ``KeyringInvalid`` for a name that is none."""
    if key_id and not _ID.fullmatch(key_id):
        raise KeyringInvalid(f"A key's name is {_ID_WORDS}", remedy="choose another name")
    return Key(key_id or f"k{datetime.now(timezone.utc):%Y%m%d}-{secrets.token_hex(2)}", secrets.token_bytes(KEY_BYTES))


def parse_keyring(text: str, source: str) -> Keyring:
    """Read a keyring document. Raises ``KeyringInvalid`` with words that hold no part of a key."""
    try:
        document = read_yaml(text)
    except YamlInvalid:
        # The parser's own message quotes the line at fault, which may be a key.
        raise KeyringInvalid(
            f"The keyring {source} is not readable as YAML, or has a name twice",
            remedy="correct it, or restore it from your copy",
        ) from None
    if not isinstance(document, dict) or not isinstance(document.get("keys"), dict) or not document["keys"]:
        raise KeyringInvalid(
            f"The keyring {source} has no 'keys'",
            remedy="restore it from your copy, or make one with: twist-dr keys new",
        )
    keys = {str(name): Key(str(name), _decode(str(name), value, source)) for name, value in document["keys"].items()}
    primary = str(document.get("primary"))
    if primary not in keys:
        named = repr(primary) if _ID.fullmatch(primary) else "something"
        raise KeyringInvalid(
            f"The keyring {source} names {named} as primary, which is not among its keys", remedy="correct 'primary'"
        )
    return Keyring(primary, keys, source)


def _decode(name: str, value: object, source: str) -> bytes:
    if not _ID.fullmatch(name):
        raise KeyringInvalid(
            f"The keyring {source} has a key whose name is not {_ID_WORDS}",
            remedy="correct it, or restore the keyring from your copy",
        )
    try:
        secret = base64.b64decode(str(value), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if len(secret) != KEY_BYTES:
        raise KeyringInvalid(
            f"Key {name!r} in the keyring {source} is not {KEY_BYTES} bytes in base64",
            remedy="restore it from your copy",
        )
    keep_secret(str(value), secret.hex())
    return secret


def load_keyring(location: str) -> Keyring:
    """Load from ``env:NAME`` (the document itself in that variable) or from a file. Raises ``KeyringInvalid``."""
    if location.startswith("env:"):
        name = location.removeprefix("env:")
        text = os.environ.get(name)
        if not text:
            raise KeyringInvalid(
                f"The environment variable {name}, which must hold the keyring, is not set", remedy="set it"
            )
        return parse_keyring(text, location)
    path = Path(location)
    try:
        return parse_keyring(read_file(path, BY_HAND.size).decode(), str(path))
    except FileNotFoundError:
        raise KeyringInvalid(
            f"There is no keyring {path}",
            remedy="restore it from your copy (only before the first backup, make one: twist-dr keys new).",
        ) from None
    except DocumentInvalid as error:
        raise KeyringInvalid(
            f"The keyring {path} cannot be read: {error.problem}", remedy="restore it from your copy"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise KeyringInvalid(
            f"The keyring {path} cannot be read ({type(error).__name__})", remedy="fix its permissions or restore it"
        ) from None


def save_keyring(keyring: Keyring, path: Path) -> None:
    """Write the keyring file, mode 0600, replacing the old one in one step."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)  # what a killed run left may have another mode
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(keyring.to_yaml())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
