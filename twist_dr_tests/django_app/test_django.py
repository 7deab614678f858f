"""The application's code is asked through manage.py, and a restored database migrated, without the live one noticing."""

from __future__ import annotations

import platform
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import django
import pytest
from psycopg.conninfo import conninfo_to_dict

from twist_dr.django_app.manage import DjangoApplication, migrate, read_code
from twist_dr.django_app.migrations import DjangoCode, Migration, compare_schema
from twist_dr.errors import DatabaseError, ProcessFailed, SettingsError
from twist_dr.postgres.cluster import Cluster, read_migrations
from twist_dr.repository.django_facts import DjangoFacts
from twist_dr.system.processes import run
from twist_dr_tests.conftest import make_site
from twist_dr_tests.erp import fixtures
from twist_dr_tests.servers import PostgresServer

PASSWORD = "s3cr%4t@pla/ce:?"
REMINDER = """
from django.db import migrations, models

class Migration(migrations.Migration):
    dependencies = [("billing", "0004_currency")]
    operations = [migrations.AddField("invoice", "reminder", models.DateField(null=True))]
"""
VARIABLE = "ERP_DATABASE_URL"


@dataclass(frozen=True)
class Place:
    """A live database, a copy of it beside it that stands for a restored one, and a copy of the ERP's code."""

    live: Cluster
    side: Cluster
    application: DjangoApplication
    code: Path

    @property
    def names(self) -> tuple[str, str]:
        """Of the restored database, and of the live one."""
        return self.side.parameters["dbname"], self.live.parameters["dbname"]

    def add_reminder(self) -> None:
        (self.code / "billing" / "migrations" / "0005_reminder.py").write_text(REMINDER)

    def manage(self, *arguments: str, url: str | None = None) -> str:
        """What a command of manage.py prints, in the restored database unless told otherwise."""
        environment = {**self.application.environment, VARIABLE: url or self.side.url}
        return run([*self.application.manage, *arguments], environment=environment, folder=self.code).decode()

    def migrate(self) -> list[str]:
        lines: list[str] = []
        migrate(self.application, *self.names, on_line=lines.append)
        return lines


@pytest.fixture
def place(newest_server: PostgresServer, tmp_path: Path) -> Place:
    site = make_site(newest_server, tmp_path)
    live = Cluster(site.database_url)
    name = live.parameters["dbname"]
    # A name that a URL cannot hold as it is.
    side = f"{name}_restore 100%/@"
    with newest_server.cluster().connect() as connection:
        connection.execute(f'CREATE DATABASE "{side}" TEMPLATE {name}')
    code = tmp_path / "code"
    shutil.copytree(fixtures.MANAGE.parent, code, ignore=shutil.ignore_patterns("__pycache__"))
    application = DjangoApplication(
        [sys.executable, "manage.py"],
        code,
        {VARIABLE: site.database_url, "ERP_MEDIA": str(site.media), "PYTHONDONTWRITEBYTECODE": "1"},
        VARIABLE,
    )
    return Place(live, Cluster(newest_server.url(side)), application, code)


def applied(cluster: Cluster) -> dict[str, list[str]]:
    with cluster.connect() as connection:
        return read_migrations(connection)


def has_reminder(cluster: Cluster) -> bool:
    with cluster.connect() as connection:
        return bool(
            connection.execute(
                "SELECT FROM information_schema.columns WHERE table_name = 'billing_invoice' AND column_name = 'reminder'"
            ).fetchall()
        )


def change(cluster: Cluster, statement: str, *parameters: Any) -> None:
    with cluster.connect() as connection:
        connection.execute(statement.encode(), parameters)


def add_rows(cluster: Cluster, app: str, *names: str) -> None:
    for name in names:
        change(cluster, "INSERT INTO django_migrations (app, name, applied) VALUES (%s, %s, now())", app, name)


# -- the way to another database --------------------------------------------------------------------------------------


def leading(value: str, database: str = "side") -> str:
    return DjangoApplication(["manage.py"], Path(), {VARIABLE: value}, VARIABLE).leading_to(database, "erp")[VARIABLE]


@pytest.mark.parametrize(
    ("value", "changed"),
    [
        ("postgresql://u:p@h:5432/erp", "postgresql://u:p@h:5432/side"),
        ("postgres://u:p%40%2F%25@h/erp?sslmode=require", "postgres://u:p%40%2F%25@h/side?sslmode=require"),
        ("postgresql:///erp?host=/run/postgresql&port=5433", "postgresql:///side?host=/run/postgresql&port=5433"),
        ("postgresql://h1:1,h2:2/erp", "postgresql://h1:1,h2:2/side"),
        ("postgresql://u@[::1]:5432/erp", "postgresql://u@[::1]:5432/side"),
        ("postgresql://u@h?dbname=erp&sslmode=require", "postgresql://u@h?dbname=side&sslmode=require"),
        ("postgresql://u@h/erp?user=dbname&dbname=erp", "postgresql://u@h/side?user=dbname&dbname=side"),
        ("postgresql://u@h", "postgresql://u@h/side"),
        ("psql://u:p@h/erp", "psql://u:p@h/side"),
        ("postgis://u:p@h/erp", "postgis://u:p@h/side"),
        ("pgsql://u:p@h/erp", "pgsql://u:p@h/side"),
        ("postgresql+psycopg://u:p@h/erp", "postgresql+psycopg://u:p@h/side"),
        ("postgres://u:p@//cloudsql/a:b:c/erp", "postgres://u:p@//cloudsql/a:b:c/side"),
        ("erp", "side"),
    ],
)
def test_only_the_name_of_the_database_changes(value: str, changed: str) -> None:
    assert leading(value) == changed


def test_a_libpq_connection_string_is_led_elsewhere_too() -> None:
    changed = conninfo_to_dict(leading(r"dbname=erp host=h password='a b\'c' options='-c x=y'", "si de"))
    assert changed == {"dbname": "si de", "host": "h", "password": "a b'c", "options": "-c x=y"}


def test_a_name_with_signs_of_its_own_is_encoded() -> None:
    changed = leading("postgresql://u:p@h/erp?dbname=erp", "a/b?c&d%e@f g+ä")
    assert conninfo_to_dict(changed)["dbname"] == "a/b?c&d%e@f g+ä"


@pytest.mark.parametrize("value", ["mysql://u:s3cret@h/erp?a=b", "sqlite:///erp", "erp2", "s3cret=x", "host='s3cret"])
def test_what_names_no_postgresql_database_is_refused_without_being_shown(value: str) -> None:
    with pytest.raises(SettingsError, match="ERP_DATABASE_URL holds neither") as caught:
        leading(value)
    assert "s3cret" not in str(caught.value)


def test_a_variable_that_is_unnamed_or_unset_is_said() -> None:
    application = DjangoApplication(["manage.py"], Path(), {}, None)
    with pytest.raises(SettingsError, match=r"set django.database_variable to the environment variable that names"):
        application.leading_to("side", "erp")
    with pytest.raises(SettingsError, match=r"NOBODY_SETS_THIS, which django.database_variable names, is not set"):
        replace(application, database_variable="NOBODY_SETS_THIS").leading_to("side", "erp")


def test_the_variable_may_be_in_our_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "postgresql://outside/erp")
    application = DjangoApplication(["manage.py"], Path(), {}, VARIABLE)
    assert application.leading_to("side", "erp") == {VARIABLE: "postgresql://outside/side"}


# -- asking the code --------------------------------------------------------------------------------------------------


def test_the_code_says_what_it_has_while_there_is_no_database() -> None:
    nowhere = "postgresql://nobody:word@127.0.0.1:1/none"
    application = DjangoApplication(
        [sys.executable, "manage.py"], fixtures.MANAGE.parent, {VARIABLE: nowhere}, VARIABLE
    )
    code = read_code(application)
    assert code.migrations["billing"] == ["0001_initial", "0002_due_date", "0003_rls", "0004_currency"]
    assert code.database == "none" and code.facts.version.count(".") >= 1 and code.replaces == {}
    assert sorted(code.order) == sorted((app, name) for app, names in code.migrations.items() for name in names)
    assert code.order.index(("companies", "0001_initial")) < code.order.index(("billing", "0001_initial"))
    assert read_code(application, environment=application.leading_to("side way", "none")).database == "side way"


def test_the_code_says_what_it_is_and_no_password(place: Place) -> None:
    settings = place.code / "erp_site" / "settings.py"
    more = "\nDATABASES['reports'] = {'ENGINE': 'django.db.backends.sqlite3', 'NAME': '/srv/reports.db'}"
    more += "\nDATABASES['odd'] = {**DATABASES['default'], 'NAME': os.environ['ERP_DATABASE_URL']}\n"
    settings.write_text(settings.read_text() + more)
    facts = read_code(place.application).facts
    assert (facts.version, facts.python) == (django.get_version(), platform.python_version())
    assert {"billing", "django.contrib.contenttypes"} <= set(facts.installed_apps)
    assert (facts.databases["default"].name, facts.databases["reports"].name) == (place.names[1], "/srv/reports.db")
    assert facts.databases["odd"].name == "" and place.live.parameters["password"] not in facts.model_dump_json()


def test_what_is_otherwise_since_a_backup_is_told() -> None:
    now = DjangoFacts(version="5.2", python="3.12.1", installed_apps=["shop", "mail"], databases={})
    then = DjangoFacts(version="4.2.1", python="3.12.1", installed_apps=["shop", "reports"], databases={})
    assert now.differences(now) == []
    assert then.differences(now) == [
        "the backup was made under Django 4.2.1, and now it is 5.2",
        "INSTALLED_APPS had reports, which the code has no more",
        "INSTALLED_APPS has mail, which were not there when the backup was made",
    ]


def test_an_application_that_talks_on_its_output_is_understood(place: Place) -> None:
    settings = place.code / "erp_site" / "settings.py"
    settings.write_text(settings.read_text() + "\nprint('twist-dr', end='')\n")
    assert read_code(place.application).migrations["outbox"]


def test_a_password_that_is_also_a_name_hides_no_name() -> None:
    environment = {VARIABLE: "postgresql://erp:billing@127.0.0.1:1/billing"}
    code = read_code(DjangoApplication([sys.executable, "manage.py"], fixtures.MANAGE.parent, environment, VARIABLE))
    assert code.database == "billing" and code.migrations["billing"]


def test_an_application_that_fails_is_quoted_without_its_password(place: Place) -> None:
    settings = place.code / "erp_site" / "settings.py"
    settings.write_text(settings.read_text() + f"\nraise ValueError('no port in ' + os.environ[{VARIABLE!r}])\n")
    with pytest.raises(
        ProcessFailed, match=r"manage.py failed with exit status 1: ValueError: no port in postgresql"
    ) as caught:
        read_code(place.application)
    assert place.live.parameters["password"] not in str(caught.value)


def test_a_program_that_is_no_manage_py_is_said(place: Place) -> None:
    with pytest.raises(ProcessFailed, match="reported success but did not answer"):
        read_code(replace(place.application, manage=["true"]))
    with pytest.raises(SettingsError, match=r"no folder .* correct django\.folder"):
        read_code(replace(place.application, folder=place.code / "gone"))


# -- comparing --------------------------------------------------------------------------------------------------------


FACTS = DjangoFacts(version="5.2", python="3.11.7", installed_apps=[], databases={})


def code_of(order: Sequence[Migration], replaces: dict[Migration, list[Migration]] | None = None) -> DjangoCode:
    migrations: dict[str, list[str]] = {}
    for app, name in order:
        migrations.setdefault(app, []).append(name)
    return DjangoCode(migrations, replaces or {}, list(order), FACTS)


def test_a_backup_of_the_running_code_is_equal(place: Place) -> None:
    compared = compare_schema(applied(place.side), read_code(place.application), None)
    assert (compared.state, compared.forward, compared.unknown, compared.notes) == ("equal", [], [], [])


def test_an_older_backup_names_what_will_run(place: Place) -> None:
    place.manage("migrate", "billing", "0001")
    place.add_reminder()
    compared = compare_schema(applied(place.side), read_code(place.application), applied(place.live))
    assert compared.state == "older" and compared.unknown == []
    # Django's own words for the same.
    plan = [line.split()[2] for line in place.manage("showmigrations", "--plan").splitlines() if line.startswith("[ ]")]
    assert compared.forward == plan and plan[-1] == "billing.0005_reminder"


def test_a_newer_backup_names_what_the_code_lacks_even_when_something_waits(place: Place) -> None:
    add_rows(place.side, "billing", "0005_reminder")
    code = read_code(place.application)
    compared = compare_schema(applied(place.side), code, applied(place.live))
    assert (compared.state, compared.forward, compared.unknown) == ("newer", [], ["billing.0005_reminder"])
    place.manage("migrate", "outbox", "zero")
    compared = compare_schema(applied(place.side), code, applied(place.live))
    assert compared.state == "newer" and compared.unknown == ["billing.0005_reminder"]
    assert compared.forward and all(name.startswith("outbox.") for name in compared.forward)
    # That the live database is as new does not make the code newer.
    add_rows(place.live, "billing", "0005_reminder")
    assert compare_schema(applied(place.live), code, applied(place.live)).state == "newer"


def test_an_app_that_was_removed_is_left_over_when_the_live_database_has_the_same(place: Place) -> None:
    code = read_code(place.application)
    for cluster in (place.side, place.live):
        add_rows(cluster, "newsletter", "0001_initial", "0002_subject")
    compared = compare_schema(applied(place.side), code, applied(place.live))
    assert (compared.state, compared.unknown) == ("equal", [])
    assert "newsletter.0001_initial, newsletter.0002_subject" in compared.notes[0]
    assert compare_schema(applied(place.side), code, None).unknown == [
        "newsletter.0001_initial",
        "newsletter.0002_subject",
    ]
    add_rows(place.side, "newsletter", "0003_more")
    assert compare_schema(applied(place.side), code, applied(place.live)).state == "newer"


def squash(place: Place) -> Path:
    """Squash billing's four migrations, as Django's own command does it; the folder of its migrations."""
    place.manage("squashmigrations", "billing", "0004", "--no-input", url=place.live.url)
    folder = place.code / "billing" / "migrations"
    assert (folder / "0001_squashed_0004_currency.py").exists()
    return folder


def remove_replaced(folder: Path) -> None:
    for path in folder.glob("000?_*.py"):
        if "squashed" not in path.name:
            path.unlink()


def test_a_squashed_migration_is_applied_where_all_that_it_replaces_are(place: Place) -> None:
    folder = squash(place)
    for files_are_gone in (False, True):
        if files_are_gone:
            remove_replaced(folder)
        compared = compare_schema(applied(place.side), read_code(place.application), applied(place.live))
        assert (compared.state, compared.forward, compared.unknown) == ("equal", [], [])


def test_one_that_is_applied_in_part_goes_forward_by_what_it_replaces(place: Place) -> None:
    place.manage("migrate", "billing", "0002")
    folder = squash(place)
    code = read_code(place.application)
    compared = compare_schema(applied(place.side), code, applied(place.live))
    assert (compared.state, compared.forward) == ("older", ["billing.0003_rls", "billing.0004_currency"])
    place.migrate()
    assert compare_schema(applied(place.side), code, applied(place.live)).state == "equal"
    place.manage("migrate", "billing", "0003_rls")
    remove_replaced(folder)
    compared = compare_schema(applied(place.side), read_code(place.application), applied(place.live))
    assert compared.state == "older"
    assert "(billing.0004_currency), so Django cannot go forward from there" in compared.notes[0]


def test_rows_that_a_finished_squash_left_over_are_no_news(place: Place) -> None:
    folder = squash(place)
    for cluster in (place.side, place.live):
        place.manage("migrate", url=cluster.url)  # records the squashed one
    remove_replaced(folder)
    squashed = folder / "0001_squashed_0004_currency.py"
    lines = squashed.read_text().splitlines()
    start = next(place for place, line in enumerate(lines) if "replaces = [" in line)
    end = next(place for place in range(start, len(lines)) if "]" in lines[place])
    squashed.write_text("\n".join(lines[:start] + lines[end + 1 :]))
    for path in place.code.glob("*/migrations/*.py"):
        for name in ("0001_initial", "0002_due_date", "0003_rls", "0004_currency"):
            path.write_text(
                path.read_text().replace(f'("billing", "{name}")', '("billing", "0001_squashed_0004_currency")')
            )
    code = read_code(place.application)
    assert code.replaces == {} and code.migrations["billing"] == ["0001_squashed_0004_currency"]
    compared = compare_schema(applied(place.side), code, applied(place.live))
    assert (compared.state, compared.unknown) == ("equal", [])
    assert "billing.0001_initial" in compared.notes[0]


def test_a_squash_of_squashes_counts_the_rows_at_the_bottom() -> None:
    order = [("a", "0001_squashed_0003"), ("a", "0004")]
    replaces = {
        ("a", "0001_squashed_0003"): [("a", "0001_squashed_0002"), ("a", "0003")],
        ("a", "0001_squashed_0002"): [("a", "0001"), ("a", "0002")],
    }
    code = code_of([*order, ("a", "0001_squashed_0002"), ("a", "0003")], replaces)
    code = replace(code, order=order)
    assert compare_schema({"a": ["0001", "0002", "0003", "0004"]}, code, None).state == "equal"
    compared = compare_schema({"a": ["0001", "0002"]}, code, None)
    assert (compared.state, compared.forward) == ("older", ["a.0003", "a.0004"])
    assert compare_schema({"a": [], "b": ["0001"]}, code, {"b": ["0001"]}).forward == ["a.0001_squashed_0003", "a.0004"]


def test_each_schema_of_a_tenant_is_compared_by_itself() -> None:
    code = code_of([("a", "0001"), ("a", "0002"), ("b", "0001")])
    backup = {"a": ["0001", "0002"], "b": ["0001"], "north.a": ["0001"], "south.a": ["0001", "0002", "0003"]}
    compared = compare_schema(backup, code, None)
    assert (compared.state, compared.forward, compared.unknown) == ("newer", [], ["south.a.0003"])
    assert "schema north of the backup these migrations are not applied: a.0002;" in compared.notes[0]
    del backup["south.a"]
    assert compare_schema(backup, code, None).state == "older"
    del backup["north.a"]
    assert compare_schema(backup, code, None).state == "equal"


def test_a_backup_without_migration_state_promises_nothing() -> None:
    assert compare_schema({}, code_of([]), None).state == "equal"
    compared = compare_schema({}, code_of([("a", "0001")]), {"a": ["0001"]})
    assert (compared.state, compared.forward) == ("older", [])
    assert "no record of applied migrations" in compared.notes[0]


# -- going forward ----------------------------------------------------------------------------------------------------


@pytest.mark.promise(3)
def test_a_restored_database_is_migrated_and_the_live_one_never_notices(place: Place) -> None:
    place.add_reminder()
    before = applied(place.live)
    lines = place.migrate()
    assert any("Applying billing.0005_reminder... OK" in line for line in lines)
    assert has_reminder(place.side) and not has_reminder(place.live)
    assert applied(place.live) == before
    assert compare_schema(applied(place.side), read_code(place.application), before).state == "equal"


@pytest.mark.promise(3)
def test_settings_that_ignore_the_variable_migrate_nothing(place: Place) -> None:
    place.add_reminder()
    settings = place.code / "erp_site" / "settings.py"
    settings.write_text(settings.read_text().replace(VARIABLE, "REAL_DATABASE_URL"))
    application = replace(
        place.application, environment={**place.application.environment, "REAL_DATABASE_URL": place.live.url}
    )
    side, live = place.names
    # To be seen before anything is restored.
    assert read_code(application, environment=application.leading_to(side, live)).database == live
    lines: list[str] = []
    with pytest.raises(DatabaseError, match=f"uses the database {live} and not .* nothing was migrated"):
        migrate(application, side, live, on_line=lines.append)
    assert lines == [] and not has_reminder(place.live) and not has_reminder(place.side)


@pytest.mark.promise(3)
def test_settings_that_choose_by_the_command_migrate_nothing_else(place: Place) -> None:
    place.add_reminder()
    settings = place.code / "erp_site" / "settings.py"
    direct = f"\nimport sys\nif 'migrate' in sys.argv: DATABASES['default']['NAME'] = {place.names[1]!r}\n"
    settings.write_text(settings.read_text() + direct)
    place.migrate()
    assert has_reminder(place.side) and not has_reminder(place.live)


def test_a_manage_command_that_loses_the_environment_migrates_nothing(place: Place) -> None:
    place.add_reminder()
    kept = [f"{name}={value}" for name, value in place.application.environment.items()]
    lossy = replace(place.application, manage=["env", *kept, *place.application.manage])
    with pytest.raises(DatabaseError, match=r"see that the command django\.manage passes its environment on"):
        migrate(lossy, *place.names, on_line=lambda line: None)
    assert not has_reminder(place.live) and not has_reminder(place.side)


def test_another_connection_that_leads_to_the_live_database_is_said(place: Place) -> None:
    settings = place.code / "erp_site" / "settings.py"
    settings.write_text(settings.read_text() + f"\nDATABASES['reports'] = _database({place.live.url!r})\n")
    assert any("connection reports still leads to" in line for line in place.migrate())


def test_a_password_with_signs_and_a_name_with_signs_lead_there(place: Place) -> None:
    role = f"owner_{place.names[1]}"
    change(place.live, f"CREATE ROLE {role} SUPERUSER LOGIN PASSWORD '{PASSWORD.replace('%', '%%')}'")
    place.add_reminder()
    known = place.live.parameters
    url = f"postgres://{role}:{quote(PASSWORD, safe='')}@127.0.0.1:{known['port']}/{known['dbname']}"
    application = replace(place.application, environment={**place.application.environment, VARIABLE: url})
    migrate(application, *place.names, on_line=lambda line: None)
    assert has_reminder(place.side) and not has_reminder(place.live)


def test_a_role_that_may_only_read_is_told_which_one_migrates(place: Place) -> None:
    role = f"reader_{place.names[1]}"
    change(place.live, f"CREATE ROLE {role} LOGIN PASSWORD 'reads' IN ROLE pg_read_all_data")
    place.add_reminder()
    known = place.live.parameters
    url = f"postgres://{role}:reads@127.0.0.1:{known['port']}/{known['dbname']}"
    application = replace(place.application, environment={**place.application.environment, VARIABLE: url})
    with pytest.raises(
        ProcessFailed, match=r"must own the tables: name the application's own URL.*django\.environment"
    ) as caught:
        migrate(application, *place.names, on_line=lambda line: None)
    assert VARIABLE in str(caught.value) and not has_reminder(place.side)


def test_a_migration_that_fails_is_quoted_and_keeps_its_secrets(place: Place) -> None:
    word = place.live.parameters["password"]
    failing = REMINDER.replace(
        "operations = [",
        f"operations = [migrations.RunSQL(\"SELECT 'x{word}' FROM no_such_table\"), ",
    )
    (place.code / "billing" / "migrations" / "0005_reminder.py").write_text(failing)
    lines: list[str] = []
    with pytest.raises(ProcessFailed, match=r'did not run in .*: relation "no_such_table" does not exist') as caught:
        migrate(place.application, *place.names, on_line=lines.append)
    assert any("LINE 1" in line for line in lines)
    assert word not in str(caught.value) and word not in "".join(lines)
    assert not has_reminder(place.side) and not has_reminder(place.live)


def test_whoever_stops_listening_ends_the_migration(place: Place) -> None:
    slow = REMINDER.replace("operations = [", 'operations = [migrations.RunSQL("SELECT pg_sleep(60)"), ')
    (place.code / "billing" / "migrations" / "0005_reminder.py").write_text(slow)

    def stop(line: str) -> None:
        if "0005_reminder" in line or "Running migrations" in line:
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        migrate(place.application, *place.names, on_line=stop)
    assert time.monotonic() - started < 20
