"""Who acts, and what they may: passed in from the entry points, never looked up below them."""

from __future__ import annotations

import getpass
import os
import socket
from dataclasses import dataclass
from typing import Literal, get_args

Permission = Literal["system_run_backup", "system_download_backup", "system_restore_backup", "system_configure_backup"]
ALL_PERMISSIONS: frozenset[Permission] = frozenset(get_args(Permission))


@dataclass(frozen=True)
class Actor:
    """Somebody, or something that runs by itself. ``name`` as logs show it; ``run_id``: the orchestrator's run that it acts in.

    ``patience``: seconds that it waits for another operation: a person wants to know at once, a schedule can wait.
    """

    name: str
    permissions: frozenset[Permission] = frozenset()
    run_id: str | None = None
    patience: float = 0.0


def user_of_this_machine() -> Actor:
    """The user of this process, with every permission: whoever can read the settings has the keys and the passwords already."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return Actor(f"{user}@{socket.gethostname()}", ALL_PERMISSIONS)
