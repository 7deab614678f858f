"""Changing the secrets file."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pydantic import Field, SecretStr

from twist_dr.errors import SettingsError
from twist_dr.operations.operation import Config
from twist_dr.settings import Application
from twist_dr.watch import audit


class SetSecretConfig(Config):
    """Which secret, and what it is from now on."""

    name: str = Field("", description="its name, as in ${secret:NAME}; required")
    value: SecretStr = Field(SecretStr(""), description="required")


class RemoveSecretConfig(Config):
    """Which secret."""

    name: str = Field("", description="its name; required")


@dataclass(frozen=True)
class SecretSet:
    """A secret that is kept now, without itself."""

    name: str
    set_at: datetime
    key_id: str


@dataclass(frozen=True)
class SecretRemoved:
    """A secret that is kept no more."""

    name: str


@dataclass(frozen=True)
class SecretsRotated:
    """What is encrypted with the primary key now, and was not."""

    key_id: str
    names: tuple[str, ...]


def set_secret(app: Application, config: SetSecretConfig) -> SecretSet:
    """In the place of one of that name. Raises ``SettingsError``, ``SecretsInvalid``, ``KeyringInvalid``."""
    _require_name(config.name)
    with audit.noting(app, action="set secret", subject=config.name) as details:
        kept = app.settings.secrets_file.set(config.name, config.value.get_secret_value())
        details["key"] = kept.key_id
    return SecretSet(config.name, kept.set_at, kept.key_id)


def remove_secret(app: Application, config: RemoveSecretConfig) -> SecretRemoved:
    """Raises ``SettingsError``, ``SecretMissing``, ``SecretsInvalid``."""
    _require_name(config.name)
    with audit.noting(app, action="remove secret", subject=config.name):
        app.settings.secrets_file.remove(config.name)
    return SecretRemoved(config.name)


def rotate_secrets(app: Application, config: Config) -> SecretsRotated:
    """Encrypt with the primary key. Raises ``SecretsInvalid``, ``KeyringInvalid``, ``KeyMissing``, ``WrongKey``."""
    with audit.noting(app, action="rotate secrets", subject=app.settings.secrets.name) as details:
        changed = app.settings.secrets_file.rotate()
        details["names"] = changed
    return SecretsRotated(app.keyring.primary_id, tuple(changed))


def _require_name(name: str) -> None:
    if not name:
        raise SettingsError("Which secret? Say its name: twist-dr secrets set NAME.")
