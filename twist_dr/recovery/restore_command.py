"""How a recovering server asks us for WAL: a ``restore_command`` that forks nothing, and the answers to it.

The command is one shell with nothing but built-ins. It talks to us over its standard input, a socket that the server inherited
from us: when we die, however we die, it reads the end of it and says 255, at which PostgreSQL stops. Nothing waits by polling.

Its exit status decides what PostgreSQL believes, see RestoreArchivedFile in xlogarchive.c: 1 to 125 mean "the archive does not
have it", and the server takes that for the end of the log. Whatever goes wrong is 255, which is FATAL.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

#: %f is the name, %p the path below the data folder, to which we move the file. Only our own two answers count: what the shell
#: itself may say when something is wrong with it (1, 2) would end the recovery early.
RESTORE_COMMAND = (
    'trap "" PIPE; echo "%f %p" >&0 && IFS= read -r answer <&0 && '
    'case "$answer" in 0) exit 0;; 1) exit 1;; esac; exit 255'
)
#: Where the server has files put, below its data folder.
PLACES = re.compile(r"pg_wal/RECOVERY(XLOG|HISTORY)")
#: The answers.
GIVEN, NOT_NEEDED, FAILED = 0, 1, 255
_LONGEST_REQUEST = 4096


class Requests:
    """Answers the requests of the servers that were given a connection, each in a thread of its own.

    ``answer`` is called with a file's name and the path that it shall be put to; it gives one of the answers, and raises nothing.
    """

    def __init__(self, answer: Callable[[str, str], int]) -> None:
        self._answer = answer
        self._ours: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def connect(self) -> socket.socket:
        """The end of a new connection for a server about to start; close it when the server has it."""
        ours, theirs = socket.socketpair()
        self._ours.append(ours)
        self._threads.append(threading.Thread(target=self._serve, args=(ours,), name="wal requests", daemon=True))
        self._threads[-1].start()
        return theirs

    def close(self, deadline: float) -> None:
        """End all connections, and wait for their threads until ``deadline`` (``time.monotonic``). Safe to call twice."""
        for ours in self._ours:
            with suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for ours in self._ours:
            ours.close()

    def _serve(self, ours: socket.socket) -> None:
        """One request at a time: only the server's startup process asks. However this ends, the socket is shut: no request waits for ever."""
        try:
            with ours.makefile("rb") as requests:
                while (line := requests.readline(_LONGEST_REQUEST)).endswith(b"\n"):
                    name, _, path = line.decode(errors="replace").strip().partition(" ")
                    ours.sendall(b"%d\n" % self._answer(name, path))
        except (OSError, ValueError):
            pass  # the server has gone, or we go
        finally:
            with suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR)
