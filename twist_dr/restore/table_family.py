"""Tables restored into a side database, with their partitions and heirs: found, checked, and put into one schema."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twist_dr.errors import RestoreFailed
from twist_dr.postgres.cluster import Connection, query
from twist_dr.repository.table_names import TableName
from twist_dr.system.words import counted

if TYPE_CHECKING:
    from psycopg.sql import Identifier


@dataclass(frozen=True)
class Relation:
    """A table. ``kind``: ``r``, or ``p`` for a partitioned one."""

    oid: int
    schema: str
    name: str
    kind: str
    unlogged: bool

    @property
    def key(self) -> TableName:
        return TableName(self.schema, self.name)

    @property
    def label(self) -> str:
        return self.key.label

    @property
    def identifier(self) -> Identifier:
        from psycopg import sql

        return sql.Identifier(self.schema, self.name)


def read_family(connection: Connection, names: Sequence[tuple[str, str]]) -> list[Relation]:
    """The tables, and those that inherit from them: partitions, their partitions, heirs."""
    rows = query(
        connection,
        """WITH RECURSIVE family (oid) AS (
               SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 JOIN unnest(%(schemas)s::text[], %(names)s::text[]) AS wanted (schema, name)
                   ON (n.nspname, c.relname) = (wanted.schema, wanted.name)
               UNION SELECT i.inhrelid FROM pg_inherits i JOIN family f ON i.inhparent = f.oid)
           SELECT c.oid::bigint, n.nspname, c.relname, c.relkind::text, c.relpersistence = 'u'
             FROM family f JOIN pg_class c ON c.oid = f.oid JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p') ORDER BY 2, 3""",
        {"schemas": [schema for schema, _ in names], "names": [name for _, name in names]},
    )
    return [Relation(*row) for row in rows]


def check_names(relations: list[Relation]) -> None:
    """Raises ``RestoreFailed`` when one schema cannot hold them all."""
    counts = Counter(each.name for each in relations)
    if twice := [each.label for each in relations if counts[each.name] > 1]:
        raise RestoreFailed(
            f"{' and '.join(twice[:4])} have one name, and one schema holds only one table of a name",
            remedy="restore them one after the other, or into a sandbox",
        )


def check_locks(connection: Connection, relations: list[Relation], indexes: int) -> None:
    """One transaction keeps a lock on all that it makes, and the server's room for locks is one for all (max_locks_per_transaction).

    Raises ``RestoreFailed`` when they would take more than half of it.
    """
    (made, room), *_ = query(
        connection,
        """SELECT count(*) + 2 * count(nullif(reltoastrelid, 0)),
                  current_setting('max_locks_per_transaction')::bigint
                  * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int)
             FROM pg_class WHERE oid = ANY(%(oids)s::oid[])""",
        {"oids": [each.oid for each in relations]},
    )
    needed = made + indexes
    if needed > room // 2:
        raise RestoreFailed(
            f"restoring {counted(len(relations), 'table')} in one transaction takes about {counted(needed, 'lock')}, and the server has room for {room}, the live database's sessions "
            "included",
            remedy="restore fewer at a time, or into a sandbox",
        )


def with_large_objects(connection: Connection, relations: list[Relation]) -> list[str]:
    """Labels of those that have a column of type oid, which may point to large objects."""
    rows = query(
        connection,
        """SELECT DISTINCT a.attrelid::bigint FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
            WHERE a.attrelid = ANY(%(oids)s::oid[]) AND a.attnum > 0 AND 'oid'::regtype IN (t.oid, t.typbasetype)""",
        {"oids": [each.oid for each in relations]},
    )
    found = {oid for (oid,) in rows}
    return [each.label for each in relations if each.oid in found]


#: Tables that inherit from one that is not chosen, and that one.
_STRANGE_PARENTS = """
    SELECT i.inhrelid::bigint, n.nspname, p.relname
      FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace n ON n.oid = p.relnamespace
     WHERE i.inhrelid = ANY(%(oids)s::oid[]) AND i.inhparent <> ALL(%(oids)s::oid[])
"""
#: Sequences that defaults draw from and that no chosen table owns; whether they are another table's identity; who draws.
_STRANGE_SEQUENCES = """
    SELECT a.adrelid::bigint, c.attname, n.nspname, s.relname, coalesce(o.deptype = 'i', false)
      FROM pg_attrdef a JOIN pg_attribute c ON (c.attrelid, c.attnum) = (a.adrelid, a.adnum)
      JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid AND d.refclassid = 'pg_class'::regclass
      JOIN pg_class s ON s.oid = d.refobjid AND s.relkind = 'S' JOIN pg_namespace n ON n.oid = s.relnamespace
      LEFT JOIN pg_depend o ON o.classid = 'pg_class'::regclass AND o.objid = s.oid AND o.deptype IN ('a', 'i')
                           AND o.refclassid = 'pg_class'::regclass
     WHERE a.adrelid = ANY(%(oids)s::oid[]) AND (o.refobjid = ANY(%(oids)s::oid[])) IS NOT TRUE
"""


def gather_family(connection: Connection, relations: list[Relation], schema: str) -> list[str]:
    """In the side database: put the tables into one schema, with nothing that would tie them to live ones there; returns notes."""
    from psycopg import sql

    oids = {"oids": [each.oid for each in relations]}
    by_oid = {each.oid: each for each in relations}
    into, notes, moving = sql.Identifier(schema), [], set()
    with connection.transaction():
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(into))
        # An heir without its parent would become, there, a child of the live parent, which would show its rows.
        for oid, *parent in query(connection, _STRANGE_PARENTS, oids):
            statement = sql.SQL("ALTER TABLE {} NO INHERIT {}")
            connection.execute(statement.format(by_oid[oid].identifier, sql.Identifier(*parent)))
        # A default must not draw from a live sequence: what it draws from comes along.
        for oid, column, place, sequence, identity in query(connection, _STRANGE_SEQUENCES, oids):
            if identity:  # which cannot be parted from its column
                statement = sql.SQL("ALTER TABLE {} ALTER COLUMN {} DROP DEFAULT")
                connection.execute(statement.format(by_oid[oid].identifier, sql.Identifier(column)))
                notes.append(
                    f"column {column} of {by_oid[oid].label} is without its default, which drew from another table's identity column"
                )
            else:
                moving.add((place, sequence))
        for name in moving:
            connection.execute(sql.SQL("ALTER SEQUENCE {} OWNED BY NONE").format(sql.Identifier(*name)))
            connection.execute(sql.SQL("ALTER SEQUENCE {} SET SCHEMA {}").format(sql.Identifier(*name), into))
        for each in relations:
            connection.execute(sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(each.identifier, into))
    return notes
