"""Durations as people write them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator

_WRITTEN = re.compile(r"(\d{1,6}) (second|minute|hour|day|week|year)s?")
_DAYS_OF_A_YEAR = 365


def _duration(value: Any) -> timedelta:
    match = _WRITTEN.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a time such as '12 hours' or '7 days'")
    if match[2] == "year":
        return timedelta(days=_DAYS_OF_A_YEAR * int(match[1]))
    return timedelta(**{f"{match[2]}s": int(match[1])})


#: A number and a unit, as in ``7 days``. A year has 365 days.
Duration = Annotated[timedelta, BeforeValidator(_duration)]
