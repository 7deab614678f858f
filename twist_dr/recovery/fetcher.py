"""WAL for a recovering server: fetched ahead in parallel, checked, and handed over when its ``restore_command`` asks.

"Not needed" is said only of what the plan positively does not need, because the server takes that for the end of the log; whatever
goes wrong stops the server instead.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from twist_dr.errors import RecoveryFailed, TwistDRError, WalMissing
from twist_dr.recovery.restore_command import FAILED, GIVEN, NOT_NEEDED, PLACES, Requests
from twist_dr.recovery.tablespace_guard import across, created_tablespaces, edges
from twist_dr.recovery.untar import Owner
from twist_dr.storage.beneath import Folder
from twist_dr.wal.names import Segment, history_name, kind_of

if TYPE_CHECKING:
    from twist_dr.recovery.archives import Archives
    from twist_dr.recovery.plan import RecoveryPlan

#: Seconds after each failed attempt at a segment, with every target asked in each.
PAUSES = (0.5, 2.0, 5.0)
_CLOSE_SECONDS = 5.0
_WORKERS = 4
#: So long a request may take before it is refused.
_PATIENCE_SECONDS = 900.0


@dataclass
class Served:
    """What the server was given so far. ``refused``: by name, why it got nothing, and stopped."""

    segments: int = 0
    bytes: int = 0
    last: str | None = None
    refused: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class Fetcher:
    """Fetches a plan's segments in order, ahead of the server, into ``<folder>/ready``. A context manager.

    ``folder`` lies on the file system of ``data``, the server's data folder. At most about ``ahead`` segments lie there.
    Give what :meth:`connect` returns to the server as its standard input, then close it. ``served`` tells what went over;
    ``durable``: for a server that outlives a crash of the machine; any other is made anew, and its WAL with it.
    """

    def __init__(
        self,
        plan: RecoveryPlan,
        archives: Archives,
        folder: Path,
        data: Path,
        owner: Owner,
        *,
        ahead: int = 16,
        durable: bool = False,
    ) -> None:
        self.served = Served()
        self._plan = plan
        self._archives = archives
        self._data = data
        self._owner = owner
        self._ahead = ahead
        self._durable = durable
        self._ready = folder / "ready"
        self._ready.mkdir(mode=0o700)
        partials = {plan.partial.segment: plan.partial} if plan.partial is not None else {}
        self._partials = {segment: partial for segment, partial in partials.items() if segment not in plan.segments}
        self._segments: list[Segment] = [*plan.segments, *self._partials]
        self._places = {segment.name: place for place, segment in enumerate(self._segments)}
        self._change = threading.Condition()
        self._state: dict[int, _State] = {}
        self._position = 0
        self._wanted: int | None = None
        self._handed: dict[str, int] = {}
        self._edges: dict[int, tuple[bytes, bytes]] = {}
        self._stop = threading.Event()
        self._requests = Requests(self._status)
        self._threads: list[threading.Thread] = []
        for number in range(_WORKERS):
            self._threads.append(threading.Thread(target=self._work, name=f"wal fetcher {number}", daemon=True))
            self._threads[-1].start()

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def connect(self) -> socket.socket:
        """The end of a new connection for a server about to start; close it when the server has it."""
        return self._requests.connect()

    def close(self) -> None:
        """End all threads. The server must have stopped, or it will stop with its next request. Safe to call twice."""
        self._stop.set()
        with self._change:
            self._change.notify_all()
        deadline = time.monotonic() + _CLOSE_SECONDS
        self._requests.close(deadline)
        for thread in self._threads:
            # A thread that hangs on a dead mount is left behind; it is a daemon, and writes nothing but below our folder.
            thread.join(max(0.0, deadline - time.monotonic()))

    @property
    def total(self) -> int:
        return len(self._segments)

    def trouble(self) -> str:
        """Why the server was refused something, in a sentence; empty when it was not."""
        return " ".join(self.served.refused.values())

    # -- fetching ----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (place := self._take()) is not None:
            segment = self._segments[place]
            try:
                self._fetch(segment, place)
            except BaseException as error:
                self._done(place, error if isinstance(error, TwistDRError) else _unexpected(segment.name, error))
            else:
                self._done(place, None)

    def _take(self) -> int | None:
        """The next segment to fetch: the one that the server waits for, then in order; None when all is over."""
        with self._change:
            while not self._stop.is_set():
                if self._wanted is not None and self._wanted not in self._state:
                    place = self._wanted
                else:
                    window = range(self._position, min(self._position + self._ahead, len(self._segments)))
                    place = next((each for each in window if each not in self._state), -1)
                if place >= 0:
                    self._state[place] = _State()
                    return place
                self._change.wait()
        return None

    def _fetch(self, segment: Segment, place: int) -> None:
        """Fetch one, checked and given to the server's user, with a few attempts. Raises what the last one raised."""
        path, arriving = self._ready / segment.name, self._ready / f"{segment.name}.{threading.get_ident()}.part"
        for pause in (*PAUSES, None):
            try:
                arriving.unlink(missing_ok=True)
                if segment in self._partials:
                    self._archives.fetch_partial(self._partials[segment], arriving, durable=self._durable)
                else:
                    self._archives.fetch_segment(segment, arriving, durable=self._durable)
                self._look_for_tablespaces(segment, place, arriving)
                self._owner.take(arriving)
                arriving.rename(path)
                return
            except RecoveryFailed:
                arriving.unlink(missing_ok=True)
                raise
            except TwistDRError:
                arriving.unlink(missing_ok=True)
                if pause is None or self._stop.wait(pause):
                    raise

    def _look_for_tablespaces(self, segment: Segment, place: int, path: Path) -> None:
        """Refuse WAL that would have the server write into a live tablespace. Raises ``RecoveryFailed``."""
        for lsn, location in created_tablespaces(path, segment):
            if lsn < self._plan.end_lsn:
                raise _creates_tablespace(segment.name, location)
        self._edges[place] = edges(path, segment.size)

    def _look_across(self, place: int) -> None:
        """The same for a record that begins in the segment before. Raises ``RecoveryFailed``."""
        if place - 1 in self._edges and self._segments[place].start < self._plan.end_lsn:
            for location in across(self._edges[place - 1][1], self._edges[place][0]):
                raise _creates_tablespace(self._segments[place].name, location)

    def _done(self, place: int, error: TwistDRError | None) -> None:
        with self._change:
            self._state[place] = _State(ready=error is None, error=error)
            self._change.notify_all()

    # -- answering ---------------------------------------------------------------------------------------------------

    def _status(self, name: str, path: str) -> int:
        """The answer to one request; the file is in its place when it is given."""
        try:
            if not PLACES.fullmatch(path):
                raise WalMissing(
                    f"The server asked for {name[:80]} to be put to {path[:80]}, which this version does not know."
                )
            if name in self._places or kind_of(name) == "history":
                # By its descriptor: the server's user could put a link in the folder's place, which would have us write elsewhere.
                with Folder.at(self._data) as data, data.child("pg_wal") as folder:
                    if name not in self._places:
                        return self._give_history(name, folder, Path(path).name)
                    self._hand_over(name, folder, Path(path).name)
            elif kind_of(name) == "segment":
                return NOT_NEEDED  # past the plan's last, or of a timeline that does not reach so far
            else:
                raise WalMissing(f"The server asked for {name[:80]}, which is no WAL.")
        except BaseException as error:
            self.served.refused[name] = str(error if isinstance(error, TwistDRError) else _unexpected(name, error))
            return FAILED
        return GIVEN

    def _hand_over(self, name: str, folder: Folder, to: str) -> None:
        place = self._places[name]
        folder.unlink(to)
        # Asked for again, as at the start and at the end: it is still the file that we gave, until PostgreSQL reuses it under another name.
        with suppress(OSError):
            if folder.status(name).st_ino == self._handed.get(name, -1):
                descriptor = folder.descriptor
                os.link(name, to, src_dir_fd=descriptor, dst_dir_fd=descriptor, follow_symlinks=False)
                return
        with self._change:
            self._wanted = place
            # What failed ahead of time is tried once more now that it is needed.
            if (known := self._state.get(place)) is not None and (known.taken or known.error):
                del self._state[place]
            self._change.notify_all()
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while not ((known := self._state.get(place)) and (known.ready or known.error)):
                if self._stop.is_set() or not self._change.wait(max(0.0, deadline - time.monotonic())):
                    raise WalMissing(
                        f"{name} did not come within {_PATIENCE_SECONDS:.0f} s",
                        remedy="see to the storage targets, then recover again",
                    )
            if known.error is not None:
                raise known.error
        self._look_across(place)
        ready = self._ready / name
        status = ready.stat()
        os.rename(ready, to, dst_dir_fd=folder.descriptor)
        self._handed[name] = status.st_ino
        with self._change:
            self._state[place] = _State(taken=True)
            self._position, self._wanted = place + 1, None
            self._change.notify_all()
        self.served.segments += 1
        self.served.bytes += status.st_size
        self.served.last = name

    def _give_history(self, name: str, folder: Folder, to: str) -> int:
        """A history of the plan must be there. Others are asked for so that the new timeline gets a number that nobody has."""
        timeline = int(name[:8], 16)
        folder.unlink(to)
        arriving = self._ready / f"{history_name(timeline)}.part"
        arriving.unlink(missing_ok=True)
        try:
            self._archives.fetch_history(timeline, arriving)
        except TwistDRError as error:
            if timeline in self._plan.histories:
                raise
            if not isinstance(error, WalMissing):
                # Everything planned was replayed by then: a target that is down must not stop that.
                self.served.warnings.append(
                    f"Whether timeline {timeline} exists already cannot be told ({error}); give the recovered cluster an archive of its own."
                )
            return NOT_NEEDED
        self._owner.take(arriving)
        os.rename(arriving, to, dst_dir_fd=folder.descriptor)
        return GIVEN


@dataclass
class _State:
    """Of one segment: being fetched, ready, failed, or taken by the server."""

    ready: bool = False
    taken: bool = False
    error: TwistDRError | None = None


def _creates_tablespace(name: str, location: str) -> RecoveryFailed:
    return RecoveryFailed(
        f"{name} creates a tablespace at {location}, after the base backup or while it was taken: replaying that would write there",
        remedy="recover to a point before that, or from a base backup taken later",
    )


def _unexpected(name: str, error: BaseException) -> WalMissing:
    return WalMissing(
        f"{name} could not be made ready ({type(error).__name__}: {error})", remedy="fix that, then recover again"
    )
