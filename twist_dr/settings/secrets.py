"""What of the settings is secret and what is a name: told to the one place that every sentence of ours leaves through."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from twist_dr.redaction import keep_environment, keep_names, keep_secret, keep_service_url, keep_text, keep_url
from twist_dr.settings.unattended import ChannelSettings, HeartbeatSettings

#: Fields that hold a command or SQL: what stands in it is no name.
_CODE = re.compile(r"command|sql|validators|manage$")


def keep_settings(settings: BaseModel, environment: Mapping[str, str], secrets: Collection[str] = ()) -> None:
    """Have every secret of the settings hidden from now on, those of the environment that they were read in, and no name.

    ``secrets``: those of the secrets file, which are no names wherever they stand.
    """
    keep_environment(environment)
    for name, value in environment.items():
        if f"env:{name}" == _keyring(settings):
            # One key per line, behind its name.
            keep_secret(*(word for word in value.split() if len(word) >= 40))
    _walk("", settings, secrets)


def _keyring(settings: BaseModel) -> str | None:
    encryption = getattr(settings, "encryption", None)
    return None if encryption is None else encryption.keyring


def _walk(name: str, value: Any, secrets: Collection[str]) -> None:
    if name == "environment":
        keep_environment({key: each.get_secret_value() for key, each in value.items()}, names=True)
    elif isinstance(value, ChannelSettings | HeartbeatSettings):
        keep_service_url(value.url.get_secret_value())
    elif isinstance(value, BaseModel):
        for field in type(value).model_fields:
            _walk(field, getattr(value, field), secrets)
    elif isinstance(value, dict):
        keep_names(*map(str, value))
        for key, each in value.items():
            _walk(str(key), each, secrets)
    elif isinstance(value, list | tuple) and not _CODE.search(name):
        for each in value:
            _walk(name, each, secrets)
    elif isinstance(value, SecretStr):
        secret = value.get_secret_value()
        keep_url(secret) if "://" in secret else keep_secret(secret)
    elif _CODE.search(name) and value:
        keep_text(_words(value))
    elif isinstance(value, str) and "://" in value:
        keep_url(value)
    elif isinstance(value, str | Path) and not any(secret in str(value) for secret in secrets):
        keep_names(str(value))


def _words(value: Any) -> str:
    return " ".join(map(_words, value)) if isinstance(value, list | tuple) else str(value)
