"""The storage targets of one shipping process: which of them can be used now, and putting bytes there.

What goes wrong with a target is that target's alone: it is left out for the rest of the round, and longer if it was slow to fail.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from twist_dr.errors import ObjectExists, StorageError, TwistDRError, WalConflict
from twist_dr.repository.emptied import emptied
from twist_dr.repository.keys import Keyring
from twist_dr.repository.streams import Form
from twist_dr.storage.base import Digest
from twist_dr.system.progress import Report
from twist_dr.system.words import few
from twist_dr.wal.archived import ArchivedPosition, TargetShipped
from twist_dr.wal.names import Segment, timeline_of
from twist_dr.wal.objects import WalArchive
from twist_dr.wal.packing import file_chunks
from twist_dr.wal.parcels import Parcel
from twist_dr.wal.partial_segment import PartialSegment
from twist_dr.wal.spool import Spool, SpoolFile

T = TypeVar("T")

#: By the name that it has in the archive, a file whose bytes are offered, and how many of them; all for None.
Offered = Mapping[str, tuple[Path, int | None]]

#: A target that took so long to fail is left out for ten times as long, so that the others wait a tenth of the time at most.
_SLOW_SECONDS = 5.0
#: How often a target that gets bundles is listed though nothing was left in doubt: another server may write the same timeline, and the names of its
#: bundles are no others' names. A month of bundles is some forty pages of a drive's listing.
_LIST_SECONDS = 3600.0


def side_by_side(pool: ThreadPoolExecutor, call: Callable[[T], None], items: Iterable[T]) -> None:
    """The call for each of the items. All have ended when this does; the first error is raised then."""
    begun = [pool.submit(call, item) for item in items]
    wait(begun)
    for each in begun:
        each.result()


@dataclass(frozen=True)
class Destination:
    """A storage target's archive, and the form in which it keeps bytes.

    ``every``: how often it gets write-ahead log, then all that waits, as bundles; at once, and each segment by itself, when zero.
    """

    archive: WalArchive
    form: Form
    every: timedelta = timedelta(0)

    def key_of(self, parcel: Parcel) -> str:
        """Where what is sent as one object lies."""
        identifier, timeline = parcel.system_identifier, timeline_of(parcel.name)
        if not parcel.segments:
            return self.archive.history_key(identifier, timeline)
        return self.archive.key(identifier, timeline, parcel.name, self.form)

    def key_of_partial(self, system_identifier: str, partial: PartialSegment) -> str:
        return self.archive.key(system_identifier, partial.segment.timeline, partial.name, self.form)


class Destinations:
    """All targets of one process, by name. ``outcomes``: what each got in this round, which :meth:`begin_round` begins.

    ``workers``: files that are sent to one target at a time.
    """

    def __init__(
        self, destinations: Mapping[str, Destination], spool: Spool, keyring: Keyring, report: Report, workers: int
    ) -> None:
        self.outcomes: dict[str, TargetShipped] = {}
        self._destinations = dict(destinations)
        self._spool = spool
        self._keyring = keyring
        self._report = report
        self._senders = ThreadPoolExecutor(workers * len(self._destinations), thread_name_prefix="send WAL")
        self._guard = threading.Lock()
        self._ready: set[str] = set()
        self._down: dict[str, TwistDRError] = {}
        self._resting: dict[str, tuple[float, TwistDRError]] = {}
        self._told: dict[str, str] = {}
        self._looked: dict[str, float] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._destinations)

    def __getitem__(self, name: str) -> Destination:
        return self._destinations[name]

    def close(self) -> None:
        """End the threads."""
        self._senders.shutdown(cancel_futures=True)

    def each(self, call: Callable[[str], None], names: Iterable[str]) -> None:
        """The call for each of the targets, side by side."""
        side_by_side(self._senders, call, names)

    # -- which can be used ---------------------------------------------------------------------------------------------

    def begin_round(self) -> None:
        """What failed in the last round is tried again, unless it was slow to fail."""
        now = time.monotonic()
        self._down = {name: error for name, (until, error) in self._resting.items() if until > now}
        self.outcomes = {name: TargetShipped() for name in self}

    def end_round(self) -> None:
        """Write down in the outcomes what failed."""
        for name, outcome in self.outcomes.items():
            outcome.error = self._down.get(name)
            if outcome.error is None:
                self._told.pop(name, None)

    def is_down(self, name: str) -> bool:
        return name in self._down

    def prepare(self, name: str, position: ArchivedPosition | None) -> None:
        """Once per process, and again after a failure: an absent disk must not become a new, empty target."""
        if name in self._ready or self.is_down(name):
            return
        archive = self[name].archive
        with self.failures_of(name):
            if position is not None and position.system_identifier not in archive.clusters():
                anew = f"remove {name} from {self._spool.state_path} and take a new base backup"
                raise emptied(archive.target, archive.application, held="WAL", on_purpose=anew)
            archive.prepare()
            self._ready.add(name)

    @contextmanager
    def failures_of(self, name: str) -> Iterator[None]:
        """A failure in here takes the target out of the round, is said once, and is not raised."""
        begun = time.monotonic()
        try:
            yield
        except (StorageError, WalConflict) as error:
            spent = time.monotonic() - begun
            with self._guard:
                self._ready.discard(name)
                self._down.setdefault(name, error)
                if spent > _SLOW_SECONDS:
                    self._resting[name] = (time.monotonic() + 10 * spent, error)
                sentence = f"{name}: {error.clause}"
                is_news = self._told.get(name) != sentence
                self._told[name] = sentence
            if is_news:
                self._report.warning(sentence)

    # -- putting bytes there -------------------------------------------------------------------------------------------

    def put_whole(self, name: str, parcel: Parcel, packed: Path, digest: Digest) -> None:
        """Whole files, packed, to one target; the spool then knows that they are there."""
        if self.is_down(name):
            return
        with self.failures_of(name):
            offered = {file.name: (file.path, None) for file in parcel.files}
            self.store(name, parcel.system_identifier, self[name].key_of(parcel), packed, digest, offered)
            for file in parcel.files:
                self._spool.note_stored(name, file)
            with self._guard:
                self.outcomes[name].segments += len(parcel.segments)

    def store(
        self, name: str, system_identifier: str, key: str, packed: Path, digest: Digest, offered: Offered
    ) -> None:
        """Store packed bytes. The same plain ones, which are ``offered``, may be there already, when somebody was killed before he could
        write it down. Raises ``WalConflict`` when others are, and storage errors.
        """
        try:
            self[name].archive.put(packed, key, digest)
        except ObjectExists:
            self._compare(name, system_identifier, key, offered)
        with self._guard:
            self.outcomes[name].stored_bytes += digest.size

    def recognise(self, name: str, files: Sequence[tuple[SpoolFile, Segment]]) -> None:
        """Before something is sent to a target that gets bundles: note which segments it has already, in whatever objects, where that is in
        doubt. Somebody may have been killed before he could, or bundle them in another way. A target that has other bytes of one of them is out
        of the round, as is one that cannot be asked. :meth:`settle` ends what this begins.
        """
        if not self.is_in_doubt(name):
            self._looked[name] = self._spool.looked_at(name) or 0.0
            self._spool.note_look(name, None)
            return
        wanted: dict[tuple[str, int, int], dict[Segment, list[SpoolFile]]] = {}
        for file, segment in files:
            place = str(file.system_identifier), segment.size, segment.timeline
            wanted.setdefault(place, {}).setdefault(segment, []).append(file)
        there: dict[tuple[str, str], list[SpoolFile]] = {}
        with self.failures_of(name):
            for place, lacking in wanted.items():
                for found, stored in self[name].archive.holdings(*place).whole():
                    if found in lacking:
                        there.setdefault((place[0], stored.key), []).extend(lacking[found])
            for (identifier, key), lying in there.items():
                self._compare(name, identifier, key, {file.name: (file.path, None) for file in lying})
            for file in dict.fromkeys(file for lying in there.values() for file in lying):
                self._spool.note_stored(name, file)
            self._looked[name] = time.time()

    def has_bundles(self, name: str) -> bool:
        """Whether a target gets bundles, or got some from here before the settings were changed."""
        return bool(self[name].every) or self._spool.has_sent_bundles(name)

    def is_in_doubt(self, name: str) -> bool:
        """Whether a target that gets bundles has to be asked what it has: a sending was cut short, or it was not asked for long."""
        looked = self._spool.looked_at(name)
        return looked is None or not 0 <= time.time() - looked <= _LIST_SECONDS

    def settle(self, name: str) -> None:
        """All that was sent to a target that gets bundles arrived, and is noted; unless it failed meanwhile."""
        looked = self._looked.pop(name, None)
        if looked is not None and not self.is_down(name):
            self._spool.note_look(name, looked)

    def _compare(self, name: str, system_identifier: str, key: str, offered: Offered) -> None:
        """Raise ``WalConflict`` unless the object under ``key`` holds just what is offered."""
        plain = {called: file_chunks(*of) for called, of in offered.items()}
        if not self[name].archive.holds(system_identifier, key, self._keyring, plain):
            paths = few(str(path) for path, _ in offered.values())
            raise WalConflict(
                f"it holds other bytes as {key.rpartition('/')[2]}: two servers wrote the same timeline, or the key is another one. Nothing was "
                f"overwritten, and {paths} {'stays' if len(offered) == 1 else 'stay'}",
                remedy="find out which server is the right one, and take a new base backup",
                target=name,
            )
