"""A live media folder and a prepared one beside it change places, and a crash between leaves what can be finished or reverted.

Where kernel and file system can, both names change in one step: ``renameat2`` with RENAME_EXCHANGE, see rename(2). Elsewhere
(NFS, some FUSE file systems) there are three renames, and for a moment there is nothing at the live path:

    a: live     b: prepared
                b: prepared   aside: live
    a: prepared               aside: live
    a: prepared b: live

The live path may be a link to the real folder; the link stays, and the real folder is exchanged.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from twist_dr.errors import CutoverFailed, Obstacle, RestoreError, RestoreInterrupted
from twist_dr.system.folders import fsync_folder
from twist_dr.system.mounts import _real, mounts_within

Identity = tuple[int, int]

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
#: What ``renameat2`` says where the kernel or the file system cannot exchange, per rename(2).
_NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}


def identity(path: Path) -> Identity | None:
    """Device and inode of the folder at ``path``, or where a link there leads; None when there is none."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RestoreError(
            f"{path} cannot be looked at ({error.strerror})",
            remedy=f"let the user that runs twist-dr (uid {os.geteuid()}) enter the folders above it",
        ) from error
    return status.st_dev, status.st_ino


def same(path: Path, wanted: Identity | None) -> bool:
    """Whether the folder at ``path`` is that one. By its inode alone: after a restart of the machine, its disk may have another number."""
    found = identity(path)
    return found is not None and wanted is not None and found[1] == wanted[1]


def free_path(path: Path) -> Path:
    """The path or, where something bears it, the first of ``path-2``, ``path-3`` that nothing bears."""
    candidate, number = path, 1
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def exchange(a: Path, b: Path, *, aside: Path) -> None:
    """Let the folders at ``a`` and ``b`` change places, durably. ``aside`` is a free name beside them.

    Raises ``CutoverFailed`` when they cannot, and then both are where they were; ``RestoreInterrupted`` when that too failed.
    """
    a = _real(a)
    if os.path.lexists(aside):
        raise CutoverFailed(
            f"{a} and {b} were not exchanged, as {aside}, the name needed for it, is taken",
            remedy="move that folder away, then run again",
        )
    try:
        _swap(a, b, aside)
        try:
            _make_durable(a, b, aside)
        except BaseException:
            _swap(a, b, aside)
            raise
    except OSError as error:
        raise CutoverFailed(
            f"The folders {a} and {b} could not be exchanged ({error.strerror}); both are where they were",
            remedy="fix that, then run the restore again",
        ) from error


def settle_exchange(a: Path, b: Path, aside: Path, wanted_at_a: Identity) -> bool:
    """After a crash at any instant of an exchange, or of this: the wanted folder at ``a``, the other one at ``b``.

    Returns whether anything had to be done. Raises ``RestoreInterrupted`` when it cannot be done, or cannot be known how,
    with what lies where; then nothing was done. Raises also what :func:`exchange` does.
    """
    a = _real(a)
    names = _all_held(a, b, aside)
    at = _place_of(wanted_at_a, names)
    if at is None:
        raise _undecided(f"None of them is the folder that belongs at {a} (inode {wanted_at_a[1]})", names)
    if at == a and names[aside] is None:
        return False
    if None not in names.values():
        # The application may have made its media folder anew while there was none. A rename replaces it while it is empty.
        if at == a:
            raise _undecided(f"There are three, and only one belongs at {a} (inode {wanted_at_a[1]})", names)
        names[a] = None
    if at == b and names[a] is not None:
        exchange(a, b, aside=aside)
        return True
    try:
        _rename_in_turn(_steps(a, b, aside, at, names))
        _make_durable(a, b, aside)
    except OSError as error:
        raise _undecided(f"They could not be renamed ({error.strerror})", _all_held(a, b, aside)) from error
    return True


def check_exchangeable(live: Path) -> Obstacle | None:
    """Why the media folder cannot be exchanged with one beside it, and what to do; None when it can."""
    real = _real(live)
    named = f"The media folder {live}" + (f" ({real})" if real != live else "")
    try:
        status, above = os.stat(real), os.stat(real.parent)
    except OSError as error:
        return Obstacle(
            f"{named} is not there or cannot be reached ({error.strerror})",
            "mount or make it, or correct media in the settings",
        )
    if not stat.S_ISDIR(status.st_mode):
        return Obstacle(f"{named} is not a folder", "correct media in the settings")
    higher = "mount the disk one folder higher, and keep the media in a folder on it"
    mounts = mounts_within(real)
    if real in mounts or status.st_dev != above.st_dev or os.path.ismount(real):
        return Obstacle(
            f"{named} is a mount point or a file system of its own, which cannot be exchanged in one step", higher
        )
    if mounts:
        return Obstacle(
            f"{named} has another file system mounted in it, at {mounts[0]}, which would go away with the folder that is replaced",
            higher,
        )
    # The owner of a file may rename it in a folder like /tmp; others may not, though they may write there.
    bound = above.st_mode & stat.S_ISVTX and os.geteuid() not in (0, above.st_uid, status.st_uid)
    if bound or not os.access(real.parent, os.W_OK | os.X_OK, effective_ids=True):
        return Obstacle(
            f"{named} cannot be exchanged, as the user that runs twist-dr (uid {os.geteuid()}) may not rename folders in {real.parent}",
            "let it write there",
        )
    return None


def is_missing(live: Path) -> bool:
    """Whether there is nothing at all where the media folder, or what a link in its place leads to, should be."""
    try:
        os.lstat(_real(live))
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def check_creatable(live: Path) -> Obstacle | None:
    """Why a media folder that is missing cannot be made anew, and what to do; None when it can."""
    above = _real(live).parent
    if not above.is_dir():
        return Obstacle(
            f"The media folder {live} is not there, nor is the folder {above} above it",
            "mount or make that one, or correct media in the settings",
        )
    if not os.access(above, os.W_OK | os.X_OK, effective_ids=True):
        return Obstacle(
            f"The media folder {live} is not there, and the user that runs twist-dr (uid {os.geteuid()}) may not make it in {above}",
            "let it write there, or make the folder",
        )
    return None


def _swap(a: Path, b: Path, aside: Path) -> None:
    if not _exchange_at_once(a, b):
        _rename_in_turn([(a, aside), (b, a), (aside, b)])


def _exchange_at_once(a: Path, b: Path) -> bool:
    """Whether it was done. Raises what hinders it other than that it is not known here."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    if (code := ctypes.get_errno()) in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(a))


def _rename_in_turn(steps: Sequence[tuple[Path, Path]]) -> None:
    """All renames or, when one fails, none: raises what it met, or ``RestoreInterrupted`` when the way back is barred."""
    begun: list[tuple[Path, Path, Identity | None]] = []
    try:
        for old, new in steps:
            # Noted before the rename, or an interruption right after it would leave it out.
            begun.append((old, new, _held(old)))
            os.rename(old, new)
    except BaseException as error:
        try:
            for old, new, moved in reversed(begun):
                if moved is not None and _held(new) == moved:
                    os.rename(new, old)
        except OSError:
            names = _all_held(*sorted({name for step in steps for name in step}))
            raise _undecided(f"A rename failed ({error}), and so did taking back those before it", names) from error
        raise


def _steps(a: Path, b: Path, aside: Path, at: Path, names: dict[Path, Identity | None]) -> list[tuple[Path, Path]]:
    """The renames that bring the wanted folder from ``at`` to ``a`` and the other one, if any, to ``b``."""
    if at == a:
        return [(aside, b)]
    if at == b:
        return [(b, a), (aside, b)] if names[aside] is not None else [(b, a)]
    return [(aside, a)] if names[a] is None else [(a, b), (aside, a)]


def _make_durable(*names: Path) -> None:
    for folder in sorted({name.parent for name in names}):
        fsync_folder(folder)


def _held(name: Path) -> Identity | None:
    """What bears this very name: a link, where there should be none, is not followed."""
    try:
        status = name.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RestoreInterrupted(
            f"{name} cannot be looked at ({error.strerror})", remedy="fix that, then run again"
        ) from error
    return status.st_dev, status.st_ino


def _all_held(*names: Path) -> dict[Path, Identity | None]:
    return {name: _held(name) for name in names}


def _place_of(wanted: Identity, names: dict[Path, Identity | None]) -> Path | None:
    """Which name the wanted folder bears. After a restart of the machine, the disk may have another device number."""
    there = {name: held for name, held in names.items() if held is not None}
    renumbered = all(device != wanted[0] for device, _ in there.values())
    for name, held in there.items():
        if held == wanted or (renumbered and held[1] == wanted[1]):
            return name
    return None


def _undecided(why: str, names: dict[Path, Identity | None]) -> RestoreInterrupted:
    told = ", ".join(f"{name}: {'nothing' if held is None else f'inode {held[1]}'}" for name, held in names.items())
    return RestoreInterrupted(
        f"An exchange of media folders was cut short and needs a person. {why}. What there is: {told}",
        remedy="see which folder is which (ls -di), move the others away, then run again",
    )
