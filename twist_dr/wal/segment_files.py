"""Segments of archives as files. What lies in a bundle comes with the others of it, and they are kept for those who ask next."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from twist_dr.errors import WalInvalid
from twist_dr.repository.keys import Keyring
from twist_dr.repository.streams import full_disk_named, write_new
from twist_dr.wal.names import Segment
from twist_dr.wal.objects import WalArchive, holds_several

#: Bundles of which something is kept: as many as there are threads that fetch for a recovering server.
_MOST_KEPT = 4

Chunks = Iterator[tuple[Segment, bytes]]


@dataclass
class _Unpacked:
    """What is left of one bundle, in a folder that is there as long as something is."""

    folder: Path
    lock: threading.Lock = field(default_factory=threading.Lock)


class SegmentFiles:
    """Fetches whole segments into files, every page checked, and each bundle once for all that are asked of it in a row.

    What nobody asked for yet lies beside the file that was wanted, in folders that go with the one they lie in. Safe for several threads.
    """

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._kept: dict[tuple[Path, str, str], _Unpacked] = {}
        self._guard = threading.Lock()
        self._count = 0

    def fetch(
        self,
        archive: WalArchive,
        system_identifier: str,
        key: str,
        name: str,
        path: Path,
        *,
        durable: bool,
        watched: Callable[[Chunks], Chunks] = iter,
    ) -> None:
        """Write the segment of PostgreSQL's ``name`` out of the object under ``key`` to a new file. ``watched`` sees what is read, and may raise.

        Raises what :meth:`WalArchive.segments` raises, ``StagingFull``, and ``WalInvalid`` when the segment is not in there; then nothing is left.
        """

        def chunks() -> Chunks:
            return watched(archive.segments(system_identifier, key, self._keyring))

        if not holds_several(key):
            write_new(path, (chunk for _, chunk in chunks()), durable=durable)
            return
        unpacked = self._of(path.parent, archive.target.name, key)
        with unpacked.lock:
            found = unpacked.folder / name
            if not found.exists():
                _unpack(chunks(), unpacked.folder, durable)
            if not found.exists():
                raise WalInvalid(f"{key} does not hold {name}", remedy="take it from another storage target")
            found.rename(path)
            if not any(unpacked.folder.iterdir()):
                unpacked.folder.rmdir()

    def _of(self, beside: Path, target: str, key: str) -> _Unpacked:
        place = beside, target, key
        with self._guard:
            self._count += 1
            # At the end again: the one that was asked for longest ago goes first.
            unpacked = self._kept.pop(place, None) or _Unpacked(beside / f".bundle-{self._count}")
            self._kept[place] = unpacked
            gone = [self._kept.pop(each) for each in list(self._kept)[:-_MOST_KEPT]]
        for each in gone:
            with each.lock:
                shutil.rmtree(each.folder, ignore_errors=True)
        return unpacked


def _unpack(chunks: Chunks, folder: Path, durable: bool) -> None:
    """Every segment of a bundle into a new folder; all are good when this returns, else none is left."""
    shutil.rmtree(folder, ignore_errors=True)
    with full_disk_named(folder.parent):
        folder.mkdir(mode=0o700)
    try:
        for segment, of_segment in groupby(chunks, key=itemgetter(0)):
            write_new(folder / segment.name, (chunk for _, chunk in of_segment), durable=durable)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
