"""Times as rclone writes them."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from twist_dr.storage.listing import EARLIEST, LATEST

#: What rclone says of some servers' objects without a time.
_UNTOLD = datetime(1970, 1, 1, tzinfo=timezone.utc)


def moment(text: str) -> datetime | None:
    """A time of RFC 3339, with up to nine digits of a second; None where the server told none. Whoever can write to a target may give an object any: one that no calendar has is taken for the nearest."""
    if not text:
        return None
    plain = re.sub(r"\.\d+", lambda digits: digits[0][:7].ljust(7, "0"), text.replace("Z", "+00:00"))
    try:
        found = min(max(datetime.fromisoformat(plain), EARLIEST), LATEST).astimezone(timezone.utc)
        return None if found == _UNTOLD else found
    except (ValueError, TypeError):
        return EARLIEST if text.startswith(("-", "0")) else LATEST
