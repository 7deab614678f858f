"""Tables out of rows: a row's fields say once what it holds, and how a database keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    DateTime,
    Dialect,
    Double,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    select,
)
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeEngine

from twist_dr.postgres.lsn import Gap

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

R = TypeVar("R")


class UTCDateTime(TypeDecorator[datetime]):
    """An aware time, given out in UTC. SQLite keeps no time zone, so naive UTC is what it is given."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone; the catalog takes aware times only")
        value = value.astimezone(timezone.utc)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)


class TextList(TypeDecorator[tuple[str, ...]]):
    """Some texts, as a JSON list."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: Sequence[str] | None, dialect: Dialect) -> list[str] | None:
        return None if value is None else list(value)

    def process_result_value(self, value: list[str] | None, dialect: Dialect) -> tuple[str, ...] | None:
        return None if value is None else tuple(value)


class Gaps(TypeDecorator[tuple[Gap, ...]]):
    """Stretches of WAL, as a JSON list of objects."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: Sequence[Gap] | None, dialect: Dialect) -> list[dict[str, int | None]] | None:
        return None if value is None else [vars(gap) for gap in value]

    def process_result_value(self, value: list[dict[str, Any]] | None, dialect: Dialect) -> tuple[Gap, ...] | None:
        return None if value is None else tuple(Gap(**gap) for gap in value)


#: Ids are compared byte by byte, whatever the database's language, so that they sort by time.
BackupId = Annotated[str, String(64).with_variant(String(64, collation="C"), "postgresql")]
ShortText = Annotated[str, String(64)]
Big = Annotated[int, BigInteger()]

#: How a database keeps what a row says no more of; one of some fixed words is short.
_KEPT: Mapping[Any, TypeEngine[Any]] = {
    str: Text(),
    int: Integer(),
    bool: Boolean(),
    float: Double(),
    datetime: UTCDateTime(),
    tuple[str, ...]: TextList(),
    tuple[Gap, ...]: Gaps(),
    Literal: String(16),
    dict: JSON(none_as_null=True),
    tuple: TextList(),
}


def _column(name: str, hint: Any, *, key: bool) -> Column[Any]:
    """The column of a field, by the type that it has."""
    known = (
        [each for each in get_args(hint) if each is not type(None)]
        if get_origin(hint) in (Union, UnionType)
        else [hint]
    )
    (said,) = known
    kept = getattr(said, "__metadata__", (None,))[0] or _KEPT.get(said) or _KEPT[get_origin(said)]
    return Column(name, kept, primary_key=key, nullable=said is not hint and not key)


class Rows(Generic[R]):
    """A table, and what is made of its rows. Each of its columns is an attribute: ``Copy.target``."""

    def __init__(
        self,
        metadata: MetaData,
        name: str,
        row: type[R],
        *more: SchemaItem,
        key: Sequence[str] = ("id",),
        without: Sequence[str] = (),
        **options: Any,
    ) -> None:
        """``key``: the primary key's columns. ``without``: fields that other tables fill. ``more``: columns besides the row's, indexes, constraints."""
        hints = get_type_hints(row, include_extras=True)
        fields = [field for field in hints if field not in without]
        self.row = row
        self.table = Table(
            name, metadata, *(_column(each, hints[each], key=each in key) for each in fields), *more, **options
        )
        #: Those that fill a row, in the order of its fields.
        self.columns: list[Column[Any]] = [self.table.c[each] for each in fields]

    def __getattr__(self, name: str) -> Column[Any]:
        try:
            return self.table.c[name]
        except KeyError:
            raise AttributeError(f"{self.table.name} has no column {name}") from None

    def equal(self, **values: Any) -> list[ColumnElement[bool]]:
        """The conditions that columns have these values; None asks for nothing."""
        return [self.table.c[name] == value for name, value in values.items() if value is not None]

    def all(
        self,
        connection: Connection,
        *conditions: ColumnElement[bool],
        order: Sequence[ColumnElement[Any]] = (),
        limit: int | None = None,
    ) -> list[R]:
        """The rows that fulfil every condition."""
        query = select(*self.columns).where(*conditions).order_by(*order).limit(limit)
        return [self.row(*values) for values in connection.execute(query)]

    def upsert(
        self,
        connection: Connection,
        values: Mapping[str, Any],
        *,
        key: Sequence[str],
        keep_known: Sequence[str] = (),
        add: Sequence[str] = (),
    ) -> None:
        """Insert, or update the row of the same ``key``; None in a column of ``keep_known`` leaves what is there, and to one of ``add`` is added.

        In one statement, so that two processes recording the same thing cannot fail each other.
        """
        statement = _dialect_insert(connection, self.table).values(dict(values))
        changes = {
            name: self.table.c[name] + statement.excluded[name] if name in add else statement.excluded[name]
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
