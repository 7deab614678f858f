"""Connecting to the database, and knowing every table that a backup must hold."""

from __future__ import annotations

import secrets
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from twist_dr.errors import DatabaseError, DatabaseRefused, DatabaseRightsMissing, DatabaseUnreachable, RestoreFailed
from twist_dr.postgres.cluster import Cluster, Snapshot
from twist_dr.postgres.dump import dump_database
from twist_dr.restore.database import full_server_named
from twist_dr.system.processes import run
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.helpers import by_label
from twist_dr_tests.servers import PostgresServer, free_port

PASSWORD = "hunter2-and-more"

Connection = psycopg.Connection[Any]


@pytest.fixture
def database(server: PostgresServer) -> Cluster:
    return server.create_database("erp")


@pytest.fixture
def connection(database: Cluster) -> Iterator[Connection]:
    with database.connect() as connection:
        yield connection


@pytest.fixture
def role(server: PostgresServer) -> Iterator[str]:
    """A role without any rights, whose name needs quotes."""
    with server.cluster().connect() as admin:
        admin.execute(f"""CREATE ROLE "Backup User" LOGIN PASSWORD '{PASSWORD}'""")
        yield "Backup User"
        with server.cluster("erp").connect() as inside:
            inside.execute('DROP OWNED BY "Backup User"')
        admin.execute('DROP ROLE "Backup User"')


def as_role(server: PostgresServer, role: str, database: str = "erp") -> Cluster:
    return Cluster(server.url(database, role, PASSWORD))


def shown(error: pytest.ExceptionInfo[BaseException]) -> str:
    """Everything that a log would hold of an error."""
    return "".join(traceback.format_exception(error.type, error.value, error.tb))


# -- connecting -------------------------------------------------------------------------------------------------------


def test_a_server_whose_disk_is_full_when_we_connect_is_no_wrong_password_and_names_the_disk_in_a_restore(
    newest_server: PostgresServer,
) -> None:
    """What a trigger on login meets, or the server before it lets anybody in, ends the connection with these words."""
    full = newest_server.create_database("full")
    with full.connect() as connection:
        connection.execute(
            f"""CREATE ROLE newcomer LOGIN PASSWORD '{PASSWORD}';
               CREATE FUNCTION fill() RETURNS event_trigger LANGUAGE plpgsql AS $$
               BEGIN RAISE EXCEPTION 'could not extend file "base/1": No space left on device' USING ERRCODE = 'disk_full'; END $$;
               CREATE EVENT TRIGGER filling ON login EXECUTE FUNCTION fill();"""
        )
    cluster = as_role(newest_server, "newcomer", "full")
    with pytest.raises(DatabaseError, match="No space left on device; free space on the server's disk") as caught:
        cluster.connect()
    assert not isinstance(caught.value, DatabaseRefused)
    with pytest.raises(RestoreFailed, match="The disk of the database server filled up"), full_server_named():
        cluster.connect()
    with full.connect() as connection:
        connection.execute("DROP EVENT TRIGGER filling; DROP ROLE newcomer")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_wrong_password_is_a_refusal_that_does_not_show_it(newest_server: PostgresServer, host: str) -> None:
    url = newest_server.url("postgres", "postgres", PASSWORD).replace("127.0.0.1", host)
    with pytest.raises(DatabaseRefused, match=rf"postgres at {host}:\d+: .*password.*database\.url") as caught:
        Cluster(url).connect()
    assert not caught.value.retryable
    assert PASSWORD not in shown(caught)


def test_a_database_that_is_not_there_is_a_refusal(newest_server: PostgresServer) -> None:
    with pytest.raises(DatabaseRefused, match='"nobodys" does not exist'):
        newest_server.cluster("nobodys").connect()


def test_a_server_that_is_down_is_unreachable_and_may_come_back() -> None:
    with pytest.raises(DatabaseUnreachable, match="see that the server runs") as caught:
        Cluster(f"postgresql://erp:{PASSWORD}@127.0.0.1:{free_port()}/erp").connect()
    assert caught.value.retryable
    assert PASSWORD not in shown(caught)


def test_a_host_without_an_address_is_unreachable() -> None:
    with pytest.raises(DatabaseUnreachable) as caught:
        Cluster(f"postgresql://erp:{PASSWORD}@db.invalid/erp").connect()
    assert PASSWORD not in shown(caught)


def test_a_server_that_has_no_place_left_may_have_one_later(server: PostgresServer, role: str) -> None:
    server.create_database("erp")
    with server.cluster().connect() as admin:
        admin.execute(f'ALTER ROLE "{role}" CONNECTION LIMIT 1')
    with as_role(server, role).connect(), pytest.raises(DatabaseUnreachable, match="too many"):
        as_role(server, role).connect()


@pytest.mark.parametrize("word", ["hun@ter", "hun/ter", "hun:ter/moo@rab", "hun%zz", "hun ter@moo"])
def test_a_password_that_was_not_encoded_is_said_and_not_shown(word: str) -> None:
    broken = Cluster(f"postgresql://erp:{word}@127.0.0.1:1/erp")
    for use in (broken.connect, broken.environment, lambda: broken.place):
        with pytest.raises(DatabaseError) as caught:
            use()
        said = "".join(traceback.format_exception_only(caught.type, caught.value))
        assert not any(part in said for part in word.replace("@", "/").replace(":", "/").split("/"))
        assert "%40" in said


def test_passwords_with_odd_characters_work_when_encoded(server: PostgresServer, role: str) -> None:
    odd = "p@ss/w:rd 100% 'ü\\"
    with server.create_database("erp").connect() as admin:
        admin.execute(f"""ALTER ROLE "{role}" PASSWORD '{odd.replace("'", "''")}'""")
    cluster = Cluster(
        server.url("erp").replace(server.url("erp").split("@")[0], f"postgresql://{quote(role)}:{quote(odd, safe='')}")
    )
    cluster.connect().close()
    assert odd not in repr(cluster) + cluster.place
    assert cluster.environment()["PGPASSWORD"] == odd


def test_no_password_shows_in_what_is_logged_of_a_cluster() -> None:
    cluster = Cluster(f"postgresql://erp:{PASSWORD}@db.example:5433/erp")
    assert PASSWORD not in repr(cluster) + str(cluster) + cluster.place
    assert cluster.place == "erp at db.example:5433"


def test_time_limits_of_the_role_do_not_end_a_backup(server: PostgresServer, role: str) -> None:
    with server.create_database("erp").connect() as admin:
        for limit in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            admin.execute(f"""ALTER ROLE "{role}" SET {limit} = '1ms'""")
        if server.major >= 17:
            admin.execute(f"""ALTER ROLE "{role}" SET transaction_timeout = '100ms'""")
    with as_role(server, role).connect() as connection:
        connection.execute("SELECT pg_sleep(0.3)")


# -- tables and their rows --------------------------------------------------------------------------------------------

SCHEMA = """
    CREATE TABLE plain (id int); INSERT INTO plain SELECT generate_series(1, 3);
    CREATE TABLE "a b" (id int); INSERT INTO "a b" VALUES (1);
    CREATE TABLE "Upper" (id int); INSERT INTO "Upper" VALUES (1), (2);
    CREATE TABLE "quo""te" (id int); INSERT INTO "quo""te" VALUES (1);
    CREATE TABLE "apo'strophe" (id int);
    CREATE TABLE "do.t" (id int); INSERT INTO "do.t" VALUES (1);
    CREATE TABLE "per%cent {brace}" (id int); INSERT INTO "per%cent {brace}" VALUES (1);
    CREATE TABLE "größe" (id int); INSERT INTO "größe" VALUES (1), (2), (3), (4);
    CREATE TABLE "表" (id int);
    CREATE TABLE no_columns ();
    CREATE SCHEMA "Other Schema";
    CREATE TABLE "Other Schema".plain (id int); INSERT INTO "Other Schema".plain VALUES (1);
    CREATE UNLOGGED TABLE fast (id int); INSERT INTO fast VALUES (1), (2);
    CREATE TABLE sales (id int, year int) PARTITION BY LIST (year);
    CREATE TABLE sales_2025 PARTITION OF sales FOR VALUES IN (2025);
    CREATE TABLE sales_2026 PARTITION OF sales FOR VALUES IN (2026) PARTITION BY LIST (id);
    CREATE TABLE sales_2026_1 PARTITION OF sales_2026 FOR VALUES IN (1);
    INSERT INTO sales VALUES (1, 2025), (2, 2025), (1, 2026);
    CREATE TABLE parent (id int); CREATE TABLE child () INHERITS (parent);
    INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1), (2);
    CREATE VIEW seen AS SELECT * FROM plain;
    CREATE MATERIALIZED VIEW kept AS SELECT * FROM plain;
    CREATE SEQUENCE numbers;
"""
ROWS = {
    "public.plain": 3, "public.a b": 1, "public.Upper": 2, 'public."quo""te"': 1, "public.apo'strophe": 0, 'public."do.t"': 1,
    "public.per%cent {brace}": 1, "public.größe": 4, "public.表": 0, "public.no_columns": 0, "Other Schema.plain": 1,
    "public.fast": 2, "public.sales_2025": 2, "public.sales_2026_1": 1, "public.parent": 1, "public.child": 2,
}  # fmt: skip


def counted(cluster: Cluster) -> tuple[dict[str, int], int]:
    with Snapshot(cluster) as snapshot:
        counts, large_objects = snapshot.count_rows(snapshot.tables()).wait()
    return by_label(counts), large_objects


def dumped(server: PostgresServer, cluster: Cluster, snapshot: Snapshot) -> bytes:
    parts: list[bytes] = []
    dump_database(cluster, TOOLS[server.major], snapshot.id, snapshot.tables(), parts.append)
    return b"".join(parts)


def test_every_kind_of_table_is_counted_once_and_dumped(
    server: PostgresServer, database: Cluster, connection: Connection
) -> None:
    connection.execute(SCHEMA)
    connection.execute("CREATE TEMP TABLE passing (id int)")
    connection.execute("SELECT lo_from_bytea(0, 'one'), lo_from_bytea(0, 'two')")
    with Snapshot(database) as snapshot:
        count = snapshot.count_rows(snapshot.tables())
        counts, large_objects = count.wait()
        assert (by_label(counts), large_objects) == (ROWS, 2)
        assert dumped(server, database, snapshot).startswith(b"PGDMP")


def test_more_tables_than_one_statement_counts_are_all_counted(database: Cluster, connection: Connection) -> None:
    connection.execute(";".join(f"CREATE TABLE t{n} AS SELECT generate_series(1, {n})" for n in range(230)))
    rows, _ = counted(database)
    assert rows == {f"public.t{n}": n for n in range(230)}


def test_tables_that_belong_to_an_extension_come_with_the_extension(
    server: PostgresServer, database: Cluster, connection: Connection
) -> None:
    connection.execute("CREATE TABLE setting (id int); CREATE TABLE ours (id int)")
    connection.execute("ALTER EXTENSION plpgsql ADD TABLE setting")
    with Snapshot(database) as snapshot:
        assert [table.label for table in snapshot.tables()] == ["public.ours"]
        dumped(server, database, snapshot)


def test_an_empty_database_has_no_tables_and_can_be_dumped(server: PostgresServer, database: Cluster) -> None:
    assert counted(database) == ({}, 0)
    with Snapshot(database) as snapshot:
        assert dumped(server, database, snapshot).startswith(b"PGDMP")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_tables_with_odd_names_are_dumped_from_a_database_that_is_not_utf8(
    server: PostgresServer, encoding: str
) -> None:
    with server.cluster().connect() as admin:
        admin.execute("DROP DATABASE IF EXISTS other")
        admin.execute(f"CREATE DATABASE other TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'")
    other = server.cluster("other")
    with other.connect() as connection:
        connection.execute('CREATE TABLE "größe" (wort text)')
        connection.execute("INSERT INTO \"größe\" VALUES ('übergroß')")
    assert counted(other) == ({"public.größe": 1}, 0)
    with Snapshot(other) as snapshot:
        assert snapshot.facts("18.6").encoding == encoding
        assert dumped(server, other, snapshot).startswith(b"PGDMP")


def test_rows_written_after_the_snapshot_are_neither_counted_nor_dumped(
    server: PostgresServer, database: Cluster, connection: Connection
) -> None:
    before, after = secrets.token_hex(8), secrets.token_hex(8)
    connection.execute(f"CREATE TABLE ledger AS SELECT '{before}'::text AS entry")
    with Snapshot(database) as snapshot:
        tables = snapshot.tables()
        connection.execute(f"INSERT INTO ledger VALUES ('{after}')")
        connection.execute("CREATE TABLE later (id int)")
        assert by_label(snapshot.count_rows(tables).wait()[0]) == {"public.ledger": 1}
        dump = dumped(server, database, snapshot)
    assert before.encode() in dump
    assert after.encode() not in dump


def test_leaving_in_the_middle_of_a_long_count_does_not_wait_for_it(database: Cluster, connection: Connection) -> None:
    connection.execute("CREATE TABLE locked (id int)")
    with Snapshot(database) as snapshot:
        tables = snapshot.tables()
        with connection.transaction():
            connection.execute("LOCK TABLE locked IN ACCESS EXCLUSIVE MODE")
            count = snapshot.count_rows(tables)
            snapshot.__exit__()
            assert not count.thread.is_alive()
    with pytest.raises(DatabaseError):
        count.wait()


def test_migrations_are_read_in_the_order_of_their_application(database: Cluster, connection: Connection) -> None:
    with Snapshot(database) as snapshot:
        assert snapshot.migrations() == {}
    connection.execute(
        "CREATE TABLE django_migrations (id serial, app text, name text);"
        "INSERT INTO django_migrations (app, name) VALUES ('b', '0001'), ('a', '0001'), ('b', '0003'), ('b', '0002')"
    )
    with Snapshot(database) as snapshot:
        assert snapshot.migrations() == {"b": ["0001", "0003", "0002"], "a": ["0001"]}


def test_the_facts_are_those_of_the_server(server: PostgresServer, database: Cluster, connection: Connection) -> None:
    with Snapshot(database) as snapshot:
        facts = snapshot.facts("18.6")
    assert (facts.major, facts.database, facts.encoding, facts.dumped_as) == (server.major, "erp", "UTF8", "postgres")
    assert (facts.timeline, facts.in_recovery, facts.bootstrap_role) == (1, False, "postgres")
    row = connection.execute("SELECT system_identifier::text FROM pg_control_system()").fetchone()
    assert row is not None and facts.system_identifier == row[0]
    assert [extension.name for extension in facts.extensions] == ["plpgsql"]
    assert facts.database_size > 1_000_000


# -- rights -----------------------------------------------------------------------------------------------------------


def test_a_role_that_row_level_security_filters_is_refused_with_the_statement_that_helps(
    server: PostgresServer, connection: Connection, role: str
) -> None:
    connection.execute(
        f'CREATE TABLE invoice (tenant int); GRANT SELECT ON invoice TO "{role}";'
        "ALTER TABLE invoice ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON invoice USING (tenant = 1)"
    )
    with Snapshot(as_role(server, role)) as snapshot, pytest.raises(DatabaseRightsMissing) as caught:
        snapshot.tables()
    assert "public.invoice" in str(caught.value)
    statement = str(caught.value).partition("as a superuser run: ")[2]
    assert statement == 'ALTER ROLE "Backup User" BYPASSRLS'
    connection.execute(statement)
    with Snapshot(as_role(server, role)) as snapshot:
        assert [table.label for table in snapshot.tables()] == ["public.invoice"]


def test_an_owner_under_forced_row_level_security_is_refused(
    server: PostgresServer, connection: Connection, role: str
) -> None:
    connection.execute(
        f'CREATE TABLE invoice (tenant int); ALTER TABLE invoice OWNER TO "{role}";'
        "ALTER TABLE invoice ENABLE ROW LEVEL SECURITY"
    )
    with Snapshot(as_role(server, role)) as snapshot:
        assert len(snapshot.tables()) == 1
    connection.execute("ALTER TABLE invoice FORCE ROW LEVEL SECURITY")
    with Snapshot(as_role(server, role)) as snapshot, pytest.raises(DatabaseRightsMissing, match="BYPASSRLS"):
        snapshot.tables()


def test_tables_that_the_role_may_not_read_are_named_with_the_statement_that_helps(
    server: PostgresServer, connection: Connection, role: str
) -> None:
    connection.execute(
        "CREATE TABLE open_one (id int); CREATE SCHEMA closed; CREATE TABLE closed.inner (id int);"
        + "".join(f"CREATE TABLE secret{n} (id int);" for n in range(4))
        + f'GRANT SELECT ON open_one, closed.inner TO "{role}"'
    )
    with Snapshot(as_role(server, role)) as snapshot, pytest.raises(DatabaseRightsMissing) as caught:
        snapshot.tables()
    message = str(caught.value)
    assert "may not read closed.inner, public.secret0, public.secret1 and 2 more" in message
    statement = message.partition("as a superuser run: ")[2].partition(" (")[0]
    connection.execute(statement)
    with Snapshot(as_role(server, role)) as snapshot:
        assert len(snapshot.tables()) == 6


def test_an_ordinary_role_is_told_apart_from_one_that_reads_password_hashes(
    server: PostgresServer, database: Cluster, role: str
) -> None:
    with Snapshot(database) as snapshot:
        assert snapshot.may_read_role_passwords()
    with Snapshot(as_role(server, role)) as snapshot:
        assert not snapshot.may_read_role_passwords()
        assert snapshot.facts("18.6").system_identifier is not None


def test_thousands_of_tables_do_not_fill_the_lock_table_of_the_server(server: PostgresServer) -> None:
    cluster = server.create_database("many_tables")
    with cluster.connect() as connection:
        for start in range(0, 900, 100):
            statements = [
                f"CREATE TABLE t{n} (a int PRIMARY KEY, b int UNIQUE, c int UNIQUE)" for n in range(start, start + 100)
            ]
            connection.execute("; ".join(statements))
    with Snapshot(cluster) as snapshot:
        tables = snapshot.tables()
        counts, _ = snapshot.count_rows(tables).wait()
        with cluster.connect() as connection:
            held = connection.execute("SELECT count(*) FROM pg_locks WHERE mode = 'AccessShareLock'").fetchone()
    assert len(counts) == 900
    assert held is not None and held[0] < 100, "a count that is done holds no lock any more"


def test_migrations_are_found_whatever_the_search_path_and_in_every_schema(server: PostgresServer) -> None:
    cluster = server.create_database("schemas")
    with cluster.connect() as connection:
        for schema in ("tenant_a", "tenant_b"):
            connection.execute(f"CREATE SCHEMA {schema}")
            connection.execute(f"CREATE TABLE {schema}.django_migrations (id serial, app text, name text)")
            connection.execute(f"INSERT INTO {schema}.django_migrations (app, name) VALUES ('shop', '0001_initial')")
        with Snapshot(cluster) as snapshot:
            assert snapshot.migrations() == {"tenant_a.shop": ["0001_initial"], "tenant_b.shop": ["0001_initial"]}
        connection.execute("DROP SCHEMA tenant_b CASCADE")
        with Snapshot(cluster) as snapshot:
            assert snapshot.migrations() == {"shop": ["0001_initial"]}


def test_children_go_where_we_are_connected_even_when_a_service_file_says_otherwise(
    newest_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = newest_server.create_database("ours")
    (tmp_path / "services.conf").write_text("[prod]\nhost=127.0.0.1\nport=1\ndbname=elsewhere\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services.conf"))
    monkeypatch.setenv("PGSERVICE", "prod")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    psql = [
        newest_server.tools.program("psql"),
        "-X",
        "-A",
        "-t",
        "-c",
        "SELECT current_database(), current_setting('client_encoding')",
    ]
    assert run(psql, environment=cluster.environment()).decode().strip() in ("ours|UTF8", "ours|SQL_ASCII")
