"""Reading tables without a plan, where planning would run code of the database as our role.

Before a query begins, the planner computes what does not depend on a row, calls of IMMUTABLE functions with constant arguments among it,
in expressions and predicates of indexes and in extended statistics, too (RelationGetIndexExpressions, RelationGetIndexPredicate and
get_relation_statistics in PostgreSQL's relcache.c and plancat.c). Whoever owns a table writes such functions. COPY of a table, as
pg_dump uses it, scans it without a plan. What is made between our look at a table's indexes and our query is not seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twist_dr.repository.table_names import TableName

if TYPE_CHECKING:
    import psycopg

#: A condition about the table ``c`` of pg_class: the planner may run what users made. What is pinned has no entry in pg_depend.
PLANNING_RUNS_CODE = """
    (EXISTS (SELECT FROM pg_index i JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
              WHERE i.indrelid = c.oid AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL) AND d.refobjid >= 16384
                AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass))
     OR EXISTS (SELECT FROM pg_statistic_ext s JOIN pg_depend d ON d.classid = 'pg_statistic_ext'::regclass AND d.objid = s.oid
                 WHERE s.stxrelid = c.oid AND d.refobjid >= 16384
                   AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass)))"""

#: The column that costs least to send. A generated one cannot be copied.
_NARROWEST = """
    SELECT a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = %(schema)s AND c.relname = %(name)s AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
     ORDER BY a.attlen < 0, a.attlen, a.attnum LIMIT 1"""


def count_unplanned(connection: psycopg.Connection[tuple[object, ...]], table: TableName) -> int:
    """Rows of a table, without those of inheriting ones. They all travel, a column of each. Raises psycopg's errors."""
    from psycopg import sql

    narrowest = connection.execute(_NARROWEST, table._asdict()).fetchall()
    columns = sql.SQL("({})").format(sql.Identifier(str(narrowest[0][0]))) if narrowest else sql.SQL("")
    statement = sql.SQL("COPY {} {} TO STDOUT").format(sql.Identifier(*table), columns)
    with connection.cursor().copy(statement) as copy:
        # In this format a line break ends a row, and none is in a row (PostgreSQL, "COPY", File Formats).
        return sum(bytes(block).count(b"\n") for block in copy)


def read_unplanned(
    connection: psycopg.Connection[tuple[object, ...]], table: TableName, *columns: str
) -> list[tuple[str | None, ...]]:
    """Some columns of a small table, as text, in no order. Raises psycopg's errors."""
    from psycopg import sql

    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    with connection.cursor().copy(sql.SQL("COPY {} ({}) TO STDOUT").format(sql.Identifier(*table), names)) as copy:
        return list(copy.rows())
