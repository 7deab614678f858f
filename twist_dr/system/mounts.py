"""Where other file systems begin."""

from __future__ import annotations

import os
import re
from pathlib import Path


def mounts_within(folder: Path) -> list[Path]:
    """Mount points at a folder or below it, as this process sees them. ``os.path.ismount`` does not know bind mounts."""
    real = _real(folder)
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except FileNotFoundError:
        return []
    # proc(5): the fifth field, with space, tab, newline and backslash in octal.
    fields = [re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), line.split(b" ")[4]) for line in lines]
    points = {Path(os.fsdecode(field)) for field in fields}
    return sorted(point for point in points if point == real or real in point.parents)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
