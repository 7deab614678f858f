"""The search language of Google Drive (developers.google.com/drive/api/guides/ref-search-terms), as far as rclone speaks it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

Fields = Mapping[str, object]
Predicate = Callable[[Fields], bool]

_WORD = re.compile(r"\s*('(?:\\.|[^'\\])*'|!=|=|\(|\)|[A-Za-z]+)")


def matching(query: str) -> Predicate:
    """Whether a file's fields (``parents`` is a set of ids) fit. Raises ``ValueError`` for what it does not know."""
    words = _words(query)
    predicate = _either(words)
    if words:
        raise ValueError(f"not understood: {query}")
    return predicate


def _words(query: str) -> list[str]:
    words, place = [], 0
    while query[place:].strip():
        found = _WORD.match(query, place)
        if found is None:
            raise ValueError(f"not understood: {query}")
        words.append(found.group(1))
        place = found.end()
    return words


def _either(words: list[str]) -> Predicate:
    some = [_all(words)]
    while words[:1] == ["or"]:
        words.pop(0)
        some.append(_all(words))
    return lambda fields: any(each(fields) for each in some)


def _all(words: list[str]) -> Predicate:
    every = [_term(words)]
    while words[:1] == ["and"]:
        words.pop(0)
        every.append(_term(words))
    return lambda fields: all(each(fields) for each in every)


def _term(words: list[str]) -> Predicate:
    first = words.pop(0)
    if first == "not":
        term = _term(words)
        return lambda fields: not term(fields)
    if first == "(":
        inner = _either(words)
        if words.pop(0) != ")":
            raise ValueError("a bracket is not closed")
        return inner
    operator, second = words.pop(0), words.pop(0)
    if operator == "in":
        return lambda fields: _text(first) in _set(fields[second])
    if operator == "contains":
        return lambda fields: str(fields[first]).lower().startswith(_text(second).lower())
    value: object = {"true": True, "false": False}.get(second, _text(second))
    return lambda fields: (fields[first] == value) == (operator == "=")


def _set(value: object) -> set[str]:
    assert isinstance(value, set)
    return value


def _text(word: str) -> str:
    return re.sub(r"\\(.)", r"\1", word[1:-1])
