"""Configuration that restores left for a person to compare: plain, so it goes with what they replaced.

    <work_dir>/restored-configuration/<application>/<restore_id>/...      mode 0700, its files 0600

Earlier versions left out <application>. What is half removed still bears its name, and is removed by the next cleanup.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from twist_dr.restore.cutover import Surroundings
from twist_dr.restore.journal import began_at
from twist_dr.restore.settle import Superseded, kept


@dataclass(frozen=True)
class RestoredConfiguration:
    """One restore's folder."""

    restore_id: str
    folder: Path
    keep_until: datetime
    database = None

    @property
    def folders(self) -> tuple[Path, ...]:
        return (self.folder,)

    def __str__(self) -> str:
        return f"restored configuration {self.folder}"


def configuration_folder(work_dir: Path, application: str, restore_id: str) -> Path:
    """Where a restore puts it. The folders above are made, closed to others."""
    folder = work_dir
    for name in ("restored-configuration", application):
        folder /= name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / restore_id


def everything_kept(around: Surroundings, work_dir: Path, application: str) -> list[Superseded | RestoredConfiguration]:
    """What restores replaced, and configuration that they left; each oldest first."""
    return [*kept(around), *_configurations(around, work_dir, application)]


def _configurations(around: Surroundings, work_dir: Path, application: str) -> list[RestoredConfiguration]:
    """Found by their names alone, for a killed restore may have left nothing else."""
    base = work_dir / "restored-configuration"
    found = []
    for above in (base, base / application):
        for folder in above.iterdir() if above.is_dir() else ():
            began = began_at(folder.name)
            if began is None or folder.is_symlink() or not folder.is_dir():
                continue
            until = around.journals.load(folder.name).keep_until if around.journals.has(folder.name) else None
            found.append(RestoredConfiguration(folder.name, folder, until or began + around.keep_for))
    return sorted(found, key=lambda each: each.restore_id)
