"""Durations as people write them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator

_WRITTEN = re.compile(r"(\d{1,6}) (second|minute|hour|day|week)s?")


def _duration(value: Any) -> timedelta:
    match = _WRITTEN.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a time such as '12 hours' or '7 days'")
    return timedelta(**{f"{match[2]}s": int(match[1])})


#: A number and a unit, as in ``7 days``.
Duration = Annotated[timedelta, BeforeValidator(_duration)]
