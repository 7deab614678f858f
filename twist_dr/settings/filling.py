"""What stands for another value in a document of settings: ``${NAME}``, of the environment, and ``${secret:NAME}``, of the secrets file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twist_dr.errors import SettingsError, TwistDRError
from twist_dr.storage.options import seen_from

if TYPE_CHECKING:
    from twist_dr.repository.secrets_file import SecretsFile

#: Beside the settings.
SECRETS_FILE = "secrets.yaml"
_SECRET = "secret:"

_VARIABLE = re.compile(r"\$(\$)?\{([^}]*)\}")


def fill(
    value: Any, environment: Mapping[str, str], place: str, mistakes: list[str], secret: Callable[[str], str]
) -> Any:
    """Replace ``${NAME}`` everywhere below ``value``. ``secret`` gives a secret by its name; what it raises is a mistake."""
    if isinstance(value, dict):
        return {
            key: fill(each, environment, f"{place}.{key}".lstrip("."), mistakes, secret) for key, each in value.items()
        }
    if isinstance(value, list):
        return [fill(each, environment, f"{place}[{index}]", mistakes, secret) for index, each in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        if match[1]:
            return "${" + match[2] + "}"
        if match[2].startswith(_SECRET):
            try:
                return secret(match[2].removeprefix(_SECRET))
            except TwistDRError as error:
                mistakes.append(f"{place}: {error.clause}")
                return match[0]
        if match[2] not in environment:
            mistakes.append(f"{place}: expected the environment variable {match[2]}, found it unset")
            return match[0]
        return environment[match[2]]

    return _VARIABLE.sub(replace, value)


def secrets_file(document: Mapping[Any, Any], folder: Path, environment: Mapping[str, str]) -> SecretsFile:
    """The secrets file of a document of settings that lies in ``folder``, by what this must say without a secret. Raises ``SettingsError``."""
    from twist_dr.repository.secrets_file import SecretsFile

    encryption = document.get("encryption")
    said = {
        "application": document.get("application"),
        "encryption.keyring": encryption.get("keyring") if isinstance(encryption, dict) else None,
        "secrets": document.get("secrets", SECRETS_FILE),
    }
    mistakes: list[str] = []

    def refuse(name: str) -> str:
        raise SettingsError("it leads to the secrets, and can be none itself")

    filled = {place: fill(value, environment, place, mistakes, refuse) for place, value in said.items()}
    texts = {place: value for place, value in filled.items() if isinstance(value, str)}
    mistakes += [f"{place}: expected a text" for place in said if place not in texts]
    if mistakes:
        raise SettingsError(f"no secret can be read before this is right: {'; '.join(mistakes)}")
    keyring = texts["encryption.keyring"]
    return SecretsFile(
        seen_from(folder, Path(texts["secrets"])), texts["application"],
        keyring if keyring.startswith("env:") else str(seen_from(folder, Path(keyring))),
    )  # fmt: skip
