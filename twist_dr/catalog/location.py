"""Where a catalog is: its URL taken apart, and how people are told of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from twist_dr.errors import SettingsError
from twist_dr.redaction import keep_url

_EXAMPLES = "sqlite:////path/catalog.db or postgresql://user:password@host:5432/database"


@dataclass(frozen=True)
class Location:
    """A catalog's place. ``url`` is a secret: it may hold a password; ``place`` is for people."""

    url: URL = field(repr=False)
    place: str

    @property
    def file(self) -> Path | None:
        """The SQLite file; None on PostgreSQL."""
        return Path(str(self.url.database)) if self.url.get_backend_name() == "sqlite" else None


def parse_location(url: str) -> Location:
    """Take a catalog's URL apart. Raises ``SettingsError``, which never quotes the URL: it may hold a password."""
    keep_url(url)
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise SettingsError("catalog.url is no database URL", remedy=f"write {_EXAMPLES}") from None
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        path = parsed.database or ""
        # A relative path would mean another file to the daemon than to a shell; one in memory, another to each connection.
        if not Path(path).is_absolute():
            raise SettingsError("catalog.url must name its SQLite file by an absolute path: sqlite:////path/catalog.db")
        return Location(parsed, path)
    if parsed.drivername in ("postgresql", "postgresql+psycopg"):
        # SQLAlchemy ends the password at the first one: what follows would be a host, a port and a database that every message shows.
        if url.count("@") > 1:
            raise SettingsError("catalog.url has more than one '@'", remedy="write %40 for an '@' in the password")
        host = parsed.host or parsed.query.get("host") or "the local socket"
        where = host if isinstance(host, str) else ", ".join(host)
        place = f"{parsed.database or 'the default database'} at {where}" + (f":{parsed.port}" if parsed.port else "")
        return Location(parsed.set(drivername="postgresql+psycopg"), place)
    raise SettingsError(f"catalog.url must name SQLite or PostgreSQL: {_EXAMPLES}.")
