"""twist-dr init: the files that a new application starts with."""

from __future__ import annotations

import os
import re
import shlex
import sys
from importlib.resources import files
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from twist_dr.engine.keys import Keyring, new_key
from twist_dr.errors import SettingsError
from twist_dr.settings import DEFAULT_FILE, Name

KEYRING_FILE = "keyring.yaml"
ENVIRONMENT_FILE = "environment"
_COPIED = ("dagster.yaml", "workspace.yaml")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def write_initial_files(folder: Path, *, application: str, database_url_variable: str = "DATABASE_URL") -> list[Path]:
    """Write settings, a keyring with a new key, Dagster's two files and an environment; returns their paths, settings first.

    All are 0600. Raises ``SettingsError`` for a wrong name, for a folder that cannot be written to, and, before anything
    is written, when one of the files exists.
    """
    _check_names(application, database_url_variable)
    key = new_key()
    texts = {
        DEFAULT_FILE: _settings_text(application, database_url_variable),
        KEYRING_FILE: Keyring(key.id, {key.id: key}, KEYRING_FILE).to_yaml(),
        **{name: _template(name) for name in _COPIED},
        ENVIRONMENT_FILE: _environment_text(folder, database_url_variable),
    }
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if there := [str(folder / name) for name in texts if os.path.lexists(folder / name)]:
            raise SettingsError(
                f"{', '.join(there)} exist{'s' if len(there) == 1 else ''}, and twist-dr init overwrites nothing; "
                "move it away, or choose another folder with --folder."
            )
        for name, text in texts.items():
            _write_new(folder / name, text, written)
    except OSError as error:
        # Nothing half done remains: the next attempt would stumble over it.
        for path in written:
            path.unlink(missing_ok=True)
        raise SettingsError(
            f"Cannot write {error.filename or folder} ({error.strerror}); mend that, or choose another folder with --folder."
        ) from None
    return written


def _check_names(application: str, database_url_variable: str) -> None:
    try:
        TypeAdapter(Name).validate_python(application)
    except ValidationError:
        raise SettingsError(
            f"{application!r} cannot be the application's name: it becomes part of folders, keys and asset names; choose a name "
            "of at most 40 lower-case letters, digits and '_' that starts with a letter."
        ) from None
    if not _VARIABLE_NAME.fullmatch(database_url_variable):
        raise SettingsError(
            f"{database_url_variable!r} is no name of an environment variable; choose letters, digits and '_', "
            "and no digit first."
        )


def _settings_text(application: str, database_url_variable: str) -> str:
    text = _template(DEFAULT_FILE)
    return text.replace("@application@", application).replace("@database_url_variable@", database_url_variable)


def _environment_text(folder: Path, database_url_variable: str) -> str:
    text = _template(ENVIRONMENT_FILE).replace("@database_url_variable@", database_url_variable)
    programs = shlex.quote(str(Path(sys.executable).parent))
    return text.replace("@folder@", shlex.quote(str(folder.absolute()))).replace("@programs@", programs)


def _template(name: str) -> str:
    return (files("twist_dr") / "templates" / name).read_text(encoding="utf-8")


def _write_new(path: Path, text: str, written: list[Path]) -> None:
    # O_EXCL: a file that came into being since we looked is not ours to replace; a keyring least of all.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    written.append(path)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
