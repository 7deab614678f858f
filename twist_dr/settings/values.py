"""What the sections of the settings are made of: names, paths, durations."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationInfo

from twist_dr.engine.postgres.url import WORDS, is_postgres_url
from twist_dr.engine.table_names import table_name
from twist_dr.engine.web import is_web_address

#: Names become asset keys, resource names and folders on storage targets.
NAME_PATTERN = r"^[a-z][a-z0-9_]{0,39}$"
NAME_WORDS = "a name of at most 40 lower-case letters, digits and '_' that starts with a letter"
HTTP_PATTERN = r"^https?://"


def absolute(path: Path, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("folder", Path.cwd())
    # os.path's leaves an unknown ~user as it is, where pathlib's raises.
    return Path(os.path.normpath(Path(base) / os.path.expanduser(path)))


def _one_table(text: str) -> str:
    try:
        table_name(text)
    except ValueError:
        raise ValueError("""a table as in SQL: 'orders', 'accounting.ledger', '"a.b".c'""") from None
    return text


#: One table, as :func:`table_name` reads it.
TableText = Annotated[str, AfterValidator(_one_table)]
SettingsPath = Annotated[Path, AfterValidator(absolute)]
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _postgres_url(url: SecretStr) -> SecretStr:
    if not is_postgres_url(url.get_secret_value()):
        raise ValueError(WORDS)
    return url


#: A URL of PostgreSQL that means the same to libpq, to SQLAlchemy and to its reader.
PostgresUrl = Annotated[SecretStr, AfterValidator(_postgres_url)]


def _web_address(url: str) -> str:
    if not is_web_address(url):
        raise ValueError("http://host:port/path, without user and password, and with %40 for an @")
    return url


#: An address that is called without a login.
WebAddress = Annotated[str, Field(pattern=HTTP_PATTERN), AfterValidator(_web_address)]
