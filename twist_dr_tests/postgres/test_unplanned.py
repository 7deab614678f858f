"""Code of the database that a planner runs before a query begins: never as us, whatever of the database we look at."""

from __future__ import annotations

from pathlib import Path

from twist_dr.postgres.cluster import Cluster, count_rows, read_migrations, read_tables
from twist_dr.postgres.sessions import LOOKING
from twist_dr.repository.table_names import TableName
from twist_dr.restore.impact_database import database_impact
from twist_dr_tests.restore.test_impact import recorded
from twist_dr_tests.servers import PostgresServer

#: IMMUTABLE says only what its owner says, and what it calls may do anything, in a read-only transaction, too.
_OWNERS = """
    ALTER DATABASE planned SET constraint_exclusion = on;
    CREATE FUNCTION public.act(what text) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        IF current_user = 'postgres' THEN EXECUTE format('COPY (SELECT 1) TO %L', 'FOLDER/' || what); END IF;
    END $$;
    CREATE FUNCTION public.mine(what text) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS
    $$ BEGIN PERFORM public.act(what); RETURN true; END $$;
    CREATE FUNCTION public.above(bool, bool) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS
    $$ BEGIN PERFORM public.act('operator'); RETURN true; END $$;
    CREATE OPERATOR public.>>> (FUNCTION = public.above, LEFTARG = bool, RIGHTARG = bool);
    CREATE TABLE public.predicate (created_at timestamptz);
    CREATE INDEX ON public.predicate (created_at) WHERE public.mine('predicate');
    CREATE TABLE public.expression (created_at timestamptz, a int);
    CREATE INDEX ON public.expression ((public.mine('expression') AND a > 1));
    CREATE TABLE public.operator (a int);
    CREATE INDEX ON public.operator (a) WHERE true OPERATOR(public.>>>) true;
    CREATE TABLE public.checked (created_at timestamptz, a int, CHECK (public.mine('check') AND a > 1));
    CREATE INDEX ON public.checked (created_at);
    CREATE TABLE public.nothing ();
    CREATE TABLE public.django_migrations (id int, app text, name text);
    CREATE INDEX ON public.django_migrations (id) WHERE public.mine('migrations');
    INSERT INTO public.predicate VALUES (now()), (now()), (now());
    INSERT INTO public.checked VALUES (now(), 2);
    INSERT INTO public.expression VALUES (now(), 1), (NULL, 2);
    INSERT INTO public.django_migrations VALUES (10, 'shop', '0010'), (9, 'shop', E'0009\\n'), (100, 'shop', '0100')
"""
_STATISTICS = """
    CREATE TABLE public.statistic (a int, b int);
    CREATE STATISTICS public.s ON (public.mine('statistic') AND a > 1), b FROM public.statistic
"""


def test_what_a_planner_would_compute_of_the_owners_functions_does_not_run_as_us(
    server: PostgresServer, open_folder: Path
) -> None:
    cluster = server.create_database("planned")
    open_folder.chmod(0o777)
    with cluster.connect() as connection:
        connection.execute("DROP ROLE IF EXISTS mallory; CREATE ROLE mallory LOGIN PASSWORD 'mallory'")
        connection.execute("ALTER DATABASE planned OWNER TO mallory")
    with Cluster(server.url("planned", "mallory", "mallory")).connect() as connection:
        connection.execute(_OWNERS.replace("FOLDER", str(open_folder)).encode())
        if server.major >= 14:  # statistics of expressions
            connection.execute(_STATISTICS.encode())
    with cluster.connect(settings=LOOKING) as connection:
        connection.execute("SELECT count(*) FROM public.predicate")
        assert [path.name for path in open_folder.iterdir()] == ["predicate"], "the planner does so"
        next(open_folder.iterdir()).unlink()

        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        rows = count_rows(connection, read_tables(connection))
        connection.execute("ROLLBACK")
        assert rows[TableName("public", "predicate")] == 3
        assert rows[TableName("public", "expression")] == 2
        assert rows[TableName("public", "nothing")] == 0
        assert read_migrations(connection) == {"shop": ["0009\n", "0010", "0100"]}
        for large_bytes in (1, 1 << 30):
            tables, notes = database_impact(connection, recorded(cluster), large_bytes=large_bytes)
            assert {each.label: each.rows_now for each in tables}["public.predicate"] == 3
            assert any("public.predicate" in note for note in notes)
    assert [path.name for path in open_folder.iterdir()] == []
    server.create_database("planned")
    with server.cluster().connect() as connection:
        connection.execute("DROP OWNED BY mallory")
