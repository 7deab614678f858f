"""A table that cannot be analyzed is named, the others get their statistics, and no restore fails of it."""

from __future__ import annotations

from twist_dr.restore.statistics import analyze
from twist_dr_tests.servers import PostgresServer

_TABLES = """
    CREATE FUNCTION refuse(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
        RETURN $1; END $$;
    CREATE TABLE odd (id int); CREATE INDEX ON odd (refuse(id));
    CREATE TABLE odder (id int); CREATE INDEX ON odder (refuse(id));
    CREATE TABLE good AS SELECT generate_series(1, 10) AS id;
    INSERT INTO odd VALUES (6); INSERT INTO odder VALUES (6);
    CREATE OR REPLACE FUNCTION refuse(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE 'six, of all numbers'; END $$;
    CREATE FOREIGN DATA WRAPPER nobody;
    CREATE SERVER elsewhere FOREIGN DATA WRAPPER nobody;
    CREATE TABLE measured (id int) PARTITION BY RANGE (id);
    CREATE TABLE near PARTITION OF measured FOR VALUES FROM (0) TO (10);
    CREATE FOREIGN TABLE far PARTITION OF measured FOR VALUES FROM (10) TO (20) SERVER elsewhere;
    INSERT INTO measured VALUES (1);
"""


def test_what_cannot_be_analyzed_is_named_by_its_reason_and_the_rest_is(server: PostgresServer) -> None:
    cluster = server.create_database("unmeasured")
    with cluster.connect() as connection:
        connection.execute(_TABLES)
    warnings = sorted(map(str, analyze(cluster, "unmeasured", 2)))
    assert len(warnings) == 2
    assert "public.measured got no statistics" in warnings[0] and "nobody" in warnings[0]
    assert "public.odd" in warnings[1] and "public.odder" in warnings[1] and "six, of all numbers" in warnings[1]
    with cluster.connect() as connection:
        seen = connection.execute(
            "SELECT relname FROM pg_stat_user_tables WHERE last_analyze IS NOT NULL ORDER BY 1"
        ).fetchall()
    assert seen == [("good",), ("near",)]


def test_a_server_that_does_not_answer_is_a_warning_too(newest_server: PostgresServer) -> None:
    (warning,) = map(str, analyze(newest_server.cluster(), "no_such_database", 2))
    assert "all tables got no statistics" in warning and "no_such_database" in warning
