"""Rows are read as they were written: what a database is set to comes before them, in every restore."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
import pytest

from twist_dr.engine.postgres.cluster import Cluster
from twist_dr.engine.postgres.making import give_last, make_to_serve
from twist_dr.engine.postgres.own_settings import own_settings_of
from twist_dr_tests.engine.helpers import KEYRING
from twist_dr_tests.engine.test_verification import taken, verified
from twist_dr_tests.servers import PostgresServer


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
