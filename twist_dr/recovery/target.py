"""What a recovery aims at, as people write it in ``to:``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Literal

from twist_dr.errors import RecoveryPointInvalid
from twist_dr.postgres.lsn import format_lsn, parse_lsn

FORMS = "latest, 2026-01-31T12:00:00+00:00, lsn:0/3000000, xid:1234, name:before_import"

#: PostgreSQL keeps a restore point's name in 64 bytes, one of which is its end (MAXFNAMELEN in xlog_internal.h).
MOST_NAME_BYTES = 63
#: The first transaction that is not one of initdb's own (FirstNormalTransactionId).
_FIRST_XID = 3
_EPOCH_BITS = 32

#: ISO 8601 with or without its separators; a blank will do for the T.
_TIME = re.compile(
    r"(?P<year>\d{4})(-?)(?P<month>\d{2})\2(?P<day>\d{2})[Tt ]"
    r"(?P<hour>\d{2})(?::?(?P<minute>\d{2})(?::?(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?)?"
    r" ?(?P<zone>[Zz]|[+-]\d{2}(?::?\d{2})?)?",
    re.ASCII,
)


@dataclass(frozen=True)
class RecoveryTarget:
    """``text`` is what was written. Exactly the field of its kind is set. ``xid`` is 32 bits: PostgreSQL's WAL has no more."""

    kind: Literal["latest", "time", "lsn", "xid", "name"]
    text: str
    time: datetime | None = None
    lsn: int | None = None
    xid: int | None = None
    name: str | None = None

    @property
    def words(self) -> str:
        """For sentences: ``2026-01-31 12:00:00 UTC``, ``0/3000000``, ``transaction 1234``."""
        if self.time is not None:
            return moment(self.time)
        if self.lsn is not None:
            return format_lsn(self.lsn)
        if self.xid is not None:
            return f"transaction {self.xid}"
        return f"the restore point {self.name!r}" if self.name is not None else "the latest state"


def moment(time: datetime) -> str:
    """A time for people, always in UTC: ``2026-01-31 12:00:00.25 UTC``."""
    text = time.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f").rstrip("0").rstrip(".")
    return f"{text} UTC"


def parse_target(text: str, *, now: datetime) -> RecoveryTarget:
    """Read a recovery point. Raises ``RecoveryPointInvalid``; whether it can be reached, only the archive tells."""
    # Blanks at the end of a name may be part of it, and a recovery to another name would be none.
    text = text.lstrip() if text.lstrip().startswith("name:") else text.strip()
    kind, colon, rest = text.partition(":")
    if text == "latest":
        return RecoveryTarget("latest", text)
    if colon and kind == "lsn":
        return RecoveryTarget("lsn", text, lsn=_lsn(rest))
    if colon and kind == "xid":
        return RecoveryTarget("xid", text, xid=_xid(rest))
    if colon and kind == "name":
        return RecoveryTarget("name", text, name=_name(rest))
    return RecoveryTarget("time", text, time=_time(text, now))


def _lsn(text: str) -> int:
    try:
        return parse_lsn(text)
    except ValueError:
        raise RecoveryPointInvalid(
            f"lsn:{text} is no LSN", remedy="write it as PostgreSQL does: lsn:0/3000000"
        ) from None


def _xid(text: str) -> int:
    if not re.fullmatch("[0-9]{1,20}", text.strip()) or int(text) >= 1 << 64:
        raise RecoveryPointInvalid(f"xid:{text} is no transaction id", remedy="write a number such as xid:1234")
    # pg_current_xact_id() tells 64 bits, of which WAL has the lower half.
    xid = int(text) & ((1 << _EPOCH_BITS) - 1)
    if xid < _FIRST_XID:
        raise RecoveryPointInvalid(f"xid:{text} is none of a transaction of yours: those begin at {_FIRST_XID}.")
    return xid


def _name(text: str) -> str:
    if not text:
        raise RecoveryPointInvalid("name: needs the name of a restore point, such as name:before_import")
    if len(text.encode()) > MOST_NAME_BYTES:
        raise RecoveryPointInvalid(
            f"name:{text} has {len(text.encode())} bytes, and PostgreSQL keeps at most {MOST_NAME_BYTES}: there can be no such restore point."
        )
    return text


def _time(text: str, now: datetime) -> datetime:
    match = _TIME.fullmatch(text)
    if match is None:
        raise RecoveryPointInvalid(f"{text!r} is no recovery point", remedy=f"write one of: {FORMS}")
    if match["zone"] is None:
        raise RecoveryPointInvalid(
            f"{text!r} says no time zone, and a guess may be hours off", remedy=f"add one, such as {text}+00:00 for UTC"
        )
    fraction = (match["fraction"] or "").ljust(6, "0")[:6]
    numbers = [int(match[name] or 0) for name in ("year", "month", "day", "hour", "minute", "second")]
    try:
        local = datetime(*numbers, int(fraction), tzinfo=timezone.utc)  # type: ignore[arg-type, misc]
        time = local - _offset(match["zone"])
    except (ValueError, OverflowError):
        raise RecoveryPointInvalid(f"{text!r} is no moment of the calendar", remedy=f"write one of: {FORMS}") from None
    if time > now:
        raise RecoveryPointInvalid(
            f"{moment(time)} is in the future: it is {moment(now)} here",
            remedy="choose a moment that has passed, or: latest",
        )
    return time


def _offset(zone: str) -> timedelta:
    """How far a zone such as ``+05:30`` is ahead of UTC. Raises ``ValueError``."""
    if zone in "Zz":
        return timedelta()
    digits = zone[1:].replace(":", "").ljust(4, "0")
    hours, minutes = int(digits[:2]), int(digits[2:])
    if hours > 15 or minutes > 59:  # PostgreSQL's own bounds
        raise ValueError(zone)
    return timedelta(hours=hours, minutes=minutes) * (-1 if zone[0] == "-" else 1)
