"""Trying a storage target: write, read back, compare, delete, and find out what it can do."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from twist_dr.errors import ObjectCorrupt, StorageError, TwistDRError
from twist_dr.storage.base import Capabilities, Digest, StorageTarget

#: Enough that a wrong byte shows, small enough for every night. Bytes.
_SIZE = 64 << 10


@dataclass(frozen=True)
class TargetTest:
    """What came out. ``error``: why the target is not usable."""

    target: str
    location: str
    seconds: float
    capabilities: Capabilities | None
    error: TwistDRError | None

    @property
    def ok(self) -> bool:
        return self.error is None


def run_target_test(target: StorageTarget) -> TargetTest:
    """Try a target with a small object of random bytes. Raises no error of ours: it is the result, also when the target's secrets cannot be read."""
    begun = time.monotonic()
    capabilities: Capabilities | None = None
    error: TwistDRError | None = None
    try:
        target.prepare()
        _write_read_delete(target)
        capabilities = target.probe()
    except TwistDRError as failure:
        error = failure
    return TargetTest(target.name, target.location, round(time.monotonic() - begun, 3), capabilities, error)


def _write_read_delete(target: StorageTarget) -> None:
    content = os.urandom(_SIZE)
    digest = Digest(_SIZE, hashlib.sha256(content).hexdigest())
    key = f".probe-{secrets.token_hex(8)}/object"
    with tempfile.TemporaryDirectory(prefix="twist-dr-") as folder:
        source = Path(folder) / "object"
        source.write_bytes(content)
        try:
            target.put(source, key, digest)
            with target.open(key) as stream:
                if stream.read() != content:
                    raise ObjectCorrupt(
                        "it reads other bytes than were written a moment ago",
                        remedy="do not use this target",
                        target=target.name,
                    )
        except BaseException:
            with suppress(StorageError):
                target.delete(key)
            raise
        target.delete(key)
    if target.stat(key) is not None:
        raise ObjectCorrupt(
            "it shows an object that was just deleted",
            remedy="see whether it keeps versions or delays deletion",
            target=target.name,
        )
