"""Promise 3 for single tables: they come back beside the live ones, whole, and the live ones are what they were."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from twist_dr.errors import Cancelled, RestoreFailed
from twist_dr.postgres.cluster import Cluster, query
from twist_dr.postgres.making import make_to_serve
from twist_dr.postgres.own_settings import NO_SETTINGS
from twist_dr.postgres.tools import Tools
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.table_names import TableName
from twist_dr.restore.tables import RestoredTables, restore_tables
from twist_dr.system.progress import Report
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.helpers import KEYRING, by_label, program
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.verify.test_verification import taken

SCHEMA = "restored_20261121t120000"
ODD = 'Odd, "quoted" na.me\'s'
ODD_LABEL = TableName("ten.ant one", ODD).label

ERP = f"""
    CREATE SCHEMA extensions; CREATE EXTENSION citext; CREATE EXTENSION ltree SCHEMA extensions;
    CREATE SCHEMA sales; CREATE SCHEMA "ten.ant one";
    CREATE TYPE mood AS ENUM ('glad', 'sad');
    CREATE DOMAIN amount AS numeric CHECK (VALUE >= 0);
    CREATE FUNCTION inner_code() RETURNS text LANGUAGE sql AS $$ SELECT 'code' $$;
    CREATE FUNCTION new_code() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN public.inner_code(); END $$;
    CREATE FUNCTION twice(numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a trigger ran'; END $$;
    CREATE SEQUENCE numbers;

    CREATE TABLE customer (id serial PRIMARY KEY, email citext UNIQUE, path extensions.ltree, mood mood);
    CREATE TABLE invoice (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer_id int NOT NULL REFERENCES customer,
        net amount, gross numeric GENERATED ALWAYS AS (twice(net)) STORED, code text DEFAULT new_code(),
        number bigint DEFAULT nextval('numbers'), CONSTRAINT small CHECK (net < 1000000));
    CREATE INDEX by_customer ON invoice (customer_id) WHERE net > 10;
    CREATE TABLE payment (id int PRIMARY KEY, invoice_id bigint REFERENCES invoice, number bigint DEFAULT nextval('customer_id_seq'),
        other bigint DEFAULT nextval('invoice_id_seq'));
    CREATE VIEW open_invoice AS SELECT * FROM invoice;
    CREATE FUNCTION worth(invoice) RETURNS numeric LANGUAGE sql AS 'SELECT ($1).net';
    CREATE TABLE archive (kept invoice);
    INSERT INTO customer (email, path, mood)
        SELECT i || '@Example.com', ('top.n' || i)::extensions.ltree, 'sad' FROM generate_series(1, 50) i;
    INSERT INTO invoice (customer_id, net) SELECT 1 + i % 50, i FROM generate_series(1, 300) i;
    INSERT INTO payment (id, invoice_id) SELECT i, i FROM generate_series(1, 20) i;
    INSERT INTO archive SELECT i FROM invoice i;
    CREATE TRIGGER noted BEFORE INSERT ON invoice FOR EACH ROW EXECUTE FUNCTION note();
    ALTER TABLE invoice ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON invoice USING (false);
    GRANT ALL ON invoice TO PUBLIC;

    CREATE TABLE entry (day date, id int, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
    CREATE INDEX entry_by_id ON entry (id);
    CREATE TABLE entry_2025 PARTITION OF entry FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
    CREATE TABLE entry_2026 PARTITION OF entry FOR VALUES FROM ('2026-01-01') TO ('2027-01-01') PARTITION BY LIST (id);
    CREATE TABLE sales.entry_2026_one PARTITION OF entry_2026 FOR VALUES IN (1);
    INSERT INTO entry SELECT '2025-01-01'::date + i, i FROM generate_series(1, 40) i UNION SELECT '2026-05-05', 1;

    CREATE TABLE thing (id int PRIMARY KEY, name text);
    CREATE TABLE car (wheels int UNIQUE) INHERITS (thing);
    INSERT INTO thing VALUES (1, 'a thing'); INSERT INTO car VALUES (2, 'a car', 4), (3, 'another', 3);

    CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER elsewhere FOREIGN DATA WRAPPER nowhere;
    CREATE USER MAPPING FOR PUBLIC SERVER elsewhere OPTIONS (password 'secret');
    CREATE TABLE log (day date, line text) PARTITION BY RANGE (day);
    CREATE TABLE log_here PARTITION OF log FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    CREATE FOREIGN TABLE log_there PARTITION OF log FOR VALUES FROM ('2020-01-01') TO ('2026-01-01') SERVER elsewhere;
    INSERT INTO log VALUES ('2026-02-02', 'a line');
    CREATE TABLE attachment AS SELECT 1 AS id, lo_from_bytea(0, 'content') AS content;
    CREATE UNLOGGED TABLE cache (key text PRIMARY KEY);

    CREATE TABLE sales.invoice (id int PRIMARY KEY);
    INSERT INTO sales.invoice SELECT generate_series(1, 7);
    CREATE TABLE "ten.ant one"."{ODD.replace('"', '""')}" ("A b" int PRIMARY KEY, "select" text DEFAULT 'x''y');
    INSERT INTO "ten.ant one"."{ODD.replace('"', '""')}" SELECT generate_series(1, 9);
    CREATE TABLE "Upper Case" (id serial); INSERT INTO "Upper Case" DEFAULT VALUES;
    CREATE TABLE "dotted.name" AS SELECT 1 AS id;
"""


@dataclass(frozen=True)
class Backup:
    """A backup of the database above, its dump fetched, and the server that it came from."""

    server: PostgresServer
    source: str
    manifest: Manifest
    dump: Path
    tools: Tools
    counter: Iterator[int]

    def copy_of_live(self) -> str:
        """A live database of its own for a test, as it was when the backup was taken."""
        name = f"live_{next(self.counter)}"
        with self.server.cluster().connect() as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {self.source}")
        return name

    def restore(
        self,
        *tables: str,
        live: str | None = None,
        report: Report | None = None,
        tools: Tools | None = None,
        cluster: Cluster | None = None,
        manifest: Manifest | None = None,
    ) -> tuple[RestoredTables, Cluster]:
        """What was restored, and the database where it is."""
        assert self.manifest.postgres is not None
        side = f"side_{next(self.counter)}"
        cluster = cluster or self.server.cluster()
        with cluster.connect("postgres") as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {side} WITH (FORCE)")
            made = make_to_serve(connection, side, self.manifest.postgres, NO_SETTINGS)
        try:
            found = restore_tables(
                cluster, tools or self.tools, side, self.dump, manifest or self.manifest, tables,
                schema=SCHEMA, live=live, jobs=2, report=report or Report(), made=made,
            )  # fmt: skip
        finally:
            assert [path for path in self.dump.parent.iterdir() if path.suffix == ".list"] == []
        return found, self.server.cluster(live or side)


@pytest.fixture(scope="module")
def backup(server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Backup:
    folder = tmp_path_factory.mktemp("tables")
    cluster = server.create_database("tables")
    with cluster.connect() as connection:
        connection.execute(ERP)
    return fetch(server, "tables", folder)


def fetch(server: PostgresServer, database: str, folder: Path) -> Backup:
    """A backup of a database, with its dump fetched as a restore fetches it."""
    manifest, repository = taken(server.cluster(database), folder)
    (folder / "fetched").mkdir()
    dump = folder / "fetched" / "database.dump"
    repository.fetch(manifest, "database.dump", KEYRING, dump)
    return Backup(server, database, manifest, dump, TOOLS[server.major], itertools.count())


def ask(cluster: Cluster, statement: str) -> list[tuple[Any, ...]]:
    with cluster.connect() as connection:
        return query(connection, statement)


def one(cluster: Cluster, statement: str) -> Any:
    return ask(cluster, statement)[0][0]


def state(cluster: Cluster) -> list[Any]:
    """All that the live database has outside the restored schema: rows where they lie and by whom written, definitions, grants, values."""
    found: list[Any] = []
    with cluster.connect() as connection:
        relations = query(
            connection,
            f"""SELECT n.nspname, c.relname, c.oid::bigint, c.relfilenode::bigint, c.relkind::text, c.relacl::text, c.relhassubclass,
                       c.relhastriggers, c.reltype::bigint
                  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', '{SCHEMA}') ORDER BY 1, 2""",
        )
        found += relations
        found += query(
            connection, f"SELECT nspname, nspacl::text FROM pg_namespace WHERE nspname <> '{SCHEMA}' ORDER BY 1"
        )
        for schema, name, *_, kind, _acl, _sub, _trigger, _type in relations:
            label = '"' + schema + '"."' + name.replace('"', '""') + '"'
            if kind == "r":
                found += query(
                    connection,
                    f"SELECT count(*), md5(string_agg(ctid::text || xmin || t::text, ',' ORDER BY ctid)) FROM ONLY {label} t",
                )
            elif kind == "S":
                found += query(connection, f"SELECT last_value, is_called FROM {label}")
    return found


def constraints(cluster: Cluster, table: str) -> set[tuple[str, str]]:
    rows = ask(
        cluster,
        f"SELECT conname, contype::text FROM pg_constraint WHERE conrelid = '{table}'::regclass AND contype <> 'n'",
    )
    return {(name, kind) for name, kind in rows}


INVOICE_DIGEST = "SELECT md5(string_agg(i::text, ',' ORDER BY id)) FROM {} i"


# -- a sandbox ----------------------------------------------------------------------------------------------------------


def test_in_a_sandbox_a_table_has_its_rows_defaults_sequences_keys_and_indexes(backup: Backup) -> None:
    found, sandbox = backup.restore("invoice")
    assert by_label(found.rows) == {"public.invoice": 300}
    assert one(sandbox, INVOICE_DIGEST.format("invoice")) == one(
        backup.server.cluster(backup.source), INVOICE_DIGEST.format("invoice")
    )
    assert constraints(sandbox, "invoice") == {("invoice_pkey", "p"), ("small", "c")}
    indexes = ask(sandbox, "SELECT indexname FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1")
    assert ("by_customer",) in indexes
    fresh = "INSERT INTO invoice (customer_id, net) VALUES (1, 7) RETURNING id, gross, code, number"
    assert ask(sandbox, fresh) == [(321, 14, "code", 301)]
    assert "300 rows" in found.sentence and sandbox.parameters["dbname"] in found.sentence
    assert found.notes == [
        "left out of the restored tables: foreign keys of and to them (2), policies (1), triggers (1)"
    ]


def test_in_a_sandbox_no_other_table_has_rows(backup: Backup) -> None:
    _, sandbox = backup.restore("invoice", ODD_LABEL)
    tables = [
        (schema, name)
        for schema, name in ask(
            sandbox,
            "SELECT schemaname, relname FROM pg_stat_user_tables ORDER BY 1, 2",
        )
    ]
    # Its row type leans on invoice, so it may be there; its rows are not.
    assert set(tables) <= {("public", "invoice"), ("ten.ant one", ODD), ("public", "archive")}
    assert one(sandbox, "SELECT count(*) FROM archive") == 0


def test_a_table_whose_default_draws_from_another_tables_sequence_comes_back(backup: Backup) -> None:
    _, sandbox = backup.restore("payment")
    assert one(sandbox, "INSERT INTO payment (id) VALUES (99) RETURNING number") == 71
    assert one(sandbox, "SELECT count(*) FROM invoice") == 0


def test_odd_names_are_found_and_come_back(backup: Backup) -> None:
    found, sandbox = backup.restore(ODD_LABEL, "Upper Case", "public.dotted.name", "sales.invoice")
    assert by_label(found.rows) == {
        ODD_LABEL: 9, "public.Upper Case": 1, 'public."dotted.name"': 1, "sales.invoice": 7,
    }  # fmt: skip
    assert one(sandbox, 'SELECT count(*) FROM "Upper Case"') == 1
    again, _ = backup.restore("dotted.name")
    assert by_label(again.rows) == {'public."dotted.name"': 1}


def test_a_partitioned_table_comes_with_its_whole_tree(backup: Backup) -> None:
    found, sandbox = backup.restore("entry")
    assert by_label(found.rows) == {"public.entry_2025": 40, "sales.entry_2026_one": 1}
    assert one(sandbox, "SELECT count(*) FROM entry") == 41
    # The partitions' indexes are attached, so that the parent's key and index are whole.
    assert ask(sandbox, "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid") == []
    assert constraints(sandbox, "entry") == {("entry_pkey", "p")}


def test_a_partition_by_itself_stands_alone(backup: Backup) -> None:
    found, sandbox = backup.restore("entry_2025")
    assert by_label(found.rows) == {"public.entry_2025": 40}
    assert not one(sandbox, "SELECT relispartition FROM pg_class WHERE relname = 'entry_2025'")


def test_a_table_comes_with_those_that_inherit_from_it(backup: Backup) -> None:
    found, sandbox = backup.restore("thing")
    assert by_label(found.rows) == {"public.thing": 1, "public.car": 2}
    assert one(sandbox, "SELECT count(*) FROM thing") == 3


def test_what_leads_to_other_servers_stays_away(backup: Backup) -> None:
    found, sandbox = backup.restore("log")
    assert by_label(found.rows) == {"public.log_here": 1}
    assert one(sandbox, "SELECT line FROM log") == "a line"
    assert ask(sandbox, "SELECT 1 FROM pg_foreign_server") == []
    assert "foreign tables are left out" in " ".join(found.notes)


def test_what_a_table_lacks_by_its_nature_is_said(backup: Backup) -> None:
    found, _ = backup.restore("attachment")
    assert found.notes == [
        "large objects, to which public.attachment may point, are left out: a restore of the whole backup has them"
    ]
    facts = backup.manifest.postgres
    assert facts is not None
    tables = {label: rows for label, rows in backup.manifest.tables.items() if label != "public.cache"}
    standby = backup.manifest.model_copy(
        update={"tables": tables, "postgres": facts.model_copy(update={"in_recovery": True})}
    )
    found, _ = backup.restore("cache", manifest=standby)
    assert by_label(found.rows) == {"public.cache": 0} and "public.cache came back empty" in found.notes[0]
    with pytest.raises(RestoreFailed, match=r"public\.cache has 0 rows where none were recorded"):
        backup.restore("cache", manifest=backup.manifest.model_copy(update={"tables": tables}))


# -- a schema of the live database ----------------------------------------------------------------------------------------


def test_in_the_live_database_tables_come_into_a_schema_of_their_own_and_all_else_stays(backup: Backup) -> None:
    live = backup.server.cluster(backup.copy_of_live())
    with live.connect() as connection:
        connection.execute("ALTER TABLE invoice DISABLE TRIGGER noted; DELETE FROM payment; UPDATE invoice SET net = 0")
        connection.execute("CREATE TABLE reminder (invoice_id bigint REFERENCES invoice)")
    before = state(live)
    name = live.parameters["dbname"]
    found, live = backup.restore("invoice", "customer", "entry", "thing", ODD_LABEL, "Upper Case", live=name)
    assert by_label(found.rows)["public.invoice"] == 300 and sum(found.rows.values()) == 300 + 50 + 41 + 3 + 9 + 1
    assert f'DROP SCHEMA "{SCHEMA}" CASCADE' in found.sentence
    then = one(backup.server.cluster(backup.source), INVOICE_DIGEST.format("invoice"))
    assert one(live, INVOICE_DIGEST.format(f"{SCHEMA}.invoice")) == then
    assert constraints(live, f"{SCHEMA}.invoice") == {("invoice_pkey", "p"), ("small", "c")}
    assert one(live, f"SELECT count(*) FROM {SCHEMA}.entry") == 41
    assert one(live, f"SELECT count(*) FROM {SCHEMA}.thing") == 3
    assert state(live) == before
    # New rows draw from the restored sequences, never from the live ones.
    fresh = f"INSERT INTO {SCHEMA}.invoice (customer_id, net) VALUES (1, 7) RETURNING id, code, number"
    assert ask(live, fresh) == [(321, "code", 301)]
    assert one(live, f"INSERT INTO {SCHEMA}.customer (email) VALUES ('new@x') RETURNING id") == 71
    assert state(live) == before
    with live.connect() as connection:
        connection.execute(f'DROP SCHEMA "{SCHEMA}" CASCADE')
    assert state(live) == before


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE payment, invoice CASCADE",
        "ALTER TABLE invoice RENAME TO bill",
        "ALTER TABLE invoice DROP COLUMN net CASCADE, ADD COLUMN more int",
        "ALTER TABLE archive ALTER kept TYPE text USING kept::text; DROP VIEW open_invoice; DROP FUNCTION worth",
    ],
)
def test_it_does_not_matter_what_became_of_the_live_table(backup: Backup, change: str) -> None:
    live = backup.server.cluster(backup.copy_of_live())
    with live.connect() as connection:
        connection.execute(change.encode())
    before = state(live)
    found, live = backup.restore("invoice", live=live.parameters["dbname"])
    assert by_label(found.rows) == {"public.invoice": 300}
    assert one(live, f"SELECT sum(net) FROM {SCHEMA}.invoice") == 45150
    assert state(live) == before


def test_what_inherits_from_a_table_left_out_does_not_show_in_the_live_one(backup: Backup) -> None:
    name = backup.copy_of_live()
    before = state(backup.server.cluster(name))
    found, live = backup.restore("car", "entry_2025", "payment", live=name)
    assert one(live, "SELECT count(*) FROM thing") == 3 and one(live, f"SELECT count(*) FROM {SCHEMA}.car") == 2
    assert one(live, "SELECT count(*) FROM entry") == 41
    assert ask(live, f"INSERT INTO {SCHEMA}.payment (id) VALUES (99) RETURNING number, other") == [(71, None)]
    assert found.notes[-1].startswith("column other of public.payment is without its default")
    assert state(live) == before


def test_nobody_else_may_use_the_restored_schema_whatever_the_default_privileges(backup: Backup) -> None:
    name = backup.copy_of_live()
    live = backup.server.cluster(name)
    with live.connect() as connection:
        with suppress(Exception):
            connection.execute('CREATE ROLE "some body" LOGIN')
        connection.execute(
            """ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO PUBLIC; ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO "some body";
               ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO "some body", PUBLIC"""
        )
    backup.restore("invoice", live=name)
    grants = f"""
        SELECT a.grantee FROM pg_namespace n, aclexplode(n.nspacl) a WHERE n.nspname = '{SCHEMA}' AND a.grantee <> n.nspowner
        UNION ALL SELECT a.grantee FROM pg_class c, aclexplode(c.relacl) a
         WHERE c.relnamespace = '{SCHEMA}'::regnamespace AND a.grantee <> c.relowner"""
    assert ask(live, grants) == []
    assert not one(live, f"""SELECT has_schema_privilege('some body', '{SCHEMA}', 'USAGE')""")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("DROP TYPE mood CASCADE", 'type "public.mood" does not exist'),
        ("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'", 'invalid input value for enum public.mood: "sad"'),
        ("DROP EXTENSION citext CASCADE", 'type "public.citext" does not exist'),
        ("DROP DOMAIN amount CASCADE", 'type "public.amount" does not exist'),
        ("DROP FUNCTION new_code CASCADE", "function public.new_code() does not exist"),
        (f"CREATE SCHEMA {SCHEMA}", "is in live_[0-9]+ already"),
        ("CREATE PUBLICATION everything FOR ALL TABLES", "sent to its subscribers"),
    ],
)
def test_what_the_live_database_cannot_take_leaves_nothing_in_it(backup: Backup, change: str, words: str) -> None:
    name = backup.copy_of_live()
    live = backup.server.cluster(name)
    with live.connect() as connection:
        connection.execute(change.encode())
    before = state(live)
    with pytest.raises(RestoreFailed, match=words.replace("(", r"\(").replace(")", r"\)")):
        backup.restore("customer", "invoice", live=name)
    assert state(live) == before
    assert ask(live, f"SELECT 1 FROM pg_class WHERE relnamespace = to_regnamespace('{SCHEMA}')") == []
    assert bool(one(live, f"SELECT to_regnamespace('{SCHEMA}') IS NULL")) is not change.startswith("CREATE SCHEMA")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('"$REAL" "$@" | head -c 20000; exit 1', "pg_dump failed"),
        ('"$REAL" "$@" | grep -v ^200', "did not arrive with all of its 300 rows"),
        ("kill -9 $$", "SIGKILL"),
    ],
)
def test_a_copy_that_breaks_off_leaves_nothing(backup: Backup, tmp_path: Path, script: str, words: str) -> None:
    name = backup.copy_of_live()
    before = state(backup.server.cluster(name))
    for tool in ("pg_restore", "psql"):
        program(tmp_path, tool, f'exec {backup.tools.program(tool)} "$@"')
    program(tmp_path, "pg_dump", f"REAL={backup.tools.program('pg_dump')}", script)
    with pytest.raises(RestoreFailed, match=words):
        backup.restore("invoice", live=name, tools=replace(backup.tools, folder=tmp_path))
    live = backup.server.cluster(name)
    assert one(live, f"SELECT to_regnamespace('{SCHEMA}') IS NULL") and state(live) == before


def test_a_copy_that_is_stopped_leaves_nothing(backup: Backup) -> None:
    name = backup.copy_of_live()
    report = Report()
    report.stop.set()
    with pytest.raises(Cancelled):
        backup.restore("invoice", live=name, report=report)
    assert one(backup.server.cluster(name), f"SELECT to_regnamespace('{SCHEMA}') IS NULL")


def test_two_tables_of_one_name_do_not_go_into_one_schema_but_into_a_sandbox(backup: Backup) -> None:
    name = backup.copy_of_live()
    with pytest.raises(RestoreFailed, match=r"public\.invoice and sales\.invoice have one name"):
        backup.restore("invoice", "sales.invoice", live=name)
    found, _ = backup.restore("invoice", "sales.invoice")
    assert by_label(found.rows) == {"public.invoice": 300, "sales.invoice": 7}


def test_a_table_that_the_backup_lacks_is_named(backup: Backup) -> None:
    with pytest.raises(RestoreFailed, match=r"has no table nothing\.there"):
        backup.restore("invoice", "nothing.there")
    with pytest.raises(RestoreFailed, match="has no table open_invoice"):
        backup.restore("open_invoice")


def test_rows_that_are_not_those_recorded_are_a_failure(backup: Backup) -> None:
    manifest = backup.manifest.model_copy(update={"tables": {**backup.manifest.tables, "public.invoice": 301}})
    with pytest.raises(RestoreFailed, match=r"public\.invoice has 300 rows where 301 were recorded"):
        backup.restore("invoice", manifest=manifest)


def test_a_role_that_is_no_superuser_restores_into_its_own_database(backup: Backup) -> None:
    name = backup.copy_of_live()
    with backup.server.cluster(name).connect() as connection:
        with suppress(Exception):
            connection.execute("CREATE ROLE restorer LOGIN CREATEDB PASSWORD 'word'")
        connection.execute(f"GRANT CREATE ON DATABASE {name} TO restorer")
    cluster = Cluster(backup.server.url(name, "restorer", "word"))
    found, live = backup.restore("thing", "entry", live=name, cluster=cluster)
    assert "which only restorer may use" in found.sentence
    assert one(live, f"SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = '{SCHEMA}'") == "restorer"


def test_more_tables_than_the_server_has_locks_for_are_refused(newest_server: PostgresServer, tmp_path: Path) -> None:
    cluster = newest_server.create_database("many")
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE many (id int PRIMARY KEY, t text) PARTITION BY LIST (id)")
        for start in range(0, 900, 300):
            connection.execute(
                f"""DO $$ BEGIN FOR i IN {start}..{start + 299} LOOP
                        EXECUTE format('CREATE TABLE many_%s PARTITION OF many FOR VALUES IN (%s)', i, i); END LOOP; END $$""".encode()
            )
    fetched = fetch(newest_server, "many", tmp_path)
    with pytest.raises(RestoreFailed, match=r"restoring 901 tables in one transaction takes about 3[0-9,]+ locks"):
        fetched.restore("many", live="many")


def test_a_backup_of_an_older_server_goes_into_a_newer_one_with_the_older_ones_pg_restore(
    backup: Backup, newest_server: PostgresServer
) -> None:
    if backup.server.major == newest_server.major:
        pytest.skip("the backup is of the newest version")
    cluster = newest_server.create_database("upgraded")
    with cluster.connect() as connection:
        connection.execute(ERP)
    found, live = replace(backup, server=newest_server).restore("invoice", live="upgraded")
    assert by_label(found.rows) == {"public.invoice": 300}
    assert one(live, f"SELECT count(*) FROM {SCHEMA}.invoice") == 300


def test_names_in_another_encoding_are_found(server: PostgresServer, tmp_path: Path) -> None:
    with server.cluster().connect() as connection:
        connection.execute("DROP DATABASE IF EXISTS latin WITH (FORCE)")
        connection.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    cluster = server.cluster("latin")
    with cluster.connect() as connection:
        connection.execute('CREATE TABLE "Größe" AS SELECT \'Maß\'::text AS "Stück"')
    latin = fetch(server, "latin", tmp_path)
    found, live = latin.restore("Größe", live="latin")
    assert by_label(found.rows) == {"public.Größe": 1}
    assert ask(live, f'SELECT "Stück" FROM {SCHEMA}."Größe"') == [("Maß",)]


def test_nothing_secret_shows_in_the_arguments_of_the_programs(backup: Backup, tmp_path: Path) -> None:
    name = backup.copy_of_live()
    for tool in ("pg_restore", "psql", "pg_dump"):
        program(tmp_path, tool, f'echo {tool} "$@" >> {tmp_path}/arguments', f'exec {backup.tools.program(tool)} "$@"')
    backup.restore("invoice", live=name, tools=replace(backup.tools, folder=tmp_path))
    arguments = (tmp_path / "arguments").read_text()
    assert all(tool in arguments for tool in ("pg_restore", "psql", "pg_dump"))
    assert backup.server.cluster().parameters["password"] not in arguments


def test_an_amount_of_money_is_the_same_in_a_live_database_of_another_locale(
    newest_server: PostgresServer, tmp_path: Path, comma_locale: str
) -> None:
    cluster = newest_server.create_database("till")
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE ticket AS SELECT 12.34::money AS price")
    backup = fetch(newest_server, "till", tmp_path)
    live = backup.copy_of_live()
    with newest_server.cluster().connect() as connection:
        connection.execute(f"ALTER DATABASE {live} SET lc_monetary = '{comma_locale}'".encode())
    backup.restore("public.ticket", live=live)
    assert one(newest_server.cluster(live), f"SELECT price::numeric FROM {SCHEMA}.ticket") == Decimal("12.34")


def test_an_amount_of_money_of_a_locale_that_is_not_here_is_not_put_beside_the_live_ones(
    newest_server: PostgresServer, tmp_path: Path
) -> None:
    cluster = newest_server.create_database("till")
    with cluster.connect() as connection:
        connection.execute(
            "CREATE TABLE ticket AS SELECT 12.34::money AS price; CREATE TABLE seat AS SELECT 7 AS number"
        )
    backup = fetch(newest_server, "till", tmp_path)
    facts = backup.manifest.postgres
    assert facts is not None
    elsewhere = facts.model_copy(update={"session": {**facts.session, "lc_monetary": "xx_YY.UTF-8"}})
    backup = replace(backup, manifest=backup.manifest.model_copy(update={"postgres": elsewhere}))
    live = backup.copy_of_live()
    with pytest.raises(RestoreFailed, match="install the locale"):
        backup.restore("public.ticket", live=live)
    assert one(newest_server.cluster(live), f"SELECT to_regclass('{SCHEMA}.ticket')") is None
    backup.restore("public.seat", live=live)
