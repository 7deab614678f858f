"""What a PostgreSQL server of ours leaves outside of its folder when it was killed: processes, a socket folder, shared memory.

A postmaster makes one small System V segment as a mark that its data folder is in use (PGSharedMemoryCreate in sysv_shmem.c);
killed, it leaves that behind, in a table of 4096 for the whole machine.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import time
from contextlib import suppress
from pathlib import Path

from twist_dr.postgres.server_user import is_server_user
from twist_dr.postgres.unprivileged import door_folder, socket_folder, unprivileged
from twist_dr.system.folders import remove_tree

_SEGMENTS = Path("/proc/sysvipc/shm")
#: PGShmemHeader in pg_shmem.h: the magic number, then the process that made the segment.
_HEADER = struct.Struct("=ii")
_MAGIC = 679834894
_IPC_RMID, _SHM_RDONLY = 0, 0o10000
_END_SECONDS = 10.0


def end_server_of(folder: Path) -> None:
    """End what still runs in ``folder``'s data folder, and remove what lies elsewhere: its sockets, and segments of dead servers.

    Raises ``RestoreError`` when the socket folder cannot be removed.
    """
    _end_processes(folder / "data")
    remove_tree(door_folder(folder))
    remove_tree(socket_folder(folder))
    release_segments_of_the_dead()


def _end_processes(data: Path) -> None:
    """A server's processes work in its data folder (ChangeToDataDir in miscinit.c); none of them may still write while it is removed."""
    deadline = time.monotonic() + _END_SECONDS
    while (running := _at_work_in(data)) and time.monotonic() < deadline:
        for process in running:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.01)


def _at_work_in(data: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir() if data.is_dir() else ():
        if entry.name.isdecimal():
            with suppress(OSError):
                if os.path.samefile(entry / "cwd", data) and b"postgres" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def release_segments_of_the_dead() -> int:
    """Remove PostgreSQL's segments of the users that our servers run as, that nobody uses and whose maker is dead; returns how many.

    A server that starts anew in the same data folder would do just that.
    """
    user, _ = unprivileged()
    owner = os.geteuid() if user is None else user
    try:
        lines = _SEGMENTS.read_text().splitlines()[1:]
    except OSError:
        return 0
    count = 0
    for line in lines:
        # sysvipc(5): key shmid perms size cpid lpid nattch uid ...
        _, segment, _, size, maker, _, attached, uid, *_ = map(int, line.split())
        unused = attached == 0 and maker > 0 and not is_alive(maker)
        if unused and (uid == owner or is_server_user(uid)) and size >= _HEADER.size and _is_postgres(segment, maker):
            count += _shared_memory().shmctl(segment, _IPC_RMID, None) == 0
    return count


def is_alive(process: int) -> bool:
    """A zombie is not: where process 1 reaps nothing (many containers), a dead server keeps its number."""
    try:
        # proc_pid_stat(5): the state follows the name, which may hold anything, ")" too.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _is_postgres(segment: int, maker: int) -> bool:
    library = _shared_memory()
    address = library.shmat(segment, None, _SHM_RDONLY)
    if address in (None, ctypes.c_void_p(-1).value):
        return False
    try:
        return bool(_HEADER.unpack(ctypes.string_at(address, _HEADER.size)) == (_MAGIC, maker))
    finally:
        library.shmdt(ctypes.c_void_p(address))


def _shared_memory() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.shmat.restype = ctypes.c_void_p
    library.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
    library.shmctl.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
    return library
