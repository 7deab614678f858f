"""twist-dr init: the files that a new application starts with."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

import yaml
from pydantic import TypeAdapter, ValidationError

from twist_dr.django_app.settings import FoundApplication, find_application
from twist_dr.errors import ProcessFailed, SettingsError
from twist_dr.repository.keys import Keyring, new_key
from twist_dr.repository.table_names import in_quotes
from twist_dr.settings import DEFAULT_FILE, Name
from twist_dr.system.commands import run_command
from twist_dr.system.words import few

KEYRING_FILE = "keyring.yaml"
ENVIRONMENT_FILE = "environment"
ROLES_FILE = "roles.sql"
EXAMPLES = "examples"
_COPIED = ("dagster.yaml", "workspace.yaml")
#: What the programs that the environment file is for take to heart themselves.
_OF_OURS = re.compile(r"(RESTORE_)?DATABASE_URL|(PYTHON|DAGSTER|TWIST_DR).*")


def ask_django(command: str, folder: Path) -> FoundApplication:
    """What manage.py says, called by a command as a shell takes it. Raises ``ProcessFailed`` and ``SettingsError``."""
    try:
        program, *arguments = shlex.split(command) or [""]
    except ValueError as error:
        raise SettingsError(f"--django is no command of a shell ({error})", remedy="close its quotes") from None
    path = shutil.which(program)
    if path is None:
        raise SettingsError(f"There is no program {program!r} to call manage.py with", remedy="correct --django")
    # As it is found now: neither the working folder nor PATH of a daemon are those of this shell. A link is kept, for it may be a virtual environment's.
    return find_application([os.path.abspath(path), *arguments], folder.absolute())


def write_initial_files(
    folder: Path,
    *,
    application: str,
    found: FoundApplication | None = None,
) -> list[Path]:
    """Write settings, a keyring with a new key, Dagster's two files, an environment and examples of run config; returns their paths, settings first.

    With what was ``found`` of the application, settings and environment are filled in, and SQL that makes two roles is written.
    All are 0600. Raises ``SettingsError`` for a wrong name, for a folder that cannot be written to, and, before anything
    is written, when one of the files exists.
    """
    _check_name(application)
    key = new_key()
    settings, environment = _settings_text(application), _environment_text(folder)
    roles: dict[str, str] = {}
    if found is not None:
        passwords = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        filled = _Filled(application, found, *passwords)
        settings, environment = filled.settings(settings), filled.environment(environment)
        roles = {ROLES_FILE: filled.roles()}
    texts = {
        DEFAULT_FILE: settings,
        KEYRING_FILE: Keyring(key.id, {key.id: key}, KEYRING_FILE).to_yaml(),
        **{name: _template(name) for name in _COPIED},
        ENVIRONMENT_FILE: environment,
        **roles,
        **_examples(),
    }
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if there := [str(folder / name) for name in texts if os.path.lexists(folder / name)]:
            raise SettingsError(
                f"{few(there)} exist{'s' if len(there) == 1 else ''}, and twist-dr init overwrites nothing",
                remedy=f"move {'it' if len(there) == 1 else 'them'} away, or choose another folder with --folder",
            )
        (folder / EXAMPLES).mkdir(mode=0o700, exist_ok=True)
        for name, text in texts.items():
            _write_new(folder / name, text, written)
    except OSError as error:
        # Nothing half done remains: the next attempt would stumble over it.
        for path in written:
            path.unlink(missing_ok=True)
        raise SettingsError(
            f"Cannot write {error.filename or folder} ({error.strerror})",
            remedy="fix that, or choose another folder with --folder",
        ) from None
    return written


def _examples() -> dict[str, str]:
    """Files of run config, which name themselves as they lie beside the settings."""
    return {
        f"{EXAMPLES}/{each.name}": each.read_text(encoding="utf-8").replace("deploy/examples/", f"{EXAMPLES}/")
        for each in sorted((files("twist_dr") / "templates" / EXAMPLES).iterdir(), key=lambda each: each.name)
    }


@dataclass(frozen=True)
class _Filled:
    """The initial files of an application that was asked. Its two roles get passwords that nobody has to type."""

    application: str
    found: FoundApplication
    backup_password: str
    restore_password: str

    def settings(self, template: str) -> str:
        found = self.found
        text = _replaced(template, "media", {"media": {"uploads": str(found.media)}} if found.media else None)
        django: dict[str, object] = {"manage": [str(part) for part in found.manage], "folder": str(found.folder)}
        if found.database_variable is not None:
            django["database_variable"] = found.database_variable
        if found.environment:
            django["environment"] = {name: f"${{{self._variable(name)}}}" for name in found.environment}
        text = _replaced(text, "django", {"django": django})
        if (command := _version_command(found.folder)) is not None:
            text = _replaced(text, "app_version", {"app_version": {"command": command}})
        return text.replace("#restore:\n#  database_url:", "restore:\n  database_url:", 1)

    def environment(self, template: str) -> str:
        lines = [f"export RESTORE_DATABASE_URL={shlex.quote(self._url('restorer', self.restore_password))}", ""]
        lines += ["# What manage.py takes from the environment:"] if self.found.environment else []
        lines += [
            f"export {self._variable(name)}={shlex.quote(value)}" for name, value in self.found.environment.items()
        ]
        ours = f"export DATABASE_URL={shlex.quote(self._url('backup', self.backup_password))}"
        old = "export DATABASE_URL='postgresql://user:password@host:5432/database'"
        return template.replace(old, "\n".join([ours, *lines]), 1)

    def roles(self) -> str:
        backup, restorer, database, owner = (
            in_quotes(name)
            for name in (
                self._role("backup"),
                self._role("restorer"),
                self.found.database.name,
                self.found.database.user,
            )
        )
        text = _template("roles.sql")
        if not self.found.database.user:
            # As whom it connects is for the server to say; a name of no letters is an error of syntax.
            text = text.replace("GRANT @owner@", "-- GRANT the_owner_of_its_tables")
        return (
            text.replace("@database@", database)
            .replace("@backup@", backup)
            .replace("@backup_password@", self.backup_password)
            .replace("@restorer@", restorer)
            .replace("@restore_password@", self.restore_password)
            .replace("@owner@", owner)
        )

    def _role(self, what: str) -> str:
        return f"{self.application}_{what}"

    def _url(self, what: str, password: str) -> str:
        """Over TCP where Django uses a socket: its server asks there for an operating system user of the role's name, as a rule."""
        address = self.found.database
        host = "127.0.0.1" if address.host.startswith("/") else address.host or "127.0.0.1"
        host = f"[{host}]" if ":" in host else host
        name = quote(address.name, safe="")
        return f"postgresql://{self._role(what)}:{password}@{host}:{address.port or 5432}/{name}"

    def _variable(self, name: str) -> str:
        """What the environment file calls a variable of the application's: ours may have the same name for another value."""
        return f"APPLICATION_{name}" if _OF_OURS.fullmatch(name) else name


def _replaced(text: str, section: str, value: dict[str, object] | None) -> str:
    """The template with the example of a section replaced by what it is here."""
    if value is None:
        return text
    example = re.compile(rf"^#{section}:.*\n(?:#  .*\n)*", re.MULTILINE)
    written = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000)
    found = example.search(text)
    assert found is not None, section
    return text[: found.start()] + written + text[found.end() :]


def _version_command(folder: Path) -> list[str] | None:
    """A command that tells the application's version, where one is seen."""
    if (folder / "VERSION").is_file():
        return ["cat", "VERSION"]
    command = ["git", "describe", "--tags", "--always"]
    try:
        run_command(command, seconds=10.0, folder=folder)
    except ProcessFailed:
        return None
    return command


def _check_name(application: str) -> None:
    try:
        TypeAdapter(Name).validate_python(application)
    except ValidationError:
        raise SettingsError(
            f"{application!r} cannot be the application's name: it becomes part of folders, keys and asset names",
            remedy="choose a name of at most 40 lower-case letters, digits and '_' that starts with a letter",
        ) from None


def _settings_text(application: str) -> str:
    return _template(DEFAULT_FILE).replace("@application@", application)


def _environment_text(folder: Path) -> str:
    text = _template(ENVIRONMENT_FILE).replace("@folder@", shlex.quote(str(folder.absolute())))
    return text.replace("@programs@", shlex.quote(str(Path(sys.executable).parent)))


def _template(name: str) -> str:
    return (files("twist_dr") / "templates" / name).read_text(encoding="utf-8")


def _write_new(path: Path, text: str, written: list[Path]) -> None:
    # O_EXCL: a file that came into being since we looked is not ours to replace; a keyring least of all.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    written.append(path)
    # What a variable or a path holds need not be text.
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
