"""The spool: where WAL lies on this machine until the storage targets have it.

    <spool>/received/<system_identifier>/    pg_receivewal writes here
           /archived/                        archive_library=basic_archive, or an archive command, of the server writes here
           /refused/                         what is not the WAL that its name says, for a person to look at
           /packed/                          files on their way to a target; cleared at every start
           /stored/<target>/<name>           that target has it; size and time of the file that was meant
                           /.looked          since when there is no doubt about what that target has, if it gets bundles
           /state.json                       what was last known of the cluster and of each target's archived position
           /wanted                           cluster and LSN that somebody waits for, so that no target lets it wait for a bundle

All but the first three can be lost without harm: what a target has already is found there again, and compared.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from twist_dr.errors import WalError, WalInvalid
from twist_dr.repository.streams import full_disk_named
from twist_dr.system.documents import Limits, read_file, read_mapping
from twist_dr.system.folders import fsync_folder
from twist_dr.wal.names import Segment, WalFileKind, kind_of
from twist_dr.wal.pages import LONG_HEADER, FirstPage, pages_written, reaches, read_first_page
from twist_dr.wal.state import ShippingState

_STATE = "state.json"
_WANTED = "wanted"
#: Partial segments and gaps of a long outage are all noted.
_LIMITS = Limits(size=16 << 20, values=500_000)
#: In the place of a target's name, and none: those do not begin with a dot.
_KEPT = ".kept"
#: In the place of a file's name.
_LOOKED = ".looked"


@dataclass(frozen=True)
class SpoolFile:
    """A file that waits. ``system_identifier`` is None where neither its folder nor its bytes tell (a history file from the server's archiver)."""

    path: Path
    kind: WalFileKind
    size: int
    modified: float
    system_identifier: str | None

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def age_seconds(self) -> float:
        return max(0.0, time.time() - self.modified)


@dataclass(frozen=True)
class Wanted:
    """A position (LSN) up to which somebody waits for the archives of a cluster."""

    system_identifier: str
    lsn: int


class Spool:
    """One application's spool. Folders are made when they are first needed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.archived = root / "archived"
        self.refused = root / "refused"
        self.packed = root / "packed"
        self._noted: dict[Path, str] = {}

    @property
    def state_path(self) -> Path:
        return self.root / _STATE

    def received(self, system_identifier: str) -> Path:
        return self.root / "received" / system_identifier

    def prepare(self) -> None:
        """Make the folders; what the server's archiver writes into is open to it only if it runs as this user."""
        with full_disk_named(self.root):
            for folder in (self.root, self.root / "received", self.archived, self.packed):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    # -- what waits --------------------------------------------------------------------------------------------------

    def files(self) -> list[SpoolFile]:
        """Everything of PostgreSQL's that lies here, in the order of timelines and positions."""
        found = [*self._files_of(self.archived, None)]
        received = self.root / "received"
        if received.is_dir():
            for folder in sorted(received.iterdir()):
                found += self._files_of(folder, folder.name)
        return sorted(found, key=lambda file: (file.name[:24], file.kind != "history", file.name))

    def _files_of(self, folder: Path, system_identifier: str | None) -> Iterator[SpoolFile]:
        if not folder.is_dir():
            return
        for entry in os.scandir(folder):
            kind = kind_of(entry.name)
            if kind is None:
                continue
            with suppress(FileNotFoundError):  # renamed or removed meanwhile
                status = entry.stat()
                path = Path(entry.path)
                identifier = system_identifier
                if identifier is None and kind in ("segment", "partial"):
                    try:
                        identifier = first_page(path).system_identifier
                    except WalInvalid:
                        identifier = None
                    except PermissionError:
                        raise WalError(
                            f"{path} cannot be read by the user that ships (uid {os.geteuid()})",
                            remedy="run twist-dr as the user of the server's archiver, or use wal.source: receive",
                        ) from None
                yield SpoolFile(path, kind, status.st_size, status.st_mtime, identifier)

    def waiting(self) -> list[SpoolFile]:
        """What is complete and not yet on every target: segments and histories."""
        return [file for file in self.files() if file.kind in ("segment", "history") and not self.kept(file)]

    def size(self) -> int:
        """Bytes of all files of PostgreSQL's in the spool, as far as they take space on the disk."""
        total = 0
        for file in self.files():
            with suppress(FileNotFoundError):
                total += file.path.stat().st_blocks * 512
        return total

    # -- what became of them -------------------------------------------------------------------------------------------

    def _mark(self, target: str, file: SpoolFile) -> Path:
        return self.root / "stored" / target / f"{file.system_identifier or 'any'}.{file.name}"

    def is_stored(self, target: str, file: SpoolFile) -> bool:
        """Whether the target is known to have just this file: another one of the same name has to be compared first."""
        mark = self._mark(target, file)
        try:
            return self._noted.get(mark) == _likeness(file) or mark.read_text() == _likeness(file)
        except (OSError, ValueError):
            return False

    def note_stored(self, target: str, file: SpoolFile) -> None:
        """Where the disk is full, for the life of this process only: what can leave the spool frees space."""
        mark = self._mark(target, file)
        self._noted[mark] = _likeness(file)
        with suppress(OSError):
            mark.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            mark.write_text(_likeness(file))

    def looked_at(self, target: str) -> float | None:
        """When it was last looked what a target has (seconds since 1970); None when what was sent there since may have arrived or not."""
        try:
            return float((self.root / "stored" / target / _LOOKED).read_text())
        except (OSError, ValueError):
            return None

    def note_look(self, target: str, at: float | None) -> None:
        """None before something is sent whose arrival is noted later."""
        mark = self.root / "stored" / target / _LOOKED
        with suppress(OSError):  # on a full disk, an older one is emptied at least
            mark.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            mark.write_text("" if at is None else repr(at))

    def has_sent_bundles(self, target: str) -> bool:
        """Whether bundles went to that target from here, whatever the settings say now."""
        return (self.root / "stored" / target / _LOOKED).exists()

    def kept(self, file: SpoolFile) -> bool:
        """Whether it only stays so that pg_receivewal knows where to go on."""
        return self.is_stored(_KEPT, file)

    def keep(self, file: SpoolFile) -> None:
        if not self.kept(file):
            self.note_stored(_KEPT, file)

    def remove(self, file: SpoolFile) -> None:
        """It is where it has to be. First the file: a mark without one is only untidy."""
        file.path.unlink(missing_ok=True)
        for target in self._marked():
            mark = self._mark(target, file)
            self._noted.pop(mark, None)
            mark.unlink(missing_ok=True)

    def _marked(self) -> list[str]:
        stored = self.root / "stored"
        return [entry.name for entry in stored.iterdir()] if stored.is_dir() else []

    def refuse(self, file: SpoolFile) -> Path:
        """Put a file aside that is not what its name says."""
        self.refused.mkdir(parents=True, exist_ok=True, mode=0o700)
        place = self.refused / f"{file.name}.{datetime.now(timezone.utc):%Y%m%dT%H%M%S%f}"
        file.path.rename(place)
        return place

    def clear_packed(self) -> None:
        """Remove what a killed process had packed and not sent. Only under the shipper's lock."""
        shutil.rmtree(self.packed, ignore_errors=True)
        self.packed.mkdir(parents=True, exist_ok=True, mode=0o700)

    # -- the state -----------------------------------------------------------------------------------------------------

    def load_state(self) -> ShippingState:
        """An unreadable one counts as none: it can be found out again."""
        try:
            return ShippingState.from_document(read_mapping(read_file(self.state_path, _LIMITS.size), _LIMITS))
        except (OSError, ValueError, TypeError, KeyError):
            return ShippingState()

    def save_state(self, state: ShippingState) -> None:
        temporary = self.root / f"{_STATE}.new"
        with full_disk_named(self.root):
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump(vars(state), file)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self.state_path)
            fsync_folder(self.root)

    def want(self, wanted: Wanted) -> None:
        """Have everything up to a position sent at once. What was wanted stays here, and does no harm once archives reach it."""
        temporary = self.root / f"{_WANTED}.new.{os.getpid()}.{threading.get_ident()}"
        with full_disk_named(self.root):
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary.write_text(f"{wanted.system_identifier} {wanted.lsn}")
            temporary.rename(self.root / _WANTED)

    def wanted(self) -> Wanted | None:
        """What was wanted last."""
        try:
            identifier, lsn = (self.root / _WANTED).read_text().split()
            return Wanted(identifier, int(lsn))
        except (OSError, ValueError):
            return None


def _likeness(file: SpoolFile) -> str:
    return f"{file.size} {file.modified!r}"


def first_page(path: Path) -> FirstPage:
    """What the beginning of a segment file says. Raises ``WalInvalid``."""
    with open(path, "rb") as file:
        return read_first_page(file.read(LONG_HEADER), str(path))


def holds(path: Path, segment: Segment, size: int) -> bool:
    """Whether a file that is still written to has the first ``size`` bytes of its segment, as far as the header of the last page tells."""
    with open(path, "rb") as file:
        try:
            page = read_first_page(file.read(LONG_HEADER), str(path)).page_size
        except WalInvalid:
            return size == 0
        offset = max(size - 1, 0) // page * page
        file.seek(offset)
        return reaches(file.read(LONG_HEADER), segment, offset)


def written(path: Path, segment: Segment) -> int:
    """Bytes of a segment that a server wrote before it stopped: up to the last page that is of this segment, and not zero.

    For files whose writer is gone. The end may lie in the middle of a record, and a page's rest may be zeros that belong to one:
    recovery tells where the last whole record ends.
    """
    with open(path, "rb") as file:
        return pages_written(file.read(segment.size), segment)
