"""Media, configuration and the plain dump, out of a backup into folders of somebody's choice."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

from twist_dr.cli.recover.scratch import need_space_to_recover
from twist_dr.errors import RestoreRefused
from twist_dr.postgres.dump_internals import leave_out_internals
from twist_dr.postgres.extension_members import MEMBERS, ROWS
from twist_dr.repository.archive_index import beside_index, read_index
from twist_dr.repository.sources import OneCopy
from twist_dr.repository.streams import write_new
from twist_dr.repository.unpack import Unpacked, unpack
from twist_dr.restore.media import restore_configuration, unpack_media
from twist_dr.storage.chunks import buffered
from twist_dr.system.folders import remove_tree
from twist_dr.system.progress import Report
from twist_dr.system.words import counted

ROLES = "roles.sql"
#: What is written beside a dump, where the backup has it.
_BESIDE = (ROLES, ROWS, MEMBERS)
HISTORY_ARCHIVE = "dagster.tar"
_ELSEWHERE = "free space there, or name a place on another disk"


def look_at_folder(folder: Path, option: str, size: int) -> Path:
    """Raise ``RestoreRefused`` unless ``folder`` is new or empty and has space for ``size`` bytes; gives it whole."""
    folder = folder.absolute()
    with _usable(folder, f"name another folder in {option}"):
        if os.path.lexists(folder) and not _is_empty(folder):
            raise RestoreRefused(
                f"{folder} is there and is no empty folder, and nothing is ever unpacked over what is there",
                remedy=f"name a new folder in {option}",
            )
        _look_at_parent(folder, option)
    need_space_to_recover(folder.parent, size, _ELSEWHERE)
    return folder


def look_at_file(file: Path, option: str, size: int) -> Path:
    """The same for the dump's file, which must be new, as must be what is written beside it."""
    file = file.absolute()
    if file.name in _BESIDE:
        raise RestoreRefused(
            f"{file.name} is the name of a file beside the dump", remedy=f"name another file in {option}"
        )
    with _usable(file, f"name another file in {option}"):
        for each in (file, *map(file.with_name, _BESIDE)):
            if os.path.lexists(each):
                raise RestoreRefused(
                    f"{each} is there already and is not written over",
                    remedy=f"name a file in a new folder in {option}",
                )
        _look_at_parent(file, option)
    need_space_to_recover(file.parent, size, _ELSEWHERE)
    return file


@contextmanager
def _usable(path: Path, remedy: str) -> Iterator[None]:
    """What the system says of a place is that it is none to write to. Raises ``RestoreRefused``."""
    try:
        yield
    except OSError as error:
        raise RestoreRefused(f"{path} cannot be used ({error.strerror})", remedy=remedy) from error


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())


def _look_at_parent(path: Path, option: str) -> None:
    parent = path.parent
    if not parent.is_dir():
        raise RestoreRefused(f"There is no folder {parent}", remedy=f"make it, or name another place in {option}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise RestoreRefused(
            f"Nothing can be written in {parent}", remedy=f"fix its permissions, or name another place in {option}"
        )


def recover_media(folder: Path, copy: OneCopy, report: Report) -> tuple[Unpacked, list[Path]]:
    """Unpack each media folder of the backup to ``folder/<name>``. After an error none of it is there."""
    places = {name: folder / name for name in _media_names(copy)}
    found = _into(folder, lambda: unpack_media(copy, places, report))
    return found, list(places.values())


def recover_configuration(folder: Path, copy: OneCopy, report: Report) -> Unpacked:
    """Unpack the configuration, each file below ``folder`` by its old path. After an error none of it is there."""
    # It is made anew, closed to others: among the files are secrets.
    with suppress(FileNotFoundError):
        folder.rmdir()
    found = restore_configuration(copy, folder, private=False)
    for note in found.notes:
        report.warning(note)
    return found


def recover_everything(folder: Path, copy: OneCopy, report: Report) -> list[str]:
    """Write all of a configuration backup into a new folder, closed to others; gives what is in it, in words. After an error it is gone."""
    with suppress(FileNotFoundError):
        folder.rmdir()
    folder.mkdir(mode=0o700)
    told = []
    try:
        found = recover_configuration(folder / "files", copy, report)
        told.append(f"files: {counted(found.files, 'file')} in {folder / 'files'}, below it by their old paths")
        for artifact in copy.manifest.artifacts:
            if artifact.name == HISTORY_ARCHIVE:
                found = _history(folder / "dagster", copy)
                told.append(f"Dagster's history: {found.files} SQLite files in {folder / 'dagster'}")
            elif artifact.name not in ("configuration.tar", "configuration.files.jsonl", "dagster.files.jsonl"):
                copy.fetch(artifact.name, folder / artifact.name, durable=True)
                _ready(folder / artifact.name, report)
                told.append(f"{artifact.name}: {folder / artifact.name}")
    except BaseException:
        remove_tree(folder)
        raise
    return told


def _history(folder: Path, copy: OneCopy) -> Unpacked:
    with beside_index(copy.read, HISTORY_ARCHIVE) as (stream, index):
        return unpack(stream, index, {"dagster": folder}, HISTORY_ARCHIVE)


def recover_dump(file: Path, copy: OneCopy, report: Report) -> list[Path]:
    """Write the plain dump, the roles' SQL and what is kept of extensions beside it, mode 0600; gives the paths of the latter. All or none.

    psql runs orders of its own that a script holds, such as ``\\!``, unless it was restricted with a key that the script cannot know.
    """
    restricted = f"\\restrict {secrets.token_hex(16)}\n".encode()
    beside: list[Path] = []
    try:
        for name in _BESIDE:
            if copy.manifest.artifact(name) is not None:
                path = file.with_name(name)
                content = copy.read(name)
                write_new(path, content if name == MEMBERS else chain([restricted], content))
                beside.append(path)
        with report.part("database.dump", copy.stored_size("database.dump")) as advance:
            copy.fetch("database.dump", file, advance, durable=True)
        for dump in (file, *(path for path in beside if path.name == MEMBERS)):
            _ready(dump, report)
    except BaseException:
        for path in beside:
            path.unlink(missing_ok=True)
        raise
    return beside


def _ready(file: Path, report: Report) -> None:
    """A dump is restored by hand from here: what a server would refuse goes out of it. Other files stay as they are."""
    for line in leave_out_internals(file):
        report.warning(f"{file.name}: {line}")


def _media_names(copy: OneCopy) -> list[str]:
    """The media folders in the backup: those that the index names at its top. Read to the end, so that all of it is checked."""
    with buffered(copy.read("media.files.jsonl")) as lines:
        return [entry.path for entry in read_index(lines) if entry.kind == "folder" and "/" not in entry.path]


def _into(folder: Path, unpack: Callable[[], Unpacked]) -> Unpacked:
    """Unpack into a folder that is made for it, and gone again if that fails."""
    made = not folder.exists()
    folder.mkdir(mode=0o755, exist_ok=True)
    try:
        return unpack()
    except BaseException:
        if made:
            with suppress(OSError):
                folder.rmdir()
        raise
