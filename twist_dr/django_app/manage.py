"""The Django application, asked and told through its manage.py: which migrations its code has, and to run them in a restored database.

It is always a child process. Its code is never imported into ours: it may need another Python, and may do anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from twist_dr.django_app.migrations import DjangoCode, Migration
from twist_dr.errors import DatabaseError, ProcessFailed, SettingsError
from twist_dr.redaction import quoting
from twist_dr.repository.django_facts import DjangoFacts
from twist_dr.system.commands import run_command
from twist_dr.system.processes import inherited

_ASK_SECONDS = 120.0
#: What our programs say to us begins so: shell itself (Django 5.2), settings and apps may print lines of their own.
MARKER = "twist-dr says: "

#: What libpq, dj-database-url, django-environ and SQLAlchemy (with its +driver) call PostgreSQL.
#: Names that are kept of an application's settings, and characters of each: more than any has.
_MOST_NAMES, _LONGEST_NAME = 1000, 300
#: What is a URL or a connection string, which may hold a password, and no name.
_TELLS_MORE = re.compile(r"://|password", re.IGNORECASE)
#: What PostgreSQL says where a role may not; in other languages than English the remedy stays away.
_FORBIDDEN = re.compile(r"permission denied|must be owner of")
_POSTGRES_URL = re.compile(r"(?i)(postgres|postgresql|psql|pgsql|postgis|timescale|timescalegis)(\+\w+)?://")


@dataclass(frozen=True)
class DjangoApplication:
    """How to call manage.py.

    ``manage`` is the command (``[python, manage.py]``), run in ``folder`` with ``environment``.
    ``database_variable``: the environment variable from which the application's settings take the database; where ``environment`` lacks it, ours counts.
    """

    manage: Sequence[str]
    folder: Path
    environment: Mapping[str, str] = field(repr=False)
    database_variable: str | None

    @property
    def variables(self) -> dict[str, str]:
        """All that the settings name for it."""
        named = (self.database_variable,) if self.database_variable is not None else ()
        return {**inherited(named), **self.environment}

    def leading_to(self, database: str, live: str) -> dict[str, str]:
        """The changes of environment under which manage.py uses ``database``, on the same server, in the place of ``live``.

        Only the database's name differs. Raises ``SettingsError`` when the variable is unnamed, unset, or holds something else
        than a PostgreSQL URL, a libpq connection string or the name ``live``.
        """
        variable = self.database_variable
        if variable is None:
            raise SettingsError(
                "It is not known how to lead the application to another database",
                remedy="set django.database_variable to the environment variable that names the database in its settings, such as DATABASE_URL",
            )
        value = self.variables.get(variable)
        if not value:
            raise SettingsError(
                f"The environment variable {variable}, which django.database_variable names, is not set",
                remedy=f"set {variable} under django.environment, or correct django.database_variable",
            )
        changed = _renamed(value, database, live)
        if changed is None:
            raise SettingsError(
                f"The environment variable {variable} holds neither a PostgreSQL URL, nor a libpq connection string, nor {live}, the name of the live "
                "database",
                remedy="set django.database_variable to the one from which the settings take the database",
            )
        return {variable: changed}


def _renamed(value: str, database: str, live: str) -> str | None:
    """``value`` with another database's name in it; ``None`` when it is nothing that names one."""
    if value == live:
        return database
    if _POSTGRES_URL.match(value):
        return _renamed_url(value, database)
    if "=" in value:
        import psycopg
        from psycopg.conninfo import make_conninfo

        try:
            return make_conninfo(value, dbname=database)
        except psycopg.ProgrammingError:
            return None
    return None


def _renamed_url(url: str, database: str) -> str:
    """The URL with all but the name left as it stands: its readers differ in what they take for user, host and query."""
    name = quote(database, safe="")
    address, mark, query = url.partition("?")
    query, named = re.subn(r"(?<![^&])dbname=[^&]*", f"dbname={name}", query)
    scheme, _, rest = address.partition("://")
    server, slash, path = rest.partition("/")
    if path.startswith("/"):  # django-environ: the folder of a socket, then the name
        path = f"{path.rpartition('/')[0]}/{name}"
    elif path or not named:
        slash, path = "/", name
    return f"{scheme}://{server}{slash}{path}{mark}{query}"


# -- what the code has ------------------------------------------------------------------------------------------------

#: A loader without a connection never asks a database; makemigrations uses it so (django/db/migrations/loader.py).
_READ_CODE = f"""
import json, platform, django
from django.conf import settings
from django.db import connections
from django.db.migrations.loader import MigrationLoader
loader = MigrationLoader(None)
order = {{}}
for leaf in loader.graph.leaf_nodes():
    order.update(dict.fromkeys(loader.graph.forwards_plan(leaf)))
print()
print({MARKER!r} + json.dumps({{
    "migrations": sorted(loader.disk_migrations),
    "replaces": [[key, migration.replaces] for key, migration in loader.disk_migrations.items() if migration.replaces],
    "order": list(order),
    "facts": {{
        "version": django.get_version(),
        "python": platform.python_version(),
        "installed_apps": [str(app) for app in settings.INSTALLED_APPS],
        "databases": {{
            alias: {{key.lower(): str(connections[alias].settings_dict.get(key) or "") for key in ("ENGINE", "NAME", "HOST")}}
            for alias in connections
        }},
    }},
}}), flush=True)
"""


def read_code(
    application: DjangoApplication, *, environment: Mapping[str, str] | None = None, seconds: float = _ASK_SECONDS
) -> DjangoCode:
    """Ask the code which migrations it has, and what it is, without asking any database. ``environment``: changes, as of ``leading_to``.

    One child process, about half a second. Raises ``ProcessFailed``, ``SettingsError``.
    """
    answer = ask(application, _READ_CODE, environment or {}, seconds=seconds)
    migrations: dict[str, list[str]] = {}
    for app, name in answer["migrations"]:
        migrations.setdefault(app, []).append(name)
    return DjangoCode(
        migrations=migrations,
        replaces={_migration(key): [_migration(replaced) for replaced in all] for key, all in answer["replaces"]},
        order=[_migration(key) for key in answer["order"]],
        facts=_facts(answer["facts"]),
    )


def _facts(answer: Mapping[str, Any]) -> DjangoFacts:
    """Bounded, and without what a name of a database that is a whole URL would tell."""
    databases = {
        alias: {what: "" if _TELLS_MORE.search(text) else text[:_LONGEST_NAME] for what, text in each.items()}
        for alias, each in list(answer["databases"].items())[:_MOST_NAMES]
    }
    installed = [app[:_LONGEST_NAME] for app in answer["installed_apps"][:_MOST_NAMES]]
    return DjangoFacts.model_validate({**answer, "installed_apps": installed, "databases": databases})


def ask(
    application: DjangoApplication, program: str, environment: Mapping[str, str], *, seconds: float = _ASK_SECONDS
) -> dict[str, Any]:
    """What a program says in ``manage.py shell``: it prints :data:`MARKER` and JSON. Raises ``ProcessFailed``, ``SettingsError``."""
    answer: dict[str, Any] = {}
    _shell(application, program, environment, answer.update, lambda line: None, seconds=seconds)
    return answer


def _migration(pair: Sequence[str]) -> Migration:
    app, name = pair
    return app, name


# -- what it may do ---------------------------------------------------------------------------------------------------

#: What its tables belong to is asked of the connection that it migrates over; rights of a role that it inherits count.
_READ_RIGHTS = f"""
import json
from django.db import connection
tables = connection.introspection.django_table_names(only_existing=True)
with connection.cursor() as cursor:
    cursor.execute(
        "SELECT current_user, coalesce(has_schema_privilege(current_schema(), 'CREATE'), false), ARRAY(SELECT c.relname::text FROM pg_class c "
        "WHERE c.relname = ANY(%s) AND c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid) AND NOT pg_has_role(c.relowner, 'USAGE') ORDER BY 1)",
        [tables],
    )
    role, may_create, foreign = cursor.fetchone()
print()
print({MARKER!r} + json.dumps({{"role": role, "may_create": may_create, "foreign": foreign}}), flush=True)
"""


@dataclass(frozen=True)
class Rights:
    """Of the role that Django's default connection uses: whether it may create tables, and which of the application's are not its own."""

    role: str
    may_create: bool
    foreign: Sequence[str]


def read_rights(application: DjangoApplication) -> Rights:
    """Ask the database that the application uses now. Raises ``ProcessFailed``, also where that is not PostgreSQL, and ``SettingsError``."""
    return Rights(**ask(application, _READ_RIGHTS, {}))


# -- going forward ----------------------------------------------------------------------------------------------------

#: Proof and migration are one process: settings may choose the database by the command, and would another time choose another.
#: Errors go where the rest goes, so that lines come in their order.
_MIGRATE = f"""
import json, os, sys
os.dup2(1, 2)
from django.core.management import call_command
from django.db import connection, connections
with connection.cursor() as cursor:
    cursor.execute("SELECT current_database()")
    found = cursor.fetchone()[0]
connection.close()
others = {{alias: str(connections[alias].settings_dict["NAME"]) for alias in connections if alias != "default"}}
print()
print({MARKER!r} + json.dumps({{"database": found, "others": others}}), flush=True)
if found != expected:
    sys.exit(1)
call_command("migrate", "--no-input", "--database", "default", skip_checks=False)
"""


def migrate(application: DjangoApplication, database: str, live: str, *, on_line: Callable[[str], None]) -> None:
    """Run all migrations in ``database``, a restored one on the server of ``live``, and never anywhere else.

    The process that migrates first proves that Django's default connection leads there. ``on_line`` is called, in this thread,
    with each line of ``migrate``; what it raises ends the migration. Raises ``DatabaseError`` when the settings lead to
    another database, in which nothing was done then; ``ProcessFailed`` when a migration fails; ``SettingsError``.
    """
    seen: dict[str, Any] = {}

    def hear(answer: dict[str, Any]) -> None:
        seen.update(answer)
        if others := [alias for alias, name in answer["others"].items() if name == live]:
            on_line(
                f"Django's connection {', '.join(others)} still leads to {live}; migrations that use it by name reach it."
            )

    environment = {**application.leading_to(database, live), "PYTHONUNBUFFERED": "1"}
    try:
        _shell(application, f"expected = {database!r}\n{_MIGRATE}", environment, hear, on_line, seconds=None)
    except ProcessFailed as error:
        if seen and seen["database"] != database:
            raise DatabaseError(
                f"Under {application.database_variable} the application uses the database {seen['database']} and not {database}, so nothing was migrated",
                remedy=(
                    "set django.database_variable to the variable from which its settings take the database, and see that the command django.manage "
                    "passes its environment on"
                ),
            ) from None
        remedy = f"the role in {application.database_variable} must own the tables: name the application's own URL for it under django.environment."
        raise ProcessFailed(
            f"The migrations did not run in {database}: {error}",
            remedy=remedy if _FORBIDDEN.search(error.said) else None,
        ) from error


def _shell(
    application: DjangoApplication,
    program: str,
    environment: Mapping[str, str],
    hear: Callable[[dict[str, Any]], None],
    on_line: Callable[[str], None],
    *,
    seconds: float | None,
) -> None:
    """Run one of our programs in ``manage.py shell``: what it says to us goes to ``hear``, all other lines to ``on_line``."""
    if not application.folder.is_dir():
        raise SettingsError(
            f"There is no folder {application.folder} to run manage.py in", remedy="correct django.folder"
        )
    heard = False

    def listen(line: str) -> None:
        nonlocal heard
        if line.startswith(MARKER):
            heard = True
            hear(json.loads(line.removeprefix(MARKER)))
        elif line:
            on_line(quoting(line))

    # Quiet, as shell lists what it imports since Django 5.2; older ones know no option against that.
    arguments = [*application.manage, "shell", "--verbosity", "0", "--command", program]
    changed = {**application.variables, **environment}
    run_command(
        arguments,
        seconds=seconds,
        environment=changed,
        folder=application.folder,
        called="manage.py",
        on_line=listen,
    )
    if not heard:
        raise ProcessFailed(
            f"{' '.join(application.manage)} reported success but did not answer",
            remedy="see that it is Django's manage.py, and run twist-dr doctor",
        )
