"""What somebody tells an operation, read and made sense of: every mistake at once, before anything begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from twist_dr.errors import LaunchRefused
from twist_dr.operations.operation import C, Operation
from twist_dr.settings.reading import explain
from twist_dr.system.words import counted


def understood(launched: Operation[C, Any], told: Mapping[str, Any]) -> C:
    """The settings, each of its type: numbers and yes or no may have been told as text. Raises ``LaunchRefused`` with all mistakes."""
    if mistakes := [*mistakes_in(launched, told)]:
        raise told_wrong(launched.name, mistakes)
    return launched.config.model_validate(dict(told))


def told_wrong(name: str, mistakes: list[str]) -> LaunchRefused:
    count = "a mistake" if len(mistakes) == 1 else counted(len(mistakes), "mistake")
    return LaunchRefused(
        f"What {name} was told has {count}, and nothing was begun:\n" + "\n".join(f"  {each}" for each in mistakes)
    )


def mistakes_in(launched: Operation[Any, Any], told: Mapping[str, Any]) -> Iterator[str]:
    """``mode: expected 'plan' or 'replace', found 'x'``, for each."""
    known = launched.config.model_fields
    for name in told:
        if name not in known:
            yield f"{name}: there is no such setting of {launched.name}{nearest(name, known)}"
    try:
        launched.config.model_validate({name: value for name, value in told.items() if name in known})
    except ValidationError as error:
        yield from (line for _, line in explain(error, dict(told)))


def nearest(name: str, known: Mapping[str, Any]) -> str:
    """Which ones may have been meant, else all that there are."""
    near = get_close_matches(name, known, n=2) or sorted(known)
    return f", but {', '.join(near)}" if near else ""
