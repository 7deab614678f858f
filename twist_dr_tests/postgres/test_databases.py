"""Databases beside the live one: their names, what they take after it, who may be in them."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone

import psycopg
import pytest

from twist_dr.errors import CutoverFailed, DatabaseRefused, RestoreFailed
from twist_dr.postgres import databases
from twist_dr.postgres.cluster import Cluster, query, read_facts
from twist_dr.postgres.making import make_to_serve, take_after
from twist_dr.postgres.own_settings import NO_SETTINGS
from twist_dr.repository.manifest import PostgresFacts
from twist_dr_tests.servers import PostgresServer

NOW = datetime(2026, 11, 21, 14, 0, 0, tzinfo=timezone.utc)


@pytest.fixture
def live(server: PostgresServer) -> Iterator[Cluster]:
    yield server.create_database(f'li"ve_{secrets.token_hex(3)}'.replace('"', "'"))


def _facts(cluster: Cluster) -> PostgresFacts:
    with cluster.connect() as connection:
        return read_facts(connection, "18.0")


def test_names_stay_within_what_the_server_keeps() -> None:
    assert databases.name_beside("erp", "restore", NOW) == "erp_restore_20261121t140000"
    long = databases.name_beside("ä" * 40, "replaced", NOW)
    assert len(long.encode()) <= 63 and long.endswith("_replaced_20261121t140000")


def test_a_database_takes_after_the_live_one_in_all_that_a_dump_lacks(server: PostgresServer, live: Cluster) -> None:
    name = live.parameters["dbname"]
    role, reader = f"owner_{secrets.token_hex(3)}", f"reader_{secrets.token_hex(3)}"
    with server.cluster().connect() as connection:
        connection.execute(f'CREATE ROLE {role}; CREATE ROLE "{reader} x"')
        quoted = f'"{name}"'
        for statement in (
            f"ALTER DATABASE {quoted} OWNER TO {role}",
            f"REVOKE ALL ON DATABASE {quoted} FROM PUBLIC",
            f'GRANT CONNECT ON DATABASE {quoted} TO "{reader} x" WITH GRANT OPTION',
            f"ALTER DATABASE {quoted} CONNECTION LIMIT 77",
            f"COMMENT ON DATABASE {quoted} IS 'the real one'",
        ):
            connection.execute(statement)
        other = databases.free_name(connection, name, "restore", NOW)
        make_to_serve(connection, other, _facts(live), NO_SETTINGS, live=name)
        assert databases.free_name(connection, name, "restore", NOW).endswith("t140001")
        take_after(connection, other, name)
        looks = [
            query(
                connection,
                """SELECT pg_get_userbyid(d.datdba), d.datconnlimit, shobj_description(d.oid, 'pg_database'), d.encoding, d.datcollate,
                          (SELECT array_agg(a::text ORDER BY a::text) FROM aclexplode(d.datacl) a)
                     FROM pg_database d WHERE d.datname = %(name)s""",
                {"name": each},
            )
            for each in (name, other)
        ]
        assert looks[0] == looks[1]
        databases.drop(connection, other)
        databases.drop(connection, other)


def test_a_database_in_the_making_lets_no_other_role_in(server: PostgresServer, live: Cluster) -> None:
    guest = f"guest_{secrets.token_hex(3)}"
    with server.cluster().connect() as connection:
        connection.execute(f"CREATE ROLE {guest} LOGIN PASSWORD 'guest'")
        name = databases.free_name(connection, live.parameters["dbname"], "restore", NOW)
        make_to_serve(connection, name, _facts(live), NO_SETTINGS, live=live.parameters["dbname"])
    with pytest.raises(DatabaseRefused, match="permission denied"):
        Cluster(server.url(name, guest, "guest")).connect()


def test_a_locale_that_the_server_lacks_is_named(server: PostgresServer, live: Cluster) -> None:
    facts = _facts(live).model_copy(
        update={"collate": "xx_YY.UTF-8", "ctype": "xx_YY.UTF-8", "locale_provider": "libc", "locale": None}
    )
    with (
        server.cluster().connect() as connection,
        pytest.raises(RestoreFailed, match=r"xx_YY.UTF-8.*install that locale"),
    ):
        make_to_serve(connection, "nowhere", facts, NO_SETTINGS, live=live.parameters["dbname"])


def test_a_switch_that_fails_before_its_commit_renames_nothing(server: PostgresServer, live: Cluster) -> None:
    name = live.parameters["dbname"]
    incoming = server.create_database(f"incoming_{secrets.token_hex(3)}").parameters["dbname"]

    def fail() -> None:
        raise CutoverFailed("media")

    with server.cluster().connect() as connection:
        before = databases.find_oid(connection, name)
        with pytest.raises(CutoverFailed, match="media"):
            databases.switch(connection, live=name, incoming=incoming, kept=f"{incoming}_kept", before_commit=fail)
        assert databases.find_oid(connection, name) == before
        assert databases.find_oid(connection, incoming) is not None


def test_new_connections_wait_for_a_switch_and_come_to_the_new_database(server: PostgresServer, live: Cluster) -> None:
    name = live.parameters["dbname"]
    incoming = server.create_database(f"incoming_{secrets.token_hex(3)}")
    with incoming.connect() as connection:
        connection.execute("CREATE TABLE is_new ()")
    came: list[int] = []

    def arrive() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                with psycopg.connect(live.url) as connection:
                    came.append(len(connection.execute("SELECT FROM is_new").fetchall()))
                    return
            except psycopg.OperationalError:
                time.sleep(0.01)

    guest = threading.Thread(target=arrive)
    with server.cluster().connect() as connection:

        def hold() -> None:
            guest.start()
            time.sleep(0.3)

        databases.switch(
            connection, live=name, incoming=incoming.parameters["dbname"], kept=f"kept_{secrets.token_hex(3)}", before_commit=hold
        )  # fmt: skip
    guest.join()
    assert came == [0]


def test_a_role_without_rights_learns_each_statement_that_helps(server: PostgresServer, live: Cluster) -> None:
    weak = f"weak_{secrets.token_hex(3)}"
    with server.cluster().connect() as connection:
        connection.execute(f"CREATE ROLE {weak} LOGIN PASSWORD 'weak'")
    name = live.parameters["dbname"]
    with psycopg.connect(live.url), Cluster(server.url("postgres", weak, "weak")).connect() as connection:
        found = databases.missing_rights(connection, name)
    assert [
        any(word in line for line in found) for word in ("CREATEDB", "TO weak", "pg_signal_backend", "only a superuser")
    ] == [True] * 4
    with server.cluster().connect() as connection:
        assert databases.missing_rights(connection, name) == []
