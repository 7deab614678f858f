"""A database whose owner has set everything badly, and made look-alikes of all of PostgreSQL's that our SQL names.

A look-alike that is called leaves a file of its name in a folder: that is seen even where its transaction is read-only or rolled back.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from psycopg import sql

from twist_dr.postgres.cluster import Cluster, Connection
from twist_dr.postgres.sessions import LOOKING
from twist_dr_tests.servers import PostgresServer

_PRODUCT = Path(__file__).resolve().parent.parent / "twist_dr"
_OPERATORS = [
    "=",
    "<>",
    "<",
    ">",
    "<=",
    ">=",
    "||",
    "->>",
    "->",
    "~",
    "!~",
    "~~",
    "!~~",
    "+",
    "-",
    "*",
    "/",
    "@>",
    "<@",
    "&&",
]
_TYPES = ["text", "name", "oid", "bool", "int8", "float8", "regclass", "regtype", "timestamptz", "date"]
_SETTINGS = {
    "search_path": "public, pg_catalog",
    "statement_timeout": "1",
    "lock_timeout": "1",
    "idle_in_transaction_session_timeout": "1",
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "serializable",
    "row_security": "on",
    "synchronous_commit": "off",
    "DateStyle": "German",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Pacific/Kiritimati",
    "extra_float_digits": "-10",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "exit_on_error": "on",
}

_FUNCTIONS = r"""
DO $do$
DECLARE f record; n int := 0; body text;
BEGIN
    FOR f IN SELECT p.proname, p.prokind, pg_get_function_identity_arguments(p.oid) AS arguments, pg_get_function_result(p.oid) AS result,
                    p.provariadic <> 0 AS variadic
               FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY(%(names)s) AND p.prokind IN ('f', 'a')
    LOOP
        body := format('BEGIN COPY (SELECT 1) TO %%L; RETURN NULL; END', %(folder)s::text || '/' || f.proname);
        BEGIN
            IF f.prokind = 'f' OR f.arguments <> '' THEN
                EXECUTE format('CREATE FUNCTION public.%%I(%%s) RETURNS %%s LANGUAGE plpgsql AS %%L',
                    f.proname, f.arguments, CASE WHEN f.result LIKE 'SETOF %%' OR f.result LIKE 'TABLE%%' THEN 'SETOF record' ELSE f.result END,
                    replace(body, 'RETURN NULL;', CASE WHEN f.result LIKE 'SETOF %%' OR f.result LIKE 'TABLE%%' THEN 'RETURN;' ELSE 'RETURN NULL;' END));
            ELSE
                EXECUTE format('CREATE FUNCTION public.state_of_%%s(bigint) RETURNS bigint LANGUAGE plpgsql AS %%L', f.proname, body);
                EXECUTE format('CREATE AGGREGATE public.%%I(*) (sfunc = public.state_of_%%s, stype = bigint, initcond = 0)', f.proname, f.proname);
            END IF;
            n := n + 1;
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
    END LOOP;
    FOR f IN SELECT o.oprname, format_type(o.oprleft, NULL) AS l, format_type(o.oprright, NULL) AS r, format_type(o.oprresult, NULL) AS result, o.oid
               FROM pg_operator o WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprname = ANY(%(operators)s) AND o.oprleft <> 0
    LOOP
        body := format('BEGIN COPY (SELECT 1) TO %%L; RETURN NULL; END', %(folder)s::text || '/operator_' || f.oid);
        BEGIN
            EXECUTE format('CREATE FUNCTION public.operator_%%s(%%s, %%s) RETURNS %%s LANGUAGE plpgsql AS %%L', f.oid, f.l, f.r, f.result, body);
            EXECUTE format('CREATE OPERATOR public.%%s (FUNCTION = public.operator_%%s, LEFTARG = %%s, RIGHTARG = %%s)', f.oprname, f.oid, f.l, f.r);
            n := n + 1;
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
    END LOOP;
    EXECUTE format('CREATE FUNCTION public.look_at(relation text) RETURNS bool LANGUAGE plpgsql SET search_path = pg_catalog AS %%L',
                   format('BEGIN EXECUTE format(''COPY (SELECT 1) TO %%%%L'', %%L || ''/'' || relation); RETURN true; END', %(folder)s::text));
    FOR f IN SELECT c.relname, (SELECT string_agg(quote_ident(a.attname), ', ') FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                                  WHERE a.attrelid = c.oid AND a.attnum > 0 AND t.typtype <> 'p') AS columns
               FROM pg_class c WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind IN ('r', 'v') AND c.relname = ANY(%(names)s)
    LOOP
        EXECUTE format('CREATE VIEW public.%%I AS SELECT %%s FROM pg_catalog.%%I WHERE public.look_at(%%L)', f.relname, f.columns, f.relname, f.relname);
    END LOOP;
    FOR f IN SELECT t.typname FROM pg_type t WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typname = ANY(%(types)s)
    LOOP
        EXECUTE format('CREATE DOMAIN public.%%I AS pg_catalog.%%I CHECK (public.look_at(%%L))', f.typname, f.typname, 'type_' || f.typname);
    END LOOP;
    IF n < 300 THEN RAISE 'only %% look-alikes could be made', n; END IF;
END $do$
"""


class HostileDatabase:
    """The database ``name`` made hostile; ``url`` leads there as a superuser whose own sessions are set as badly."""

    def __init__(self, server: PostgresServer, name: str) -> None:
        self.server = server
        self.name = name
        self.role = f"{name}_backup"
        self._called = server.base / f"called_{name}"
        self._called.mkdir(mode=0o777)
        self._called.chmod(0o777)
        self._whose = (f"DATABASE {name}", f"ROLE {self.role}", f"ROLE {self.role} IN DATABASE {name}")
        self._settings = dict(_SETTINGS)
        if server.major >= 14:
            self._settings["idle_session_timeout"] = "1"
        if server.major >= 17:
            self._settings["transaction_timeout"] = "1"
        with server.cluster(name).connect(settings=LOOKING) as connection:
            self._make_look_alikes(connection)
            self._set_badly(connection)
        self.url = server.url(name, self.role, "backup")

    @property
    def cluster(self) -> Cluster:
        return Cluster(self.url)

    def called(self) -> list[str]:
        """Look-alikes that were called since the last look."""
        found = sorted(path.name for path in self._called.iterdir())
        for path in self._called.iterdir():
            path.unlink()
        return found

    def without_time_outs(self) -> None:
        """As hostile as before, but for who cannot send options with the start-up packet."""
        with self.server.cluster().connect() as connection:
            for name in ("statement_timeout", "idle_session_timeout", "transaction_timeout"):
                if name in self._settings:
                    for whose in self._whose:
                        connection.execute(f"ALTER {whose} RESET {name}")

    def close(self) -> None:
        """Nothing of it stays on the server but the database."""
        with self.server.cluster().connect() as connection:
            connection.execute(
                f"ALTER DATABASE {self.name} RESET ALL; ALTER ROLE {self.role} RESET ALL; ALTER ROLE {self.role} NOLOGIN"
            )
        shutil.rmtree(self._called)

    def _make_look_alikes(self, connection: Connection) -> None:
        words = {word for path in _PRODUCT.rglob("*.py") for word in re.findall(r"[a-z][a-z0-9_]+", path.read_text())}
        statement = sql.SQL(_FUNCTIONS.replace("%%", "%")).as_string()
        for name, value in {
            "names": sorted(words),
            "operators": _OPERATORS,
            "types": _TYPES,
            "folder": str(self._called),
        }.items():
            statement = statement.replace(f"%({name})s", sql.Literal(value).as_string(connection))
        connection.execute(statement.encode())

    def _set_badly(self, connection: Connection) -> None:
        connection.execute(f"CREATE ROLE {self.role} LOGIN SUPERUSER PASSWORD 'backup'")
        for name, value in self._settings.items():
            literal = sql.SQL(value if name == "search_path" else "{}").format(sql.Literal(value)).as_string(connection)
            for whose in self._whose:
                connection.execute(f"ALTER {whose} SET {name} TO {literal}".encode())
