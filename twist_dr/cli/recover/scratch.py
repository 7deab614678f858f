"""Where a dump lies while it is restored: below TMPDIR, in a folder that is ours alone. Nothing else is known to be there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from twist_dr.errors import RestoreRefused
from twist_dr.system.folders import make_ours_alone
from twist_dr.system.scratch_folder import ScratchFolder, clear_left_over
from twist_dr.system.space import need_space

#: /tmp is memory on many machines; a dump is not for there.
_SPACIOUS = Path("/var/tmp")
_PREFIX = "fetched-"
_SPACE_FACTOR = 1.05


def scratch_base() -> Path:
    """The folder that holds ours: TMPDIR, else /var/tmp, else Python's choice."""
    if not os.environ.get("TMPDIR") and os.access(_SPACIOUS, os.W_OK | os.X_OK):
        return _SPACIOUS
    return Path(tempfile.gettempdir())


def need_space_to_recover(folder: Path, wanted: int, remedy: str) -> None:
    """Raise ``RestoreRefused`` unless the disk of an existing folder has that many bytes free, and some more."""
    need_space(folder, int(wanted * _SPACE_FACTOR), "What is brought back", remedy, refused=RestoreRefused)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for the block, mode 0700. What killed recoveries of ours left is removed first."""
    ours = scratch_base() / f"twist-dr-recover-{os.geteuid()}"
    try:
        ours_alone = make_ours_alone(ours)
    except OSError as error:
        raise RestoreRefused(
            f"{ours} cannot be made ({error.strerror})", remedy="set TMPDIR to a folder on a disk with space"
        ) from error
    # The folder above is everybody's.
    if not ours_alone:
        raise RestoreRefused(
            f"{ours} belongs to somebody else or is open to others", remedy="set TMPDIR to a folder of your own"
        )
    clear_left_over(ours, _PREFIX)
    try:
        with ScratchFolder(ours, _PREFIX) as folder:
            yield folder
    finally:
        with suppress(OSError):  # another recovery is going on
            ours.rmdir()
