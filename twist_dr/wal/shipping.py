"""From the spool to every storage target: the one function that the job, the sensor and the resident process share.

A file leaves the spool only when all required targets have it, and never before one that comes earlier: so what lies on a
target is contiguous up to its archived position, and a hole is seen where it arises.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial

from twist_dr.errors import StagingFull, WalInvalid
from twist_dr.repository.keys import Keyring
from twist_dr.repository.streams import Form
from twist_dr.system.progress import Report
from twist_dr.wal.admission import Admission
from twist_dr.wal.archived import Shipped
from twist_dr.wal.destinations import Destination, Destinations, side_by_side
from twist_dr.wal.names import Segment
from twist_dr.wal.open_segment import OpenSegments, Round
from twist_dr.wal.packing import Packer
from twist_dr.wal.primary import Sample
from twist_dr.wal.reach import Reach
from twist_dr.wal.spool import Spool, SpoolFile
from twist_dr.wal.state import ShippingState

#: How often it is looked whether what was shipped last is there still: a request per target.
_LOOK_BACK_SECONDS = 60.0


class Shipper:
    """Ships from one spool. Keep it alive: connections and what was looked up stay. One at a time: hold the lock around :meth:`ship`.

    ``required``: targets that must have a file before it leaves the spool; all, unless given. ``heartbeat_seconds``: how
    often an idle server's claim is made anew. ``workers``: files that are packed, and sent to one target, at a time.
    """

    def __init__(
        self,
        application: str,
        spool: Spool,
        destinations: Mapping[str, Destination],
        keyring: Keyring,
        report: Report,
        *,
        required: Iterable[str] | None = None,
        level: int = 3,
        workers: int = 2,
        heartbeat_seconds: float = 60.0,
    ) -> None:
        self._spool = spool
        self._keyring = keyring
        self._report = report
        self._required = set(destinations if required is None else required)
        self._destinations = Destinations(destinations, spool, keyring, report, workers)
        self._packer = Packer(application, spool, keyring, report, level=level)
        self._open_segments = OpenSegments(
            spool,
            self._destinations,
            self._packer,
            report,
            required=self._required,
            heartbeat=timedelta(seconds=heartbeat_seconds),
        )
        self._packers = ThreadPoolExecutor(workers, thread_name_prefix="pack WAL")
        self._begun = False
        self._looked_back_at = -math.inf

    def close(self) -> None:
        """End the threads."""
        self._packers.shutdown(cancel_futures=True)
        self._destinations.close()

    def ship(self, sample: Sample | None) -> Shipped:
        """Ship all that waits, then the open segment. ``sample`` is what the primary just said, or None when it gave no answer.

        One target's failure is in its outcome and stops no other. Raises ``Cancelled``, ``StagingFull``, ``WalError``, ``OSError``.
        """
        begun = time.monotonic()
        self._spool.prepare()
        if not self._begun:
            self._spool.clear_packed()
            self._begun = True
        self._destinations.begin_round()
        state = self._spool.load_state()
        before = repr(state)
        reach = Reach(self._destinations, self._keyring, state, self._report)
        if sample is not None:
            state.note(sample)
        self._destinations.each(
            lambda name: self._destinations.prepare(name, reach.positions[name]), self._destinations
        )
        if time.monotonic() - self._looked_back_at > _LOOK_BACK_SECONDS:
            self._destinations.each(partial(self._look_back, reach), self._destinations)
            self._looked_back_at = time.monotonic()
        admission = Admission(self._spool, state, self._report)
        self._ship_whole(admission)
        for name in self._destinations:
            with self._destinations.failures_of(name):
                reach.add_segments(name, self._segments_without_hole(name, admission))
        self._open_segments.ship(Round(sample, state, admission, reach))
        reach.conclude(self._destinations.outcomes)
        unsaved = repr(state) != before
        if unsaved:
            # Before a file leaves the spool: whoever comes after a killed process would else take it for missing everywhere.
            with suppress(StagingFull):  # what leaves frees space
                self._spool.save_state(state)
                unsaved = False
        self._remove(admission, state.clusters)
        self._destinations.end_round()
        if unsaved:
            self._spool.save_state(state)
        return self._shipped(reach, admission, state, time.monotonic() - begun)

    def _look_back(self, reach: Reach, name: str) -> None:
        if not self._destinations.is_down(name):
            with self._destinations.failures_of(name):
                reach.look_back(name)

    def _shipped(self, reach: Reach, admission: Admission, state: ShippingState, seconds: float) -> Shipped:
        waiting = self._spool.waiting()
        return Shipped(
            self._destinations.outcomes,
            waiting=len(waiting),
            oldest_seconds=max((file.age_seconds for file in waiting), default=0.0),
            spool_bytes=self._spool.size(),
            gaps=reach.gaps,
            known_gaps=state.known_gaps(),
            refused=admission.refused,
            seconds=round(seconds, 3),
        )

    # -- whole files -----------------------------------------------------------------------------------------------------

    def _ship_whole(self, admission: Admission) -> None:
        # No segment of a timeline before the history that leads to it.
        for kind in ("history", "segment"):
            files = [file for file in admission.files if file.kind == kind]
            side_by_side(self._packers, partial(self._ship_file, admission), files)

    def _ship_file(self, admission: Admission, file: SpoolFile) -> None:
        """To each target that lacks it. Runs in a thread of its own."""
        forms: dict[Form, list[str]] = {}
        for name in self._destinations:
            if not self._spool.is_stored(name, file):
                forms.setdefault(self._destinations[name].form_of(file), []).append(name)
        try:
            for form, names in forms.items():
                self._pack_and_put(file, form, names, admission.segment(file))
        except WalInvalid as error:
            admission.refuse(file, error.what)
        except FileNotFoundError:
            pass  # moved meanwhile: the next round finds it

    def _pack_and_put(self, file: SpoolFile, form: Form, names: list[str], segment: Segment | None) -> None:
        """Packed once for all targets that keep it in this form."""
        if all(self._destinations.is_down(name) for name in names):
            return
        with self._packer.packed(file, file.name, form, segment) as (path, digest):
            self._destinations.each(lambda name: self._destinations.put_whole(name, file, path, digest), names)

    def _segments_without_hole(self, name: str, admission: Admission) -> Iterator[tuple[str, Segment]]:
        """Each segment that a target has, with its cluster; a file that it lacks ends them."""
        for file in admission.whole():
            if not self._spool.is_stored(name, file):
                return
            if (segment := admission.segment(file)) is not None:
                yield str(file.system_identifier), segment

    def _remove(self, admission: Admission, clusters: list[str]) -> None:
        """Remove what every required target has, in order. The last received segment stays: pg_receivewal goes on after it."""
        received = self._spool.received(clusters[-1]) if clusters else None
        segments = [file for file in admission.files if file.kind == "segment" and file.path.parent == received]
        last = segments[-1] if segments else None
        for file in admission.whole():
            if not all(self._spool.is_stored(name, file) for name in self._required):
                return
            if file == last:
                self._spool.keep(file)
            else:
                self._spool.remove(file)
