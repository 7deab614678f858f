"""What the application says of itself when a backup is made: its version, and what its Django is. Nothing of it decides whether there is a backup."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from twist_dr.django_app.manage import DjangoApplication, read_code
from twist_dr.errors import TwistDRError
from twist_dr.redaction import leaving, one_line
from twist_dr.repository.django_facts import DjangoFacts
from twist_dr.system.commands import run_command

#: A command that prints a version reads a file; manage.py loads the application. A backup waits for neither any longer.
_VERSION_SECONDS = 10.0
_DJANGO_SECONDS = 30.0
_LONGEST_VERSION = 100


@dataclass(frozen=True)
class VersionCommand:
    """A command that prints the application's version as the first line of its output, run in ``folder`` with ``environment``."""

    arguments: Sequence[str]
    folder: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


class Asking:
    """Asks both in a thread, while the backup is made: Django takes half a second to start."""

    def __init__(self, version: str | VersionCommand | None, django: DjangoApplication | None) -> None:
        self.version = version if isinstance(version, str) else None
        self.django: DjangoFacts | None = None
        self._warnings: list[str] = []
        self._thread = threading.Thread(
            target=self._ask,
            args=(version if isinstance(version, VersionCommand) else None, django),
            name="ask the application",
            daemon=True,
        )
        self._thread.start()

    def answered(self) -> list[str]:
        """Wait for the answers; returns a sentence for each that there is not."""
        self._thread.join()
        return self._warnings

    def _ask(self, command: VersionCommand | None, django: DjangoApplication | None) -> None:
        if command is not None:
            try:
                self.version = _version(command)
            except Exception as error:
                self._warnings.append(f"the application's version is unknown: {_said(error)}")
        if django is not None:
            try:
                self.django = read_code(django, seconds=_DJANGO_SECONDS).facts
            except Exception as error:
                self._warnings.append(
                    f"which Django, Python and databases the application has is not in this backup: {_said(error)}"
                )


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, TwistDRError) else f"{type(error).__name__}: {leaving(str(error))}"


def _version(command: VersionCommand) -> str | None:
    lines: list[str] = []
    run_command(
        command.arguments,
        seconds=_VERSION_SECONDS,
        environment=command.environment,
        folder=command.folder,
        called="the command app_version",
        on_line=lines.append,
    )
    said = next((line.strip() for line in lines if line.strip()), None)
    if said is None:
        raise ValueError("the command app_version printed nothing; have it print the version")
    return one_line(leaving(said))[:_LONGEST_VERSION]
