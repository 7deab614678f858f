"""Reading the settings file: variables filled in, every mistake at once, by its path in the file."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from twist_dr.errors import SettingsError
from twist_dr.settings.filling import fill, secrets_file
from twist_dr.settings.secrets import keep_settings
from twist_dr.settings.whole import Settings
from twist_dr.storage.options import providers
from twist_dr.system.documents import BY_HAND, DocumentInvalid, YamlInvalid, read_file, read_yaml
from twist_dr.system.words import counted, one_of

CONFIG_VARIABLE = "TWIST_DR_CONFIG"
DEFAULT_FILE = "twist-dr.yaml"

#: Keys of sections that earlier versions called otherwise: they are read, and the present name is told.
_FORMER = {("cleanup", "remains_after"): "incomplete_after"}


def settings_file() -> Path:
    """Where the settings are looked for."""
    return Path(os.environ.get(CONFIG_VARIABLE) or DEFAULT_FILE)


def load_settings(path: Path | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read, fill in and validate the settings. Raises ``SettingsError`` with all mistakes."""
    path = (path or settings_file()).absolute()
    content = _read(path)
    settings = parse_settings(content.decode(), path, environment)
    settings._read_from = path, digest_of(content)
    return settings


def _read(path: Path) -> bytes:
    try:
        content = read_file(path, BY_HAND.size)
        content.decode()
        return content
    except FileNotFoundError:
        raise SettingsError(
            f"There is no {path}",
            remedy=f"write one with: twist-dr init NAME, or name yours in the environment variable {CONFIG_VARIABLE}",
        ) from None
    except DocumentInvalid as error:
        raise SettingsError(f"{path} cannot be read: {error.problem}", remedy="correct it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{path} cannot be read ({type(error).__name__})", remedy="fix its permissions or encoding"
        ) from None


def digest_of(content: bytes) -> bytes:
    """What tells one text of the settings from another in this process; it is kept nowhere, as what it stands for holds secrets."""
    return hashlib.sha256(content).digest()


def parse_settings(text: str, path: Path, environment: Mapping[str, str]) -> Settings:
    """Validate the text of a settings file that lies at ``path``."""
    document = _document(text, path)
    mistakes: list[str] = []
    secrets = _Secrets(document, path.parent, environment)
    filled = fill(document, environment, "", mistakes, secrets.read)
    settings = _validated(filled, path, mistakes)
    keep_settings(settings, environment, secrets.given)
    return settings


def settings_for_secrets(path: Path | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Only what the secrets file needs: which it is, whose, its keys, and where changes are noted down; the rest stands for nothing.

    Secrets that are not set yet, and mistakes elsewhere, must not keep anybody from setting them. Raises ``SettingsError``.
    """
    path = (path or settings_file()).absolute()
    document = _document(_read(path).decode(), path)
    needed = {name: document[name] for name in ("application", "encryption", "secrets", "work_dir") if name in document}
    mistakes: list[str] = []
    secrets = _Secrets(document, path.parent, environment)
    filled = fill(needed, environment, "", mistakes, secrets.read)
    unset: list[str] = []
    catalog = fill(document.get("catalog", {}), environment, "", unset, secrets.read)
    # Without its URL the catalog cannot be written, and what it lacks waits for it (watch/audit).
    filled["catalog"] = {"url": "sqlite:////dev/null/unset.db"} if unset else catalog
    filled |= {
        "database": {"url": "postgresql:///unset"},
        "storage_targets": {"unset": {"type": "local", "path": "/dev/null/unset"}},
    }
    settings = _validated(filled, path, mistakes)
    keep_settings(settings, environment, secrets.given)
    return settings


def _document(text: str, path: Path) -> dict[Any, Any]:
    try:
        document = read_yaml(text)
    except YamlInvalid as error:
        place = f"line {error.line}" if error.line else "somewhere"
        raise SettingsError(f"{path} is not YAML: {place}: {error.problem}.") from None
    if not isinstance(document, dict):
        raise SettingsError(
            f"{path}: expected a mapping with 'application', 'database' and more, found {_found(document)}."
        )
    _call_by_present_names(document, path)
    return document


class _Secrets:
    """Secrets for a document of settings: the file is looked at when the first of them is asked for."""

    def __init__(self, document: Mapping[Any, Any], folder: Path, environment: Mapping[str, str]) -> None:
        self._of = document, folder, environment
        self._read: Callable[[str], str] | None = None
        #: What was read.
        self.given: set[str] = set()

    def read(self, name: str) -> str:
        """Raises ``SettingsError`` and what :class:`~twist_dr.repository.secrets_file.SecretsFile` does."""
        self._read = self._read or secrets_file(*self._of).reader()
        secret = self._read(name)
        self.given.add(secret)
        return secret


def _validated(filled: Any, path: Path, mistakes: list[str]) -> Settings:
    try:
        settings = Settings.model_validate(filled, context={"folder": path.parent})
    except ValidationError as error:
        unset = {mistake.partition(":")[0] for mistake in mistakes}
        mistakes += [line for place, line in explain(error, filled) if place not in unset]
    if mistakes:
        count = f"{counted(len(mistakes), 'mistake')}" if len(mistakes) > 1 else "a mistake"
        raise SettingsError(f"{path} has {count}:\n" + "\n".join(f"  {mistake}" for mistake in mistakes))
    return settings


def present_path(path: str) -> str:
    """What the value is called now that an earlier version found at ``path``."""
    section, _, name = path.partition(".")
    return f"{section}.{_FORMER.get((section, name), name)}" if name else path


def _call_by_present_names(document: dict[Any, Any], path: Path) -> None:
    for (section, former), name in _FORMER.items():
        values = document.get(section)
        if isinstance(values, dict) and former in values and name not in values:
            values[name] = values.pop(former)
            logging.getLogger(__name__).warning(
                "%s: %s.%s is called %s.%s now; rename it.", path, section, former, section, name
            )


_EXPECTED = {
    "missing": "a value",
    "string_type": "a text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "list_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "dataclass_type": "a mapping",
    "frozen_set_type": "a list",
    "too_short": "at least one",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "path_type": "a path",
    "union_tag_not_found": f"a 'type': {one_of(list(providers()))}",
}


def explain(error: ValidationError, document: Any) -> Iterator[tuple[str, str]]:
    """Each mistake as its place and a line for people. No value is shown that may be a secret."""
    for mistake in error.errors(include_url=False):
        place = _place(mistake["loc"])
        kind, context = mistake["type"], mistake.get("ctx", {})
        if kind in ("extra_forbidden", "unexpected_keyword_argument"):
            line = f"{place}: unknown key; see the commented file of twist-dr init for those that exist"
        else:
            if kind == "value_error":
                expected = str(context["error"])
            elif kind == "string_too_short":
                expected = f"a text of at least {counted(context['min_length'], 'character')}"
            elif kind == "literal_error":
                expected = str(context["expected"])
            elif kind == "union_tag_invalid":
                expected = f"one of the types {context['expected_tags']}"
                mistake["loc"] = (*mistake["loc"], "type")
            else:
                expected = _EXPECTED.get(kind) or mistake["msg"].lower().removeprefix("input should be ")
            value = _lookup(document, mistake["loc"])
            # A text in the place of a whole section is often the one secret of it: database: postgresql://...
            whole = isinstance(value, str) and expected in ("a mapping", "a list")
            # What several settings say together is told whole in what was expected.
            found = (
                ""
                if kind == "value_error" and isinstance(value, dict)
                else f", found {'a text' if whole else _found(value, place)}"
            )
            line = f"{place or 'settings'}: expected {expected}{found}"
        yield place, line


def _place(location: tuple[int | str, ...]) -> str:
    place = ""
    for step in _without_tags(location):
        place += f"[{step}]" if isinstance(step, int) else f".{step}"
    return place.lstrip(".")


def _without_tags(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Pydantic puts a target's type between its name and its fields, which of several forms a value has after it, and '[key]' after a wrong key."""
    steps = [step for step in location if step != "[key]"]
    if steps[:1] == ["storage_targets"] and len(steps) > 2 and steps[2] in providers():
        del steps[2]
    if steps[2:3] == ["retention"] and steps[3:4] in (["one"], ["several"]):
        del steps[3]
    return tuple(steps)


_ABSENT = object()
_SECRET = re.compile(r"url|secret|token|password|key|environment|sql|command", re.IGNORECASE)


def _lookup(document: Any, location: tuple[int | str, ...]) -> Any:
    if location[-1:] == ("[key]",):
        return location[-2]
    for step in _without_tags(location):
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            return _ABSENT
    return document


def _found(value: Any, place: str = "") -> str:
    if value is _ABSENT or value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    secret = _SECRET.search(place) or "://" in str(value)
    return "a value that is not shown" if secret else repr(value)
