"""An ordinary role restores, as managed servers know no other: it needs what the documentation names, and no more."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from twist_dr.errors import ProcessFailed, SettingsError
from twist_dr.postgres import databases
from twist_dr.postgres.cluster import Cluster, read_facts
from twist_dr.postgres.dump import restore_database, without_system_grants
from twist_dr.postgres.making import make_to_serve, take_after
from twist_dr.postgres.own_settings import NO_SETTINGS
from twist_dr.repository.manifest import PostgresFacts
from twist_dr.system.processes import run
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import Site


@dataclass(frozen=True)
class Ordinary:
    """A database of an owner, and a role that restores it. ``cluster`` is that role's."""

    server: PostgresServer
    name: str
    owner: str
    role: str

    @property
    def cluster(self) -> Cluster:
        return Cluster(self.server.url(self.name, self.role, "only-for-tests"))

    def as_superuser(self, statement: str) -> None:
        with self.server.cluster().connect() as connection:
            connection.execute(statement.encode())

    def facts(self) -> PostgresFacts:
        with self.cluster.connect() as connection:
            return read_facts(connection, "any")


@pytest.fixture
def ordinary(server: PostgresServer) -> Iterator[Ordinary]:
    word = secrets.token_hex(3)
    found = Ordinary(server, f"shop_{word}", f"owner_{word}", f"restorer_{word}")
    found.as_superuser(f"CREATE ROLE {found.owner}")
    found.as_superuser(f"CREATE ROLE {found.role} LOGIN CREATEDB PASSWORD 'only-for-tests'")
    found.as_superuser(f"GRANT {found.owner}, pg_signal_backend TO {found.role}")
    found.as_superuser(f"CREATE DATABASE {found.name} OWNER {found.owner}")
    yield found
    with server.cluster().connect() as connection:
        for (name,) in connection.execute("SELECT datname FROM pg_database WHERE datname LIKE %s", [f"{found.name}%"]):
            databases.drop(connection, name)


def test_it_restores_what_belongs_to_the_owner_and_switches(ordinary: Ordinary) -> None:
    incoming, kept = f"{ordinary.name}_incoming", f"{ordinary.name}_kept"
    with closing(databases.connect_for_maintenance(ordinary.cluster)) as connection:
        assert databases.missing_rights(connection, ordinary.name) == []
        make_to_serve(connection, incoming, ordinary.facts(), NO_SETTINGS, live=ordinary.name)
        with ordinary.cluster.connect(incoming) as restoring:
            # As pg_restore does it: to give a table away, its new owner must be allowed to make tables there.
            restoring.execute("CREATE TABLE invoice AS SELECT 1 AS number")
            restoring.execute(f"ALTER TABLE invoice OWNER TO {ordinary.owner}")
        take_after(connection, incoming, ordinary.name)
        databases.close(connection, ordinary.name)
        databases.switch(connection, live=ordinary.name, incoming=incoming, kept=kept)
    with psycopg.connect(ordinary.cluster.url) as live:
        assert live.execute("SELECT number FROM invoice").fetchall() == [(1,)]


def test_a_membership_that_gives_no_rights_is_named_before_anything_is_fetched(ordinary: Ordinary) -> None:
    ordinary.as_superuser(f"ALTER ROLE {ordinary.role} NOINHERIT")
    if ordinary.server.major >= 16:
        ordinary.as_superuser(f"GRANT {ordinary.owner} TO {ordinary.role} WITH INHERIT FALSE")
    with closing(databases.connect_for_maintenance(ordinary.cluster)) as connection:
        missing = databases.missing_rights(connection, ordinary.name)
    assert any(f"may not rename {ordinary.name}" in line for line in missing)


def test_the_statements_that_it_names_are_enough(ordinary: Ordinary) -> None:
    ordinary.as_superuser(f"REVOKE {ordinary.owner}, pg_signal_backend FROM {ordinary.role}")
    ordinary.as_superuser(f"ALTER ROLE {ordinary.role} NOINHERIT NOCREATEDB")
    with closing(databases.connect_for_maintenance(ordinary.cluster)) as connection:
        for line in databases.missing_rights(connection, ordinary.name):
            for statement in line.partition("as a superuser: ")[2].split("; "):
                ordinary.as_superuser(statement)
        left = databases.missing_rights(connection, ordinary.name)
    assert left == []


def test_a_role_s_url_that_leads_to_another_database_is_refused(site: Site) -> None:
    """The home of a superuser, say: it would be replaced by what was restored, and the application go on with its old one."""
    elsewhere = site.database_url.rpartition("/")[0] + "/postgres"
    site.variables["ELSEWHERE"] = elsewhere
    site.set(restore={"database_url": "${ELSEWHERE}"})
    with pytest.raises(
        SettingsError, match=r"the database of database\.url, erp_\w+, in restore\.database_url too; it names postgres"
    ):
        site.settings()
    site.variables["ELSEWHERE"] = site.database_url.replace("postgres:", "another:")
    assert site.settings().restore_url.startswith("postgresql://another:")


def test_grants_on_postgresql_s_own_functions_do_not_keep_it_from_restoring(ordinary: Ordinary, tmp_path: Path) -> None:
    """The README has such a grant made, in the application's database, for the role that takes base backups."""
    archiver = f"archiver_{ordinary.name}"
    ordinary.as_superuser(f"CREATE ROLE {archiver} REPLICATION")
    with ordinary.server.cluster(ordinary.name).connect() as superuser:
        superuser.execute("CREATE TABLE invoice (number int)")
        superuser.execute(f"ALTER TABLE invoice OWNER TO {ordinary.owner}")
        superuser.execute(f"GRANT SELECT ON invoice TO {archiver}")
        superuser.execute(f"GRANT EXECUTE ON FUNCTION pg_create_restore_point(text), pg_switch_wal() TO {archiver}")
    tools, dump, entries = ordinary.server.tools, tmp_path / "database.dump", tmp_path / "entries"
    made = run([tools.program("pg_dump"), "-Fc"], environment=ordinary.server.cluster(ordinary.name).environment())
    dump.write_bytes(made)
    left_out = without_system_grants(tools, dump, entries)
    assert sorted(left_out) == ["FUNCTION pg_create_restore_point(text)", "FUNCTION pg_switch_wal()"]
    incoming = f"{ordinary.name}_incoming"
    with closing(databases.connect_for_maintenance(ordinary.cluster)) as connection:
        make_to_serve(connection, incoming, ordinary.facts(), NO_SETTINGS, live=ordinary.name)
    with pytest.raises(ProcessFailed, match="permission denied for function"):
        restore_database(ordinary.cluster, tools, incoming, dump, jobs=1)
    with closing(databases.connect_for_maintenance(ordinary.cluster)) as connection:
        databases.drop(connection, incoming)
        make_to_serve(connection, incoming, ordinary.facts(), NO_SETTINGS, live=ordinary.name)
    restore_database(ordinary.cluster, tools, incoming, dump, jobs=1, entries=entries)
    with ordinary.cluster.connect(incoming) as restored:
        granted = restored.execute("SELECT has_table_privilege(%s, 'invoice', 'SELECT')", [archiver]).fetchall()
    assert granted == [(True,)]
