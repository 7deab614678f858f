"""Running a PostgreSQL server when we are root: as whom, from which programs, and where.

PostgreSQL refuses to run as root. The user that stands in may not be able to enter the folders that root uses, so programs
and data may have to lie elsewhere. Started by an ordinary user, all of this changes nothing.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from twist_dr.errors import DatabaseError
from twist_dr.postgres.tools import Tools
from twist_dr.system.scratch_folder import ScratchFolder, clear_left_over

#: sockaddr_un holds 108 bytes (unix(7)), and the socket's own name takes some of them.
_LONGEST_SOCKET_FOLDER = 85
#: Where every user may enter. Every user may also write beside it, so it is looked at before it is used.
OPEN_TO_ALL = Path("/var/tmp/twist-dr-scratch")
_COPYING = "programs-"


def unprivileged() -> tuple[int | None, int | None]:
    """The user and group that servers run as: ourselves (``None``) unless we are root."""
    if os.geteuid() != 0:
        return None, None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    raise DatabaseError(
        "PostgreSQL does not run as root, and there is no user postgres or nobody to run it as", remedy="create one"
    )


def reachable_base(base: Path, user: int | None) -> Path:
    """``base``, or a folder below the system's temporary one when the server's user cannot get there (below /root, say).

    Raises ``DatabaseError`` when another user made it, or put a link in its place.
    """
    if user is not None and not may_enter(base, user):
        base = OPEN_TO_ALL / hashlib.sha256(os.fsencode(base)).hexdigest()[:12]
        own_folder(OPEN_TO_ALL)
        OPEN_TO_ALL.chmod(0o711)
        own_folder(base)
    else:
        base.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        own_folder(base, link=True)
    if user is not None:
        base.chmod(0o711)
    return base


def own_folder(folder: Path, *, link: bool = False) -> None:
    """Make a folder, or see that the one there is ours. In a sticky folder nobody can then put another in its place.

    ``link``: a link of our own is followed, for an administrator may have led the scratch folder to a larger disk.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o711)  # mkdir(2) never follows a link in the last place
    looks = [folder.lstat()]
    if link and stat.S_ISLNK(looks[0].st_mode) and folder.exists():
        looks.append(folder.stat())
    if not stat.S_ISDIR(looks[-1].st_mode) or any(look.st_uid != os.geteuid() for look in looks):
        raise DatabaseError(
            f"The scratch folder {folder} belongs to another user, or is a link or a file",
            remedy="see who made it and remove it, or set verification.scratch to a folder elsewhere",
        )


def reachable_tools(tools: Tools, base: Path, user: int | None) -> Tools:
    """The tools, or a copy of their installation where the server's user can run it (a wheel in root's home, say)."""
    if user is None or may_enter(tools.folder, user):
        return tools
    source, *libraries = installation(tools)
    home = base / f"programs-{tools.version}-{hashlib.sha256(os.fsencode(source)).hexdigest()[:8]}"
    copied = home / source.parent.name / source.name
    if not copied.exists():
        clear_left_over(base, _COPYING)
        with ScratchFolder(base, _COPYING) as folder:
            temporary = folder / home.name
            shutil.copytree(source, temporary / source.parent.name / source.name, symlinks=True)
            for each in libraries:
                shutil.copytree(each, temporary / each.name, symlinks=True)
            for path in [temporary, *temporary.rglob("*")]:
                if not path.is_symlink():
                    path.chmod(path.stat().st_mode | (0o055 if path.is_dir() or os.access(path, os.X_OK) else 0o044))
            with suppress(OSError):  # another process was faster
                temporary.rename(home)
    return Tools(copied / tools.folder.name, tools.major, tools.version, tools.server)


def give_tree(folder: Path, user: int, group: int) -> None:
    """Give a folder and all in it to a user and a group. Follows no link, whoever may write there meanwhile."""
    for _, folders, files, descriptor in os.fwalk(folder):
        for name in (*folders, *files):
            os.chown(name, user, group, dir_fd=descriptor, follow_symlinks=False)
    os.chown(folder, user, group, follow_symlinks=False)


def installation(tools: Tools) -> Iterator[Path]:
    """The folders that its programs need beside the system's."""
    source = tools.folder.parent
    yield source
    libraries = source.parent.with_name(f"{source.parent.name}.libs")  # where wheels keep the libraries they bring
    if libraries.is_dir():
        yield libraries


def may_enter(path: Path, user: int) -> bool:
    """Whether a user may go through every folder down to ``path``, as far as it exists; group rights are left out, to be safe."""
    for folder in (path.resolve(), *path.resolve().parents):
        if not folder.exists():
            continue
        status = folder.stat()
        if not (status.st_mode & 0o001 or (status.st_uid == user and status.st_mode & 0o100)):
            return False
    return True


def socket_folder(folder: Path) -> Path:
    """Inside ``folder``, or, when that is too long for a socket's address, a short path that follows from it."""
    inside = folder / "socket"
    if len(os.fsencode(inside)) <= _LONGEST_SOCKET_FOLDER:
        return inside
    return Path(tempfile.gettempdir()) / f"twist-dr-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"


def door_folder(folder: Path) -> Path:
    """Where the socket of the server in ``folder`` has a second name, in a folder of ours: see :func:`open_door`."""
    sockets = socket_folder(folder)
    return folder / "door" if sockets.parent == folder else sockets.with_name(f"{sockets.name}-door")


def open_door(folder: Path, port: int) -> bool:
    """Give the server's socket a second name where its user cannot exchange it; False while there is no socket. Raises ``OSError``.

    A database's code that writes to the socket's own folder could put a link there which leads our next connection, and what it
    restores, to another server. So this is done before any of that code runs, and from then on we come by this way alone.
    """
    name = f".s.PGSQL.{port}"
    if not (socket := socket_folder(folder) / name).exists():
        return False
    door = door_folder(folder)
    door.mkdir(mode=0o711)
    # Programs that we run as the server's user come by it, too; the socket's own mode lets in nobody else.
    door.chmod(0o711)
    try:
        os.link(socket, door / name, follow_symlinks=False)
    except FileNotFoundError:
        # The server ended since we looked, and took it along: whoever waits for it sees that, and why.
        door.rmdir()
        return False
    return True
