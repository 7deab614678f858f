"""Bad inputs made of good ones: bytes changed anywhere, and JSON changed by its structure."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

#: Where readers stumble: ends of ranges, signs, quotes, separators, an anchor and its alias.
_TELLING = [
    b"", b"\0", b"\xff", b"\0" * 8, b"\xff" * 8, b"\x80\0\0\0", b"\x7f\xff\xff\xff", b"-1", b"0", b"9" * 30, b"9" * 5000, b"1e999", b"nan",
    b"\n", b"\r", b'"', b"'", b"\\", b"\\u0000", b"\\ud800", b"{", b"}", b"[" * 100, b"{}," * 100, b":", b",", b"/", b"../", b"&a ", b"*a", b"<<: ",
    b"!!int ", b"%", b"${", b"\xc3\xa9", b"\xf0\x9f\x98\x80", b"\xed\xa0\x80", b"null", b"true", b"A" * 600,
]  # fmt: skip


@st.composite
def changed(draw: st.DrawFn, seeds: Sequence[bytes], repair: Callable[[bytes], bytes] = bytes) -> bytes:
    """A seed with a few of its bytes replaced, removed, repeated or moved; ``repair`` puts right what else would hide the rest (a checksum)."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from([0, 1, 1, 2, 4, 8, 12, 40, 512, 5000]))
        match draw(st.sampled_from(["set", "insert", "bits", "cut", "repeat", "move"])):
            case "set":
                new = draw(st.sampled_from(_TELLING))
                data[at : at + len(new)] = new
            case "insert":
                data[at:at] = draw(st.one_of(st.sampled_from(_TELLING), st.binary(max_size=20)))
            case "bits" if at < len(data):
                data[at] ^= draw(st.integers(1, 255))
            case "cut":
                del data[at : at + length]
            case "repeat":
                data[at:at] = data[at : at + length] * draw(st.integers(1, 50))
            case "move":
                piece = data[at : at + length]
                del data[at : at + length]
                to = draw(st.integers(0, len(data)))
                data[to:to] = piece
    return repair(bytes(data))


_VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
        st.sampled_from(["", "0/0", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "..", "\0", "a" * 3000, 2**63, -1, 10**30]),
    ),
    lambda below: st.one_of(st.lists(below, max_size=4), st.dictionaries(st.text(max_size=10), below, max_size=4)),
    max_leaves=8,
)  # fmt: skip


@st.composite
def documents(draw: st.DrawFn, seeds: Sequence[bytes], repair: Callable[[Any], bytes] | None = None) -> bytes:
    """A JSON document with some of its values, keys or elements replaced, removed or added."""
    document = json.loads(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 3))):
        document = _replaced(draw, document, depth=0)
    return repair(document) if repair else json.dumps(document).encode()


def _replaced(draw: st.DrawFn, value: Any, depth: int) -> Any:
    if isinstance(value, dict) and value and draw(st.integers(0, 9)) > 0:
        key = draw(st.sampled_from(sorted(value)))
        match draw(st.sampled_from(["below", "below", "below", "remove", "rename"])):
            case "below":
                return {**value, key: _replaced(draw, value[key], depth + 1)}
            case "remove":
                return {name: each for name, each in value.items() if name != key}
            case _:
                return {draw(st.text(max_size=10)) if name == key else name: each for name, each in value.items()}
    if isinstance(value, list) and value and draw(st.booleans()):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], _replaced(draw, value[at], depth + 1), *value[at + 1 :]]
    return draw(_VALUES)
