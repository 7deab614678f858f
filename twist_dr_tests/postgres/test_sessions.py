"""Sessions are ours: what a database's owner has set and made in it changes nothing of what we do there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from twist_dr.backup.base.configuration import server_document
from twist_dr.backup.base.restore_point import make_restore_point
from twist_dr.backup.base.server import read_server
from twist_dr.backup.snapshots import PostgresTables, dump_tables
from twist_dr.catalog import Catalog
from twist_dr.doctor.database import check_database
from twist_dr.doctor.findings import DoctorFinding
from twist_dr.doctor.wal import check_wal_server
from twist_dr.postgres.cluster import Cluster, count_rows, read_tables
from twist_dr.postgres.lsn import parse_lsn
from twist_dr.postgres.sessions import COMMANDS, LOOKING, _known_servers
from twist_dr.restore.database import run_statements
from twist_dr.restore.hooks import Maintenance
from twist_dr.wal.primary import Primary
from twist_dr_tests.catalog.examples import record
from twist_dr_tests.conftest import TOOLS, make_site
from twist_dr_tests.hostile import HostileDatabase
from twist_dr_tests.recorded import resident, wait_until_archived
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import Site
from twist_dr_tests.verify.test_verification import taken, verified


@pytest.fixture
def hostile_site(server: PostgresServer, tmp_path: Path) -> Iterator[tuple[Site, HostileDatabase]]:
    """A site whose database's owner is hostile, and is connected to as a superuser."""
    site = make_site(server, tmp_path)
    name = site.database_url.rpartition("/")[2]
    hostile = HostileDatabase(server, name)
    site.database_url = hostile.url
    yield site, hostile
    hostile.close()


def test_the_look_alikes_of_a_hostile_database_are_called_by_who_believes_it(
    hostile_site: tuple[Site, HostileDatabase],
) -> None:
    """What the next test finds uncalled is no dud."""
    _, hostile = hostile_site
    with hostile.cluster.connect(settings=COMMANDS) as connection:
        for statement in ("SELECT current_database()", "SELECT 1 = 1", "SELECT 'x'::text", "SELECT 1 FROM pg_class"):
            connection.execute(statement)
    called = hostile.called()
    assert {"current_database", "pg_class", "type_text"} <= set(called)
    assert any(name.startswith("operator_") for name in called)


@pytest.fixture
def with_login_trigger(newest_server: PostgresServer) -> Iterator[Cluster]:
    """A database with a trigger on login that writes down who comes; its function belongs to ``writer``, who owns the database as well."""
    cluster = newest_server.create_database("watched")
    with cluster.connect() as connection:
        connection.execute(
            """DROP ROLE IF EXISTS writer; CREATE ROLE writer;
               CREATE TABLE come (who text); GRANT ALL ON come TO PUBLIC;
               CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS
               $$ BEGIN INSERT INTO public.come VALUES (current_user); END $$;
               ALTER FUNCTION note() OWNER TO writer;
               CREATE EVENT TRIGGER watching ON login EXECUTE FUNCTION note()"""
        )
    yield cluster
    newest_server.create_database("watched")


def come(server: PostgresServer) -> list[str]:
    with server.cluster("watched").connect() as connection:
        return [who for (who,) in connection.execute("SELECT DISTINCT who FROM come ORDER BY 1").fetchall()]


def test_a_trigger_on_login_makes_no_good_backup_fail_its_verification(
    with_login_trigger: Cluster, tmp_path: Path
) -> None:
    manifest, repository = taken(with_login_trigger, tmp_path)
    assert verified(with_login_trigger, manifest, repository, tmp_path).differences == []
    assert manifest.tables["public.come"] == 0


def test_a_trigger_on_login_that_runs_as_an_ordinary_role_is_told_until_that_may_switch_it_off(
    newest_server: PostgresServer, with_login_trigger: Cluster, tmp_path: Path
) -> None:
    with newest_server.cluster().connect() as connection:
        connection.execute("CREATE ROLE taker LOGIN PASSWORD 'taker'; GRANT pg_read_all_data TO taker")
    ordinary = Cluster(newest_server.url("watched", "taker", "taker"))
    try:
        manifest, _ = taken(ordinary, tmp_path / "before")
        assert come(newest_server) == ["taker"]
        [told] = [line for line in manifest.warnings if "on login" in line]
        assert "trigger watching on login runs a function of writer, who is no superuser, as role taker" in told
        [finding] = [found for found in doctor_findings(ordinary) if found.check == "login triggers"]
        assert finding.status == "problem" and finding.remedy is not None
        with newest_server.cluster("watched").connect() as connection:
            connection.execute(finding.remedy.partition(";")[0].encode())
            connection.execute("DELETE FROM come")
        _known_servers.clear()  # another process
        manifest, _ = taken(ordinary, tmp_path / "after")
        assert come(newest_server) == []
        assert not any("on login" in line for line in manifest.warnings)
        assert "login triggers" not in {found.check for found in doctor_findings(ordinary)}
    finally:
        with newest_server.cluster().connect() as connection:
            connection.execute("DROP OWNED BY taker; DROP ROLE taker")


def doctor_findings(cluster: Cluster) -> list[DoctorFinding]:
    return list(check_database(cluster))


def test_options_of_the_url_and_the_environment_are_kept_and_ours_stand_above_them(
    newest_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = quote("-c work_mem=7MB -c search_path=public -c statement_timeout=1")
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=9MB -c DateStyle=German")
    monkeypatch.setenv("PGDATESTYLE", "German")
    asked = "SELECT current_setting('work_mem'), current_setting('search_path'), current_setting('statement_timeout'), current_setting('DateStyle')"
    for url, memory in ((newest_server.url(), "9MB"), (f"{newest_server.url()}?options={theirs}", "7MB")):
        with Cluster(url).connect(settings=LOOKING) as connection:
            assert connection.execute(asked).fetchone() == (memory, "pg_catalog,pg_temp", "0", "ISO, MDY")
        options = Cluster(url).environment()["PGOPTIONS"]
        assert options is not None and f"work_mem={memory}" in options and options.index("search_path=pg_catalog") > 0


def test_what_was_learnt_of_a_server_is_learnt_again_when_the_role_or_the_server_is_another(
    server: PostgresServer,
) -> None:
    """A process runs for weeks: a role is made a superuser or none any more, a server is upgraded, or one goes back."""
    with server.cluster().connect() as connection:
        connection.execute("DROP ROLE IF EXISTS changing; CREATE ROLE changing LOGIN SUPERUSER PASSWORD 'changing'")
    changing = Cluster(server.url("postgres", "changing", "changing"))

    def begins_well() -> bool:
        with changing.connect(settings=LOOKING) as connection:
            rows = connection.execute("SELECT name, setting FROM pg_settings").fetchall()
            found = {str(name): str(setting) for name, setting in rows}
            assert found.get("transaction_timeout", "0") == found["idle_session_timeout"] == "0"
            return found.get("event_triggers", "off") == "off"

    assert begins_well()
    for superuser, silent in (("NOSUPERUSER", server.major < 17), ("SUPERUSER", True)):
        with server.cluster().connect() as connection:
            connection.execute(f"ALTER ROLE changing {superuser}")
        assert begins_well() is silent
    with server.cluster().connect() as connection:
        connection.execute("ALTER ROLE changing SET role = pg_monitor")
    assert begins_well()
    [key] = [key for key in _known_servers if ("user", "changing") in key and ("port", str(server.port)) in key]
    for version in (130000, 190000):
        _known_servers[key] = replace(_known_servers[key], version=version, silences=version > 170000)
        assert begins_well()
        assert _known_servers[key].version // 10000 == server.major
    with server.cluster().connect() as connection:
        connection.execute("DROP ROLE changing")


def test_nothing_of_a_hostile_database_is_called_by_backup_verification_restore_and_doctor(
    hostile_site: tuple[Site, HostileDatabase],
) -> None:
    site, hostile = hostile_site
    told = site.cli("doctor").text
    assert hostile.called() == [], told
    assert "itself broke" not in told and "problem  database" not in told
    for step in (
        lambda: site.backup().expect(0),
        lambda: site.verify().expect(0),
        lambda: site.restore(mode="plan", backup="latest").expect(0),
        lambda: site.replace(mode="schema", tables="billing_invoice", confirm="").expect(0),
        lambda: site.replace().expect(0),
        lambda: site.undo().expect(0),
    ):
        outcome = step()
        assert hostile.called() == [], outcome.text


def test_nothing_of_a_hostile_database_is_called_where_log_base_backups_catalogs_and_sql_of_the_settings_come_to_it(
    server: PostgresServer, tmp_path: Path
) -> None:
    server.create_database("hostile")
    hostile = HostileDatabase(server, "hostile")
    cluster, heard = hostile.cluster, list[str]()
    try:
        with cluster.connect(settings=LOOKING) as connection:
            read_server(connection)
            server_document(cluster, connection, [], heard.append)
        assert make_restore_point(cluster, "point", "18", heard.append) is not None
        primary = Primary(cluster, "slot")
        primary.ask()
        primary.close()
        findings = list(check_wal_server(cluster, "receive", "slot", [], "database.url"))
        assert not any("itself broke" in finding.found for finding in findings)
        with cluster.connect(settings=LOOKING) as connection:
            connection.execute("CREATE TABLE public.mails (id int)")
        statement = "INSERT INTO mails SELECT 1 WHERE 1 = 1 AND current_database() IS NOT NULL"
        Maintenance(sql_on=statement).on(cluster)
        run_statements(cluster, "hostile", [statement])
        with cluster.connect(settings=LOOKING) as connection:
            assert connection.execute("SELECT count(*) FROM public.mails").fetchone() == (2,)
        # A catalog may lie behind a pooler, which lets no options pass.
        hostile.without_time_outs()
        catalog = Catalog(hostile.url)
        record(catalog)
        assert [row.application for row in catalog.backups(application="erp")] == ["erp"]
        dump_tables(PostgresTables(cluster, ("backups",), "catalog"), [], lambda chunk: None)
        assert hostile.called() == []
        assert heard == []
    finally:
        hostile.close()


def test_nothing_of_a_hostile_database_is_called_where_a_recovery_to_a_point_brings_it_back(tmp_path: Path) -> None:
    with PostgresServer(TOOLS[max(TOOLS)], tmp_path / "server", settings={"fsync": "off"}) as server:
        (tmp_path / "site").mkdir()
        site = make_site(server, tmp_path / "site")
        site.set(wal={"follow_seconds": 0.2})
        hostile = HostileDatabase(server, site.database_url.rpartition("/")[2])
        site.database_url = hostile.url
        with resident(site, "wal", "receive"), resident(site, "wal", "ship", "--follow"):
            site.job("backup_base").expect(0)
            with server.cluster().connect() as connection:
                [[lsn]] = connection.execute("SELECT pg_switch_wal()::text").fetchall()
            wait_until_archived(site, parse_lsn(lsn))
        changing = {"mode": "replace", "reason": "test", "confirm": "erp", "pre_restore_backup": False}
        for config in ({}, changing):
            outcome = site.job("restore_to_time", {"restore_to_time": {"config": config}} if config else None)
            assert hostile.called() == [], outcome.text
            outcome.expect(0)


def test_a_view_put_in_the_place_of_a_table_between_two_looks_is_not_read(server: PostgresServer) -> None:
    """Its functions would run as our role: an owner can swap the two again and again, until one falls between list and count."""
    cluster = server.create_database("swapped")
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE bait (); CREATE SEQUENCE called")
    with cluster.connect(settings=LOOKING) as connection:
        tables = read_tables(connection)
        connection.execute("DROP TABLE public.bait; CREATE VIEW public.bait AS SELECT nextval('public.called')")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="non-system view"):
            count_rows(connection, tables)
        assert connection.execute("SELECT last_value, is_called FROM public.called").fetchone() == (1, False)
