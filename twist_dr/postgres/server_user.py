"""The operating system user of a server that runs a database's code: as root a user of its own, which owns nothing else.

Code of the database runs there as superuser, and a superuser can read and write what the operating system's user can, and run
programs as it ("COPY", "Server Signaling", "Generic File Access" in PostgreSQL's manual). The user postgres may own a live cluster,
and nobody may be anybody's. So each server has a number of its own, of which the system's list of users knows nothing.
"""

from __future__ import annotations

import os
import pwd
import random
from contextlib import suppress
from pathlib import Path

from twist_dr.errors import DatabaseError
from twist_dr.postgres.unprivileged import OPEN_TO_ALL, own_folder
from twist_dr.system.lock import try_lock

#: Within what systemd lists as unused (UIDS-GIDS.md: 60578 to 61183), and below 65536, above which containers have none.
_FIRST, _COUNT = 60600, 500
#: Its locks end with the machine, as servers do; in a container it may be read-only.
_LOCKS = (Path("/run/twist-dr-users"), OPEN_TO_ALL / "users")


def is_server_user(user: int) -> bool:
    return _FIRST <= user < _FIRST + _COUNT


def some_server_user() -> int | None:
    """One of them, to look with at what they all may enter; None unless we are root."""
    return _FIRST if os.geteuid() == 0 else None


class ServerUser:
    """A user for one server, whose ``id`` is its group's, too; ourselves, with ``id`` None, unless we are root.

    No other process takes it before :meth:`release`; afterwards nobody does while it owns a process or something directly below ``base``.
    Raises ``DatabaseError`` when all are taken.
    """

    def __init__(self, base: Path) -> None:
        self._lock = -1
        self.id = self._claim(base) if os.geteuid() == 0 else None

    def release(self) -> None:
        """Safe to call twice."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _claim(self, base: Path) -> int:
        folder, taken = _lock_folder(), _owners(base)
        # At random: what a killed server left somewhere is not the next one's.
        for user in random.sample(range(_FIRST, _FIRST + _COUNT), _COUNT):
            if user in taken or _has_a_name(user):
                continue
            lock = os.open(folder / str(user), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            if try_lock(lock) and user not in _running():
                self._lock = lock
                return user
            os.close(lock)
        raise DatabaseError(
            f"All users from {_FIRST} to {_FIRST + _COUNT - 1}, as which servers with a database's own code run, are taken",
            remedy="see what runs as them, and remove sandboxes (twist-dr sandboxes)",
        )


def _lock_folder() -> Path:
    for folder in _LOCKS:
        with suppress(OSError):
            if folder.parent == OPEN_TO_ALL:
                own_folder(OPEN_TO_ALL)
                OPEN_TO_ALL.chmod(0o711)
            own_folder(folder)
            return folder
    raise DatabaseError(
        f"Neither {' nor '.join(map(str, _LOCKS))} can be made", remedy="see why, or mount a tmpfs on /run"
    )


def _owners(base: Path) -> set[int]:
    """Who owns something directly below ``base``: what killed servers left, and sandboxes."""
    owners = set()
    for entry in os.scandir(base) if base.is_dir() else ():
        with suppress(FileNotFoundError):  # removed just now; the others count all the same
            owners.add(entry.stat(follow_symlinks=False).st_uid)
    return owners


def _has_a_name(user: int) -> bool:
    with suppress(KeyError):
        pwd.getpwuid(user)
        return True
    return False


def _running() -> set[int]:
    users = set()
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with suppress(OSError):
                users.add(entry.stat().st_uid)
    return users
