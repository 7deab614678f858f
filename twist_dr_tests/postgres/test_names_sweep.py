"""Any identifier that PostgreSQL allows, as database, role, schema, table and column, through backup, verification, recovery and diff."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg import sql

from twist_dr.backup.diff import compare
from twist_dr.cli.recover.database import recover_database
from twist_dr.cli.recover.server import look
from twist_dr.postgres.cluster import Cluster, query
from twist_dr.postgres.comparison import compare_database
from twist_dr.postgres.restore_place import scratch_server
from twist_dr.recovery.planning import RecoveryRequest, plan_recovery
from twist_dr.recovery.recover import recover
from twist_dr.repository.manifest import PostgresFacts
from twist_dr.repository.sources import OneCopy, Sources
from twist_dr.system.progress import Report
from twist_dr_tests.backup.base.clusters import Bases
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.helpers import KEYRING
from twist_dr_tests.postgres.test_names import DATABASES, TABLES, make
from twist_dr_tests.primaries import MB, Primary
from twist_dr_tests.recovery.material import Material
from twist_dr_tests.recovery.world import archives_of
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.verify.test_verification import taken, verified

PIECES = [
    "a", "B", ".", ",", '"', "'", "\n", "\r", "\t", " ", "%", "%s", "{}", "{0}", "$(id)", "`id`", "$$", "\\", "\\x", "\x1b[31m", "\x7f", "\x9b",
    "\u202e", "é", "😀", "表", "-", "--", "-d", "/*", ";", "=", "://", "dbname=x", "select", "user", "TABLE DATA", "ON TABLESPACE", "U&", "&", "|", "<b>",
    "/", "..", "*", "?", "#", "~", "@", "\u2028", "é".encode().decode("latin-1"),
]  # fmt: skip


def fits(name: str) -> bool:
    return len(name.encode()) <= 63 and not name.startswith("pg_") and name not in ("public", "none")


NAMES = st.lists(st.sampled_from(PIECES), min_size=1, max_size=16).map("".join).filter(fits) | st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20
).filter(fits)


@contextmanager
def named(server: PostgresServer, database: str, role: str, names: list[str]) -> Iterator[Cluster]:
    """A database of the role's, with a setting of its own for it, and comments with the names in them."""
    database_name, role_name, comment = sql.Identifier(database), sql.Identifier(role), sql.Literal("\n".join(names))
    with server.cluster().connect() as connection:
        connection.execute(sql.SQL("CREATE ROLE {}").format(role_name))
        connection.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(role_name, comment))
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database_name, role_name))
        connection.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(database_name, comment))
        statement = sql.SQL("ALTER ROLE {} IN DATABASE {} SET application_name = {}")
        connection.execute(statement.format(role_name, database_name, sql.Literal(names[0])))
    try:
        make(server.cluster(database), names)
        yield server.cluster(database)
    finally:
        with server.cluster().connect() as connection:
            for (name,) in query(
                connection,
                "SELECT datname FROM pg_database WHERE datdba = %(role)s::text::regrole",
                {"role": role_name.as_string(connection)},
            ):
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
            connection.execute(sql.SQL("DROP ROLE {}").format(role_name))


@settings(
    max_examples=2, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(
    names=st.lists(NAMES, min_size=10, max_size=14, unique=True),
    others=st.lists(NAMES, min_size=3, max_size=3, unique=True),
)
def test_any_name_is_backed_up_verified_and_recovered(
    server: PostgresServer, names: list[str], others: list[str]
) -> None:
    database, new, role = others
    with (
        tempfile.TemporaryDirectory(prefix="twist-dr-test-") as folder,
        named(server, database, role, names) as cluster,
    ):
        Path(folder).chmod(0o755)
        manifest, repository = taken(cluster, Path(folder))
        assert verified(cluster, manifest, repository, Path(folder)).differences == []
        assert manifest.postgres is not None
        recover_database(
            look(server.url(new), manifest.postgres), OneCopy(manifest, repository, KEYRING), jobs=1, report=Report()
        )
        again, _ = taken(server.cluster(new), Path(folder) / "again")
        assert again.rows == manifest.rows and compare(manifest, again).tables == ()
        with server.cluster(new).connect() as connection:
            (told,) = query(
                connection,
                """SELECT d.comment, pg_get_userbyid(d.datdba), s.setconfig FROM pg_db_role_setting s JOIN
                     (SELECT oid, datdba, shobj_description(oid, 'pg_database') AS comment FROM pg_database WHERE datname = current_database()) d
                     ON d.oid = s.setdatabase""",
            )
        assert told[:2] == ("\n".join(names), role) and told[2] == [f"application_name={names[0]}"]


@pytest.mark.parametrize("major", sorted(TOOLS, reverse=True))
def test_a_database_of_any_name_is_recovered_to_a_point(major: int, open_folder: Path) -> None:
    primary = Primary(TOOLS[major], open_folder / "primary")
    try:
        database = DATABASES[0]
        with primary.cluster().connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
        made = make(primary.cluster(database), TABLES)
        bases = Bases(open_folder)
        manifest = bases.take(primary.cluster(database))
        assert manifest.rows == made and manifest.base is not None and manifest.base.restore_point
        primary.archived()
        Material(open_folder, primary.tools, archives_of(primary).identifier, MB, []).ship(primary.archive)
        (open_folder / "work").mkdir()
        found = plan_recovery(
            RecoveryRequest(to="latest"), [bases.repository], KEYRING, [primary.tools.folder], open_folder / "work", Report(),
            now=datetime.now(timezone.utc),
        )  # fmt: skip
        sources = [Sources(manifest.backup_id, [bases.repository], KEYRING, Report())]
        with (
            recover(found, sources, open_folder / "r") as recovered,
            recovered.cluster(database).connect() as connection,
        ):
            compared = compare_database(connection, manifest, Report())
            assert (compared.differences, compared.tables) == ([], len(made))
            connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier("public", "new\nline")))
            assert compare_database(connection, manifest, Report()).differences == [
                'table public.U&"new\\000Aline" is missing after the restore (1 row was recorded)'
            ]
    finally:
        primary.close()


@pytest.mark.parametrize("role", ["new\nline", "-x 'it''s' \"q\" $(id)", "dbname=postgres host=evil"])
def test_the_role_that_made_a_cluster_may_have_any_name(
    newest_server: PostgresServer, tmp_path: Path, role: str
) -> None:
    facts = PostgresFacts.model_construct(
        bootstrap_role=role, client_version="18.6", extensions=[], encoding="UTF8", collate="C", ctype="C", locale_provider="libc", locale=None,
    )  # fmt: skip
    roles = (
        b'CREATE ROLE "'
        + role.replace('"', '""').encode()
        + b'";\nALTER ROLE "'
        + role.replace('"', '""').encode()
        + b'" WITH NOLOGIN;\n'
    )
    with (
        scratch_server(newest_server.tools, tmp_path / "scratch", facts, roles) as place,
        place.connect() as connection,
    ):
        assert query(
            connection, "SELECT current_user::text, rolcanlogin FROM pg_roles WHERE rolname = current_user"
        ) == [(role, True)]
