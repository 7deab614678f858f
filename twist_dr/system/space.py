"""Whether a disk of this machine has enough space for what is about to be written."""

from __future__ import annotations

import shutil
from pathlib import Path

from twist_dr.errors import StagingFull, TwistDRError
from twist_dr.system.progress import human_bytes


def need_space(folder: Path, wanted: int, who: str, remedy: str, *, refused: type[TwistDRError] = StagingFull) -> None:
    """Raise ``refused`` unless the disk of an existing folder has that many bytes free. ``who`` needs them: begins the sentence."""
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise refused(
            f"{who} needs about {human_bytes(wanted)} in {folder}, and {human_bytes(free)} are free", remedy=remedy
        )


def nearest_folder(path: Path) -> Path:
    """The path, or the nearest folder above it that exists: whose disk it will be on."""
    return next(folder for folder in (path, *path.parents) if folder.exists())
