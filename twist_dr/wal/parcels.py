"""What is sent as one object: a file of the spool, or consecutive segments as a bundle. And when a target's turn is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from twist_dr.repository.streams import Form
from twist_dr.wal.archived import ArchivedPosition
from twist_dr.wal.bundles import MOST_BYTES, PackedSegment, bundle_name, bundled
from twist_dr.wal.names import Segment
from twist_dr.wal.packing import file_chunks
from twist_dr.wal.pages import PageCheck
from twist_dr.wal.primary import Sample
from twist_dr.wal.spool import SpoolFile, Wanted


@dataclass(frozen=True)
class Parcel:
    """Whole files of the spool for one object, in a form. ``segments``: which they are; a history file is none."""

    files: tuple[SpoolFile, ...]
    segments: tuple[Segment, ...]
    form: Form

    @property
    def system_identifier(self) -> str:
        return str(self.files[0].system_identifier)

    @property
    def name(self) -> str:
        """The object's name without the ending of its form."""
        first, last = self.files[0].name, self.files[-1].name
        return first if len(self.files) == 1 else bundle_name(first, last)

    def singly(self) -> list[Parcel]:
        """Each segment by itself."""
        return [Parcel((file,), (segment,), self.form) for file, segment in zip(self.files, self.segments, strict=True)]

    def plain(self) -> Iterator[bytes]:
        """The object's plain bytes, every page looked at. Raises ``WalInvalid`` and ``OSError``."""
        if not self.segments:
            return file_chunks(self.files[0].path)
        if len(self.files) == 1:
            return _checked(self.files[0], self.segments[0])
        return bundled(
            PackedSegment(file.name, file.size, _checked(file, segment))
            for file, segment in zip(self.files, self.segments, strict=True)
        )


def _checked(file: SpoolFile, segment: Segment) -> Iterator[bytes]:
    check = PageCheck(segment, str(file.system_identifier), str(file.path))
    return check.looked_at(file_chunks(file.path))


def parcels(lacking: Iterable[tuple[SpoolFile, Segment]], form: Form, *, together: bool) -> list[Parcel]:
    """What a target lacks as objects for it; ``together``: consecutive segments as bundles, of at most ``MOST_BYTES``."""
    runs: list[list[tuple[SpoolFile, Segment]]] = []
    for file, segment in lacking:
        if together and runs and _follows(file, segment, runs[-1]):
            runs[-1].append((file, segment))
        else:
            runs.append([(file, segment)])
    return [Parcel(tuple(file for file, _ in run), tuple(segment for _, segment in run), form) for run in runs]


def _follows(file: SpoolFile, segment: Segment, run: Sequence[tuple[SpoolFile, Segment]]) -> bool:
    last_file, last = run[-1]
    fits = (len(run) + 1) * segment.size <= MOST_BYTES
    return fits and segment == last.next and file.system_identifier == last_file.system_identifier


def is_due(
    every: timedelta,
    lacking: Sequence[SpoolFile],
    opened: Iterable[SpoolFile],
    position: ArchivedPosition | None,
    sample: Sample | None,
    wanted: Wanted | None,
) -> bool:
    """Whether a target that gets write-ahead log ``every`` so often gets some now: what it is ``lacking``, and of the open segment, whose files are ``opened``.

    So that what was committed longer ago is there: by the primary's clock, and by the age of what waits, since the primary may not answer. Then the
    open segment, too, is as old as its last write: while it answers, its clock tells.
    Sooner when a bundle is full, or a base backup waits for its log.
    """
    if position is None:
        return True
    if sample is not None and sample.at is not None and position.at is not None and sample.at - position.at >= every:
        return True
    if wanted is not None and wanted.system_identifier == position.system_identifier and wanted.lsn > position.lsn:
        return True
    waiting = lacking if sample is not None else [*lacking, *opened]
    oldest = max((file.age_seconds for file in waiting), default=0.0)
    return oldest >= every.total_seconds() or sum(file.size for file in lacking) >= MOST_BYTES
