"""Sizes that many places share."""

from __future__ import annotations

#: Bytes moved at a time wherever a target streams.
CHUNK = 1 << 20
