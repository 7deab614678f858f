"""The digests that providers compute over what they hold, computed over what is sent: in the pass that makes sure of its SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from twist_dr.storage.base import Digest, compare
from twist_dr.storage.dropbox_hash import DropboxHash
from twist_dr.storage.quickxor import QuickXor


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


#: By rclone's names. SHA-256 is known before.
_HASHES: Mapping[str, Callable[[], _Hash]] = {
    "md5": lambda: hashlib.md5(usedforsecurity=False),
    "quickxor": QuickXor,
    "dropbox": DropboxHash,
}


@dataclass(frozen=True)
class Expected:
    """What an object must be. ``hash``: the digest that its provider computes, too, in hexadecimal digits; None: it is read back."""

    digest: Digest
    hash: str | None

    @classmethod
    def of(cls, source: Path, digest: Digest, name: str | None, target: str) -> Expected:
        """Raises ``ObjectCorrupt`` unless the file is ``digest``, ``OSError`` when it cannot be read."""
        made = _HASHES[name]() if name is not None and name in _HASHES else None
        with source.open("rb") as stream:
            read = cast(BinaryIO, _Both(stream, made)) if made is not None else stream
            compare(read, f"nothing was stored: the file {source}", digest, target=target)
        return cls(digest, made.hexdigest()) if made is not None else cls.known(digest, name)

    @classmethod
    def known(cls, digest: Digest, name: str | None) -> Expected:
        """The same of bytes that are not at hand."""
        return cls(digest, digest.sha256 if name == "sha256" else None)


class _Both:
    """A stream that is hashed as it is read."""

    def __init__(self, stream: BinaryIO, made: _Hash) -> None:
        self._stream, self._made = stream, made

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._made.update(data)
        return data
