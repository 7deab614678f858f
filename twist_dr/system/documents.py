"""Documents from outside, JSON and YAML: bounded before they are parsed, read strictly.

A parser makes of a few bytes what takes hundreds: 64 MiB of ``[{},{},...]`` are 1.8 GB of Python, ten lines of YAML aliases
more than any machine has. So size, depth and number of values are looked at in the bytes, which costs next to nothing.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twist_dr.system.folders import fsync_folder


class DocumentInvalid(ValueError):
    """No document of the kind, or larger than any. ``problem`` is half a sentence and quotes no value."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class YamlInvalid(DocumentInvalid):
    """Not YAML, or with a key given twice. ``line`` counts from 1 where it is known."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.line = line


@dataclass(frozen=True)
class Limits:
    """How large a document may be. ``size``: bytes, of its text and of that text as Python holds it; ``values``: elements of all lists and mappings."""

    size: int
    values: int
    depth: int = 32


#: What we write beside backups (holds, tombstones) and on this machine (journals, notes, states): a few hundred values, a list of tables at most.
NOTE = Limits(size=1 << 20, values=50_000)
#: A line of an archive's index: a path, which may be longer than any that can be opened at once, each byte of it six characters.
LINE = Limits(size=1 << 22, values=1 << 20, depth=4)
#: What people write by hand. PyYAML takes some 600 bytes for each byte that it reads.
BY_HAND = Limits(size=1 << 18, values=20_000)

_PIECE = 1 << 16
_NOT_STRUCTURE = bytes(set(range(256)) - set(b"[]{},"))
_NOT_BRACKETS = b","
#: Longer than any number that we write; int() takes quadratic time.
_MOST_DIGITS = 40


def read_file(path: Path, most: int, *, links: bool = True) -> bytes:
    """A small file whole. Raises ``DocumentInvalid`` when it has more than ``most`` bytes or is none, and ``OSError``.

    It never waits: opening a FIFO, or reading a device such as /proc/kmsg, could for ever. ``links``: whether a link in the last place is
    followed, which it must not be where others may have put one.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | (0 if links else os.O_NOFOLLOW))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DocumentInvalid("it is no regular file")
        if (data := file.read(most + 1)) is None:  # Of what only looks like a regular file: nothing is there yet.
            raise DocumentInvalid("it is no regular file")
        return at_most(data, most)


def at_most(data: bytes, most: int) -> bytes:
    """The same bytes. Raises ``DocumentInvalid`` when they are more."""
    if len(data) > most:
        raise DocumentInvalid(f"it has more than {most} bytes, which none of ours has")
    return data


def read_json(data: bytes, limits: Limits) -> Any:
    """Parse. Raises ``DocumentInvalid``: no JSON, or beyond the limits, of which nothing was parsed then."""
    refuse_beyond(data, limits)
    try:
        return _DECODER.decode(data.decode(json.detect_encoding(data), "surrogatepass"))
    except (ValueError, RecursionError):
        raise DocumentInvalid("it is not JSON: truncated or overwritten") from None


def read_mapping(data: bytes, limits: Limits) -> dict[str, Any]:
    """The same for a document that must be a mapping."""
    document = read_json(data, limits)
    if not isinstance(document, dict):
        raise DocumentInvalid("it is no JSON object: truncated or overwritten")
    return document


def refuse_beyond(data: bytes, limits: Limits) -> None:
    """Raise ``DocumentInvalid`` when a JSON text is larger than ``limits``. It need not be one."""
    at_most(data, limits.size // _width(at_most(data, limits.size)))
    # Without escapes, each quote begins or ends a string, and no value has more than two: its key's and its own.
    text = data.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in data else data
    if text.count(b'"') > 4 * limits.values + 4:
        raise _too_many(limits)
    values = depth = 0
    inside = False
    for start in range(0, len(text), _PIECE):
        pieces = text[start : start + _PIECE].split(b'"')
        structure = b"".join(pieces[inside::2]).translate(None, _NOT_STRUCTURE)
        inside ^= len(pieces) % 2 == 0
        values += structure.count(b",") + structure.count(b"[") + structure.count(b"{")
        if values > limits.values:
            raise _too_many(limits)
        for bracket in structure.translate(None, _NOT_BRACKETS):
            depth += 1 if bracket in b"[{" else -1
            if depth > limits.depth:
                raise DocumentInvalid("it is nested too deeply")


def _too_many(limits: Limits) -> DocumentInvalid:
    return DocumentInvalid(f"it has more than {limits.values} values, which none of ours has")


def _width(data: bytes) -> int:
    """Bytes that Python may take for each character of a text, and of each string in it: one of them widens all."""
    escapes, ascii_only = rb"\u" in data, data.isascii()
    if (escapes and re.search(rb"\\u[dD]", data)) or (not ascii_only and re.search(rb"[\xf0-\xff]", data)):
        return 4
    return 2 if escapes or (not ascii_only and re.search(rb"[\xc4-\xef]", data)) else 1


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError
    return int(digits)


def _no_number(word: str) -> Any:
    raise ValueError(word)  # NaN and infinities


#: One for all: to make it takes longer than to read a line of an index with it.
_DECODER = json.JSONDecoder(parse_int=_integer, parse_constant=_no_number)


def read_yaml(text: str) -> Any:
    """A document of plain values, written by hand. Raises ``YamlInvalid``, also for a key given twice, where YAML would quietly keep the last."""
    import yaml

    if len(text) > BY_HAND.size:
        raise YamlInvalid(f"it has more than {BY_HAND.size} characters")
    try:
        loader = _strict_loader()(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _refuse_multiplied(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except YamlInvalid:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        # A password that begins with * or ! is an alias or a tag to YAML, which then quotes it.
        problem = re.sub(r" '[^']{2,}'", "", str(error.problem))
        raise YamlInvalid(problem, mark.line + 1 if mark else None) from None
    except yaml.YAMLError:
        raise YamlInvalid("it holds characters that YAML does not allow") from None
    except RecursionError:
        raise YamlInvalid("it is nested too deeply") from None
    # 2026-02-30; and what PyYAML's own constructors stumble over: !!int "", !!bool x, !!timestamp x, 1:1:1:... as a float.
    except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError):
        raise YamlInvalid("it holds a date or number that is none; put it in quotes") from None


def _strict_loader() -> Any:
    """PyYAML's safe loader, which refuses a key given twice."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            # A key that is itself a list or mapping ({{ a template }}) is refused by construct_mapping.
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen:
                    raise YamlInvalid(f"the key '{key_node.value}' stands there twice", key_node.start_mark.line + 1)
                seen.add(key_node.value)
        return dict(loader.construct_mapping(node, deep=True))

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    return Loader


def _refuse_multiplied(node: Any) -> None:
    """Refuse what aliases make too large, too deep, or endless: each counts as if it were written out."""
    #: By node: how many values it has, itself included, and how deep it is. None while that is found out.
    measured: dict[int, tuple[int, int] | None] = {}

    def measure(node: Any) -> tuple[int, int]:
        if (known := measured.get(id(node), ())) is None:
            raise YamlInvalid("it holds an alias of what the alias is in", node.start_mark.line + 1)
        if known:
            return known
        measured[id(node)] = None
        entries = node.value if isinstance(node.value, list) else ()
        below = [measure(each) for entry in entries for each in _nodes(entry)]
        values, depth = 1 + sum(each[0] for each in below), 1 + max((each[1] for each in below), default=0)
        if values > BY_HAND.values:
            raise YamlInvalid(f"it has more than {BY_HAND.values} values", node.start_mark.line + 1)
        if depth > BY_HAND.depth:
            raise YamlInvalid("it is nested too deeply", node.start_mark.line + 1)
        measured[id(node)] = values, depth
        return values, depth

    measure(node)


def _nodes(entry: Any) -> tuple[Any, ...]:
    """The nodes of an element: that of a mapping is a pair."""
    return entry if isinstance(entry, tuple) else (entry,)


def replace_file(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Put a file in the place of what is there, whole or not at all, durably, with these rights whatever the umask. Raises ``OSError``."""
    # A name that ends as none of those that others collect.
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        fsync_folder(path.parent)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
