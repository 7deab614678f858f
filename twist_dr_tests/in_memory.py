"""Runs a command whose temporary files are in memory: ``python -m twist_dr_tests.in_memory COMMAND ...``

Tests make and remove files by the ten thousand, and ext4 takes no inode again that was freed within five minutes: each new file is looked
for behind all of them, which was a third of what the tests cost the processor. Root can have a file system in memory that the command and its
children alone see, and that ends with the last of them, however they end. Others, and who may not mount, run the command as it is.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
from pathlib import Path

from twist_dr.postgres.unprivileged import OPEN_TO_ALL, own_folder

#: What all tests together leave until they have ended, with space to spare.
_NEEDED = 6 << 30
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x20000, 0x4000, 0x40000


def main() -> None:
    if os.geteuid() == 0 and sys.platform == "linux" and _available() > _NEEDED:
        temporary = Path(tempfile.gettempdir()) / "twist-dr-tests"
        try:
            _mount({OPEN_TO_ALL: b"mode=0711", temporary: b"mode=1777"})
            os.environ["TMPDIR"] = str(temporary)
        except OSError as error:
            print(f"temporary files are on the disk, which takes longer: {error}", file=sys.stderr)
    program = shutil.which(sys.argv[1]) or sys.argv[1]
    os.execv(program, sys.argv[1:])


def _available() -> int:
    """Bytes of memory that programs can have without swapping."""
    words = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
    return int(words.split()[1]) << 10


def _mount(folders: dict[Path, bytes]) -> None:
    """A file system in memory at each of the folders, with these options, for this process and its children. Raises ``OSError``."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(done: int) -> None:
        if done:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    for folder in folders:
        own_folder(folder)
    call(libc.unshare(_CLONE_NEWNS))
    call(libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None))
    for folder, options in folders.items():
        call(libc.mount(b"tmpfs", bytes(folder), b"tmpfs", ctypes.c_ulong(0), options))


if __name__ == "__main__":
    main()
