"""What a full backup does not hold is named wherever somebody could rely on it, and what was lost without a word comes back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from twist_dr.cli.recover.database import recover_database
from twist_dr.cli.recover.server import look
from twist_dr.doctor.database import check_database
from twist_dr.postgres.cluster import Cluster, query
from twist_dr.postgres.everybodys_settings import add_everybodys_settings, read_everybodys_settings
from twist_dr.postgres.left_out import KINDS, left_out
from twist_dr.postgres.restore_place import scratch_server
from twist_dr.postgres.roles import role_names
from twist_dr.recovery.proof import pending_transactions
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.repository import Repository
from twist_dr.repository.sources import OneCopy
from twist_dr.restore.database import make_missing_roles
from twist_dr.system.progress import Lines, Report
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.doctor.test_doctor import drain
from twist_dr_tests.helpers import KEYRING
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import ROOT
from twist_dr_tests.verify.test_verification import taken, verified

PAGE = ROOT / "docs" / "what-is-in-a-backup.md"


@pytest.fixture(scope="module", params=sorted(TOOLS, reverse=True), ids=lambda major: f"pg{major}")
def logical(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server that takes subscriptions, logical slots and prepared transactions."""
    settings = {"fsync": "off", "wal_level": "logical", "max_prepared_transactions": "5"}
    with PostgresServer(TOOLS[request.param], tmp_path_factory.mktemp("logical"), settings=settings) as running:
        yield running


def test_everything_that_a_dump_leaves_out_is_named_by_doctor_backup_and_verification(
    logical: PostgresServer, tmp_path: Path
) -> None:
    cluster = logical.create_database("much")
    with cluster.connect() as connection:
        connection.execute(
            """CREATE TABLE t (id int); CREATE EXTENSION postgres_fdw; CREATE EXTENSION hstore; CREATE TABLE closed (id int);
               CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw; CREATE FOREIGN TABLE abroad (id int) SERVER far;
               CREATE USER MAPPING FOR postgres SERVER far OPTIONS (password 'x');
               ALTER EXTENSION hstore ADD TABLE closed;
               CREATE ROLE archivist LOGIN PASSWORD 'letmein'; GRANT SELECT ON t TO archivist"""
        )
        connection.execute(
            "CREATE SUBSCRIPTION feed CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false)"
        )
        query(connection, "SELECT pg_create_logical_replication_slot('reader', 'pgoutput')::text")
    with cluster.connect(autocommit=False) as connection:
        connection.execute("INSERT INTO t VALUES (1)")
        connection.execute("PREPARE TRANSACTION 'transfer 7'")
    try:
        with Cluster(logical.url("much", "archivist", "letmein")).connect() as connection:
            kinds = {found.kind for found in left_out(connection)}
        assert kinds == KINDS.keys() - {"unlogged tables on a standby"}
        manifest, repository = taken(cluster, tmp_path)
        told = " / ".join(manifest.left_out)
        for words in (
            "prepared transaction transfer 7 of postgres",
            "subscription feed",
            "slot reader",
            "1 foreign table (public.abroad)",
        ):
            assert words in told
        assert {f"database: {sentence}" for sentence in manifest.left_out} <= set(manifest.warnings)
        with cluster.connect() as connection:
            connection.execute("ROLLBACK PREPARED 'transfer 7'")
        findings, _ = drain(check_database(cluster))
        assert (
            sum(each.check == "left out" and each.status == "warning" for each in findings)
            == len(manifest.left_out) - 1
        )
        result = verified(cluster, manifest, repository, tmp_path)
        assert result.differences == []
        assert {f"not in the backup: {sentence}" for sentence in manifest.left_out} <= set(result.notes)
    finally:
        with cluster.connect() as connection:
            connection.execute(
                "DROP OWNED BY archivist; DROP ROLE archivist; ALTER SUBSCRIPTION feed SET (slot_name = NONE); DROP SUBSCRIPTION feed"
            )
            query(connection, "SELECT pg_drop_replication_slot('reader')::text")


def test_a_prepared_transaction_that_is_pending_is_named_with_how_to_end_it(logical: PostgresServer) -> None:
    with logical.create_database("pending").connect() as connection:
        connection.execute("CREATE TABLE t (id int)")
        connection.execute("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'o''clock'")
        (sentence,) = pending_transactions(logical.cluster())
        connection.execute("ROLLBACK PREPARED 'o''clock'")
    assert "the prepared transaction o'clock of postgres in the database pending, prepared at 2" in sentence
    assert sentence.endswith("with COMMIT PREPARED 'o''clock' or ROLLBACK PREPARED 'o''clock'")


def test_a_schema_public_that_was_dropped_stays_away(newest_server: PostgresServer, tmp_path: Path) -> None:
    cluster = newest_server.create_database("no_public")
    with cluster.connect() as connection:
        connection.execute("DROP SCHEMA public; CREATE SCHEMA shop; CREATE TABLE shop.t AS SELECT 1 AS id")
    manifest, repository = taken(cluster, tmp_path)
    assert verified(cluster, manifest, repository, tmp_path).differences == []
    with recovered(newest_server, "no_public_again", manifest, repository) as connection:
        assert query(connection, "SELECT nspname FROM pg_namespace WHERE nspname IN ('public', 'shop')") == [("shop",)]


def test_what_is_set_for_all_roles_and_who_is_a_member_of_whom_comes_back(
    logical: PostgresServer, tmp_path: Path
) -> None:
    cluster = logical.create_database("roles")
    with cluster.connect() as connection:
        connection.execute(
            """CREATE TABLE t AS SELECT 1 AS id; CREATE ROLE "the clerks"; CREATE ROLE anna LOGIN; CREATE ROLE stays;
               GRANT "the clerks" TO anna WITH ADMIN OPTION; GRANT stays TO "the clerks";
               ALTER ROLE ALL SET search_path = shop, "A, b"; ALTER ROLE ALL SET app.max = 'it''s 7'; ALTER ROLE ALL SET work_mem = '7MB'"""
        )
        before = query(
            connection, "SELECT unnest(setconfig) FROM pg_db_role_setting WHERE setrole = 0 AND setdatabase = 0"
        )
        manifest, repository = taken(cluster, tmp_path)
        roles = repository.read_small(manifest, "roles.sql", KEYRING)
        facts = manifest.postgres
        assert facts is not None
        with scratch_server(logical.tools, tmp_path / "scratch", facts, roles) as place, place.connect() as scratch:
            assert (
                query(scratch, "SELECT unnest(setconfig) FROM pg_db_role_setting WHERE setrole = 0 AND setdatabase = 0")
                == before
            )
        connection.execute(
            "ALTER ROLE ALL RESET app.max; ALTER ROLE ALL SET work_mem = '8MB'; DROP ROLE \"the clerks\"; DROP ROLE anna"
        )
        told = make_missing_roles(cluster, connection, roles, gone=False)
        memberships = "SELECT roleid::regrole::text, member::regrole::text, admin_option FROM pg_auth_members WHERE roleid::regrole::text ~ 'clerk|stays'"
        assert sorted(query(connection, memberships)) == [
            ('"the clerks"', "anna", True),
            ("stays", '"the clerks"', False),
        ]
        assert any(
            line.startswith('a membership of roles that were made was given as it was: GRANT "the clerks" TO anna')
            for line in told
        )
        assert any("had app.max set for all roles" in line and "has it not" in line for line in told)
        assert any("had work_mem set for all roles" in line and "has it otherwise" in line for line in told)
        assert "it's 7" not in " ".join(told) and not any("search_path" in line for line in told)
        lines: list[str] = []
        with recovered(logical, "roles_again", manifest, repository, lines):
            now = query(
                connection, "SELECT unnest(setconfig) FROM pg_db_role_setting WHERE setrole = 0 AND setdatabase = 0"
            )
        assert sorted(now) == sorted([*(each for each in before if "work_mem" not in each[0]), ("work_mem=8MB",)])
        assert any(
            "set for all roles (ALTER ROLE ALL SET), as the backup's server had it: app.max" in line for line in lines
        )
        assert any(
            "the setting work_mem for all roles (ALTER ROLE ALL SET) is another one here" in line for line in lines
        )
        connection.execute('ALTER ROLE ALL RESET ALL; DROP ROLE anna; DROP ROLE stays; DROP ROLE "the clerks"')
    assert "ALL" not in role_names(roles)


def test_libraries_are_never_set_for_all_roles_of_a_server_that_may_lack_them(newest_server: PostgresServer) -> None:
    with newest_server.cluster().connect() as connection:
        given, told = add_everybodys_settings(connection, b"ALTER ROLE ALL SET session_preload_libraries TO 'gone';\n")
        assert read_everybodys_settings(connection) == b""
    assert given == [] and len(told) == 1 and "nobody could connect any more" in told[0]


def test_the_page_and_the_function_name_the_same() -> None:
    named = PAGE.read_text().split("Named, as they are not in a dump or not restored:")[1].split("Not kept:")[0]
    assert re.findall(r"^- ([^:]+):", named, re.MULTILINE) == list(KINDS)
    readme = PAGE.parents[1] / "README.md"
    assert "docs/what-is-in-a-backup.md" in readme.read_text()


class recovered:
    """A backup recovered into a database of that name on the same server, which is dropped afterwards. Gives a connection there."""

    def __init__(
        self,
        server: PostgresServer,
        name: str,
        manifest: Manifest,
        repository: Repository,
        lines: list[str] | None = None,
    ) -> None:
        self._server, self._name = server, name
        report = Report(Lines(*([lines.append] * 2 if lines is not None else [])))
        assert manifest.postgres is not None
        url = server.url(name)
        recover_database(look(url, manifest.postgres), OneCopy(manifest, repository, KEYRING), jobs=1, report=report)
        self._connection = Cluster(url).connect()

    def __enter__(self):  # type: ignore[no-untyped-def]  # psycopg is imported where it is used
        return self._connection

    def __exit__(self, *error: object) -> None:
        self._connection.close()
        with self._server.cluster().connect() as connection:
            connection.execute(f"DROP DATABASE {self._name} WITH (FORCE)")
