"""The Django application, asked and told through its manage.py: which migrations its code has, and to run them in a restored database.

It is always a child process. Its code is never imported into ours: it may need another Python, and may do anything.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote

from twist_dr.engine.processes import Child, describe_status
from twist_dr.errors import DatabaseError, ProcessFailed, SettingsError
from twist_dr.storage.base import CHUNK

#: An app and the name of one of its migrations.
Migration = tuple[str, str]

_ASK_SECONDS = 120.0
_LOOK_SECONDS = 0.2
_KEEP_LINES = 200
_LONGEST_LINE = 1 << 24
#: What our programs say to us begins so: shell itself (Django 5.2), settings and apps may print lines of their own.
_MARKER = "twist-dr says: "

#: What libpq, dj-database-url, django-environ and SQLAlchemy (with its +driver) call PostgreSQL.
_POSTGRES_URL = re.compile(r"(?i)(postgres|postgresql|psql|pgsql|postgis|timescale|timescalegis)(\+\w+)?://")
_PASSWORDS = (re.compile(r"://[^/:@]*:([^/]+)@"), re.compile(r"(?i)\bpassword\s*=\s*('(?:[^'\\]|\\.)*'|[^\s&]+)"))
_LONG_SECRET = 8
_SECRET_NAME = re.compile(r"(?i)secret|passw|token|key|credential|dsn")
#: The last line of a traceback that says something: what PostgreSQL adds (DETAIL, LINE 1, a caret) comes after it.
_EXCEPTION = re.compile(r"(?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*: \S|[A-Za-z_]\w*(?:Error|Exception): \S")


@dataclass(frozen=True)
class DjangoApplication:
    """How to call manage.py.

    ``manage`` is the command (``[python, manage.py]``), run in ``folder`` with ``environment`` added to ours.
    ``database_variable``: the environment variable from which the application's settings take the database.
    """

    manage: Sequence[str]
    folder: Path
    environment: Mapping[str, str] = field(repr=False)
    database_variable: str | None

    def leading_to(self, database: str, live: str) -> dict[str, str]:
        """The changes of environment under which manage.py uses ``database``, on the same server, in the place of ``live``.

        Only the database's name differs. Raises ``SettingsError`` when the variable is unnamed, unset, or holds something else
        than a PostgreSQL URL, a libpq connection string or the name ``live``.
        """
        variable = self.database_variable
        if variable is None:
            raise SettingsError(
                "It is not known how to lead the application to another database; set django.database_variable to the "
                "environment variable that names the database in its settings, such as DATABASE_URL."
            )
        value = self.environment.get(variable, os.environ.get(variable, ""))
        if not value:
            raise SettingsError(
                f"The environment variable {variable}, which django.database_variable names, is not set; "
                f"set {variable} under django.environment, or correct django.database_variable."
            )
        changed = _renamed(value, database, live)
        if changed is None:
            raise SettingsError(
                f"The environment variable {variable} holds neither a PostgreSQL URL, nor a libpq connection string, nor {live}, "
                "the name of the live database; set django.database_variable to the one from which the settings take the database."
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


@dataclass(frozen=True)
class DjangoCode:
    """The migrations that the application's code has, as ``(app, name)``, and where its settings lead.

    ``migrations``: by app, sorted. ``replaces``: what each squashed one stands for; those need not be there as files.
    ``order``: what a full forward plan applies to an empty database. ``database``: the name in the settings' default connection.
    ``version``: Django's own.
    """

    migrations: dict[str, list[str]]
    replaces: dict[Migration, list[Migration]]
    order: list[Migration]
    database: str
    version: str

    def has(self, migration: Migration) -> bool:
        """Whether there is a file of it."""
        return migration[1] in self.migrations.get(migration[0], ())

    def known(self) -> set[Migration]:
        """All that there are files of, and all that a squashed one replaces."""
        files = {(app, name) for app, names in self.migrations.items() for name in names}
        return files.union(*self.replaces.values())

    def stands_for(self, migration: Migration) -> set[Migration]:
        """The migrations whose rows make this one applied: itself, or all that it replaces, squashed again or not."""
        if migration not in self.replaces:
            return {migration}
        return set().union(*(self.stands_for(replaced) for replaced in self.replaces[migration]))


#: A loader without a connection never asks a database; makemigrations uses it so (django/db/migrations/loader.py).
_READ_CODE = f"""
import json, django
from django.db import connections
from django.db.migrations.loader import MigrationLoader
loader = MigrationLoader(None)
order = {{}}
for leaf in loader.graph.leaf_nodes():
    order.update(dict.fromkeys(loader.graph.forwards_plan(leaf)))
print()
print({_MARKER!r} + json.dumps({{
    "migrations": sorted(loader.disk_migrations),
    "replaces": [[key, migration.replaces] for key, migration in loader.disk_migrations.items() if migration.replaces],
    "order": list(order),
    "database": str(connections["default"].settings_dict["NAME"]),
    "version": django.get_version(),
}}), flush=True)
"""


def read_code(application: DjangoApplication, *, environment: Mapping[str, str] | None = None) -> DjangoCode:
    """Ask the code which migrations it has, without asking any database. ``environment``: changes, as of ``leading_to``.

    One child process, about half a second. Raises ``ProcessFailed``, ``SettingsError``.
    """
    answer: dict[str, Any] = {}
    _shell(application, _READ_CODE, environment or {}, answer.update, lambda line: None, seconds=_ASK_SECONDS)
    migrations: dict[str, list[str]] = {}
    for app, name in answer["migrations"]:
        migrations.setdefault(app, []).append(name)
    return DjangoCode(
        migrations=migrations,
        replaces={_migration(key): [_migration(replaced) for replaced in all] for key, all in answer["replaces"]},
        order=[_migration(key) for key in answer["order"]],
        database=answer["database"],
        version=answer["version"],
    )


def _migration(pair: Sequence[str]) -> Migration:
    app, name = pair
    return app, name


# -- a backup's migrations against the code's -------------------------------------------------------------------------


@dataclass(frozen=True)
class SchemaComparison:
    """How the schema of a backup stands to the code. Migrations are called ``app.name``, or ``schema.app.name``.

    ``equal``: the code fits. ``older``: ``forward`` is to run first, in this order. ``newer``: the backup has what the code does
    not know. ``notes`` are sentences for people.
    """

    state: Literal["equal", "older", "newer"]
    forward: list[str]
    unknown: list[str]
    notes: list[str]


def compare_schema(
    backup: Mapping[str, Sequence[str]], code: DjangoCode, live: Mapping[str, Sequence[str]] | None
) -> SchemaComparison:
    """Compare the migrations applied in a backup with those of the code.

    ``backup`` and ``live`` are as ``read_migrations`` gives them, in the order of application; ``live`` is ``None`` when there is
    no live database. It tells what is merely left over in the backup, as the application lives with the same.
    """
    if not any(backup.values()):
        return _compare_nothing(code)
    forward: list[str] = []
    unknown: list[str] = []
    notes: list[str] = []
    lacking = False
    alive = _by_schema(live or {})
    for schema, rows in _by_schema(backup).items():
        applied = {(app, name) for app, names in rows.items() for name in names}
        there = alive.get(schema, {})
        prefix = f"{schema}." if schema else ""
        for app, names in rows.items():
            strange, left_over = _strangers(app, names, code, there.get(app, ()))
            unknown += [f"{prefix}{app}.{name}" for name in strange]
            if left_over:
                notes.append(_left_over_note(prefix + app, left_over, app in code.migrations))
        waiting = [migration for key in code.order for migration in _waiting(key, applied, code, notes)]
        if not schema:
            forward = [".".join(migration) for migration in waiting]
        elif waiting := [migration for migration in waiting if migration[0] in rows]:
            lacking = True
            notes.append(
                f"In schema {schema} of the backup these migrations are not applied: {_few(waiting)}; whether manage.py migrate "
                "applies them there depends on the application."
            )
    state: Literal["equal", "older", "newer"] = "newer" if unknown else "older" if forward or lacking else "equal"
    return SchemaComparison(state, forward, unknown, notes)


def _compare_nothing(code: DjangoCode) -> SchemaComparison:
    note = "The backup has no record of applied migrations (the table django_migrations)"
    if not code.order:
        return SchemaComparison("equal", [], [], [f"{note}, and the code has no migrations."])
    # All of them "forward" would promise that they can run: in a database that was made without them they cannot.
    return SchemaComparison("older", [], [], [f"{note}, so it is not known which ones would run; the code has some."])


def _by_schema(rows: Mapping[str, Sequence[str]]) -> dict[str, dict[str, list[str]]]:
    """Rows by schema and app; the schema is empty where the label is a bare app. An app's label never has a dot in Django."""
    found: dict[str, dict[str, list[str]]] = {}
    for label, names in rows.items():
        schema, _, app = label.rpartition(".")
        found.setdefault(schema, {})[app] = list(names)
    return found


def _strangers(app: str, names: Sequence[str], code: DjangoCode, live: Sequence[str]) -> tuple[list[str], list[str]]:
    """Which applied migrations of an app the code does not know: those that matter, and those that are merely left over."""
    known = code.known()
    strange = [name for name in names if (app, name) not in known]
    if app not in code.migrations:
        return ([], strange) if set(names) == set(live) else (strange, [])
    # Django's advice for a squash that has reached all servers is to delete the replaced files and then the list of them; the
    # rows stay. Unlike those of newer code, they were applied before one that the code has.
    last_known = max((place for place, name in enumerate(names) if name not in strange), default=-1)
    left_over = [name for name in strange if name in live and names.index(name) < last_known]
    return [name for name in strange if name not in left_over], left_over


def _left_over_note(label: str, names: Sequence[str], code_has_app: bool) -> str:
    called = _few([(label, name) for name in names])
    if code_has_app:
        return f"The backup and the live database have {called} applied, which the code has no more; newer ones of {label} are known."
    return f"The backup and the live database have the same migrations of {label} applied, an app that the code has no more: {called}."


def _waiting(key: Migration, applied: set[Migration], code: DjangoCode, notes: list[str]) -> Iterator[Migration]:
    """What Django would apply for one step of the full plan. As its loader does, rows of a squashed one itself do not count."""
    rows = code.stands_for(key)
    if rows <= applied:
        return
    if key not in code.replaces or not rows & applied:
        yield key
        return
    # A squashed one that is applied in part cannot be used; those that it replaces can, where their files are still there.
    if gone := sorted(row for row in rows - applied if not code.has(row)):
        notes.append(
            f"{'.'.join(key)} replaces migrations of which the backup lacks some whose files the code has no more ({_few(gone)}), so "
            "Django cannot go forward from there; restore with an older version of the application, and upgrade then."
        )
        yield key
        return
    for replaced in code.replaces[key]:
        yield from _waiting(replaced, applied, code, notes)


def _few(migrations: Sequence[Migration]) -> str:
    names = [".".join(migration) for migration in migrations]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


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
print({_MARKER!r} + json.dumps({{"database": found, "others": others}}), flush=True)
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
                f"Under {application.database_variable} the application uses the database {seen['database']} and not {database}, so "
                "nothing was migrated; set django.database_variable to the variable from which its settings take the database, and "
                "see that the command django.manage passes its environment on."
            ) from None
        raise ProcessFailed(f"The migrations did not run in {database}: {error}") from None


# -- child processes --------------------------------------------------------------------------------------------------


def run_command(arguments: Sequence[str], environment: Mapping[str, str], folder: Path, *, seconds: float) -> None:
    """Run a command of the settings to its end. Raises ``ProcessFailed`` with its last words, or when ``seconds`` were not enough:
    then it, and all that it started in its process group, are ended."""
    called = Path(arguments[0]).name
    _run(arguments, environment, folder, lambda line: None, _hiding(environment), seconds=seconds, called=called)


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
        raise SettingsError(f"There is no folder {application.folder} to run manage.py in; correct django.folder.")
    heard = False

    def listen(line: str) -> None:
        nonlocal heard
        if line.startswith(_MARKER):
            heard = True
            hear(json.loads(line.removeprefix(_MARKER)))
        elif line:
            on_line(hide(line))

    # Quiet, as shell lists what it imports since Django 5.2; older ones know no option against that.
    arguments = [*application.manage, "shell", "--verbosity", "0", "--command", program]
    changed = {**application.environment, **environment}
    if (variable := application.database_variable) is not None and variable in os.environ:
        changed.setdefault(variable, os.environ[variable])  # so that its password is known as one
    hide = _hiding(changed)
    _run(arguments, changed, application.folder, listen, hide, seconds=seconds, called="manage.py")
    if not heard:
        raise ProcessFailed(
            f"{' '.join(application.manage)} reported success but did not answer; see that it is Django's manage.py, and run twist-dr doctor."
        )


def _run(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    on_line: Callable[[str], None],
    hide: Callable[[str], str],
    *,
    seconds: float | None,
    called: str,
) -> None:
    """Run a program to its end, its output line by line to ``on_line``, as it is. ``hide`` takes the secrets out of its last words."""
    said: deque[str] = deque(maxlen=_KEEP_LINES)
    complaints: deque[str] = deque(maxlen=_KEEP_LINES)
    with Child(arguments, environment=environment, folder=folder, on_line=complaints.append) as child:
        try:
            for line in _lines(child, seconds):
                said.append(line)
                on_line(line)
        except TimeoutError:
            raise ProcessFailed(f"{called} was not done after {seconds:g} s and was ended.") from None
        try:
            child.finish()
        except ProcessFailed:
            status = describe_status(child.process.returncode)
            raise ProcessFailed(f"{called} {status}: {hide(_complaint(said, complaints))}") from None


def _hiding(environment: Mapping[str, str]) -> Callable[[str], str]:
    """Blots the environment's passwords and keys out of a text: what an application complains of may quote them."""
    secrets = {value for name, value in environment.items() if _SECRET_NAME.search(name)}
    for value in environment.values():
        secrets |= {word.strip("'") for pattern in _PASSWORDS for word in pattern.findall(value)}
    secrets = (secrets | {unquote(word) for word in secrets}) - {""}
    # Short ones as words only: a password of one letter would take that letter out of every other word.
    words = [
        re.escape(secret) if len(secret) >= _LONG_SECRET else rf"(?<!\w){re.escape(secret)}(?!\w)"
        for secret in sorted(secrets, key=len, reverse=True)
    ]
    hidden = re.compile("|".join(words) or "(?!)")
    return lambda text: hidden.sub("***", text)


def _complaint(said: Sequence[str], complaints: Sequence[str]) -> str:
    lines = [line for line in (*said, *complaints) if line.strip()]
    exceptions = [line for line in lines if _EXCEPTION.match(line)]
    return (exceptions[-1:] or lines[-1:] or ["it gave no reason"])[0].strip()


def _lines(child: Child, seconds: float | None) -> Iterator[str]:
    """The lines of its standard output until it ends. Raises ``TimeoutError`` when ``seconds`` are over before that."""
    deadline = None if seconds is None else time.monotonic() + seconds
    rest = b""
    for chunk in _output(child, deadline):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").rstrip("\r")
        if len(rest) > _LONGEST_LINE:
            rest = b""
    if rest:
        yield rest.decode(errors="replace")


def _output(child: Child, deadline: float | None) -> Iterator[bytes]:
    assert child.process.stdout is not None
    descriptor = child.process.stdout.fileno()
    ready = select.poll()
    ready.register(descriptor, select.POLLIN)
    while True:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError
        if ready.poll(1000 * _LOOK_SECONDS if left is None else 1000 * min(left, _LOOK_SECONDS)):
            chunk = os.read(descriptor, CHUNK)
            if not chunk:
                break
            yield chunk
        elif child.process.poll() is not None:
            return  # What it left running in the background may hold its output open for ever.
    try:
        child.process.wait(left)
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
