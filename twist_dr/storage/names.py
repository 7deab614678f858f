"""Names on targets that have folders: parts of keys, and of what is under way in ``.incoming``."""

from __future__ import annotations

import re
import time
import uuid

from twist_dr.storage.base import valid_key

#: Where uploads lie until they are checked.
INCOMING = ".incoming"
#: Parts of a key. Ours have six at most; whoever can write to a target can make so many folders within each other that no walk ends.
DEEPEST = 16
#: ``<begun, Unix seconds>-<random>``: the name tells the age, since a linked file keeps the times of its source.
_TEMPORARY = re.compile(r"^(\d{1,12})-[0-9a-f]{32}\Z")
_PART = re.compile(r"^(?!\.{1,2}$)[A-Za-z0-9._-]+\Z")


def temporary_name() -> str:
    """A name in ``.incoming`` for what begins now."""
    return f"{int(time.time())}-{uuid.uuid4().hex}"


def begun_at(name: str) -> int | None:
    """When what has that name in ``.incoming`` was begun, in Unix seconds; None when it is none of ours."""
    begun = _TEMPORARY.match(name)
    return int(begun[1]) if begun else None


def is_part(name: str) -> bool:
    """Whether it can be a part of a key."""
    return _PART.match(name) is not None


def in_key_order(name: str, *, is_folder: bool) -> str:
    """What entries of a folder are sorted by: ``a-b/c`` comes before ``a/c``, as whole keys are compared."""
    return f"{name}/" if is_folder else name


def key_parts(key: str) -> list[str]:
    """The parts of a key where ``.incoming`` is not one. Raises ``ValueError``, as ``valid_key``."""
    parts = valid_key(key).split("/")
    if parts[0] == INCOMING:
        raise ValueError(f"reserved for unfinished uploads: {key!r}")
    if len(parts) > DEEPEST:
        raise ValueError(f"not a storage key, for its parts are too many: {key!r}")
    return parts
