"""What ``pg_waldump`` of the WAL's own major version says about files of WAL.

It ends with exit status 1 where a record is not all there, so its words tell that from a failure. For a file that is missing
it waits five seconds, as the server may just be making it, so it is always told where to end. Times are read in UTC. It shows neither the time of a restore point nor a name with a line break
safely, so these are read from the record itself (``xl_restore_point`` in xlog_internal.h).

https://www.postgresql.org/docs/current/pgwaldump.html
"""

from __future__ import annotations

import re
import struct
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from twist_dr.errors import ClientToolsMissing, ProcessFailed
from twist_dr.postgres.lsn import format_lsn, parse_lsn
from twist_dr.postgres.tools import Tools
from twist_dr.storage.chunks import lines
from twist_dr.system.processes import Child
from twist_dr.wal.names import Segment

#: XLOG_BLCKSZ, and the two sizes of page headers (SizeOfXLogShortPHD, SizeOfXLogLongPHD).
PAGE = 8192
_SHORT, _LONG = 24, 40
#: --rmgr may be given more than once from here on.
_MANY_MANAGERS = 15

_LINE = re.compile(
    rb"rmgr: (\S+)\s+len \(rec/tot\):\s*\d+/\s*(\d+), tx:\s*(\d+), lsn: ([0-9A-F]+/[0-9A-F]+), prev ([0-9A-F]+/[0-9A-F]+), desc: ([A-Z_]+)(.*)"
)
_ENDING = re.compile(rb"(?: (\d+):)? (\d{4,}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}) ")
_RUNNING = re.compile(rb"nextXid (\d+) .*oldestRunningXid (\d+)")
_ENDINGS = {b"COMMIT": True, b"COMMIT_PREPARED": True, b"ABORT": False, b"ABORT_PREPARED": False}
#: The WAL ends here, in the middle of a record or before the first one.
_END = re.compile(r"error in WAL record at|could not find a valid record after")
_INVALID_AFTER = re.compile(r"error in WAL record at ([0-9A-F]+/[0-9A-F]+)")

_POINT = struct.Struct(f"{'<' if sys.byteorder == 'little' else '>'}q64s")
#: A record's own header, and the short header of its data.
_BEFORE_DATA = 24 + 2
#: PostgreSQL counts microseconds from here.
_EPOCH = datetime(2000, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class WalRecord:
    """A record of WAL: where it and the one before it begin; ``size`` in bytes without page headers; ``kind`` such as ``SWITCH``."""

    lsn: int
    previous: int
    size: int
    kind: str

    def end(self, segment_size: int) -> int:
        """The LSN that replay has come to behind it, as ``pg_last_wal_replay_lsn()`` tells."""
        if self.kind == "SWITCH":
            return -(-(self.lsn + 1) // segment_size) * segment_size
        return end_of(self.lsn, self.size, segment_size)


@dataclass(frozen=True)
class Ending:
    """The COMMIT or ABORT of a transaction, prepared ones too. ``lsn``: where the record begins."""

    lsn: int
    xid: int
    at: datetime
    committed: bool


@dataclass(frozen=True)
class NamedPoint:
    """A restore point (``pg_create_restore_point``). ``lsn``: where the record begins."""

    lsn: int
    name: str
    at: datetime


@dataclass(frozen=True)
class Running:
    """At ``lsn`` all transactions before ``oldest`` had ended, and none from ``next`` on had begun."""

    lsn: int
    next: int
    oldest: int


@dataclass
class Events:
    """What was found, in the order of the WAL. ``invalid_after``: where the last good record begins, when the next is not good."""

    endings: list[Ending] = field(default_factory=list)
    points: list[NamedPoint] = field(default_factory=list)
    running: list[Running] = field(default_factory=list)
    invalid_after: int | None = None

    def between(self, first: int, before: int) -> Events:
        """Only what begins at ``first`` or behind, and before ``before``."""
        return Events(
            [each for each in self.endings if first <= each.lsn < before],
            [each for each in self.points if first <= each.lsn < before],
            [each for each in self.running if first <= each.lsn < before],
        )


def end_of(lsn: int, size: int, segment_size: int) -> int:
    """Where a record of ``size`` bytes that begins at ``lsn`` ends: page headers in between, then up to a multiple of 8."""
    at, left = lsn, size
    while True:
        room = PAGE - at % PAGE
        if left <= room:
            return -(-(at + left) // 8) * 8
        at, left = at + room, left - room
        at += _header(at, segment_size)


def _header(page: int, segment_size: int) -> int:
    return _LONG if page % segment_size == 0 else _SHORT


def behind_header(lsn: int, segment_size: int) -> int:
    """Where a record begins that comes next at ``lsn``: at the beginning of a page, its header comes first."""
    return lsn + _header(lsn, segment_size) if lsn % PAGE == 0 else lsn


class Scanner:
    """Looks at WAL in ``folder``: whole files of ``segment_size`` bytes, all named as if they were of one ``timeline``.

    A segment in which a timeline begins holds what came before too, so the files of a whole lineage read as one.
    """

    def __init__(self, tools: Tools, folder: Path, timeline: int, segment_size: int) -> None:
        self._tools = tools
        self._folder = folder
        self._timeline = timeline
        self._size = segment_size

    def file(self, number: int) -> Path:
        """Where the segment of that number is looked for."""
        return self._folder / Segment(self._timeline, number, self._size).name

    def events(self, start: int, until: int) -> Events:
        """Endings, restore points and running transactions from the first record at or behind ``start``, all that end before ``until``."""
        found = Events()
        managers = ("Transaction", "XLOG", "Standby")
        filters = [f"--rmgr={name}" for name in managers] if self._tools.major >= _MANY_MANAGERS else []
        ended = ""
        for line in self._run(start, until, *filters):
            if isinstance(line, str):
                ended = line
            elif (match := _LINE.match(line)) is not None:
                self._sort(match, found)
        if (invalid := _INVALID_AFTER.search(ended)) is not None:
            found.invalid_after = parse_lsn(invalid[1])
        return found

    def first_record(self, start: int, until: int) -> WalRecord | None:
        """The first record at or behind ``start`` that ends at or before ``until``."""
        return next(self._records(start, until, "--limit=1"), None)

    def last_record(self, start: int, until: int) -> WalRecord | None:
        """The last record that begins at or behind ``start``, and ends at or before ``until``."""
        newest: deque[WalRecord] = deque(self._records(start, until), maxlen=1)
        return newest[0] if newest else None

    def bytes_at(self, lsn: int, count: int) -> bytes:
        """Bytes of records from ``lsn`` on, page headers left out."""
        found = b""
        while count:
            lsn = behind_header(lsn, self._size)
            take = min(count, PAGE - lsn % PAGE)
            with open(self.file(lsn // self._size), "rb") as file:
                file.seek(lsn % self._size)
                found += file.read(take)
            lsn, count = lsn + take, count - take
        return found

    def _records(self, start: int, until: int, *options: str) -> Iterator[WalRecord]:
        for line in self._run(start, until, *options):
            if isinstance(line, bytes) and (match := _LINE.match(line)) is not None:
                yield WalRecord(_lsn(match[4]), _lsn(match[5]), int(match[2]), match[6].decode())

    def _sort(self, match: re.Match[bytes], found: Events) -> None:
        manager, kind, rest, lsn = match[1], match[6], match[7], _lsn(match[4])
        if manager == b"Transaction" and kind in _ENDINGS and (ending := _ENDING.match(rest)) is not None:
            at = datetime.fromisoformat(ending[2].decode()).replace(tzinfo=timezone.utc)
            found.endings.append(Ending(lsn, int(ending[1] or match[3]), at, _ENDINGS[kind]))
        elif manager == b"XLOG" and kind == b"RESTORE_POINT":
            found.points.append(self._point(lsn))
        elif manager == b"Standby" and kind == b"RUNNING_XACTS" and (running := _RUNNING.search(rest)) is not None:
            found.running.append(Running(lsn, int(running[1]), int(running[2])))

    def _point(self, lsn: int) -> NamedPoint:
        microseconds, name = _POINT.unpack(self.bytes_at(lsn, _BEFORE_DATA + _POINT.size)[_BEFORE_DATA:])
        text = name.split(b"\0")[0].decode(errors="replace")
        return NamedPoint(lsn, text, _EPOCH + timedelta(microseconds=microseconds))

    def _run(self, start: int, until: int, *options: str) -> Iterator[bytes | str]:
        """The lines of its output; at the end, as ``str``, why it ended. Raises ``ProcessFailed``, ``ClientToolsMissing``."""
        program = self._tools.program("pg_waldump")
        if not program.exists():
            raise ClientToolsMissing(
                f"To find recovery points in WAL of PostgreSQL {self._tools.major}, its pg_waldump is needed, and {self._tools.folder} has none",
                remedy=f"install postgresql-{self._tools.major}, or name its folder in database.client_tools",
            )
        arguments: list[str | Path] = [
            program, f"--path={self._folder}", f"--timeline={self._timeline}", f"--start={format_lsn(start)}", f"--end={format_lsn(until)}", *options
        ]  # fmt: skip
        with Child(arguments, environment={"TZ": "UTC", "LC_ALL": "C"}) as child:
            yield from lines(child.bulk_output())
            try:
                child.finish()
            except ProcessFailed:
                said = child.complaint()
                if not _END.search(said):
                    raise
                yield said


def _lsn(text: bytes) -> int:
    return parse_lsn(text.decode())
