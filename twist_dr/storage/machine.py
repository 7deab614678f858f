"""What of this machine a storage target may need, beside its own options: a folder for locks, grants of its provider, a program."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from twist_dr.errors import TargetRefused


@dataclass(frozen=True)
class Grant:
    """What the owner of an account allowed us at an OAuth provider (RFC 6749). The two tokens are secrets."""

    refresh_token: str = field(repr=False)
    #: When the owner gave it. UTC, as all times here.
    granted: datetime
    scopes: tuple[str, ...] = ()
    #: Whose account it is, as the provider names it; empty where it does not say.
    account: str = ""
    access_token: str | None = field(default=None, repr=False)
    #: When ``access_token`` ends.
    expires: datetime | None = None
    #: When ``access_token`` was given: providers let a grant go that is not used for months.
    refreshed: datetime | None = None
    #: When the grant itself ends, where its provider says so: Google's does, of a client that is not published.
    ends: datetime | None = None


@dataclass(frozen=True)
class HeldGrant:
    """A target's grant while its lock is held. ``commit`` makes another one durable before it returns."""

    grant: Grant | None
    commit: Callable[[Grant], None]


class Grants(Protocol):
    """Where the grants of the storage targets are kept."""

    def held(self, target: str) -> AbstractContextManager[HeldGrant]:
        """The grant of that target under a lock that all processes of this machine see: a rotated refresh token is lost when two refresh at once."""


class GrantsInMemory:
    """:class:`Grants` that end with this process: for a recovery without settings."""

    def __init__(self) -> None:
        self._grants: dict[str, Grant] = {}
        self._lock = threading.Lock()

    @contextmanager
    def held(self, target: str) -> Iterator[HeldGrant]:
        with self._lock:
            yield HeldGrant(self._grants.get(target), lambda grant: self._grants.update({target: grant}))


@dataclass(frozen=True)
class Machine:
    """``folder``: for locks and sockets, of this user alone (0700); :meth:`private_folder` gives it to whoever needs it. Inert."""

    folder: Path
    grants: Grants = field(default_factory=GrantsInMemory)
    #: The rclone program, where it is not the wheel's.
    rclone: Path | None = None

    def private_folder(self) -> Path:
        """The folder, made where it is not there yet. Raises ``TargetRefused`` when it is not ours alone: who else has it could answer in our name."""
        # Not above: this module is loaded with the settings, and few targets need a folder.
        from twist_dr.system.folders import make_ours_alone

        remedy = (
            f"remove {self.folder} if nothing is in it that you know, or set TMPDIR or work_dir to a folder of your own"
        )
        try:
            ours_alone = make_ours_alone(self.folder)
        except OSError as error:
            raise TargetRefused(f"the folder {self.folder} cannot be made ({error.strerror})", remedy=remedy) from error
        if not ours_alone:
            raise TargetRefused(
                f"the folder {self.folder} belongs to somebody else or is open to others", remedy=remedy
            )
        return self.folder
