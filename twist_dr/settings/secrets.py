"""Secrets of the settings, hidden in texts that others wrote: what an unexpected error quotes, nobody knows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, SecretStr

from twist_dr.settings.whole import Settings

#: Shorter ones would blot out half of every sentence.
_SHORTEST = 6


def hidden(settings: Settings, text: str | None) -> str | None:
    """The text without any secret of the settings: a whole URL, or the password in it."""
    if text is None:
        return None
    # Longest first: a URL goes whole, before the password in it.
    for secret in sorted(set(_secrets(settings)), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _secrets(value: Any) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield from (each for each in _parts(value.get_secret_value()) if len(each) >= _SHORTEST)
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secrets(getattr(value, name))
    elif isinstance(value, dict):
        for each in value.values():
            yield from _secrets(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _secrets(each)


def _parts(secret: str) -> Iterator[str]:
    yield secret
    if "://" in secret:
        try:
            password = urlsplit(secret).password
        except ValueError:
            return
        if password:
            yield from (password, unquote(password))
