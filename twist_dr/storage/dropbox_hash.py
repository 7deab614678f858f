"""Dropbox's content hash (dropbox.com/developers/reference/content-hash): SHA-256 over the SHA-256 of each block of 4 MiB."""

from __future__ import annotations

import hashlib

_BLOCK = 4 << 20


class DropboxHash:
    """Used as a hash of ``hashlib`` is."""

    def __init__(self) -> None:
        self._blocks, self._block, self._left = hashlib.sha256(), hashlib.sha256(), _BLOCK

    def update(self, data: bytes, /) -> None:
        view = memoryview(data)
        while view:
            part, view = view[: self._left], view[self._left :]
            self._block.update(part)
            self._left -= len(part)
            if not self._left:
                self._blocks.update(self._block.digest())
                self._block, self._left = hashlib.sha256(), _BLOCK

    def hexdigest(self) -> str:
        whole = self._blocks.copy()
        if self._left < _BLOCK:
            whole.update(self._block.digest())
        return whole.hexdigest()
