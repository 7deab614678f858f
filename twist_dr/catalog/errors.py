"""The catalog's errors: what a driver says, in one sentence that names the place without its password."""

from __future__ import annotations

from typing import ClassVar

from sqlalchemy.exc import DBAPIError

from twist_dr.errors import TwistDRError
from twist_dr.redaction import quoting


class CatalogUnavailable(TwistDRError):
    """The catalog cannot be read or written. Backups do not depend on it: they lie on the storage targets."""


class CatalogUnreachable(CatalogUnavailable):
    """The catalog's PostgreSQL server does not answer: it is down, starting or full."""

    retryable: ClassVar[bool] = True


class CatalogLocked(CatalogUnavailable):
    """Another process holds the catalog for longer than we wait."""

    retryable: ClassVar[bool] = True


class CatalogTooNew(CatalogUnavailable):
    """A newer twist-dr has changed the catalog's tables."""


#: SQLSTATE classes of a server that will answer a little later: connection, resources, operator intervention.
_PASSING = ("08", "53", "57")
#: ``lock_not_available``, ``query_canceled``, ``deadlock_detected``.
_LOCKED = ("55P03", "57014", "40P01")


def missing_table(error: DBAPIError) -> bool:
    """Whether a statement failed because its table does not exist."""
    return _sqlstate(error.orig) == "42P01" or "no such table" in str(error.orig)


def unlike_our_tables(error: Exception) -> bool:
    """Whether a statement failed because a table or a column that it names does not exist."""
    if not isinstance(error, DBAPIError):
        return False
    # undefined_column; SQLite's words for a query and for an INSERT.
    words = str(error.orig)
    return (
        missing_table(error)
        or _sqlstate(error.orig) == "42703"
        or "no such column" in words
        or "has no column named" in words
    )


def driver_error(error: Exception) -> BaseException | None:
    """The driver's own error inside ``error``, or ``error`` if it is one; None for any other."""
    if isinstance(error, DBAPIError):
        return error.orig
    return error if type(error).__module__.partition(".")[0] in ("sqlite3", "psycopg") else None


def named(error: BaseException, place: str) -> CatalogUnavailable:
    """What to raise for a driver's error."""
    words = quoting(str(error).strip().partition("\n")[0].rstrip("."))
    if type(error).__module__ == "sqlite3":
        return _named_sqlite(words, place)
    return _named_postgres(words, place, _sqlstate(error))


def _named_sqlite(words: str, place: str) -> CatalogUnavailable:
    if "locked" in words or "busy" in words:
        return CatalogLocked(
            f"The catalog {place} is locked by another process",
            remedy=f"wait until that one is done, or find it with 'fuser {place}', and try again",
        )
    if "malformed" in words or "not a database" in words:
        return CatalogUnavailable(
            f"The catalog {place} is damaged ({words})", remedy="move it away and run: twist-dr catalog rebuild"
        )
    return CatalogUnavailable(
        f"The catalog {place} cannot be used ({words})",
        remedy="see that its folder exists, that this user may write to it and that its disk has space",
    )


def _named_postgres(words: str, place: str, sqlstate: str | None) -> CatalogUnavailable:
    if sqlstate in _LOCKED:
        return CatalogLocked(
            f"The catalog {place} is locked by another process ({words})",
            remedy="wait until that one is done and try again",
        )
    if sqlstate is None and _refusal(words):
        return CatalogUnavailable(
            f"The catalog {place} refuses us ({words})",
            remedy="correct catalog.url, or that role and database on the server",
        )
    if sqlstate is None or sqlstate[:2] in _PASSING:
        return CatalogUnreachable(
            f"The catalog {place} does not answer ({words})",
            remedy="see that its server runs and can be reached from here",
        )
    return CatalogUnavailable(
        f"The catalog {place} cannot be used ({words})",
        remedy="see that the role of catalog.url owns its tables, and run twist-dr doctor",
    )


def _refusal(words: str) -> bool:
    """libpq gives no SQLSTATE when a connection fails, only the server's words."""
    return any(each in words for each in ("authentication failed", "does not exist", "no pg_hba.conf", "no password"))


def _sqlstate(error: BaseException | None) -> str | None:
    return getattr(error, "sqlstate", None)
