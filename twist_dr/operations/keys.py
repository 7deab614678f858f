"""Changing the keyring."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from twist_dr.errors import SettingsError
from twist_dr.operations.operation import Config
from twist_dr.repository.keys import Keyring, new_key, save_keyring
from twist_dr.settings import Application
from twist_dr.watch import audit


class NewKeyConfig(Config):
    """Told nothing, the key is named after today."""

    id: str = Field("", description="its name; empty: after today")


@dataclass(frozen=True)
class NewKey:
    """The key that is primary now, without itself."""

    id: str
    check_value: str


def add_key(app: Application, config: NewKeyConfig) -> NewKey:
    """A new primary key; old ones are kept for reading. Raises ``SettingsError`` where the keyring is no file, ``KeyringInvalid``."""
    location = app.settings.encryption.keyring
    if location.startswith("env:"):
        raise SettingsError(
            f"The keyring is in the environment ({location}), where twist-dr cannot add a key",
            remedy="keep it in a file to do so",
        )
    path, key = Path(location), new_key(config.id or None)
    keyring = app.keyring.with_new_primary(key) if path.exists() else Keyring(key.id, {key.id: key}, location)
    save_keyring(keyring, path)
    details = {"check_value": key.check_value}
    audit.record(app, action="new key", subject=key.id, result="done", details=details)
    return NewKey(key.id, key.check_value)
