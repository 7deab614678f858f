"""Times as rclone writes them."""

from __future__ import annotations

import re
from datetime import datetime, timezone

#: A day from the ends of the calendar, so that every time zone has them.
_FIRST, _LAST = datetime(1, 1, 2, tzinfo=timezone.utc), datetime(9999, 12, 30, tzinfo=timezone.utc)


def moment(text: str) -> datetime:
    """A time of RFC 3339, with up to nine digits of a second. Whoever can write to a target may give an object any: one that no calendar has is taken for the nearest."""
    plain = re.sub(r"\.\d+", lambda digits: digits[0][:7].ljust(7, "0"), text.replace("Z", "+00:00"))
    try:
        return min(max(datetime.fromisoformat(plain), _FIRST), _LAST).astimezone(timezone.utc)
    except (ValueError, TypeError):
        return _FIRST if text.startswith(("-", "0")) else _LAST
