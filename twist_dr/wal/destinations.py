"""The storage targets of one shipping process: which of them can be used now, and putting bytes there.

What goes wrong with a target is that target's alone: it is left out for the rest of the round, and longer if it was slow to fail.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from twist_dr.errors import ObjectExists, StorageError, TwistDRError, WalConflict
from twist_dr.repository.emptied import emptied
from twist_dr.repository.keys import Keyring
from twist_dr.repository.streams import Form
from twist_dr.storage.base import Digest
from twist_dr.system.progress import Report
from twist_dr.wal.archived import ArchivedPosition, TargetShipped
from twist_dr.wal.names import timeline_of
from twist_dr.wal.objects import HISTORY_FORM, WalArchive
from twist_dr.wal.packing import file_chunks
from twist_dr.wal.partial_segment import PartialSegment
from twist_dr.wal.spool import Spool, SpoolFile

T = TypeVar("T")

#: A target that took so long to fail is left out for ten times as long, so that the others wait a tenth of the time at most.
_SLOW_SECONDS = 5.0


def side_by_side(pool: ThreadPoolExecutor, call: Callable[[T], None], items: Iterable[T]) -> None:
    """The call for each of the items. All have ended when this does; the first error is raised then."""
    begun = [pool.submit(call, item) for item in items]
    wait(begun)
    for each in begun:
        each.result()


@dataclass(frozen=True)
class Destination:
    """A storage target's archive, and the form in which it keeps bytes."""

    archive: WalArchive
    form: Form

    def form_of(self, file: SpoolFile) -> Form:
        return HISTORY_FORM if file.kind == "history" else self.form.confidential

    def key_of(self, file: SpoolFile) -> str:
        """Where a whole file of the spool lies."""
        identifier, timeline = str(file.system_identifier), timeline_of(file.name)
        if file.kind == "history":
            return self.archive.history_key(identifier, timeline)
        return self.archive.key(identifier, timeline, file.name, self.form)

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

    def put_whole(self, name: str, file: SpoolFile, packed: Path, digest: Digest) -> None:
        """A whole file, packed, to one target; the spool then knows that it is there."""
        if self.is_down(name):
            return
        with self.failures_of(name):
            self.store(name, file, self[name].key_of(file), packed, digest)
            self._spool.note_stored(name, file)
            with self._guard:
                self.outcomes[name].segments += file.kind == "segment"

    def store(
        self, name: str, file: SpoolFile, key: str, packed: Path, digest: Digest, size: int | None = None
    ) -> None:
        """Store packed bytes: ``file``, or its first ``size`` bytes. The same plain ones may be there already, when somebody
        was killed before he could write it down. Raises ``WalConflict`` when others are, and storage errors.
        """
        archive = self[name].archive
        try:
            archive.put(packed, key, digest)
        except ObjectExists:
            plain = iter(()) if size == 0 else file_chunks(file.path, size)
            if not archive.holds(str(file.system_identifier), key, self._keyring, plain):
                raise WalConflict(
                    f"it holds other bytes as {key.rpartition('/')[2]}: two servers wrote the same timeline, or the key is another one. Nothing was "
                    f"overwritten, and {file.path} stays",
                    remedy="find out which server is the right one, and take a new base backup",
                    target=name,
                ) from None
        with self._guard:
            self.outcomes[name].stored_bytes += digest.size
