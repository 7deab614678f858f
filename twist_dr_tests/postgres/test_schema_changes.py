"""What came, went and changed between two schemas, told from real dumps of them."""

from __future__ import annotations

import pytest

from twist_dr.postgres.cluster import Cluster
from twist_dr.postgres.schema_changes import SchemaChange, compare_schemas
from twist_dr.postgres.statements import casting_elements
from twist_dr.restore.schema_difference import live_schema
from twist_dr.system.processes import run
from twist_dr_tests.postgres.odd_schema import ODD
from twist_dr_tests.servers import PostgresServer

SHOP = """
    CREATE TABLE invoice (
        id bigserial PRIMARY KEY, status varchar(10) NOT NULL DEFAULT 'new', total numeric(10,2), note text, many int[] DEFAULT ARRAY[1, 2],
        "odd, (name" text DEFAULT ',(', CONSTRAINT known CHECK (status IN ('new', 'paid')), CONSTRAINT positive CHECK (total > 0)
    );
    CREATE INDEX open ON invoice (id) WHERE status IN ('new', 'paid');
    CREATE INDEX late ON invoice (total);
    CREATE TABLE line (invoice bigint REFERENCES invoice, place int);
    CREATE TABLE gone (id int PRIMARY KEY, note text DEFAULT 'x');
    CREATE TABLE day (at date, n int) PARTITION BY RANGE (at);
    CREATE VIEW paid AS SELECT id FROM invoice WHERE status = 'paid';
    CREATE FUNCTION secret() RETURNS text LANGUAGE sql AS $$ SELECT 'password one' $$;
    CREATE SEQUENCE numbers;
    CREATE TYPE mood AS ENUM ('good');
    INSERT INTO invoice (total) VALUES (1);
"""
CHANGES = """
    ALTER TABLE invoice ALTER total TYPE numeric(12,2), ALTER total SET NOT NULL, ALTER status SET DEFAULT 'paid', DROP COLUMN note,
        ADD COLUMN paid_at timestamptz, DROP CONSTRAINT positive, ADD CONSTRAINT large CHECK (total > 0.5);
    DROP INDEX late;
    CREATE UNIQUE INDEX mine ON invoice (lower(status));
    ALTER TABLE line DROP CONSTRAINT line_invoice_fkey, ADD FOREIGN KEY (invoice) REFERENCES invoice ON DELETE CASCADE, ADD PRIMARY KEY (place);
    ALTER TABLE line SET (fillfactor = 50);
    DROP TABLE gone;
    CREATE TABLE "New|x" (id serial, kind text); COMMENT ON COLUMN "New|x".id IS 'odd'; GRANT SELECT ON "New|x" TO PUBLIC;
    CREATE TABLE day1 PARTITION OF day FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
    CREATE OR REPLACE VIEW paid AS SELECT id FROM invoice WHERE status = 'new';
    CREATE OR REPLACE FUNCTION secret() RETURNS text LANGUAGE sql AS $$ SELECT 'password two' $$;
    CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$;
    CREATE TRIGGER noting BEFORE UPDATE ON invoice FOR EACH ROW EXECUTE FUNCTION noted();
    ALTER SEQUENCE numbers INCREMENT 5;
    ALTER TYPE mood ADD VALUE 'bad';
    GRANT SELECT ON invoice TO PUBLIC;
    UPDATE invoice SET total = 7; SELECT setval('numbers', 70);
"""


def changed(cluster: Cluster, statements: str) -> Cluster:
    with cluster.connect() as connection:
        for statement in statements.split(";\n"):
            connection.execute(statement.encode())
    return cluster


def schema(cluster: Cluster) -> bytes:
    return live_schema(cluster, [], 0).head


def test_all_that_came_went_and_changed_is_told_and_no_body_of_a_function(newest_server: PostgresServer) -> None:
    cluster = changed(newest_server.create_database("shop_changes"), SHOP)
    before = schema(cluster)
    assert compare_schemas(before, schema(cluster)) == []
    found = compare_schemas(before, schema(changed(cluster, CHANGES)))
    assert {(each.what, each.kind, each.name) for each in found} == {
        ("changed", "column", "public.invoice.total"), ("changed", "column", "public.invoice.status"), ("went", "column", "public.invoice.note"),
        ("came", "column", "public.invoice.paid_at"), ("went", "check constraint", "public.invoice positive"),
        ("came", "check constraint", "public.invoice large"), ("went", "index", "public.late"), ("came", "index", "public.mine"),
        ("changed", "foreign key", "public.line line_invoice_fkey"), ("came", "constraint", "public.line line_pkey"),
        ("changed", "column", "public.line.place"), ("changed", "table", "public.line"), ("went", "table", "public.gone"),
        ("went", "constraint", "public.gone gone_pkey"), ("came", "table", "public.New|x"), ("came", "sequence", "public.New|x_id_seq"),
        ("came", "table", "public.day1"), ("changed", "view", "public.paid"), ("changed", "function", "public.secret()"),
        ("came", "function", "public.noted()"), ("came", "trigger", "public.invoice noting"), ("changed", "sequence", "public.numbers"),
        ("changed", "type", "public.mood"), ("came", "grants", "of table public.invoice"),
    }  # fmt: skip
    total = next(each for each in found if each.name == "public.invoice.total")
    assert (total.before, total.after) == ("numeric(10,2)", "numeric(12,2) NOT NULL")
    status = next(each for each in found if each.name == "public.invoice.status")
    assert "DEFAULT 'new'" in str(status.before) and "DEFAULT 'paid'" in str(status.after)
    assert "ON DELETE CASCADE" in str(next(each.after for each in found if each.kind == "foreign key"))
    assert "password" not in repr(found)


def test_a_schema_that_was_restored_is_the_same_though_the_server_words_it_otherwise(
    newest_server: PostgresServer,
) -> None:
    live = changed(newest_server.create_database("shop_live"), SHOP)
    before = schema(live)
    again = newest_server.create_database("shop_again")
    path = newest_server.base / "again.dump"
    path.write_bytes(before)
    program = newest_server.tools.program("pg_restore")
    run([program, "--dbname=shop_again", path], environment=again.environment())
    after = schema(again)
    assert b"(ARRAY['new'" in before and b"(ARRAY['new'" not in after, "or there is nothing to see here"
    assert compare_schemas(before, after) == []


def test_odd_names_and_everything_that_can_be_in_a_schema_are_compared(newest_server: PostgresServer) -> None:
    cluster = newest_server.create_database("odd_changes")
    empty = schema(cluster)
    with cluster.connect() as connection:
        connection.execute(ODD.encode())
    full = schema(cluster)
    assert compare_schemas(full, full) == []
    came, went = compare_schemas(empty, full), compare_schemas(full, empty)
    assert {each.what for each in came} == {"came"} and {each.what for each in went} == {"went"}
    assert [(each.kind, each.name) for each in came] == [(each.kind, each.name) for each in went]
    assert SchemaChange("came", "table", "public.plain") in [
        SchemaChange(each.what, each.kind, each.name) for each in came
    ]


@pytest.mark.parametrize(
    ("definition", "rewritten"),
    [
        (b"(ARRAY[1, 2])::numeric(10,2)[]", b"ARRAY[(1)::numeric(10,2), (2)::numeric(10,2)]"),
        (b'a (ARRAY[\'],(\', "x]"])::"My.t"[] b', b'a ARRAY[(\'],(\')::"My.t", ("x]")::"My.t"] b'),
        (b"'(ARRAY[1])::text[]'", b"'(ARRAY[1])::text[]'"),
        (b"(ARRAY[ARRAY[1]])::text[]", b"(ARRAY[ARRAY[1]])::text[]"),
        (b"(ARRAY[1]", b"(ARRAY[1]"),
    ],
)
def test_a_cast_of_an_array_is_one_of_its_elements(definition: bytes, rewritten: bytes) -> None:
    assert casting_elements(definition) == rewritten
