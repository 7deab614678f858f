"""How the application is told of a cutover, and asked how it is afterwards."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from twist_dr.errors import CutoverFailed, ProcessFailed, TwistDRError
from twist_dr.postgres.cluster import Cluster, first_line
from twist_dr.postgres.sessions import APPLYING, open_for_settings
from twist_dr.redaction.web import web_place
from twist_dr.system.commands import run_command

#: No command of a cutover may take longer: the application is down meanwhile.
_COMMAND_SECONDS = 120.0
_PROBE_SECONDS = 5.0
_PROBE_AGAIN_SECONDS = 0.1


@dataclass(frozen=True)
class Maintenance:
    """How the application is told that it is down for a moment, in every way that is given. ``environment``: what its commands get."""

    file: Path | None = None
    command_on: Sequence[str] | None = None
    command_off: Sequence[str] | None = None
    sql_on: str | None = None
    sql_off: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return any((self.file, self.command_on, self.sql_on))

    def on(self, cluster: Cluster | None) -> None:
        """Begin. Where there is no database, nothing is said in SQL. Raises ``CutoverFailed``."""
        try:
            if self.command_on:
                run_command(self.command_on, seconds=_COMMAND_SECONDS, environment=self.environment)
            if self.file:
                self.file.touch(mode=0o644)
            if self.sql_on and cluster is not None:
                _execute(cluster, self.sql_on)
        except (TwistDRError, OSError) as error:
            raise CutoverFailed(
                f"Maintenance mode could not be switched on: {error}",
                remedy="correct restore.maintenance in the settings",
            ) from error

    def off(self, cluster: Cluster | None) -> None:
        """End it, in every way even when one fails. Safe to call when it is off. Raises ``CutoverFailed``."""
        failures: list[str] = []
        if self.sql_off and cluster is not None:
            with _noting(failures):
                _execute(cluster, self.sql_off)
        if self.file:
            with _noting(failures):
                self.file.unlink(missing_ok=True)
        if self.command_off:
            with _noting(failures):
                run_command(self.command_off, seconds=_COMMAND_SECONDS, environment=self.environment)
        if failures:
            raise CutoverFailed(
                f"Maintenance mode could not be switched off: {'; '.join(failures)}",
                remedy="end it by hand, and correct restore.maintenance in the settings",
            )


class _noting:
    """Collects the failure of a block and goes on after it."""

    def __init__(self, failures: list[str]) -> None:
        self._failures = failures

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, (TwistDRError, OSError)):
            self._failures.append(str(error))
            return True
        return False


def _execute(cluster: Cluster, statement: str) -> None:
    import psycopg

    with cluster.connect(settings=APPLYING) as connection:
        try:
            open_for_settings(connection)
            connection.execute(statement.encode())
        except psycopg.Error as error:
            raise ProcessFailed(f"the statement of restore.maintenance failed: {first_line(error)}") from error


@dataclass(frozen=True)
class Health:
    """How it is seen that the application works. Without ``url`` and ``command`` nothing is asked."""

    url: str | None = None
    command: Sequence[str] | None = None
    timeout_seconds: float = 30.0
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return bool(self.url or self.command)

    def complaint(self) -> str | None:
        """Why the application is not healthy, or None when it is. Asked again until the time-out: it may have to connect anew."""
        deadline = time.monotonic() + self.timeout_seconds
        while (complaint := self.probe()) is not None and time.monotonic() < deadline:
            time.sleep(_PROBE_AGAIN_SECONDS)
        return complaint

    def probe(self) -> str | None:
        """Why the application is not healthy just now, or None."""
        if self.url and (complaint := _probe_url(self.url)) is not None:
            return complaint
        if self.command:
            try:
                run_command(self.command, seconds=self.timeout_seconds, environment=self.environment)
            except ProcessFailed as error:
                return str(error)
        return None


def _probe_url(url: str) -> str | None:
    import http.client
    import urllib.error
    import urllib.request

    place = web_place(url)
    # A proxy of the environment is for the world outside, not for the application beside us.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_PROBE_SECONDS) as answer:
            status = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
    except (ValueError, http.client.InvalidURL) as error:
        # It would quote a piece of the address.
        return f"{place} cannot be called ({type(error).__name__}); correct restore.health.url"
    except (OSError, http.client.HTTPException) as error:
        # The last one: what answers there speaks no HTTP, or not to its end.
        return f"{place} does not answer ({getattr(error, 'reason', error) or type(error).__name__})"
    return None if 200 <= status < 300 else f"{place} answers {status}"
