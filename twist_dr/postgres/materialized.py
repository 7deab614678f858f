"""Materialized views: no dump holds their rows, a restore computes them anew. So their hash is taken when the backup is, in its snapshot.

After a restore they are what their tables say under the settings of that database, and may rightly be others than before: a view that is
older than its tables, or reads the clock, chance or an order of rows, which nothing promises. A false alarm is as bad as none, so another
hash is a difference only where both can be ruled out: for a view whose query gave, in the snapshot, just the rows that it held, and
is made of nothing but tables and of PostgreSQL's own functions that always answer the same. Of the others it is noted.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twist_dr.postgres.differing_rows import at_utc
from twist_dr.postgres.unplanned import PLANNING_RUNS_CODE
from twist_dr.repository.manifest import ViewFacts
from twist_dr.repository.table_names import TableName
from twist_dr.storage.chunks import lines
from twist_dr.system.words import counted, few

if TYPE_CHECKING:
    import psycopg
    from psycopg.sql import Composable

    Connection = psycopg.Connection[tuple[object, ...]]

#: For reading what all views hold, while the snapshot is open on the live server, which removes no dead rows meanwhile: some gigabytes.
_READING_SECONDS = 60.0
#: For the queries of all views together, on the live server: what takes longer stays unproven.
_SECONDS = 20.0
#: From here on COPY takes a materialized view by its name, and plans nothing.
_COPIED_BY_NAME = 180000
#: Numbers of what users made begin here (PostgreSQL, "System Catalog Initial Data").
_FIRST_OF_USERS = 16384
_VIEWS = f"""
    SELECT c.oid, n.nspname, c.relname, r.ev_action::text, pg_get_viewdef(c.oid), {PLANNING_RUNS_CODE}
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_rewrite r ON r.ev_class = c.oid AND r.rulename = '_RETURN'
     WHERE c.relkind = 'm' AND c.relispopulated AND has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE')
       AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
     ORDER BY c.oid"""
#: In the tree of a query (pg_rewrite.ev_action): what reads the clock or the session, chooses among rows, or runs a domain's checks.
_UNSURE = re.compile(
    r"SQLVALUEFUNCTION|NEXTVALUEEXPR|COERCETODOMAIN|TABLESAMPLECLAUSE|WINDOWFUNC|TABLEFUNC|XMLEXPR|:hasDistinctOn true|:limit(?:Count|Offset) \{"
)
_RELATIONS = re.compile(r":relid (\d+)")
_FUNCTIONS = re.compile(r":(?:funcid|opfuncid|aggfnoid) (\d+)")
_OPERATORS = re.compile(r":(?:opno|eqop|sortop) (\d+)")
_TYPES = re.compile(r":(?:resulttype|funcresulttype|aggtype) (\d+)")
#: Sums of floating-point numbers depend on their order, the least text on the collation's version.
_SURE_FUNCTIONS = """
    SELECT p.oid FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
     WHERE p.oid = ANY (%(oids)s::oid[]) AND p.oid < 16384 AND l.lanname = 'internal' AND p.provolatile <> 'v'
       AND (p.prokind = 'f' OR p.proname IN ('count', 'bool_and', 'bool_or', 'every', 'bit_and', 'bit_or')
            OR (p.proname IN ('min', 'max') AND p.proargtypes[0] NOT IN ('text'::regtype, 'bpchar'::regtype))
            OR (p.proname IN ('sum', 'avg') AND p.proargtypes[0] NOT IN ('float4'::regtype, 'float8'::regtype)))
       AND (p.provolatile = 'i' OR p.proname !~ '^(now$|.*_timestamp$|pg_|has_|current_|session_|inet_|txid_|to_reg|obj_|col_|shobj_|version|age$|.*_to_xml)')"""
#: Reading one runs no code of others: see :mod:`~twist_dr.postgres.unplanned`. What inherits is planned, too.
_SURE_RELATIONS = f"""
    SELECT c.oid FROM pg_class c
     WHERE c.oid = ANY (%(oids)s::oid[]) AND c.oid >= 16384 AND c.relkind IN ('r', 'm') AND NOT c.relhassubclass
       AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attgenerated = 'v')
       AND NOT {PLANNING_RUNS_CODE}"""


@dataclass(frozen=True)
class _View:
    oid: int
    name: TableName
    tree: str
    definition: str
    unplanned: bool

    @property
    def of(self) -> set[int]:
        """What it reads. Servers before 16 name the view itself, too."""
        return {int(oid) for oid in _RELATIONS.findall(self.tree)} - {0, self.oid}


def read_views(connection: Connection) -> tuple[dict[str, ViewFacts], list[str]]:
    """What a backup records of each materialized view, by label, in the transaction of ``connection``, and labels of those that could not
    be read in time or at all. Raises psycopg's errors where the connection is lost.

    A view whose rows could only be read by running code of others as our role is left out.
    """
    views = [_View(oid, TableName(schema, name), *rest) for oid, schema, name, *rest in _rows(connection, _VIEWS)]
    held: dict[int, tuple[int, str]] = {}
    unread: list[str] = []
    until = time.monotonic() + _READING_SECONDS
    for view in views:
        if view.unplanned and not _by_name(connection):
            continue
        content = _content_until(connection, _all_of(connection, view.name), until)
        if content is None:
            unread.append(view.name.label)
        else:
            held[view.oid] = content
    proven: set[int] = set()
    deadline = time.monotonic() + _SECONDS
    for view in views:  # what a view reads was made before it
        if view.oid not in held or not _is_sure(connection, view) or not _others(view, views) <= proven:
            continue
        if _content_until(connection, _query(view), deadline) == held[view.oid]:
            proven.add(view.oid)
    facts = {
        view.name.label: ViewFacts(rows=held[view.oid][0], digest=held[view.oid][1], proven=view.oid in proven)
        for view in views
        if view.oid in held
    }
    return facts, unread


def compare_views(connection: Connection, recorded: Mapping[str, ViewFacts]) -> tuple[list[str], list[str]]:
    """Differences and notes about the materialized views of a restored database. Raises psycopg's errors."""
    differences, others = [], []
    for _, schema, name, *_rest in _rows(connection, _VIEWS) if recorded else ():
        facts = recorded.get(TableName(schema, name).label)
        if facts is None:
            continue
        rows, digest = _content(connection, _all_of(connection, TableName(schema, name)))
        if (rows, digest) == (facts.rows, facts.digest):
            continue
        label = TableName(schema, name).label
        if facts.proven:
            told = (
                f"{counted(rows, 'row')} restored where {facts.rows:,} were recorded"
                if rows != facts.rows
                else "its rows came back otherwise"
            )
            differences.append(f"materialized view {label}: {told}")
        else:
            others.append(label)
    if not others:
        return differences, []
    return differences, [
        f"other rows are in {few(sorted(others))} than in the backup: a restore computes materialized views anew, and these may have been older than "
        "their tables, or depend on the time or an order of rows"
    ]


def _rows(
    connection: Connection, statement: str, parameters: Mapping[str, object] | None = None
) -> list[tuple[Any, ...]]:
    return connection.execute(statement.encode(), parameters).fetchall()


def _by_name(connection: Connection) -> bool:
    return connection.info.server_version >= _COPIED_BY_NAME


def _all_of(connection: Connection, name: TableName) -> Composable:
    from psycopg import sql

    view = sql.Identifier(*name)
    return view if _by_name(connection) else sql.SQL("(SELECT * FROM ONLY {})").format(view)


def _others(view: _View, views: Iterable[_View]) -> set[int]:
    return view.of & {each.oid for each in views}


def _is_sure(connection: Connection, view: _View) -> bool:
    """Whether its query runs nothing of others, and gives the same rows whenever its tables hold the same."""
    if _UNSURE.search(view.tree) or any(
        int(oid) >= _FIRST_OF_USERS for oid in [*_OPERATORS.findall(view.tree), *_TYPES.findall(view.tree)]
    ):
        return False
    functions = {int(oid) for oid in _FUNCTIONS.findall(view.tree)} - {0}
    sure = {row[0] for row in _rows(connection, _SURE_FUNCTIONS, {"oids": list(functions)})}
    relations = {row[0] for row in _rows(connection, _SURE_RELATIONS, {"oids": list(view.of)})}
    return functions <= sure and view.of <= relations


def _query(view: _View) -> Composable:
    from psycopg import sql

    return sql.SQL("({})").format(sql.SQL(view.definition.rstrip().removesuffix(";")))


def _content_until(connection: Connection, what: Composable, deadline: float) -> tuple[int, str] | None:
    """None where the server does not answer in time, or refuses, as it does to read a view in a table's place."""
    import psycopg

    left = deadline - time.monotonic()
    if left <= 0:
        return None
    try:
        # A savepoint, so that an error ends neither the transaction nor its snapshot.
        with connection.transaction(force_rollback=True):
            connection.execute(f"SET LOCAL statement_timeout = {max(1, int(left * 1000))}".encode())
            return _content(connection, what)
    except psycopg.Error:
        if connection.closed:
            raise
        return None


def _content(connection: Connection, what: Composable) -> tuple[int, str]:
    """How many rows, and a hash that their order does not change."""
    from psycopg import sql

    total = count = 0
    # Rolled back, so that the locks go.
    with (
        connection.transaction(force_rollback=True),
        connection.cursor().copy(sql.SQL("COPY {} TO STDOUT").format(what)) as copy,
    ):
        for row in lines(bytes(block) for block in copy):
            count += 1
            total += int.from_bytes(hashlib.blake2b(at_utc(row), digest_size=16).digest(), "big")
    return count, f"{total % (1 << 128):032x}"
