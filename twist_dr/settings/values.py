"""What the sections of the settings are made of: names, paths, durations."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationInfo

#: Names become asset keys, resource names and folders on storage targets.
NAME_PATTERN = r"^[a-z][a-z0-9_]{0,39}$"
NAME_WORDS = "a name of at most 40 lower-case letters, digits and '_' that starts with a letter"
HTTP_PATTERN = r"^https?://"
TABLE_PATTERN = r"^[^.\s]+(\.[^.\s]+)?$"
_DURATION = re.compile(r"(\d{1,6}) (second|minute|hour|day|week)s?")


def absolute(path: Path, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("folder", Path.cwd())
    # os.path's leaves an unknown ~user as it is, where pathlib's raises.
    return Path(os.path.normpath(Path(base) / os.path.expanduser(path)))


def _duration(value: Any) -> timedelta:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a time such as '12 hours' or '7 days'")
    return timedelta(**{f"{match[2]}s": int(match[1])})


#: A number and a unit, as in ``7 days``.
Duration = Annotated[timedelta, BeforeValidator(_duration)]
SettingsPath = Annotated[Path, AfterValidator(absolute)]
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def postgres_url(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(("postgresql://", "postgres://")):
        raise ValueError("postgresql://user:password@host:5432/database")
    return url


def database_of(url: SecretStr) -> str:
    """The database that a URL names; empty when it names none."""
    parts = urlsplit(url.get_secret_value())
    return parse_qs(parts.query).get("dbname", [""])[-1] or unquote(parts.path.removeprefix("/"))
