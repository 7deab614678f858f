"""Where a backup is proven: never in the live server, and nothing of it stays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from psycopg import sql

from twist_dr.errors import DatabaseError
from twist_dr.postgres.cluster import Cluster, Snapshot
from twist_dr.postgres.dump import dump_roles
from twist_dr.postgres.restore_place import existing_server, restoring_major, scratch_server
from twist_dr.repository.manifest import Extension, PostgresFacts
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.servers import PostgresServer

TOOLS_USED = TOOLS[max(TOOLS)]
BACKUP = "20260101T020000Z-full-0001"
ROLES = ("accountant", "The Boss", 'quo"te')


@dataclass
class Live:
    """A live database and what a backup recorded of it."""

    cluster: Cluster
    facts: PostgresFacts
    roles: bytes


@pytest.fixture(scope="module")
def live(newest_server: PostgresServer) -> Live:
    cluster = newest_server.create_database("live")
    with cluster.connect() as connection:
        for role in ROLES:
            quoted = '"' + role.replace('"', '""') + '"'
            connection.execute(f"DROP ROLE IF EXISTS {quoted}")
            connection.execute(f"CREATE ROLE {quoted} LOGIN PASSWORD 'x'")
    parts: list[bytes] = []
    with Snapshot(cluster) as snapshot:
        facts = snapshot.facts("18.6")
    dump_roles(cluster, TOOLS_USED, True, parts.append)
    tablespace = b"CREATE TABLESPACE fast OWNER accountant LOCATION '/srv/live/fast';\n"
    return Live(cluster, facts, b"".join(parts) + tablespace)


@pytest.fixture
def second_server(tmp_path: Path) -> Iterator[PostgresServer]:
    with PostgresServer(TOOLS_USED, tmp_path / "second", settings={"fsync": "off"}) as running:
        yield running


def names(cluster: Cluster) -> set[str]:
    """Roles and databases of a server."""
    with cluster.connect() as connection:
        rows = connection.execute("SELECT rolname FROM pg_roles UNION ALL SELECT datname FROM pg_database").fetchall()
    return {row[0] for row in rows}


def test_a_scratch_server_has_the_roles_and_an_empty_database_of_the_same_kind(live: Live, tmp_path: Path) -> None:
    with scratch_server(TOOLS_USED, tmp_path / "scratch", live.facts, live.roles) as place:
        assert set(ROLES) <= names(place.cluster)
        assert place.notes == []
        with Snapshot(place.cluster) as snapshot:
            facts = snapshot.facts("18.6")
            assert snapshot.tables() == []
        assert (facts.encoding, facts.collate) == (live.facts.encoding, live.facts.collate)
        assert facts.system_identifier != live.facts.system_identifier
    assert list((tmp_path / "scratch").glob("server-*")) == []


def test_a_locale_that_is_not_here_is_replaced_and_said(live: Live, tmp_path: Path) -> None:
    facts = live.facts.model_copy(update={"collate": "xx_YY.utf8", "ctype": "xx_YY.utf8"})
    with scratch_server(TOOLS_USED, tmp_path / "scratch", facts, live.roles) as place:
        assert place.notes == [
            "the locale xx_YY.utf8 (libc) is not available here, so the database was restored with locale C"
        ]


def test_roles_that_cannot_be_made_leave_no_server(live: Live, tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="does not take the roles"):
        scratch_server(TOOLS_USED, tmp_path / "scratch", live.facts, b"CREATE ROLE broken SUPERPOWERS;\n")
    assert list((tmp_path / "scratch").glob("server-*")) == []


def test_a_comment_is_no_order_and_no_statement_about_a_tablespace_reaches_the_scratch_server(
    live: Live, tmp_path: Path
) -> None:
    """What a comment or a name holds was taken for lines of the script; psql would even run its orders."""
    ran = tmp_path / "ran"
    comment = f"fine\nALTER TABLESPACE pg_default OWNER TO nobody;\nCREATE ROLE planted;\n\\! touch {ran}\n"
    odd = "GRANT \n ON TABLESPACE x TO y"
    try:
        with live.cluster.connect() as connection:
            connection.execute(f'CREATE ROLE "{odd}"')
            connection.execute(f'GRANT "{odd}" TO accountant')
            connection.execute(sql.SQL("COMMENT ON ROLE accountant IS {}").format(sql.Literal(comment)))
        parts: list[bytes] = []
        dump_roles(live.cluster, TOOLS_USED, True, parts.append)
    finally:
        with live.cluster.connect() as connection:
            connection.execute(f'DROP ROLE "{odd}"; COMMENT ON ROLE accountant IS NULL')
    tablespaces = b"""CREATE TABLESPACE "a;
b" OWNER accountant LOCATION '/srv/live/a';
ALTER TABLESPACE "a;
b" SET (seq_page_cost=2);
COMMENT ON TABLESPACE "a;
b" IS 'x';
GRANT ALL ON TABLESPACE "a;
b" TO accountant;
\\! touch """ + bytes(ran)
    with scratch_server(TOOLS_USED, tmp_path / "scratch", live.facts, b"".join(parts) + tablespaces) as place:
        assert {odd, *ROLES} <= names(place.cluster) and "planted" not in names(place.cluster)
        with place.connect() as connection:
            told = connection.execute(
                "SELECT shobj_description('accountant'::regrole, 'pg_authid'), pg_has_role('accountant', %s, 'MEMBER')",
                [odd],
            ).fetchone()
            assert told == (comment, True)
    assert not ran.exists()


def test_the_live_server_is_refused_as_a_place_to_verify_in(live: Live) -> None:
    before = names(live.cluster)
    for facts in (live.facts, live.facts.model_copy(update={"system_identifier": "1"})):
        with pytest.raises(DatabaseError, match="production server itself"):
            existing_server(live.cluster, live.cluster, facts, live.roles, TOOLS_USED, BACKUP)
    assert names(live.cluster) == before


def test_an_existing_server_gets_a_database_and_roles_without_login_and_loses_them_again(
    live: Live, second_server: PostgresServer
) -> None:
    server = second_server.cluster()
    before = names(server)
    with existing_server(server, live.cluster, live.facts, live.roles, TOOLS_USED, BACKUP) as place:
        assert names(server) - before >= {*ROLES, place.database}
        assert place.database.startswith("twist_dr_verify_20260101t020000z_full_0001_")
        with place.connect() as connection:
            row = connection.execute(
                "SELECT bool_or(rolcanlogin) FROM pg_roles WHERE rolname = 'accountant'"
            ).fetchone()
            assert row == (False,)
    assert names(server) == before


def test_a_verification_that_cannot_begin_leaves_nothing_on_an_existing_server(
    live: Live, second_server: PostgresServer
) -> None:
    server = second_server.cluster()
    before = names(server)
    facts = live.facts.model_copy(update={"encoding": "KLINGON"})
    with pytest.raises(DatabaseError):
        existing_server(server, live.cluster, facts, live.roles, TOOLS_USED, BACKUP)
    assert names(server) == before


def test_two_verifications_of_one_backup_leave_each_other_alone(live: Live, second_server: PostgresServer) -> None:
    server = second_server.cluster()
    before = names(server)
    arguments = (server, live.cluster, live.facts, live.roles, TOOLS_USED, BACKUP)
    with existing_server(*arguments) as first:
        with existing_server(*arguments) as second:
            assert {first.database, second.database} <= names(server)
        assert first.database in names(server) and second.database not in names(server)
        assert set(ROLES) <= names(server)
        later = existing_server(*arguments)
    # Who made the roles has gone; the other still has them, and takes them along.
    assert set(ROLES) <= names(server)
    with later:
        assert later.database in names(server)
    assert names(server) == before


def test_a_server_that_may_be_the_live_one_for_all_we_know_is_refused(live: Live) -> None:
    with live.cluster.connect() as connection:
        connection.execute("DROP ROLE IF EXISTS blind")
        connection.execute("CREATE ROLE blind LOGIN PASSWORD 'x'")
        connection.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM public")
    before = names(live.cluster)
    url = live.cluster.url
    blind = Cluster("postgresql://blind:x@" + url.rpartition("@")[2])
    facts = live.facts.model_copy(update={"system_identifier": None})
    try:
        with pytest.raises(DatabaseError, match="cannot be seen that it is another one"):
            existing_server(live.cluster, blind, facts, live.roles, TOOLS_USED, BACKUP)
    finally:
        with live.cluster.connect() as connection:
            connection.execute("GRANT EXECUTE ON FUNCTION pg_control_system() TO public")
    assert names(live.cluster) == before
    with live.cluster.connect() as connection:
        connection.execute("DROP ROLE blind")


def test_an_extension_that_the_verifying_server_lacks_is_named_and_nothing_is_said_about_the_backup(
    live: Live, second_server: PostgresServer, tmp_path: Path
) -> None:
    extensions = [*live.facts.extensions, Extension(name="star_charts", version="1.0")]
    facts = live.facts.model_copy(update={"extensions": extensions})
    words = "uses star_charts, which the server that verifies .* lacks.* install the packages"
    with pytest.raises(DatabaseError, match=words):
        scratch_server(TOOLS_USED, tmp_path / "scratch", facts, live.roles)
    with pytest.raises(DatabaseError, match=words):
        existing_server(second_server.cluster(), live.cluster, facts, live.roles, TOOLS_USED, BACKUP)


def test_a_verification_server_too_old_for_the_dump_is_refused_by_name(
    live: Live, second_server: PostgresServer
) -> None:
    facts = live.facts.model_copy(update={"client_version": "99.1"})
    assert restoring_major(facts) == 99
    with pytest.raises(DatabaseError, match=r"verification.server runs PostgreSQL .* version 99 or newer"):
        existing_server(second_server.cluster(), live.cluster, facts, live.roles, TOOLS_USED, BACKUP)


def test_role_grants_of_an_old_server_are_taken_by_a_new_one_whoever_granted_them(live: Live, tmp_path: Path) -> None:
    roles = (
        b'CREATE ROLE "the group";\nCREATE ROLE member;\nCREATE ROLE dba;\n'
        b'GRANT "the group" TO member WITH ADMIN OPTION GRANTED BY dba;\nGRANT "the group" TO dba GRANTED BY dba;\n'
    )
    facts = live.facts.model_copy(update={"client_version": "15.4"})
    with scratch_server(TOOLS_USED, tmp_path / "scratch", facts, roles) as place, place.connect() as connection:
        found = connection.execute(
            "SELECT member::regrole::text, admin_option FROM pg_auth_members WHERE roleid = '\"the group\"'::regrole"
        ).fetchall()
    assert sorted(found) == [("dba", False), ("member", True)]


def test_a_first_superuser_that_may_not_log_in_at_home_does_not_lock_us_out(live: Live, tmp_path: Path) -> None:
    roles = (
        b'CREATE ROLE "the first";\nALTER ROLE "the first" WITH SUPERUSER NOLOGIN;\n'
        b"ALTER ROLE \"the first\" SET default_transaction_read_only TO 'on';\n"
        b'CREATE ROLE "the first mate";\nALTER ROLE "the first mate" WITH LOGIN;\n'
    )
    facts = live.facts.model_copy(update={"bootstrap_role": "the first"})
    with scratch_server(TOOLS_USED, tmp_path / "scratch", facts, roles) as place, place.connect() as connection:
        connection.execute("CREATE TABLE public.written (id int)")
        mate = connection.execute("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'the first mate'").fetchall()
    assert mate == [(True,)]
