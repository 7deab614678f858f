"""The database that is gone: after DROP DATABASE, and on a server that is new, the job ``restore`` makes it anew."""

from __future__ import annotations

import shutil
from pathlib import Path

import psycopg
import pytest

from twist_dr.postgres import databases
from twist_dr.postgres.cluster import Cluster
from twist_dr_tests.conftest import TOOLS, make_backed_up_site
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import Outcome, Site


@pytest.fixture
def dropped(newest_server: PostgresServer, tmp_path: Path) -> Site:
    """A site with a backup whose database was dropped since."""
    site = make_backed_up_site(newest_server, tmp_path)
    name = _name(site)
    site.query(f"ALTER DATABASE {name} SET work_mem TO '7MB'")
    site.query(f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC; GRANT CONNECT ON DATABASE {name} TO erp_app")
    site.backup().expect(0)
    with newest_server.cluster().connect() as connection:
        databases.drop(connection, name)
    return site


def _name(site: Site) -> str:
    return str(Cluster(site.database_url).parameters["dbname"])


def _replace(site: Site) -> Outcome:
    """As somebody does at night, with the backup before it that there is nothing for."""
    return site.replace(pre_restore_backup=True)


def _databases(server: PostgresServer, site: Site) -> list[str]:
    with server.cluster().connect() as connection:
        rows = connection.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", [_name(site)])
        return sorted(found.removeprefix(_name(site)) for (found,) in rows.fetchall())


def test_after_drop_database_a_restore_makes_it_anew_and_an_undo_takes_it_away(
    dropped: Site, newest_server: PostgresServer
) -> None:
    site = dropped
    text = site.backup().expect(1).text
    assert "the job restore with mode replace makes it anew" in text and "password" not in text
    plan = site.restore(backup="latest", allow_unverified=True).expect(0).text
    assert (
        f"there is no live database {_name(site)}, so nothing is backed up first" in plan
        and "nothing was changed" in plan
    )
    assert _databases(newest_server, site) == []
    doctor = site.cli("doctor").text
    assert "the job restore with mode replace" in doctor and "right password" not in doctor
    site.set(restore={"health": {"command": ["true"]}, "maintenance": {"sql_on": "SELECT 1", "sql_off": "SELECT 1"}})
    text = _replace(site).expect(0).text
    assert "is live; locked out for" in text and "; to take it back: twist-dr undo" in text
    assert _databases(newest_server, site) == [""]
    [(settings, acl, rows)] = site.query(
        """SELECT (SELECT setconfig::text FROM pg_db_role_setting WHERE setdatabase = d.oid AND setrole = 0), datacl::text,
                  (SELECT count(*) FROM billing_invoice) FROM pg_database d WHERE datname = current_database()"""
    )
    assert (
        settings == "{work_mem=7MB}" and "erp_app=c/" in acl and "=c/" not in acl.replace("erp_app=c/", "") and rows > 0
    )
    assert site.catalog().restores("erp")[0].state == "done"
    assert "no database, for there was none" in site.cli("list", "--replaced").text
    site.undo().expect(0)
    assert len(_databases(newest_server, site)) == 1 and "" not in _databases(newest_server, site)
    site.undo().expect(0)
    assert _databases(newest_server, site) == [""]


def test_one_that_is_not_healthy_is_taken_away_again(dropped: Site, newest_server: PostgresServer) -> None:
    dropped.set(restore={"health": {"command": ["false"], "timeout_seconds": 0.2}})
    text = _replace(dropped).expect(1).text
    assert "the application is not healthy" in text
    assert "" not in _databases(newest_server, dropped) and len(_databases(newest_server, dropped)) == 1


def test_on_an_empty_server_the_roles_come_back_with_it(
    newest_server: PostgresServer, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    site = make_backed_up_site(newest_server, tmp_path)
    site.query("ALTER ROLE erp_web PASSWORD 'comes-back'")
    site.backup().expect(0)
    with PostgresServer(TOOLS[max(TOOLS)], tmp_path_factory.mktemp("new"), settings={"fsync": "off"}) as server:
        site.database_url = server.url(_name(site), "erp_web", "comes-back")
        text = site.backup().expect(1).text
        assert "a new and empty server knows neither: name its superuser in restore.database_url" in text
        site.variables["SUPERUSER"] = server.url(_name(site))
        site.set(restore={"database_url": "${SUPERUSER}"})
        text = _replace(site).expect(0).text
        assert "had no role of the backup's" in text and "erp_web" in text
        with psycopg.connect(site.database_url) as connection:
            assert connection.execute("SELECT count(*) > 0 FROM django_migrations").fetchone() == (True,)
    shutil.rmtree(tmp_path / "work")
