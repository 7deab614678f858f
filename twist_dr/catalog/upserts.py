"""Insert or update in one statement, so that two processes recording the same thing cannot fail each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from sqlalchemy import Connection, Table

from twist_dr.catalog.models import Base

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite


def upsert(
    connection: Connection,
    model: type[Base],
    values: Mapping[str, object],
    *,
    key: Sequence[str],
    keep_known: Sequence[str] = (),
) -> None:
    """Insert, or update the row of the same ``key``; None in a column of ``keep_known`` leaves what is there."""
    table = cast(Table, model.__table__)
    statement = _dialect_insert(connection, table).values(values)
    changes = {
        name: statement.excluded[name]
        for name, value in values.items()
        if name not in key and not (value is None and name in keep_known)
    }
    connection.execute(statement.on_conflict_do_update(index_elements=list(key), set_=changes))


def _dialect_insert(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    # Imported here because each dialect takes tens of milliseconds, and one of them is never needed.
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as postgresql_insert

        return postgresql_insert(table)
    from sqlalchemy.dialects.sqlite import insert as sqlite_insert

    return sqlite_insert(table)
