"""PostgreSQL's own inner workings are left out of a restore, and nothing that only looks like them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twist_dr.postgres.cluster import Cluster, query
from twist_dr.postgres.dump import custom_dump, restore_database
from twist_dr.postgres.dump_internals import leave_out_internals
from twist_dr.postgres.dump_toc import read_entries, read_header
from twist_dr.postgres.tools import Tools
from twist_dr.system.processes import run
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.servers import PostgresServer

NEWEST = TOOLS[max(TOOLS)]
STATEMENT = "ALTER TABLE ONLY public.t ALTER COLUMN a SET (pg_attver=1);"
NAME = "t; ALTER TABLE ONLY x ALTER COLUMN a SET (pg_attver=1);"
SCHEMA = f"""
    CREATE TABLE t (a int, b text DEFAULT $d$
{STATEMENT}
$d$, c text DEFAULT E'\\'; -- {STATEMENT}');
    ALTER TABLE t ALTER a SET (n_distinct = 5, n_distinct_inherited = 7), ALTER c SET (n_distinct = -0.5);
    CREATE TABLE "{NAME}" ("{STATEMENT}" int, "pg_attver=1" int);
    CREATE TABLE parted (a int) PARTITION BY LIST (a);
    CREATE TABLE part PARTITION OF parted FOR VALUES IN (1);
    CREATE VIEW v AS SELECT a, '{STATEMENT}' AS word FROM t;
    CREATE MATERIALIZED VIEW m AS SELECT a, '{STATEMENT}' AS word FROM t;
    CREATE FOREIGN DATA WRAPPER w;
    CREATE SERVER s FOREIGN DATA WRAPPER w;
    CREATE FOREIGN TABLE f (a int OPTIONS (x '{STATEMENT}')) SERVER s;
    CREATE TYPE pair AS (a int, b int);
    CREATE FUNCTION body() RETURNS text LANGUAGE sql AS $$ SELECT '
{STATEMENT}
' $$;
    COMMENT ON TABLE t IS '
{STATEMENT}
';
    INSERT INTO t VALUES (1, E'\\n{STATEMENT}\\n');
"""
LOOK = (
    "SELECT t::text FROM t",
    """SELECT attrelid::regclass || ' ' || attname || ' ' || option FROM pg_attribute, unnest(attoptions) AS option
        WHERE attrelid > 16383 AND option !~ '^pg_attver='""",
    """SELECT attrelid::regclass || ' ' || attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
        WHERE c.oid > 16383 AND attnum > 0 AND c.relnamespace = 'public'::regnamespace""",
    "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef",
    # Versions differ in how a view names its columns.
    "SELECT regexp_replace(pg_get_viewdef(oid), 't\\.', '', 'g') FROM pg_class WHERE relkind IN ('v', 'm') AND oid > 16383",
    "SELECT pg_get_functiondef('body'::regproc)",
    "SELECT obj_description('t'::regclass)",
    "SELECT attfdwoptions::text FROM pg_attribute WHERE attfdwoptions IS NOT NULL",
)


def dumped(cluster: Cluster, tools: Tools, dump: Path) -> Path:
    with dump.open("wb") as file:
        custom_dump(cluster, tools, [], file.write)
    return dump


def keeps_internals(server: PostgresServer) -> bool:
    with server.cluster().connect() as connection:
        return bool(query(connection, "SELECT 1 FROM pg_attribute WHERE attoptions::text ~ 'pg_attver=' LIMIT 1"))


def test_internal_options_go_and_all_else_comes_back(
    server: PostgresServer, newest_server: PostgresServer, tmp_path: Path
) -> None:
    cluster = server.create_database("internals")
    with cluster.connect() as connection:
        connection.execute(SCHEMA)
    dump = dumped(cluster, NEWEST, tmp_path / "database.dump")
    warnings = leave_out_internals(dump)
    if keeps_internals(server):
        (warning,) = warnings
        assert warning.startswith("the internal column option pg_attver was left out of 10 columns: ")
    else:
        assert warnings == []
    script = run([NEWEST.program("pg_restore"), "--file=-", "--schema-only", dump]).decode()
    assert "\nALTER TABLE ONLY public.t ALTER COLUMN a SET (n_distinct=5, n_distinct_inherited=7" in script
    newest_server.create_database("internals_restored")
    restore_database(newest_server.cluster(), NEWEST, "internals_restored", dump, jobs=1)
    with cluster.connect() as before, newest_server.cluster("internals_restored").connect() as after:
        for look in LOOK:
            assert sorted(query(before, look)) == sorted(query(after, look))


def test_a_storage_targets_link_to_the_dump_is_not_changed(server: PostgresServer, tmp_path: Path) -> None:
    cluster = server.create_database("internals")
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE t (a int)")
    dump = dumped(cluster, NEWEST, tmp_path / "database.dump")
    stored = tmp_path / "stored.dump"
    stored.hardlink_to(dump)
    before = stored.read_bytes()
    assert bool(leave_out_internals(dump)) == keeps_internals(server)
    assert stored.read_bytes() == before
    assert leave_out_internals(dump) == []


@pytest.mark.parametrize(
    "content", [b"", b"PGDMP", b"SELECT 1;" * 1000, b"PGDMP" + bytes([1, 99, 0, 4, 8, 1]) + bytes(900)]
)
def test_what_is_no_dump_that_we_know_is_left_alone(tmp_path: Path, content: bytes) -> None:
    dump = tmp_path / "database.dump"
    dump.write_bytes(content)
    assert leave_out_internals(dump) == []
    assert dump.read_bytes() == content


def _text(text: bytes | None) -> bytes:
    return bytes([1]) + (1).to_bytes(4, "little") if text is None else _number(len(text)) + text


def _number(value: int) -> bytes:
    return bytes([0]) + value.to_bytes(4, "little")


def archive(definition: bytes) -> bytes:
    """A custom-format dump of one table, as pg_dump 18 lays it out."""
    head = b"PGDMP" + bytes([1, 16, 0, 4, 8, 1, 0]) + 7 * _number(0) + _text(b"db") + _text(b"15.20") + _text(b"18.6")
    entry = _number(1) + _number(0) + _text(b"1259") + _text(b"1") + _text(b"t") + _text(b"TABLE") + _number(2)
    entry += _text(definition) + _text(b"DROP") + _text(None) + _text(b"public") + _text(b"") + _text(b"heap")
    entry += _number(0) + _text(b"owner") + _text(b"false") + _text(None) + bytes([3]) + bytes(8)
    return head + _number(1) + entry + b"rows"


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


WORDS = st.sampled_from(
    [STATEMENT, ";", "'", '"', "$$", "--", "/*", "*/", "\n", " SET (pg_attver=1);", "é", "😀", "(", ")"]
)
NAMES = st.lists(
    st.one_of(WORDS, st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)),
    min_size=1,
    max_size=6,
)


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(schema=NAMES, table=NAMES, column=NAMES, literal=NAMES)
def test_only_the_option_goes_whatever_names_and_texts_are_like(
    tmp_path: Path, schema: list[str], table: list[str], column: list[str], literal: list[str]
) -> None:
    relation, name = f"{quoted(''.join(schema))}.{quoted(''.join(table))}", quoted("".join(column))
    text = "'" + "".join(literal).replace("'", "''") + "'"
    before = f"CREATE TABLE {relation} (\n    {name} text DEFAULT {text},\n    b integer\n);\n"
    begin = f"ALTER TABLE ONLY {relation} ALTER COLUMN"
    internal = f"{begin} {name} SET (pg_attver=22300824);"
    mixed = f"{begin} b SET (n_distinct=5, pg_attver=7, n_distinct_inherited=-0.5);"
    kept = f"{begin} b SET (n_distinct=5, n_distinct_inherited=-0.5"
    dump = tmp_path / "database.dump"
    dump.write_bytes(archive(f"{before}{internal}\n{mixed}\n".encode()))
    size = dump.stat().st_size
    (warning,) = leave_out_internals(dump)
    assert "left out of 2 columns" in warning
    assert dump.stat().st_size == size
    with dump.open("rb") as file:
        (entry,) = read_entries(file, read_header(file), [b"TABLE"])
    padding = "pg_attver=7, "
    assert entry.definition.decode() == f"{before}{' ' * len(internal.encode())}\n{kept}{' ' * len(padding)});\n"
    assert dump.read_bytes().endswith(b"rows")
