"""Rows are read as they were written: what a database is set to comes before them, in every restore."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
import pytest

from twist_dr.errors import DatabaseError, ProcessFailed
from twist_dr.postgres import databases
from twist_dr.postgres.cluster import Cluster, read_facts
from twist_dr.postgres.confinement import is_kept_away
from twist_dr.postgres.dump import dump_roles, restore_database
from twist_dr.postgres.making import give_last, leave_outside, make_to_serve
from twist_dr.postgres.own_settings import (
    NO_SETTINGS,
    OwnSetting,
    OwnSettings,
    differing_settings,
    own_settings_of,
)
from twist_dr.postgres.roles import apply_roles, missing_roles, roles_to_make
from twist_dr.postgres.surroundings import differing
from twist_dr.recovery.outside import text_orders
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.repository import Repository
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.helpers import KEYRING
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.verify.test_verification import taken, verified


@pytest.fixture
def live(server: PostgresServer) -> Iterator[Cluster]:
    name = f'li"ve {secrets.token_hex(3)}'.replace('"', "'")
    yield server.create_database(name)
    with server.cluster().connect() as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def run(cluster: Cluster, *statements: str) -> None:
    """Statements in the database, each in a session of its own; ``{}`` is its name."""
    for statement in statements:
        with cluster.connect() as connection:
            connection.execute(statement.replace("{}", f'"{cluster.parameters["dbname"]}"').encode())


def rows(cluster: Cluster, statement: str) -> Sequence[tuple[object, ...]]:
    with cluster.connect() as connection:
        return connection.execute(statement.encode()).fetchall()


def test_an_amount_of_money_is_verified_as_the_amount_that_it_was(
    live: Cluster, tmp_path: Path, comma_locale: str
) -> None:
    """Read with the point and comma of another locale, 12.34 is 1,234.00; only the check of the table sees it here."""
    run(
        live,
        f"ALTER DATABASE {{}} SET lc_monetary = '{comma_locale}'",
        "CREATE TABLE ticket (price money CHECK (price < 100::money)); INSERT INTO ticket VALUES ('12,34')",
    )
    manifest, repository = taken(live, tmp_path)
    assert verified(live, manifest, repository, tmp_path).differences == []


def test_a_database_is_set_as_the_one_that_was_dumped_whatever_either_is_called(
    live: Cluster, server: PostgresServer, tmp_path: Path
) -> None:
    """Before the rows what they are read by; what would hold a restore up, at last."""
    name = live.parameters["dbname"]
    role, other = f'rea"der {secrets.token_hex(3)}'.replace('"', "'"), f"ö{name}"
    run(
        live,
        f'CREATE ROLE "{role}"',
        "CREATE TABLE t (id int)",
        'ALTER DATABASE {} SET search_path TO "$user", "My Schema", public',
        "ALTER DATABASE {} SET statement_timeout TO '7min'",
        "ALTER DATABASE {} SET default_transaction_read_only TO on",
        "ALTER DATABASE {} SET erp.company_id TO 'it''s; SET x TO y'",
        f"ALTER ROLE \"{role}\" IN DATABASE {{}} SET work_mem TO '9MB'",
    )
    manifest, repository = taken(live, tmp_path)
    assert manifest.postgres is not None
    dump = tmp_path / "database.dump"
    repository.fetch(manifest, "database.dump", KEYRING, dump)
    own = own_settings_of(dump)
    with server.cluster().connect() as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{other}"')
        assert make_to_serve(connection, other, manifest.postgres, own).notes == []
        leave_outside(connection, other, manifest.postgres, own)
        first = settings(connection, other)
        give_last(connection, other, own)
        assert settings(connection, other) == settings(connection, name)
        connection.execute(f'DROP DATABASE "{other}"')
    assert len(first) == 3 and not any("statement_timeout" in each or "read_only" in each for each in first)


def settings(connection: psycopg.Connection, name: str) -> list[str]:
    """What a database is set to, by role."""
    wanted = """SELECT s.setrole::regrole || ': ' || setting FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase,
                       unnest(s.setconfig) setting WHERE d.datname = %s ORDER BY 1"""
    return [row[0] for row in connection.execute(wanted, [name])]


def restored(server: PostgresServer, manifest: Manifest, repository: Repository, folder: Path) -> Cluster:
    """The backup restored beside the live database, as a restore does it, up to where migrations begin."""
    assert manifest.postgres is not None
    name = f"restored {secrets.token_hex(3)}"
    dump = folder / f"{name}.dump"
    repository.fetch(manifest, "database.dump", KEYRING, dump)
    own = own_settings_of(dump)
    with server.cluster().connect() as connection:
        made = make_to_serve(connection, name, manifest.postgres, own)
        assert made.notes == []
        restore_database(server.cluster(), TOOLS[server.major], name, dump, jobs=1)
        leave_outside(connection, name, manifest.postgres, own)
    return server.cluster(name)


def drop(server: PostgresServer, cluster: Cluster) -> None:
    with server.cluster().connect() as connection:
        databases.drop(connection, cluster.parameters["dbname"])


def test_what_is_computed_anew_is_computed_as_the_database_has_it(
    live: Cluster, server: PostgresServer, tmp_path: Path
) -> None:
    """A view's days by the database's time zone, a check by a parameter of the application's, tables where the database has them looked for."""
    run(
        live,
        "ALTER DATABASE {} SET timezone = 'Pacific/Kiritimati'",
        "ALTER DATABASE {} SET app.max = '10'",
        "CREATE SCHEMA shop; ALTER DATABASE {} SET search_path = shop, public",
        "CREATE TABLE sale (at timestamptz, amount int CHECK (amount <= current_setting('app.max')::int));"
        "INSERT INTO sale VALUES ('2026-05-01 12:00Z', 10); CREATE MATERIALIZED VIEW day AS SELECT at::date AS day FROM sale",
    )
    manifest, repository = taken(live, tmp_path)
    assert verified(live, manifest, repository, tmp_path).differences == []
    again = restored(server, manifest, repository, tmp_path)
    # As a migration would name it.
    assert rows(again, "SELECT day::text FROM day") == [("2026-05-02",)]
    drop(server, again)


def test_what_is_set_outside_the_database_is_recorded_and_counts_until_the_rows_are_in(
    live: Cluster, server: PostgresServer, tmp_path: Path, comma_locale: str
) -> None:
    role = f"dumper_{secrets.token_hex(3)}"
    run(
        live,
        f"CREATE ROLE {role} SUPERUSER LOGIN PASSWORD 'word'; ALTER ROLE {role} SET lc_monetary = '{comma_locale}'; "
        f"ALTER ROLE {role} SET DateStyle = 'German'; ALTER ROLE {role} SET app.key = 'secret'",
    )
    dumper = Cluster(server.url(live.parameters["dbname"], role, "word"))
    run(
        dumper,
        "ALTER DATABASE {} SET DateStyle = 'SQL, DMY'",
        "CREATE TABLE ticket (price money CHECK (price < 100::money), day date); INSERT INTO ticket VALUES ('12,34', '2026-02-01');"
        "CREATE MATERIALIZED VIEW told AS SELECT price::text, day::text FROM ticket",
    )
    manifest, repository = taken(dumper, tmp_path)
    assert manifest.postgres is not None
    session = manifest.postgres.session
    assert (session["lc_monetary"], session["DateStyle"]) == (comma_locale, "German, DMY") and "app.key" not in session
    assert verified(dumper, manifest, repository, tmp_path).differences == []
    again = restored(server, manifest, repository, tmp_path)
    # What was computed, as it was; and from then on the server's own, and the database's.
    assert rows(again, "SELECT * FROM told") == [("$ 12,34", "01.02.2026")]
    assert rows(again, "SELECT price::text, day::text FROM ticket") == [("$12.34", "01/02/2026")]
    assert "lc_monetary is C.UTF-8 and was es_EC.UTF-8" in differing(manifest.postgres, server.cluster())
    drop(server, again)

    older = manifest.model_copy(
        update={"postgres": manifest.postgres.model_copy(update={"session": {}, "preloaded": None})}
    )
    assert older.postgres is not None and differing(older.postgres, server.cluster()) == []
    with pytest.raises(ProcessFailed, match="ticket_price_check"):  # as ever: nothing tells what it was
        restored(server, older, repository, tmp_path)


def test_amounts_of_a_locale_that_is_not_here_are_never_believed(
    live: Cluster, server: PostgresServer, tmp_path: Path
) -> None:
    run(live, "CREATE TABLE ticket (price money); INSERT INTO ticket VALUES ('12.34')")
    manifest, repository = taken(live, tmp_path)
    assert manifest.postgres is not None
    elsewhere = {**manifest.postgres.session, "lc_monetary": "xx_YY.UTF-8"}
    manifest = manifest.model_copy(update={"postgres": manifest.postgres.model_copy(update={"session": elsewhere})})
    with pytest.raises(DatabaseError, match=r"Nothing can be said about .*money.*install the locale"):
        verified(live, manifest, repository, tmp_path)
    run(live, "DROP TABLE ticket; CREATE TABLE ticket (price numeric)")
    without, repository = taken(live, tmp_path / "without")
    without = without.model_copy(update={"postgres": manifest.postgres})
    found = verified(live, without, repository, tmp_path)
    assert found.differences == [] and any("lc_monetary" in note for note in found.notes)


def test_settings_that_lead_nowhere_make_no_good_backup_a_bad_one(
    live: Cluster, server: PostgresServer, tmp_path: Path
) -> None:
    library = server.base / "only_there.so"
    shutil.copy(next(server.tools.folder.parent.rglob("auto_explain.so")), library)
    library.chmod(0o755)
    role = f"nobody_{secrets.token_hex(3)}"
    run(
        live,
        f"CREATE ROLE {role}; CREATE TABLE t AS SELECT 1 AS id",
        "CREATE SCHEMA other; CREATE TABLE other.pg_class (id int)",
        f"GRANT pg_read_all_data TO {role}",
    )
    for setting in (
        "search_path = other, nowhere",
        "default_tablespace = 'nowhere'",
        "temp_tablespaces = 'nowhere', 'never'",
        f"role = '{role}'",
        "statement_timeout = '1ms'",
        "default_transaction_read_only = on",
        f"session_preload_libraries = '{library}'",
    ):
        with server.cluster().connect() as connection:
            connection.execute(f'ALTER DATABASE "{live.parameters["dbname"]}" SET {setting}'.encode())
    manifest, repository = taken(live, tmp_path)
    found = verified(live, manifest, repository, tmp_path)
    assert found.differences == []
    assert not is_kept_away() or any("session_preload_libraries" in note for note in found.notes)


def test_libraries_that_must_be_preloaded_are_and_unknown_ones_are_told(tmp_path: Path) -> None:
    settings = {"fsync": "off", "shared_preload_libraries": "pg_stat_statements"}
    with PostgresServer(TOOLS[max(TOOLS)], tmp_path / "server", settings=settings) as server:
        live = server.create_database("watched")
        run(
            live,
            "CREATE TABLE t (id int); CREATE EXTENSION pg_stat_statements; CREATE MATERIALIZED VIEW busy AS SELECT count(*) FROM pg_stat_statements",
        )
        manifest, repository = taken(live, tmp_path)
        assert manifest.postgres is not None and manifest.postgres.preloaded == ["pg_stat_statements"]
        for told in (["pg_stat_statements", "only_there", "../../lib/evil"], None):
            facts = manifest.postgres.model_copy(update={"preloaded": told})
            found = verified(live, manifest.model_copy(update={"postgres": facts}), repository, tmp_path)
            assert found.differences == []
            assert any("only_there" in each for each in found.notes) == bool(told)
            assert len([each for each in found.notes if "preloaded" in each]) == (2 if told else 0)


def test_what_the_live_database_is_set_to_otherwise_is_named_and_never_its_values(live: Cluster) -> None:
    run(
        live,
        "ALTER DATABASE {} SET search_path TO \"$user\", 'My Schema'",
        "ALTER DATABASE {} SET DateStyle TO 'SQL, DMY'",
        "ALTER DATABASE {} SET app.key TO 'it''s secret'",
    )
    own = OwnSettings(
        settings=(
            OwnSetting("search_path", b"'$user', 'My Schema'"),
            OwnSetting("datestyle", b"'SQL, DMY'"),
            OwnSetting("app.key", b"'it''s another'"),
            OwnSetting("work_mem", b"'9MB'", b'"The Role"'),
        )
    )
    with live.connect() as connection:
        found = differing_settings(connection, live.parameters["dbname"], own)
    assert found == ["app.key", "work_mem of role The Role"]


def test_another_version_of_a_locale_is_told(newest_server: PostgresServer, comma_locale: str) -> None:
    name, other = f"sorted_{secrets.token_hex(3)}", f"again_{secrets.token_hex(3)}"
    with newest_server.cluster().connect() as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 LOCALE '{comma_locale}'".encode())
        with newest_server.cluster(name).connect() as looking:
            facts = read_facts(looking, "18.0")
            assert facts.collation_version and text_orders(looking) == []
        older = facts.model_copy(update={"collation_version": "1.2.3"})
        [note] = make_to_serve(connection, other, older, NO_SETTINGS).notes
        assert "by 1.2.3 where it was backed up" in note
        connection.execute(f"UPDATE pg_database SET datcollversion = '1.2.3' WHERE datname = '{name}'".encode())
    with newest_server.cluster(name).connect() as connection:
        [told] = text_orders(connection)
    assert f"database {name} by version 1.2.3" in told and "REINDEX" in told
    with newest_server.cluster().connect() as connection:
        for database in (name, other):
            databases.drop(connection, database)


def test_rows_of_any_bytes_are_kept_and_names_that_are_no_utf_8_refused_with_the_reason(
    newest_server: PostgresServer, tmp_path: Path
) -> None:
    name = f"raw_{secrets.token_hex(3)}"
    with newest_server.cluster().connect() as connection:
        connection.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'".encode()
        )
    cluster = newest_server.cluster(name)
    with psycopg.connect(cluster.url, autocommit=True) as connection:
        connection.execute("SET client_encoding = 'SQL_ASCII'")
        connection.execute(b"CREATE TABLE plain (word text); INSERT INTO plain VALUES ('caf\xe9')")
    manifest, repository = taken(cluster, tmp_path)
    assert verified(cluster, manifest, repository, tmp_path).differences == []
    with psycopg.connect(cluster.url, autocommit=True) as connection:
        connection.execute("SET client_encoding = 'SQL_ASCII'")
        connection.execute(b'CREATE TABLE "caf\xe9" (id int)')
    with pytest.raises(DatabaseError, match=r"SQL_ASCII, and it holds names that are no UTF-8.*rename them"):
        taken(cluster, tmp_path / "again")
    with newest_server.cluster().connect() as connection:
        databases.drop(connection, name)


def test_roles_with_orders_to_psql_around_them_are_made_on_any_server(server: PostgresServer) -> None:
    r"""pg_dumpall of newer minor releases begins with \restrict, which older programs do not know; none of them is asked."""
    role, script = f"clerk_{secrets.token_hex(3)}", list[bytes]()
    with server.cluster().connect() as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'".encode())
        dump_roles(server.cluster(), server.tools, True, script.append)
        connection.execute(f"DROP ROLE {role}".encode())
        roles = b"".join(script)
        assert b"\n\\restrict " in roles and missing_roles(connection, roles) == [role]
        apply_roles(server.cluster(), roles_to_make(roles, {role}))
        assert missing_roles(connection, roles) == []
        connection.execute(f"DROP ROLE {role}".encode())
