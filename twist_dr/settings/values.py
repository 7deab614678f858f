"""What the sections of the settings are made of: names, durations, URLs. Paths and web addresses: ``storage/options.py``."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, SecretStr

from twist_dr.postgres.url import WORDS, is_postgres_url
from twist_dr.repository.table_names import table_name
from twist_dr.storage.options import spelled


def _one_table(text: str) -> str:
    try:
        table_name(text)
    except ValueError:
        raise ValueError("""a table as in SQL: 'orders', 'accounting.ledger', '"a.b".c'""") from None
    return text


#: One table, as :func:`table_name` reads it.
TableText = Annotated[str, AfterValidator(_one_table)]
#: Names become asset keys, resource names and folders on storage targets.
Name = Annotated[
    str,
    spelled(
        r"[a-z][a-z0-9_]{0,39}", "a name of at most 40 lower-case letters, digits and '_' that starts with a letter"
    ),
]


def _postgres_url(url: SecretStr) -> SecretStr:
    if not is_postgres_url(url.get_secret_value()):
        raise ValueError(WORDS)
    return url


#: A URL of PostgreSQL that means the same to libpq, to SQLAlchemy and to its reader.
PostgresUrl = Annotated[SecretStr, AfterValidator(_postgres_url)]
