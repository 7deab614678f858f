"""What the doctor finds out about the application's own settings: whether a restored database could be migrated, and what nobody backs up."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from twist_dr.django_app.manage import DjangoApplication
from twist_dr.doctor.django import check_databases, check_lead, check_rights
from twist_dr.doctor.findings import DoctorFinding
from twist_dr.repository.django_facts import DjangoDatabase
from twist_dr_tests.doctor.test_doctor import findings_of, remedy
from twist_dr_tests.erp import fixtures
from twist_dr_tests.servers import PostgresServer

NOWHERE = "postgresql://nobody@127.0.0.1:1/erp"


def application(url: str = NOWHERE, **more: str) -> DjangoApplication:
    environment = {"ERP_DATABASE_URL": url, **more}
    return DjangoApplication([sys.executable, "manage.py"], fixtures.MANAGE.parent, environment, "ERP_DATABASE_URL")


def told(application: DjangoApplication) -> list[DoctorFinding]:
    return findings_of(check_lead(application, "erp"))


def test_a_variable_that_leads_to_a_restored_database_is_proven_to() -> None:
    assert [each.status for each in told(application())] == ["ok"]
    assert told(replace(application(), database_variable=None)) == []


@pytest.mark.parametrize(("value", "says"), [("erp", "still uses erp"), (None, "is not set")])
def test_a_variable_that_the_settings_do_not_read_is_a_problem(value: str | None, says: str) -> None:
    more = {} if value is None else {"DATABASE_NAME": value}
    (found,) = told(replace(application(**more), database_variable="DATABASE_NAME"))
    assert found.status == "problem" and says in found.found and "django" in remedy(found)


def test_a_connection_that_stays_with_what_is_live_is_named(tmp_path: Path) -> None:
    manage = tmp_path / "manage.py"
    manage.write_text(f"""
import os, sys
sys.path.insert(0, {str(fixtures.MANAGE.parent)!r})
os.environ["DJANGO_SETTINGS_MODULE"] = "two"
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
""")
    more = "DATABASES['jobs'] = {**DATABASES['default'], 'NAME': 'erp'}"
    (tmp_path / "two.py").write_text(f"from erp_site.settings import *\n{more}\n")
    ok, found = told(replace(application(), folder=tmp_path))
    assert (ok.status, found.status) == ("ok", "warning")
    assert "connection jobs still leads to erp" in found.found and remedy(found)


def test_a_role_that_cannot_migrate_is_named_with_what_it_lacks(newest_server: PostgresServer, tmp_path: Path) -> None:
    url = newest_server.url("doctor_rights")
    fixtures.create(url, tmp_path)
    (found,) = findings_of(check_rights(application(url)))
    assert found.status == "ok" and found.found.endswith("may migrate")
    with newest_server.cluster("doctor_rights").connect() as connection:
        connection.execute("CREATE ROLE doctor_clerk LOGIN PASSWORD 'clerk'")
        connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO doctor_clerk")
    clerk = newest_server.url("doctor_rights", user="doctor_clerk", password="clerk")
    (found,) = findings_of(check_rights(application(clerk)))
    assert found.status == "warning"
    assert "the role doctor_clerk" in found.found and "may not create tables there and does not own" in found.found
    assert "django.environment" in remedy(found)


def test_a_database_that_nobody_backs_up_is_named() -> None:
    def database(name: str, engine: str = "django.db.backends.postgresql", host: str = "") -> DjangoDatabase:
        return DjangoDatabase(engine=engine, name=name, host=host)

    sqlite = "django.db.backends.sqlite3"
    databases = {
        "default": database("pool_of_erp"),
        "replica": database("erp", host="standby"),
        "reports": database("reports", host="db2"),
        "cache": database(":memory:", sqlite),
        "search": database("/srv/erp/media/search.db", sqlite),
        "queue": database("/etc/erp/queue.db", sqlite),
        "stray": database("/srv/stray.db", sqlite),
    }
    found = findings_of(check_databases(databases, "erp", [Path("/srv/erp/media")], ["/etc/erp/*"]))
    assert [(each.status, each.found.partition(" is in no")[0]) for each in found] == [
        ("warning", "the application's database reports on db2 (DATABASES['reports'])"),
        ("warning", "the application's database /srv/stray.db (DATABASES['stray'])"),
    ]
    assert remedy(found[1]) == "add it to configuration: /srv/stray.db"
