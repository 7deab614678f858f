"""The journal of a restore: what it made, what it switched, what it kept.

    <work_dir>/restores/<application>/<restore_id>.json      replaced whole, made durable before the step that it announces

After a crash the facts are read from the server and the file system (which database bears the live name by its OID, which
folder lies at the live path by its inode); the journal says which OIDs and inodes these are, and what was being done.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal, Protocol

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from twist_dr.errors import RestoreError, RestoreInterrupted
from twist_dr.repository.streams import full_disk_named
from twist_dr.system.documents import NOTE, DocumentInvalid, read_file, read_mapping
from twist_dr.system.folders import fsync_folder

JournalKind = Literal["restore", "undo"]
_RESTORE_ID = re.compile(r"([0-9]{8}T[0-9]{6}Z)-[a-z]+-[0-9a-f]{4}")

#: ``preparing``: beside the live system, which knows nothing of it. ``switching``: in the cutover, before or after its
#: commit. ``switched``: after it. ``done``: at its end, with what was replaced kept. ``left``: at the end of one that switched
#: nothing (a sandbox). ``reverted``: nothing of it is left.
Phase = Literal["preparing", "switching", "switched", "done", "left", "reverted"]


class DatabaseSwitch(BaseModel):
    """The databases of a cutover. ``migrations``: those applied in the one that is replaced, for an undo to look at.

    Without ``live_oid`` there is no live database to be replaced: it was dropped, or the server is new. Where none ``comes``, an undo takes away
    what had replaced nothing.
    """

    model_config = ConfigDict(extra="forbid")

    live: str
    live_oid: int | None
    incoming: str
    incoming_oid: int | None = None
    kept: str
    migrations: dict[str, list[str]] = {}
    comes: bool = True

    @property
    def replaced(self) -> str | None:
        """What the live database is called once it is replaced."""
        return self.kept if self.live_oid is not None else None


class FolderSwitch(BaseModel):
    """A media folder of a cutover. Identities are device and inode; ``aside`` is a name for a moment, between two renames.

    ``made``: there was none at the live path, so an empty one was made to change places with.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    live: Path
    live_identity: tuple[int, int]
    incoming: Path
    incoming_identity: tuple[int, int] | None = None
    kept: Path
    aside: Path
    made: bool = False

    def unmake(self) -> None:
        """Remove the live folder if it was made for the restore and has nothing in it."""
        if self.made:
            with suppress(OSError):
                self.live.rmdir()


class Journal(BaseModel):
    """See the module's docstring. ``restored_id``: the restore that an undo undoes. ``sandbox``: a sandbox's folder for media."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    restore_id: str
    kind: JournalKind
    application: str
    began_at: AwareDatetime
    phase: Phase = "preparing"
    reason: str = ""
    backup_id: str | None = None
    restored_id: str | None = None
    database: DatabaseSwitch | None = None
    folders: list[FolderSwitch] = []
    sandbox: Path | None = None
    health_due: bool = False
    keep_until: AwareDatetime | None = None
    removal_began_at: AwareDatetime | None = None
    removed_at: AwareDatetime | None = None
    seconds_locked_out: float | None = None

    @property
    def keeps(self) -> bool:
        """Whether what it replaced is still there, so that it can be put back."""
        return self.phase == "done" and self.removal_began_at is None and self.removed_at is None

    @property
    def leaves(self) -> bool:
        """Whether it left a sandbox of which something is there still."""
        return self.phase == "left" and self.removed_at is None

    @property
    def left_database(self) -> tuple[str, int] | None:
        """Name and OID of the database that it left behind: the one that it replaced, or the sandbox."""
        names = self.database
        if names is None:
            return None
        name, oid = (names.incoming, names.incoming_oid) if self.phase == "left" else (names.kept, names.live_oid)
        return None if oid is None else (name, oid)

    @property
    def half_removed(self) -> bool:
        """Whether the removal of what it replaced began and did not end: nothing of that may be put back any more."""
        return self.removal_began_at is not None and self.removed_at is None

    @property
    def interrupted(self) -> bool:
        """Whether it was cut short. Only true to say while nobody is at work: under the application's lock."""
        return self.phase in ("preparing", "switching", "switched") or self.health_due


def new_restore_id(kind: JournalKind, now: datetime) -> str:
    """An id that sorts by time: ``20261121T140000Z-restore-3f9a``."""
    return f"{now.astimezone(timezone.utc):%Y%m%dT%H%M%SZ}-{kind}-{secrets.token_hex(2)}"


def began_at(restore_id: str) -> datetime | None:
    """When the restore of that id began; None for what is no such id."""
    match = _RESTORE_ID.fullmatch(restore_id)
    try:
        return datetime.strptime(match[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc) if match else None
    except ValueError:  # the 32nd of a month
        return None


class Journals(Protocol):
    """All journals of an application. Whatever else keeps them, they lie on this machine as well: settling must need nothing else."""

    def save(self, journal: Journal) -> None:
        """Write it, durably. Raises ``StagingFull`` when the disk has no space."""

    def load(self, restore_id: str) -> Journal:
        """Raises ``RestoreError`` when there is none of that id."""

    def has(self, restore_id: str) -> bool:
        """Whether there is one of that id: a restore that was killed early has none."""

    def all(self) -> list[Journal]:
        """Every journal, oldest first. By their own clock: ids tell seconds, and two can begin in one."""


class FileJournals:
    """:class:`Journals` in a folder, which is made when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, journal: Journal) -> None:
        path = self._path(journal.restore_id)
        temporary = path.with_suffix(".new")
        with full_disk_named(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(journal.model_dump_json(indent=1))
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
            fsync_folder(self._folder)

    def load(self, restore_id: str) -> Journal:
        try:
            return Journal.model_validate(read_mapping(read_file(self._path(restore_id), NOTE.size), NOTE))
        except FileNotFoundError:
            raise RestoreError(
                f"There is no restore {restore_id} to be found in {self._folder}",
                remedy="see what is kept with: twist-dr list --replaced",
            ) from None
        except (ValidationError, DocumentInvalid):
            raise RestoreInterrupted(
                f"The journal {self._path(restore_id)} is damaged, or was written by a newer twist-dr",
                remedy="upgrade twist-dr, or look at the databases and folders that it names, and move it away when they are as they should be",
            ) from None

    def has(self, restore_id: str) -> bool:
        return self._path(restore_id).exists()

    def all(self) -> list[Journal]:
        journals = [self.load(path.stem) for path in self._folder.glob("*.json")]
        return sorted(journals, key=lambda journal: (journal.began_at, journal.restore_id))

    def _path(self, restore_id: str) -> Path:
        return self._folder / f"{restore_id}.json"
