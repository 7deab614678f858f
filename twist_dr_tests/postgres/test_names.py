"""Names are data: whatever PostgreSQL allows as one goes through a backup, its verification and its restores, and leads nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from psycopg import sql

from twist_dr.backup.diff import compare
from twist_dr.postgres.cluster import Cluster, query
from twist_dr.postgres.comparison import compare_database
from twist_dr.postgres.dump import restore_database
from twist_dr.postgres.making import make_to_serve
from twist_dr.postgres.own_settings import NO_SETTINGS
from twist_dr.repository.manifest import Manifest, open_manifest
from twist_dr.repository.table_names import TableName, readings, split_names, table_name
from twist_dr.restore.impact_database import database_impact
from twist_dr.restore.tables import restore_tables
from twist_dr.system.progress import Report
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.helpers import KEY, KEYRING
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.verify.test_verification import taken, verified

DATABASES = ["dbname=postgres host=evil", "postgresql://evil/postgres", '-d postgres\n"x" %s {} $(id) \'\\']
TABLES = [
    "new\nline", "a.b", 'qu"ote', "with,comma", " led by space ", "-dash", "select", "%s {} $(touch x) `y`", "back\\slash", "'; DROP TABLE x; --",
    "dbname=x", "x\npg_dump: dumping contents of table \"x\"", "😀" * 15, "x" * 63, "\x1b[31mred\u202e", "tab\tand\rreturn", "TABLE DATA",
]  # fmt: skip


def make(cluster: Cluster, names: Sequence[str]) -> dict[TableName, int]:
    """A database with a schema, a table and a column of each name, and tables that one label would not tell apart; their rows."""
    made = {}
    with cluster.connect() as connection:
        for number, name in enumerate(names):
            connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(name)))
            for table in (TableName("public", name), TableName(name, names[number - 1])):
                statement = sql.SQL("CREATE TABLE {} AS SELECT i AS {} FROM generate_series(1, {}) i")
                connection.execute(statement.format(sql.Identifier(*table), sql.Identifier(name), len(made) + 1))
                made[table] = len(made) + 1
    return made


def there(cluster: Cluster) -> list[str]:
    with cluster.connect() as connection:
        return [name for (name,) in query(connection, "SELECT relname FROM pg_class WHERE oid >= 16384")]


@pytest.mark.parametrize("name", DATABASES)
def test_the_name_of_a_database_never_leads_to_another_one(server: PostgresServer, tmp_path: Path, name: str) -> None:
    quoted = sql.Identifier(name)
    with server.cluster().connect() as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(quoted))
        connection.execute(sql.SQL("CREATE DATABASE {}").format(quoted))
    before = there(server.cluster())
    cluster = server.cluster(name)
    made = make(cluster, ["plain", *TABLES])
    manifest, repository = taken(cluster, tmp_path)
    assert manifest.postgres is not None and manifest.postgres.database == name
    assert manifest.rows == made
    assert verified(cluster, manifest, repository, tmp_path).differences == []

    restored = f"{name}_restore"
    (tmp_path / "fetched").mkdir()
    dump = tmp_path / "fetched" / "database.dump"
    repository.fetch(manifest, "database.dump", KEYRING, dump)
    with server.cluster().connect() as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(restored)))
        make_to_serve(connection, restored, manifest.postgres, NO_SETTINGS, live=name)
    restore_database(server.cluster(), TOOLS[server.major], restored, dump, jobs=2)
    with server.cluster(restored).connect() as connection:
        assert compare_database(connection, manifest, Report()).differences == []
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier("public", "a.b")))
        assert compare_database(connection, manifest, Report()).differences == [
            f'table public."a.b" is missing after the restore ({made[TableName("public", "a.b")]} rows were recorded)'
        ]
        lost = {each.label for each in database_impact(connection, manifest)[0] if each.differs}
        assert lost == {'public."a.b"'}
    wanted = split_names(", ".join(each.label for each in made))
    assert [table_name(each) for each in wanted] == list(made)
    with server.cluster().connect() as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(restored)))
        empty = make_to_serve(connection, restored, manifest.postgres, NO_SETTINGS, live=name)
    some = [each.label for each in list(made)[: 2 if server.major < max(TOOLS) else 8]]
    found = restore_tables(
        server.cluster(), TOOLS[server.major], restored, dump, manifest, some, schema="s", live=None, jobs=1, report=Report(), made=empty
    )  # fmt: skip
    assert found.rows == {table_name(each): made[table_name(each)] for each in some}
    with server.cluster().connect() as connection:
        for database in (restored, name):
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database)))
    assert there(server.cluster()) == before


# -- tables that one label would not tell apart --------------------------------------------------------------------------


def two_tables(server: PostgresServer) -> Cluster:
    cluster = server.create_database("two_of_one_label")
    with cluster.connect() as connection:
        connection.execute('CREATE SCHEMA a; CREATE SCHEMA "a.b"; CREATE TABLE a."b.c" AS SELECT 1 AS id')
        connection.execute('CREATE TABLE "a.b".c AS SELECT generate_series(1, 2) AS id')
    return cluster


def test_two_tables_of_one_label_are_told_apart_and_the_loss_of_one_is_seen(
    newest_server: PostgresServer, tmp_path: Path
) -> None:
    cluster = two_tables(newest_server)
    manifest, repository = taken(cluster, tmp_path)
    assert manifest.format_version == "1.3" and manifest.tables == {'a."b.c"': 1, '"a.b".c': 2}
    assert repository.manifest(manifest.backup_id, KEYRING).rows == {("a", "b.c"): 1, ("a.b", "c"): 2}
    with cluster.connect() as connection:
        connection.execute('DROP TABLE a."b.c"')
        found = compare_database(connection, manifest, Report())
    assert found.differences == ['table a."b.c" is missing after the restore (1 row was recorded)']
    after, _ = taken(cluster, tmp_path / "after")
    assert [(each.name, each.before, each.after) for each in compare(manifest, after).tables] == [('a."b.c"', 1, None)]


def old(manifest: Manifest, tables: dict[str, int]) -> Manifest:
    """As format 1.0 wrote it."""
    made = manifest.model_copy(update={"format_version": "1.0", "tables": tables})
    return open_manifest(made.seal(KEY), KEYRING, application="erp", backup_id=made.backup_id, what="here")


def test_a_manifest_of_format_1_0_is_read_for_ever_and_what_it_leaves_open_is_said(
    newest_server: PostgresServer, tmp_path: Path
) -> None:
    cluster = two_tables(newest_server)
    with cluster.connect() as connection:
        connection.execute('CREATE TABLE "qu""o,te" AS SELECT 1 AS id')
    new, _ = taken(cluster, tmp_path)
    # Both had one label, and the one that was counted last had the number.
    manifest = old(new, {'public.qu"o,te': 1, "a.b.c": 2})
    with cluster.connect() as connection:
        found = compare_database(connection, manifest, Report())
        assert found.differences == []
        assert found.notes == [
            'a."b.c" and "a.b".c were restored, which the backup records as one, a.b.c, with 2 rows: it does not tell the other\'s'
        ]
        connection.execute('DROP TABLE a."b.c"')
        found = compare_database(connection, manifest, Report())
        assert (found.differences, found.notes) == ([], [])
        connection.execute('DROP TABLE "a.b".c')
        found = compare_database(connection, manifest, Report())
        assert found.differences == ["table a.b.c is missing after the restore (2 rows were recorded)"]
    changes = compare(manifest, new).tables
    assert [(each.name, each.before, each.after) for each in changes] == [
        ('"a.b".c', None, 2), ('a."b.c"', None, 1), ("a.b.c (which table of this name was not recorded)", 2, None),
    ]  # fmt: skip
    one = new.model_copy(update={"tables": {'"a.b".c': 2, 'public."qu""o,te"': 1}})
    assert compare(manifest, one).tables == () and compare(one, manifest).tables == ()


def test_tables_are_named_as_in_sql() -> None:
    assert split_names('public.a, "with,comma" ,, "a"."b.c",x') == ["public.a", '"with,comma"', '"a"."b.c"', "x"]
    assert readings('"a"."b.c"') == [("a", "b.c")] and readings("Upper Case") == [("public", "Upper Case")]
    assert readings("a.b.c") == [("a", "b.c"), ("a.b", "c")]
    for wrong in ('"open', '"a"b', "a..b", ".a", "a."):
        with pytest.raises(ValueError, match="as in SQL: public"):
            split_names(wrong)
    with pytest.raises(ValueError, match=r'a\.b\.c may mean a\."b\.c" or "a\.b"\.c'):
        table_name("a.b.c")
