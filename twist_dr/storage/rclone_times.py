"""Times as rclone writes them."""

from __future__ import annotations

import re
from datetime import datetime, timezone


def moment(text: str) -> datetime:
    """A time of RFC 3339, with up to nine digits of a second."""
    plain = re.sub(r"\.\d+", lambda digits: digits[0][:7].ljust(7, "0"), text.replace("Z", "+00:00"))
    return datetime.fromisoformat(plain).astimezone(timezone.utc)
