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
from twist_dr.system.progress import Report
from twist_dr.wal.admission import Admission
from twist_dr.wal.archived import Shipped
from twist_dr.wal.destinations import Destination, Destinations, side_by_side
from twist_dr.wal.names import Segment
from twist_dr.wal.objects import HISTORY_FORM
from twist_dr.wal.open_segment import OpenSegments, Round
from twist_dr.wal.packing import Packer
from twist_dr.wal.parcels import Parcel, is_due, parcels
from twist_dr.wal.primary import Sample
from twist_dr.wal.reach import Reach
from twist_dr.wal.spool import Spool, SpoolFile
from twist_dr.wal.state import ShippingState

#: How often it is looked whether what was shipped last is there still: a request per target.
_LOOK_BACK_SECONDS = 60.0


class Shipper:
    """Ships from one spool. Keep it alive: connections and what was looked up stay. One at a time: hold the lock around :meth:`ship`.

    ``required``: targets that must have a file before it leaves the spool; all, unless given. ``kept_off``: those that get none on purpose.
    ``heartbeat_seconds``: how often an idle server's claim is made anew. ``workers``: files that are packed, and sent to one target, at a time.
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
        kept_off: Iterable[str] = (),
        level: int = 3,
        workers: int = 2,
        heartbeat_seconds: float = 60.0,
    ) -> None:
        self._spool = spool
        self._keyring = keyring
        self._report = report
        self._required = set(destinations if required is None else required)
        self._kept_off = tuple(kept_off)
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
        self._looked_back_at = dict.fromkeys(destinations, -math.inf)

    def close(self) -> None:
        """End the threads."""
        self._packers.shutdown(cancel_futures=True)
        self._destinations.close()

    def ship(self, sample: Sample | None, *, everything: bool = False) -> Shipped:
        """Ship all that waits, then the open segment. ``sample`` is what the primary just said, or None when it gave no answer.

        ``everything``: also to targets that get bundles and whose turn it is not.

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
        state.forget(self._kept_off)
        reach = Reach(self._destinations, self._keyring, state, self._report)
        if sample is not None:
            state.note(sample)
        self._destinations.each(
            lambda name: self._destinations.prepare(name, reach.positions[name]), self._destinations
        )
        admission = Admission(self._spool, state, self._report)
        for names in self._turns(admission, reach, sample, everything):
            self._destinations.each(partial(self._look_back, reach), names)
            self._ship_whole(admission, names)
            for name in names:
                with self._destinations.failures_of(name):
                    reach.add_segments(name, self._segments_without_hole(name, admission))
            self._open_segments.ship(Round(sample, state, admission, reach, names))
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

    def _turns(
        self, admission: Admission, reach: Reach, sample: Sample | None, everything: bool
    ) -> Iterator[list[str]]:
        """Targets that get everything at once; when they have it, those that get bundles and whose turn it is. One that sends for a minute holds up no other."""
        bundling = [name for name in self._destinations if self._destinations[name].every]
        yield [name for name in self._destinations if name not in bundling]
        wanted = self._spool.wanted()
        opened = [file for file in admission.files if file.kind == "partial"]
        due = [
            name
            for name in bundling
            if everything
            or is_due(
                self._destinations[name].every,
                [file for file, _ in self._lacking(name, admission)],
                opened,
                reach.positions[name],
                sample,
                wanted,
            )
        ]
        if due:
            yield due

    def _look_back(self, reach: Reach, name: str) -> None:
        """Now and then, a request; a target that gets bundles has to be listed for it, which is done as seldom as for them."""
        now, destinations = time.monotonic(), self._destinations
        wait = now - self._looked_back_at[name] <= _LOOK_BACK_SECONDS
        if destinations.is_down(name) or wait or (destinations[name].every and not destinations.is_in_doubt(name)):
            return
        self._looked_back_at[name] = now
        with destinations.failures_of(name):
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

    def _ship_whole(self, admission: Admission, names: list[str]) -> None:
        # No segment of a timeline before the history that leads to it.
        histories = [file for file in admission.files if file.kind == "history"]
        self._ship_parcels(
            admission,
            {
                Parcel((file,), (), HISTORY_FORM): without
                for file in histories
                if (without := [name for name in names if not self._spool.is_stored(name, file)])
            },
        )
        lacking = {name: self._lacking(name, admission) for name in names if not self._destinations.is_down(name)}
        bundling = [name for name, files in lacking.items() if files and self._destinations.has_bundles(name)]
        self._destinations.each(lambda name: self._destinations.recognise(name, lacking[name]), bundling)
        lacking |= {name: self._lacking(name, admission) for name in bundling}
        waiting: dict[Parcel, list[str]] = {}
        for name, files in lacking.items():
            destination = self._destinations[name]
            for parcel in parcels(files, destination.form.confidential, together=bool(destination.every)):
                waiting.setdefault(parcel, []).append(name)
        self._ship_parcels(admission, waiting)
        for name in bundling:
            self._destinations.settle(name)

    def _lacking(self, name: str, admission: Admission) -> list[tuple[SpoolFile, Segment]]:
        """Whole segments that a target is not known to have, in their order."""
        return [
            (file, segment)
            for file in admission.whole()
            if (segment := admission.segment(file)) is not None and not self._spool.is_stored(name, file)
        ]

    def _ship_parcels(self, admission: Admission, waiting: Mapping[Parcel, list[str]]) -> None:
        side_by_side(self._packers, lambda each: self._ship_parcel(admission, *each), waiting.items())

    def _ship_parcel(self, admission: Admission, parcel: Parcel, names: list[str]) -> None:
        """To targets that keep it in its form, packed once for all. Runs in a thread of its own."""
        if all(self._destinations.is_down(name) for name in names):
            return
        try:
            with self._packer.packed(parcel.system_identifier, parcel.name, parcel.form, parcel.plain) as packed:
                self._destinations.each(lambda name: self._destinations.put_whole(name, parcel, *packed), names)
        except (WalInvalid, FileNotFoundError, StagingFull) as error:
            if len(parcel.files) > 1:
                # One by one, so that a file that is none holds up no other, and a full disk is enough for each.
                for each in parcel.singly():
                    self._ship_parcel(admission, each, names)
            elif isinstance(error, WalInvalid):
                admission.refuse(parcel.files[0], error.what)
            elif isinstance(error, StagingFull):
                raise
            # Else it was moved meanwhile: the next round finds it.

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
