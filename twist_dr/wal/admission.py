"""Which files of the spool are ours to ship. What is not the WAL that its name says is put aside, and said."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from twist_dr.errors import WalInvalid
from twist_dr.system.documents import DocumentInvalid, read_file
from twist_dr.system.progress import Report
from twist_dr.wal.history import MOST_BYTES, parse_history
from twist_dr.wal.names import Segment, timeline_of
from twist_dr.wal.spool import Spool, SpoolFile, first_page
from twist_dr.wal.state import ShippingState

#: What is not (yet) a file of WAL and was changed so lately may still be copied to by an archive command that is not one of ours.
_SETTLED_SECONDS = 10.0
#: A file that is dated further ahead than the clock of the host that writes it may be is a strange one, and no copy that goes on.
_AHEAD_SECONDS = 300.0

_NO_HEADER = "it does not begin with the header of a WAL segment"


class Admission:
    """The files of one round: ``files`` are those of clusters that are ours, one cluster after the other; ``refused``, sentences, the rest.

    The files are looked at when it is made; ``state`` learns which cluster is ours if the server was never asked.
    """

    def __init__(self, spool: Spool, state: ShippingState, report: Report) -> None:
        self.refused: list[str] = []
        self._spool = spool
        self._state = state
        self._report = report
        self._guard = threading.Lock()
        self._aside: set[Path] = set()
        self._segments: dict[Path, Segment] = {}
        self.files = sorted(self._admitted(), key=lambda file: state.clusters.index(str(file.system_identifier)))

    def whole(self) -> list[SpoolFile]:
        """Segments and histories, without those that were refused since."""
        return [file for file in self.files if file.kind != "partial" and file.path not in self._aside]

    def segment(self, file: SpoolFile) -> Segment | None:
        """Which segment a whole file is; ``None`` for a history."""
        return self._segments.get(file.path)

    def refuse(self, file: SpoolFile, why: str) -> None:
        """Put a file aside, for a person to look at. From any thread."""
        try:
            place = self._spool.refuse(file)
        except FileNotFoundError:
            return
        sentence = f"{file.name} was not accepted: {why}. It lies in {place}."
        self._report.warning(sentence)
        with self._guard:
            self._aside.add(file.path)
            self.refused.append(sentence)

    def _admitted(self) -> Iterator[SpoolFile]:
        for file in self._spool.files():
            if file.kind == "backup":
                # It tells of a backup what that backup's own files tell; recovery never asks for it.
                file.path.unlink(missing_ok=True)
                continue
            if file.kind == "history" and file.system_identifier is None and self._state.clusters:
                file = replace(file, system_identifier=self._state.clusters[-1])
            try:
                why = self._objection(file)
            except FileNotFoundError:  # moved meanwhile; the next round finds it
                return
            if why is None:
                yield file
            elif why and self._may_grow(file):
                return
            elif why:
                self.refuse(file, why)

    def _may_grow(self, file: SpoolFile) -> bool:
        """Whether somebody may still be copying it. Not one of another cluster: its header is whole, and tells for good whose it is."""
        if file.path.parent != self._spool.archived:
            return False
        if file.system_identifier is not None and file.system_identifier not in self._state.clusters:
            return False
        return -_AHEAD_SECONDS < time.time() - file.modified < _SETTLED_SECONDS

    def _objection(self, file: SpoolFile) -> str | None:
        """Why a file is not admitted; empty when that cannot be told yet; None when it is."""
        if file.kind == "history":
            try:
                parse_history(read_file(file.path, MOST_BYTES), timeline_of(file.name), file.name)
            except (WalInvalid, DocumentInvalid):
                return "it is no timeline history"
            return "" if file.system_identifier is None else None
        if file.system_identifier is None:
            return _NO_HEADER
        clusters = self._state.clusters
        if not clusters:
            # The server was never asked: the first to be seen is taken for ours, and all others must be of the same.
            clusters.append(file.system_identifier)
        if file.system_identifier not in clusters:
            return (
                f"it belongs to the cluster {file.system_identifier}, and ours is {clusters[-1]}; "
                "correct the archive_command of that server"
            )
        return self._objection_to_segment(file) if file.kind == "segment" else None

    def _objection_to_segment(self, file: SpoolFile) -> str | None:
        try:
            size = first_page(file.path).segment_size
            self._segments[file.path] = Segment.named(file.name, size)
        except WalInvalid:
            return _NO_HEADER
        except ValueError as error:
            return str(error)
        return None if file.size == size else f"it holds {file.size} bytes where a segment has {size}"
