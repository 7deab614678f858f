"""Phase one, the files: media unpacked beside the live folders, configuration into a folder for a person to compare."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from twist_dr.errors import RestoreFailed
from twist_dr.repository.archive_index import beside_index
from twist_dr.repository.sources import OneCopy
from twist_dr.repository.unpack import Unpacked, unpack, unpack_configuration
from twist_dr.restore.exchange import Identity, free_path, identity
from twist_dr.restore.journal import FolderSwitch
from twist_dr.restore.pipeline import Artifacts
from twist_dr.system.folders import remove_tree
from twist_dr.system.progress import Report
from twist_dr.system.words import counted


def plan_folders(media: Mapping[str, Path], stamp: str) -> list[FolderSwitch]:
    """The names that a restore gives its folders: hidden ones beside the real live folder, on the same file system.

    A live folder that is missing is made, empty: what is restored changes places with it.
    """
    folders = []
    for name, path in media.items():
        live = Path(os.path.realpath(path))
        if made := (found := identity(live)) is None:
            found = _make(live, name)
        folders.append(
            FolderSwitch(
                name=name,
                live=live,
                live_identity=found,
                incoming=free_path(live.with_name(f".{live.name}.restore-{stamp}")),
                kept=free_path(live.with_name(f".{live.name}.replaced-{stamp}")),
                aside=free_path(live.with_name(f".{live.name}.aside-{stamp}")),
                made=made,
            )
        )
    return folders


def _make(live: Path, name: str) -> Identity:
    try:
        above = os.stat(live.parent)
        os.mkdir(live, 0o755)
        if os.geteuid() == 0:  # an undo brings it back, and then the application should be able to write into it
            os.chown(live, above.st_uid, above.st_gid)
        status = os.stat(live)
    except OSError as error:
        raise RestoreFailed(
            f"The media folder {live} is not there and cannot be made ({error.strerror})",
            remedy=f"make it, or correct media.{name}",
        ) from error
    return status.st_dev, status.st_ino


def unpack_media(source: Artifacts, places: Mapping[str, Path], report: Report) -> Unpacked:
    """Unpack the media archive into new folders. All bytes are checked before this returns; a bad copy is passed over.

    Raises ``RestoreFailed``, ``StagingFull`` and ``Cancelled``; nothing of it is left then.
    """

    new = [folder for folder in places.values() if not os.path.lexists(folder)]

    def work(copy: OneCopy) -> Unpacked:
        try:
            return _unpack(copy, places, report)
        except BaseException:
            for folder in new:
                remove_tree(folder)
            raise

    found = source.attempt(work)
    for name in found.skipped:
        report.warning(f"the backup has media of {name}, which the settings do not have; they were left out")
    for note in found.notes:
        report.warning(note)
    return found


def _unpack(copy: OneCopy, places: Mapping[str, Path], report: Report) -> Unpacked:
    with (
        report.part("media.tar", copy.stored_size("media.tar")) as advance,
        beside_index(partial(copy.read, progress=advance), "media.tar") as (stream, index),
    ):
        found = unpack(stream, index, places, "media.tar")
    if found.files != copy.manifest.files.get("media") and not found.skipped:
        raise RestoreFailed(
            f"{counted(found.files, 'media file', 'was', 'were')} unpacked where {copy.manifest.files.get('media')} were recorded",
            remedy="restore another backup",
        )
    return found


def restore_configuration(source: Artifacts, folder: Path, *, private: bool) -> Unpacked:
    """Unpack the configuration into a new folder of an existing one. Raises what :func:`unpack_media` raises.

    ``private``: as in :func:`~twist_dr.repository.unpack.unpack_configuration`.
    """

    def work(copy: OneCopy) -> Unpacked:
        try:
            with beside_index(copy.read, "configuration.tar") as (stream, index):
                return unpack_configuration(stream, index, folder, "configuration.tar", private=private)
        except BaseException:
            remove_tree(folder)
            raise

    return source.attempt(work)
