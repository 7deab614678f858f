"""Reading a run of WAL from the archive: segments are fetched as they are looked at, several at a time, and those looked at last are kept for another look."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from twist_dr.errors import WalInvalid
from twist_dr.postgres.lsn import format_lsn
from twist_dr.postgres.tools import Tools
from twist_dr.recovery.archives import Archives
from twist_dr.recovery.lineage import Run
from twist_dr.recovery.scan import Events, Scanner, WalRecord, behind_header, end_of
from twist_dr.system.progress import Report
from twist_dr.wal.names import Segment
from twist_dr.wal.partial_segment import PartialSegment

#: Bytes of WAL that are fetched and scanned in one go, and kept at most twice over.
_BATCH_BYTES = 128 << 20
#: Bytes of WAL that were looked at and are kept aside: what comes next is mostly near.
_ASIDE_BYTES = 256 << 20
#: A record may go on for so many bytes in further segments; larger ones hold data, and neither ends nor names anything.
_SPAN_BYTES = 4 << 20
_FETCHERS = 4
#: A folder within that of the segments, where pg_waldump does not look.
_ASIDE = "aside"


class Reader:
    """Reads one run. A context manager: leaving it removes the files. ``folder`` is made, and must not be there yet.

    Numbers are those of segments. Raises ``WalMissing`` when a segment that is listed cannot be had.
    """

    def __init__(self, archives: Archives, run: Run, tools: Tools, timeline: int, folder: Path, report: Report) -> None:
        self.run = run
        self.size = archives.segment_size
        self._archives = archives
        self._folder = folder
        self._report = report
        self._scanner = Scanner(tools, folder, timeline, self.size)
        self._kept: list[int] = []
        #: Numbers of those that are kept aside, the one that was looked at last at the end.
        self._aside: list[int] = []
        self._swept: dict[int, Events] = {}
        self._probed: dict[int, Events] = {}
        folder.mkdir(mode=0o700)
        (folder / _ASIDE).mkdir(mode=0o700)
        self._pool = ThreadPoolExecutor(_FETCHERS, "wal fetch")

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- single looks ----------------------------------------------------------------------------------------------

    def probe(self, number: int) -> Events:
        """What one segment tells by itself: whatever begins in it and goes on in the next is left out."""
        if number in self._swept:
            return self._swept[number]
        if number not in self._probed:
            self._only(number, number)
            self._probed[number] = self._own(self._scanner.events(self._begin(number), self._end(number)), number)
        return self._probed[number]

    def record_from(self, lsn: int) -> WalRecord | None:
        """The first record that begins at ``lsn`` or behind, and is all there."""
        number = lsn // self.size
        while (part := self.run.part(number)) is not None:
            last = self._with_next(number)
            record = self._scanner.first_record(max(lsn, self._begin(number)), self._end(last))
            if record is not None:
                return record
            if part.until < self.run.end and last > number:
                number += 1  # nothing begins in it: one record fills it
                continue
            return None
        return None

    def record_before(self, lsn: int) -> WalRecord | None:
        """The last record that begins before ``lsn`` and is all there."""
        following = self.record_from(lsn)
        if following is None:
            return self.last_record()
        return self.record_from(following.previous) if following.previous >= self.run.start else None

    def last_record(self) -> WalRecord | None:
        """The last record of the run that is all there. None when there is none at all."""
        if not self.run.parts:
            return None
        last = self.run.parts[-1].number
        for number in range(last, self.run.first_number - 1, -1):
            self._only(number, last)
            record = self._scanner.last_record(self._begin(number), self._end(last))
            if record is not None:
                return record
        return None

    def broken_tail(self, last: WalRecord) -> str | None:
        """A warning when more bytes follow the last good record than an unfinished one would explain."""
        lsn = behind_header(last.end(self.size), self.size)
        if lsn + 4 > self.run.end:
            return None
        size = int.from_bytes(self._bytes(lsn, 4), "little")
        if size and end_of(lsn, size, self.size) <= self.run.end:
            return f"The archived WAL ends at {format_lsn(self.run.end)}, but what it has at {format_lsn(lsn)} is no good record: replay ends before."
        return None

    # -- everything ------------------------------------------------------------------------------------------------

    def sweep(self, first: int, last: int, tell: Callable[[int], None] = lambda done: None) -> Iterator[Events]:
        """All that begins in the segments of these numbers, in order and in batches. ``tell`` gets the number of each batch's segments.

        Raises ``WalInvalid`` when the WAL breaks before the run's end.
        """
        at = max(first, self.run.first_number)
        last = min(last, self.run.parts[-1].number)
        batch = max(1, _BATCH_BYTES // self.size)
        while at <= last:
            to = min(at + batch - 1, last)
            if any(number not in self._swept for number in range(at, to + 1)):
                self._scan(at, to)
            for number in range(at, to + 1):
                yield self._swept[number]
            tell(to - at + 1)
            at = to + 1

    def sweep_back(self, first: int, last: int) -> Iterator[Events]:
        """The same from the newest to the oldest segment, a few at first: what is sought is mostly near."""
        batch, most = 1, max(1, _BATCH_BYTES // self.size)
        to = min(last, self.run.parts[-1].number)
        while to >= max(first, self.run.first_number):
            at = max(first, to - batch + 1, self.run.first_number)
            yield from reversed(list(self.sweep(at, to)))
            to, batch = at - 1, min(most, batch * 4)

    def _scan(self, first: int, last: int) -> None:
        more = min(last + max(1, _SPAN_BYTES // self.size), self.run.parts[-1].number)
        self._only(first, more)
        events = self._scanner.events(self._begin(first), self._end(more))
        if events.invalid_after is not None and more < self.run.parts[-1].number:
            raise WalInvalid(
                f"The archived WAL breaks behind {format_lsn(events.invalid_after)}: what follows in "
                f"{Segment.holding(self.run.missing.timeline, events.invalid_after, self.size).name} is no record. Nothing behind it can be recovered",
                remedy="choose an earlier moment, or a later base backup",
            )
        for number in range(first, last + 1):
            self._swept[number] = self._own(events, number)

    def _own(self, events: Events, number: int) -> Events:
        return events.between(number * self.size, self._end(number))

    # -- files -----------------------------------------------------------------------------------------------------

    def _begin(self, number: int) -> int:
        return max(number * self.size, self.run.start)

    def _end(self, number: int) -> int:
        return min((number + 1) * self.size, self.run.end)

    def _with_next(self, number: int) -> int:
        """Have a segment and those into which its last record may go on; returns the last number."""
        last = min(number + max(1, _SPAN_BYTES // self.size), self.run.parts[-1].number)
        self._only(number, last)
        return last

    def _bytes(self, lsn: int, count: int) -> bytes:
        self._only(lsn // self.size, min((lsn + count) // self.size, self.run.parts[-1].number))
        return self._scanner.bytes_at(lsn, count)

    def _only(self, first: int, last: int) -> None:
        """Have just these segments in the folder: pg_waldump reads on as long as there is a further file."""
        wanted = range(first, last + 1)
        for number in [number for number in self._kept if number not in wanted]:
            self._scanner.file(number).rename(self._put_aside(number))
            self._kept.remove(number)
            self._aside.append(number)
        for number in [number for number in self._aside if number in wanted]:
            self._put_aside(number).rename(self._scanner.file(number))
            self._aside.remove(number)
            self._kept.append(number)
        while len(self._aside) * self.size > _ASIDE_BYTES:
            # Of what was swept everything is known; what was only probed is swept later, perhaps.
            number = next((each for each in self._aside if each in self._swept), self._aside[0])
            self._put_aside(number).unlink()
            self._aside.remove(number)
        waiting = {number: self._pool.submit(self._fetch, number) for number in wanted if number not in self._kept}
        wait(waiting.values())
        self._kept += [number for number, future in waiting.items() if future.exception() is None]
        for future in waiting.values():
            future.result()

    def _put_aside(self, number: int) -> Path:
        return self._folder / _ASIDE / self._scanner.file(number).name

    def _fetch(self, number: int) -> None:
        part = self.run.part(number)
        assert part is not None
        path = self._scanner.file(number)
        if isinstance(part.source, PartialSegment):
            self._archives.fetch_partial(part.source, path, durable=False)
        else:
            self._archives.fetch_segment(part.source, path, durable=False)
