"""PostgreSQL's URLs, read strictly: what libpq takes apart wrongly is refused before it takes it apart.

libpq looks for the ``@`` that ends user and password up to the first ``/`` (postgresql.org/docs/current/libpq-connect.html, 34.1.1.2): a password
with a bare one becomes host, port and database, which every message shows.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs, unquote

#: What a person is told to write.
WORDS = "postgresql://user:password@host:5432/database, and in the password %40 for @, %2F for /, %3A for :, %23 for #, %3F for ?, %25 for %"
_PLACE = r"(?:\[[^\]\[/?#@\s]*\]|[^\]\[:/?#@,\s]*)(?::[0-9]*)?"
_URL = re.compile(
    rf"postgres(?:ql)?://(?:[^@/]*@)?{_PLACE}(?:,{_PLACE})*(?:/(?P<database>[^?@]*))?(?:\?(?P<query>[^@]*))?", re.DOTALL
)
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})|%00")


def is_postgres_url(url: str) -> bool:
    """Whether it is one that means the same to everybody."""
    return _URL.fullmatch(url) is not None and not _STRAY_PERCENT.search(url)


def database_of(url: str) -> str:
    """The database that a URL names; empty when it names none."""
    found = _URL.fullmatch(url)
    if found is None:
        return ""
    named = parse_qs(found["query"] or "").get("dbname")
    return named[-1] if named else unquote(found["database"] or "")
