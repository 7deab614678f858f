"""How fast bytes go to a storage target: by the hours of the day, for all threads of a process and all processes of this machine that share its file."""

from __future__ import annotations

import fcntl
import io
import math
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field, model_validator

from twist_dr.storage.options import Section
from twist_dr.system.sizes import CHUNK

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

#: Seconds at the full rate that are asked for at once: often enough that no connection lies idle, rarely enough to cost nothing.
_STEP_SECONDS = 0.25
#: Seconds at the full rate that may be caught up after a pause.
_BURST_SECONDS = 0.25
#: How often whoever waits shows that he is alive, and learns that he shall stop.
_SIGN_SECONDS = 0.5
#: How often it is looked whether another hour's rate has begun.
_ASK_AGAIN_SECONDS = 1.0
#: Bytes that are read at once where reading is slowed: at 0.1 MiB/s they take less than a second.
_PORTION = 64 << 10


def _minute(given: Any) -> Any:
    """``08:00`` as the minute of the day. YAML 1.1 takes a bare 18:00 for the number of minutes that it is; no bare time is one below 60."""
    if isinstance(given, int) and given < 60:
        given = None  # 8 is meant as an hour
    found = re.fullmatch(r"(\d{1,2}):(\d{2})", given) if isinstance(given, str) else None
    minute = int(found[1]) * 60 + int(found[2]) if found and int(found[2]) < 60 else given
    if isinstance(minute, bool) or not isinstance(minute, int) or not 0 <= minute <= 24 * 60:
        raise ValueError('a time of the day, such as "08:00"')
    return minute


_Minute = Annotated[int, BeforeValidator(_minute)]


class Rate(Section):
    """``rate`` in MiB per second, between two times of the day: over midnight where the second is the earlier one. Without them: at all others."""

    begins: _Minute | None = Field(None, alias="from")
    ends: _Minute | None = Field(None, alias="to")
    rate: float = Field(gt=0)

    @model_validator(mode="after")
    def _an_interval(self) -> Rate:
        if (self.begins is None) != (self.ends is None) or (self.begins is not None and self.begins == self.ends):
            raise ValueError(
                "from and to together, and not the same time in both; neither where the rate is for all other hours"
            )
        return self

    def covers(self, minute: int) -> bool:
        if self.begins is None or self.ends is None:
            return True
        if self.begins < self.ends:
            return self.begins <= minute < self.ends
        return minute >= self.begins or minute < self.ends


def _as_rates(given: Any) -> Any:
    """One number holds around the clock."""
    if given is None:
        return ()
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        given = [{"rate": given}] if given > 0 else None
    if not isinstance(given, (list, tuple)):
        raise ValueError('a number above 0, or a list such as [{from: "08:00", to: "18:00", rate: 5}]')
    return given


#: Of several that cover a time the first counts; where none does, bytes go as fast as they can.
Rates = Annotated[tuple[Rate, ...], BeforeValidator(_as_rates)]


def bytes_per_day(rates: Sequence[Rate]) -> float | None:
    """How much goes through in a day; None without a bound."""
    minutes = (next((each.rate for each in rates if each.covers(minute)), math.inf) for minute in range(24 * 60))
    found = sum(minutes) * 60 * (1 << 20)
    return found if math.isfinite(found) else None


@dataclass(frozen=True)
class Clock:
    """``monotonic`` in seconds, the same for all processes since the machine started; ``now`` in UTC; ``sleep`` takes seconds."""

    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)
    sleep: Callable[[float], None] = time.sleep


def free_after(free_at: float, now: float, count: int, rate: float, burst: float) -> float:
    """When ``count`` bytes more are through at ``rate`` bytes per second, if those before are at ``free_at``; ``burst`` seconds of a pause are caught up."""
    return max(free_at, now - burst) + count / rate


class Bandwidth:
    """Of one storage target. Inert; for several threads.

    ``shared``: the file by which all processes that use the target keep the rate together, made with its folder when it is first needed; a file that
    cannot be had slows no less, but for each process alone. ``limit_reading``: what is read counts, too.
    """

    def __init__(
        self,
        rates: Sequence[Rate] = (),
        time_zone: str = "UTC",
        *,
        shared: Path | None = None,
        limit_reading: bool = False,
        clock: Clock = Clock(),
    ) -> None:
        self.limit_reading = limit_reading and bool(rates)
        self._rates, self._zone, self._shared, self._clock = tuple(rates), time_zone, shared, clock
        self._lock = threading.Lock()
        self._allowed, self._free_at = 0, -math.inf
        self._rate: float | None = None
        self._ask_again_at = -math.inf

    @property
    def portion(self) -> int:
        """How many bytes are best read at once, so that a slowed reader shows often enough that it is alive."""
        return _PORTION if self.limit_reading else CHUNK

    def rate(self) -> float | None:
        """Bytes per second now; None: as fast as they can."""
        if self._rates and (now := self._clock.monotonic()) >= self._ask_again_at:
            local = self._clock.now().astimezone(ZoneInfo(self._zone))
            minute = local.hour * 60 + local.minute
            self._rate = next((each.rate * (1 << 20) for each in self._rates if each.covers(minute)), None)
            self._ask_again_at = now + _ASK_AGAIN_SECONDS
        return self._rate

    def wait_for(self, count: int, alive: Callable[[int], None] | None = None) -> None:
        """Wait until ``count`` bytes more may go. Meanwhile ``alive(0)`` is called again and again: what it raises ends the wait."""
        if not self._rates or not count:
            return
        until = self._turn(count)
        while (rest := until - self._clock.monotonic()) > 0:
            if alive is not None:
                alive(0)
            self._clock.sleep(min(rest, _SIGN_SECONDS))

    def share(self, sent: int) -> float | None:
        """Bytes per second that a program of ours may send from now on, which has sent so many since this was asked last; None: as fast as it can.

        Where others send as well, what all have asked for runs ahead of the clock; each then slows down by how far, until they go at the rate together.
        """
        rate = self.rate()
        if rate is None:
            return None
        ahead = self._turn(sent) - self._clock.monotonic() - 2 * _STEP_SECONDS
        return rate / (1 + max(0.0, ahead))

    def paced(self, raw: io.RawIOBase) -> io.RawIOBase:
        """The same stream, slowed if reading is."""
        return _Paced(raw, self) if self.limit_reading else raw

    def _turn(self, count: int) -> float:
        """When these bytes may go. Bytes are taken from what was asked for at once, so that few of them cost no look into the file."""
        with self._lock:
            rate = self.rate()
            if rate is None:
                return -math.inf
            if count > self._allowed:
                more = max(count - self._allowed, int(rate * _STEP_SECONDS))
                self._free_at = self._asked_for(more, rate)
                self._allowed += more
            self._allowed -= count
            return self._free_at

    def _asked_for(self, count: int, rate: float) -> float:
        now = self._clock.monotonic()
        try:
            return self._asked_of_all(count, rate, now)
        except OSError:
            return free_after(self._free_at, now, count, rate, _BURST_SECONDS)

    def _asked_of_all(self, count: int, rate: float, now: float) -> float:
        if self._shared is None:
            raise FileNotFoundError
        self._shared.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._shared, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            free_at = free_after(_noted(os.pread(descriptor, 200, 0)), now, count, rate, _BURST_SECONDS)
            os.pwrite(descriptor, f"{_this_boot()} {free_at:020.6f}\n".encode(), 0)
            return free_at
        finally:
            os.close(descriptor)


def _noted(content: bytes) -> float:
    """What the last one noted. A machine that started anew has a new clock."""
    boot, _, free_at = content.decode("ascii", "replace").partition(" ")
    try:
        return float(free_at) if boot == _this_boot() and math.isfinite(float(free_at)) else -math.inf
    except ValueError:
        return -math.inf


@cache
def _this_boot() -> str:
    return _BOOT_ID.read_text().strip()


class _Paced(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, bandwidth: Bandwidth) -> None:
        self._raw, self._bandwidth = raw, bandwidth

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        count = self._raw.readinto(memoryview(buffer).cast("B")[:_PORTION]) or 0
        self._bandwidth.wait_for(count)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


#: What a target has that nobody gave another.
UNLIMITED = Bandwidth()
