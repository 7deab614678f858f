"""The plan refuses what the restoring role of the README would fail at, and what it lets through that role restores."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from twist_dr.doctor.restores import check_restorable
from twist_dr.postgres import databases
from twist_dr.postgres.cluster import Cluster, read_facts
from twist_dr.postgres.making import give_last, make_to_serve, take_after
from twist_dr.postgres.own_settings import own_settings_of
from twist_dr.restore.cutover import Surroundings
from twist_dr.restore.dump_gate import restoring_obstacles
from twist_dr.restore.journal import FileJournals
from twist_dr.system.processes import run
from twist_dr_tests.servers import PostgresServer

#: What an ordinary role cannot make or give: by a word of the sentence, the objects that it names and the SQL that makes them.
FORBIDDEN = {
    "the comment on": (
        "EXTENSION plpgsql", "DROP EXTENSION plpgsql CASCADE; CREATE EXTENSION plpgsql; COMMENT ON EXTENSION plpgsql IS 'ours'",
    ),
    "untrusted extensions": ("pageinspect", "CREATE EXTENSION pageinspect"),
    "event triggers": (
        "watcher",
        """CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
           CREATE EVENT TRIGGER watcher ON ddl_command_end EXECUTE FUNCTION watch()""",
    ),
    "grants in the name of": (
        "TABLE public.passed_on",
        """CREATE TABLE passed_on (); GRANT SELECT ON passed_on TO {grantee} WITH GRANT OPTION;
           SET SESSION AUTHORIZATION {grantee}; GRANT SELECT ON passed_on TO {other}; RESET SESSION AUTHORIZATION""",
    ),
    "may not set session_preload_libraries": (
        "public.preloading()",
        "CREATE FUNCTION preloading() RETURNS int LANGUAGE sql SET session_preload_libraries TO '' AS 'SELECT 1'",
    ),
    "may not set shop.tenant": (
        "public.placed()", "CREATE FUNCTION placed() RETURNS int LANGUAGE sql SET shop.tenant TO '1' AS 'SELECT 1'",
    ),
    "publications of all tables": ("everything", "CREATE PUBLICATION everything FOR ALL TABLES"),
    "publications of the whole schemas": ("side", "CREATE SCHEMA side; CREATE PUBLICATION sides FOR TABLES IN SCHEMA side"),
    "functions in C": (
        "public.plus(integer, integer)", "CREATE FUNCTION plus(int, int) RETURNS int LANGUAGE internal AS 'int4pl'",
    ),
    "LEAKPROOF": ("public.tight()", "CREATE FUNCTION tight() RETURNS int LANGUAGE sql LEAKPROOF AS 'SELECT 1'"),
    "SUPPORT": (
        "public.helped(integer)",
        "CREATE FUNCTION helped(int) RETURNS SETOF int LANGUAGE sql SUPPORT generate_series_int4_support AS 'SELECT 1'",
    ),
    "foreign data wrappers": ("away", "CREATE FOREIGN DATA WRAPPER away"),
    "base types": (
        "public.own",
        """CREATE TYPE own; CREATE FUNCTION own_in(cstring) RETURNS own LANGUAGE internal IMMUTABLE STRICT AS 'int4in';
           CREATE FUNCTION own_out(own) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'int4out';
           CREATE TYPE own (INPUT = own_in, OUTPUT = own_out, LIKE = int)""",
    ),
    "casts": ("CAST (integer AS text)", "CREATE CAST (int AS text) WITH INOUT AS ASSIGNMENT"),
    "operator classes": (
        "public.odd_ops", "CREATE OPERATOR CLASS odd_ops FOR TYPE int USING hash AS OPERATOR 1 =, FUNCTION 1 hashint4(int)",
    ),
    "operator families": ("public.odd_family", "CREATE OPERATOR FAMILY odd_family USING btree"),
    "aggregates": (
        "public.gathered(numeric)",
        "CREATE AGGREGATE gathered(numeric) (SFUNC = numeric_accum, STYPE = internal, FINALFUNC = numeric_avg)",
    ),
    "transforms": (
        "integer",
        "CREATE TRANSFORM FOR int LANGUAGE sql (FROM SQL WITH FUNCTION prsd_lextype(internal), TO SQL WITH FUNCTION int4recv(internal))",
    ),
    "access methods": ("heaped", "CREATE ACCESS METHOD heaped TYPE TABLE HANDLER heap_tableam_handler"),
    "languages": ("talk", "CREATE LANGUAGE talk HANDLER plpgsql_call_handler"),
    "text search parsers": (
        "public.reads",
        """CREATE TEXT SEARCH PARSER reads (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, LEXTYPES = prsd_lextype)""",
    ),
    "text search templates": ("public.shape", "CREATE TEXT SEARCH TEMPLATE shape (LEXIZE = dsimple_lexize)"),
    "is no member of {other}": (
        "public.strange", "CREATE TABLE strange (); ALTER TABLE strange OWNER TO {other}",
    ),
    "grants come back last": (
        "public.theirs",
        "GRANT CREATE ON SCHEMA public TO {second}; CREATE TABLE theirs (); ALTER TABLE theirs OWNER TO {second}",
    ),
    "is no member of postgres": ("public", "ALTER SCHEMA public OWNER TO postgres"),
}  # fmt: skip
#: What an ordinary role can, each near one of the above.
ALLOWED = """
    CREATE EXTENSION pg_trgm; CREATE EXTENSION hstore;
    CREATE SCHEMA tools; GRANT USAGE ON SCHEMA tools TO PUBLIC;
    CREATE TYPE mood AS ENUM ('up', 'down'); CREATE DOMAIN small AS int CHECK (VALUE < 10);
    CREATE FUNCTION tools.note() RETURNS trigger LANGUAGE plpgsql SET search_path TO tools, public AS $$ BEGIN RETURN NEW; END $$;
    CREATE FUNCTION about(text DEFAULT 'x
    LANGUAGE c LEAKPROOF
    SET session_preload_libraries TO y') RETURNS int LANGUAGE sql AS $$ SELECT 1 /* LEAKPROOF */ $$;
    CREATE FUNCTION mooded(mood) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
    CREATE CAST (mood AS int) WITH FUNCTION mooded(mood);
    CREATE TABLE invoice (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, number small, state mood, word text COLLATE "C", extra hstore);
    CREATE TABLE line (invoice int REFERENCES invoice, tenant int) PARTITION BY LIST (tenant);
    CREATE TABLE line_1 PARTITION OF line FOR VALUES IN (1);
    CREATE INDEX ON invoice USING gin (word gin_trgm_ops);
    CREATE TRIGGER noted BEFORE INSERT ON invoice FOR EACH ROW EXECUTE FUNCTION tools.note();
    CREATE STATISTICS told ON number, word FROM invoice;
    INSERT INTO invoice (number, state) SELECT n, 'up' FROM generate_series(1, 9) n;
    INSERT INTO line VALUES (1, 1);
    ALTER TABLE invoice ENABLE ROW LEVEL SECURITY; ALTER TABLE invoice FORCE ROW LEVEL SECURITY;
    CREATE POLICY mine ON invoice USING (number > 3);
    CREATE VIEW listed AS SELECT * FROM invoice; CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM line;
    CREATE AGGREGATE adding(int) (SFUNC = int4pl, STYPE = int);
    CREATE OPERATOR <~> (LEFTARG = int, RIGHTARG = int, FUNCTION = int4pl);
    CREATE CONVERSION odd FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;
    CREATE TEXT SEARCH CONFIGURATION plain (COPY = simple);
    CREATE PUBLICATION chosen FOR TABLE invoice;
    CREATE COLLATION german (LOCALE = 'C');
    SELECT lo_from_bytea(0, 'large');
    GRANT SELECT ON invoice TO {grantee}; COMMENT ON TABLE invoice IS 'kept';
    CREATE EXTENSION btree_gist SCHEMA tools; CREATE TYPE span AS RANGE (subtype = int); CREATE TYPE pair AS (a int, b text);
    CREATE TABLE booked (room int, during span, half int GENERATED ALWAYS AS (room / 2) STORED, EXCLUDE USING gist (room tools.gist_int4_ops WITH =, during WITH &&));
    CREATE UNLOGGED TABLE passing (id serial PRIMARY KEY, what pair); CREATE TABLE child () INHERITS (passing);
    ALTER TABLE booked REPLICA IDENTITY FULL; ALTER TABLE invoice ENABLE REPLICA TRIGGER noted;
    CREATE RULE nothing AS ON DELETE TO booked DO INSTEAD NOTHING;
    CREATE PROCEDURE act() LANGUAGE plpgsql SECURITY DEFINER SET work_mem TO '5MB' AS 'BEGIN END';
    CREATE FUNCTION standard(a int) RETURNS int LANGUAGE sql BEGIN ATOMIC UPDATE booked SET room = a; SELECT 1; END;
    CREATE VIEW barred WITH (security_barrier) AS SELECT * FROM booked; CREATE INDEX ON invoice ((lower(word)));
    CREATE TEXT SEARCH DICTIONARY plain_words (TEMPLATE = simple); CREATE STATISTICS reckoned ON (number + 1) FROM invoice;
    GRANT USAGE ON SCHEMA public TO {grantee}; GRANT UPDATE (word) ON invoice TO {grantee}; GRANT SELECT ON booked TO {grantee} WITH GRANT OPTION;
    GRANT EXECUTE ON FUNCTION standard(int) TO {grantee}; REVOKE ALL ON FUNCTION standard(int) FROM PUBLIC; GRANT USAGE ON TYPE mood TO {grantee};
    COMMENT ON SCHEMA public IS 'ours'; COMMENT ON EXTENSION pg_trgm IS 'ours'; COMMENT ON TYPE mood IS 'ours'; COMMENT ON COLUMN invoice.word IS 'ours';
    CREATE POLICY theirs ON invoice FOR SELECT TO {grantee} USING (true); CREATE POLICY larger ON booked USING (room > 1);
    CREATE PUBLICATION some_rows FOR TABLE booked (room, during) WHERE (room > 1);
    ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA tools GRANT EXECUTE ON FUNCTIONS TO {grantee};
    SELECT lo_from_bytea(4711, 'granted'); GRANT SELECT ON LARGE OBJECT 4711 TO {grantee}; COMMENT ON LARGE OBJECT 4711 IS 'ours';
    CREATE SEQUENCE apart OWNED BY booked.room; ALTER TABLE booked ALTER room SET DEFAULT nextval('apart');
    CREATE FUNCTION stated(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1'; CREATE AGGREGATE kept(int) (SFUNC = stated, STYPE = int);
    CREATE SCHEMA side_by_side AUTHORIZATION {owner}; CREATE TABLE side_by_side.other AS SELECT 1 AS id;
    ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT SELECT ON TABLES TO {grantee};
"""


@dataclass
class Shop:
    """A database, its owner, and the role that restores as the README makes it."""

    server: PostgresServer
    name: str
    roles: dict[str, str] = field(default_factory=dict)

    @classmethod
    def made(cls, server: PostgresServer, name: str) -> Shop:
        shop = cls(
            server, name, {role: f"{name}_{role}" for role in ("owner", "second", "grantee", "other", "restorer")}
        )
        shop.superuser(*(f"CREATE ROLE {shop.roles[role]}" for role in ("owner", "second", "grantee", "other")))
        shop.superuser(
            f"""CREATE ROLE {shop.roles["restorer"]} LOGIN CREATEDB BYPASSRLS PASSWORD 'only-for-tests'
                  IN ROLE pg_read_all_data, pg_read_all_stats, pg_read_all_settings, pg_signal_backend""",
            f"GRANT {shop.roles['owner']}, {shop.roles['second']} TO {shop.roles['restorer']}",
            f"CREATE DATABASE {name} OWNER {shop.roles['owner']}",
        )
        return shop

    def superuser(self, *statements: str, database: str = "postgres") -> None:
        with self.server.cluster(database).connect() as connection:
            for statement in statements:
                connection.execute(statement.encode())

    @property
    def cluster(self) -> Cluster:
        return Cluster(self.server.url(self.name, self.roles["restorer"], "only-for-tests"))

    def dump(self) -> bytes:
        return run(
            [self.server.tools.program("pg_dump"), "-Fc"], environment=self.server.cluster(self.name).environment()
        )

    def restored(self, dump: Path) -> list[str]:
        """What pg_restore fails at as that role, going on after each error: kinds and names of entries."""
        incoming = f"{self.name}_incoming"
        with self.cluster.connect() as connection:
            facts = read_facts(connection, "any")
        with closing(databases.connect_for_maintenance(self.cluster)) as connection:
            databases.drop(connection, incoming)
            make_to_serve(connection, incoming, facts, own_settings_of(dump), live=self.name)
        done = subprocess.run(
            [self.server.tools.program("pg_restore"), f"--dbname={incoming}", "--no-password", dump],
            env={name: value for name, value in self.cluster.environment(incoming).items() if value is not None}, capture_output=True, text=True,
        )  # fmt: skip
        return (
            re.findall(r"from TOC entry \d+; \d+ \d+ (.*) \S+$", done.stderr, re.MULTILINE)
            or [done.stderr][: done.returncode]
        )

    def gone(self) -> None:
        with self.server.cluster().connect() as connection:
            for (name,) in connection.execute(
                "SELECT datname FROM pg_database WHERE datname LIKE %s", [f"{self.name}%"]
            ).fetchall():
                databases.drop(connection, name)
        self.superuser(*(f"DROP ROLE {role}" for role in self.roles.values()))


@dataclass
class Told:
    shop: Shop
    sentences: list[str]
    failed: list[str]


@pytest.fixture(scope="module")
def told(server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """All that is forbidden in one database: what the gate says of it, and what pg_restore fails at."""
    shop = Shop.made(server, "forbidden")
    for _, statements in FORBIDDEN.values():
        shop.superuser(statements.format(**shop.roles), database=shop.name)
    dump = shop.dump()
    file = tmp_path_factory.mktemp("dump") / "database.dump"
    file.write_bytes(dump)
    yield Told(shop, restoring_obstacles(shop.cluster, shop.name, lambda: dump).refusals, shop.restored(file))
    shop.gone()


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_the_restoring_role_may_not_make_is_refused_by_name(told: Told, what: str) -> None:
    words, name = what.format(**told.shop.roles), FORBIDDEN[what][0]
    found = [line for line in told.sentences if words in line]
    assert found and name in found[0], told.sentences
    assert "restore.database_url" in found[0] or "as a superuser: GRANT" in found[0]


def test_nothing_that_pg_restore_fails_at_is_missing(told: Told) -> None:
    """Whatever it fails at is told, or fails for something that is: a shell type's functions."""
    assert told.failed
    every = " ".join(told.sentences)
    missing = [
        entry for entry in told.failed if entry.split()[-1].partition("(")[0] not in every and "own" not in entry
    ]
    assert missing == []


def test_nothing_keeps_a_superuser(told: Told) -> None:
    def unread() -> bytes:
        raise AssertionError("nobody asks a superuser's dump")

    found = restoring_obstacles(told.shop.server.cluster(told.shop.name), told.shop.name, unread)
    assert found.refusals == found.doubts == []


def test_the_doctor_says_it_of_the_live_database(told: Told, tmp_path: Path) -> None:
    superuser = told.shop.server.cluster(told.shop.name)
    folders = [told.shop.server.tools.folder]
    found = list(check_restorable(Surroundings(told.shop.cluster, FileJournals(tmp_path)), superuser, folders))
    assert {finding.status for finding in found} == {"warning"} and len(found) == len(told.sentences)
    assert any("event triggers watcher" in finding.found for finding in found)
    (fine,) = check_restorable(Surroundings(superuser, FileJournals(tmp_path)), superuser, folders)
    assert fine.status == "ok"


def test_what_the_gate_lets_through_is_restored(server: PostgresServer, tmp_path: Path) -> None:
    shop = Shop.made(server, "allowed")
    owner = shop.roles["owner"]
    shop.superuser(f"SET ROLE {owner}; {ALLOWED.format(**shop.roles)}", database=shop.name)
    shop.superuser(
        f"ALTER DATABASE {shop.name} SET search_path TO public, tools",
        f"ALTER ROLE {shop.roles['restorer']} IN DATABASE {shop.name} SET work_mem TO '7MB'",
    )
    dump = shop.dump()
    (tmp_path / "database.dump").write_bytes(dump)
    assert restoring_obstacles(shop.cluster, shop.name, lambda: dump).refusals == []
    assert shop.restored(tmp_path / "database.dump") == []
    with closing(databases.connect_for_maintenance(shop.cluster)) as connection:
        give_last(connection, f"{shop.name}_incoming", own_settings_of(tmp_path / "database.dump"))
        take_after(connection, f"{shop.name}_incoming", shop.name)
    shop.gone()


def test_what_the_database_is_set_to_and_roles_that_are_gone_are_looked_at_too(server: PostgresServer) -> None:
    shop = Shop.made(server, "set_up")
    name, restorer = shop.name, shop.roles["restorer"]
    shop.superuser(
        f"ALTER DATABASE {name} SET shop.tenant TO '1'",
        f"ALTER DATABASE {name} SET work_mem TO '7MB'",
        f"ALTER DATABASE {name} SET log_min_duration_statement TO 0",
        f"ALTER ROLE {shop.roles['grantee']} IN DATABASE {name} SET work_mem TO '8MB'",
    )
    dump, roles = shop.dump(), b"CREATE ROLE was_here;\nCREATE ROLE postgres;\n"
    found = " ".join(restoring_obstacles(shop.cluster, name, lambda: dump, lambda: roles).refusals)
    assert f"may not set work_mem of role {shop.roles['grantee']}," in found and "8MB" not in found
    assert "lacks the roles was_here of" in found and "CREATE ROLE was_here NOLOGIN" in found
    assert "may not set work_mem," not in found
    for parameter in ("shop.tenant", "log_min_duration_statement"):
        grant = f"GRANT SET ON PARAMETER {parameter} TO {restorer}"
        assert f"may not set {parameter}," in found and grant in found
        shop.superuser(grant)
    shop.superuser(f"ALTER ROLE {shop.roles['grantee']} IN DATABASE {name} RESET work_mem", "CREATE ROLE was_here")
    assert restoring_obstacles(shop.cluster, name, shop.dump, lambda: roles).refusals == []
    for parameter in ("shop.tenant", "log_min_duration_statement"):
        shop.superuser(f"REVOKE SET ON PARAMETER {parameter} FROM {restorer}")
    shop.superuser("DROP ROLE was_here")
    shop.gone()
