"""The application's own settings: whether they can be led to a restored database, may migrate there, and which databases nobody backs up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

from twist_dr.django_app.manage import DjangoApplication, read_code, read_rights
from twist_dr.doctor.findings import Check, from_error, ok, problem, warning
from twist_dr.errors import ProcessFailed, SettingsError
from twist_dr.repository.django_facts import DjangoDatabase
from twist_dr.system.words import few


def check_lead(application: DjangoApplication, live: str) -> Check[None]:
    """With ``database_variable`` set to another database than ``live``, the settings must use that one. No database is asked."""
    variable = application.database_variable
    if variable is None:
        return
    probe = f"{live}_twist_dr_probe"
    try:
        found = read_code(application, environment=application.leading_to(probe, live)).facts.databases
    except SettingsError as error:
        yield from_error("django lead", error)
        return
    except ProcessFailed as error:
        yield problem(
            "django lead",
            f"with {variable} set to another database: {error}",
            f"let manage.py load whatever database {variable} names",
        )
        return
    if (used := found["default"].name) != probe:
        yield problem(
            "django lead",
            f"with {variable} set to another database, the application still uses {used or 'its own'}, so no restored database could be migrated",
            "set django.database_variable to the environment variable from which DATABASES is made; see that django.manage passes its environment on",
        )
        return
    yield ok("django lead", f"{variable} leads the application to a restored database")
    if stuck := [alias for alias, each in found.items() if each.name == live]:
        yield warning(
            "django lead",
            f"with {variable} set to another database, Django's connection {few(stuck)} still leads to {live}",
            f"make DATABASES[{stuck[0]!r}] from {variable} too: migrations that use it by name would change what is live",
        )


def check_rights(application: DjangoApplication) -> Check[None]:
    """Whether the role of the default connection may migrate: what it owns now, it owns in a restored database."""
    try:
        rights = read_rights(application)
    except ProcessFailed as error:
        yield warning(
            "django rights",
            f"whether manage.py may migrate could not be asked: {error}",
            "see that manage.py reaches the database",
        )
        return
    lacks = [
        *(["may not create tables there"] if not rights.may_create else []),
        *([f"does not own {few(rights.foreign)}"] if rights.foreign else []),
    ]
    if lacks:
        yield warning(
            "django rights",
            f"the role {rights.role}, as which manage.py connects, {' and '.join(lacks)}, so an older backup could not be migrated",
            "name the URL of the role that migrates under django.environment",
        )
    else:
        yield ok("django rights", f"the role {rights.role} may migrate")


def check_databases(
    databases: Mapping[str, DjangoDatabase], live: str, media: Sequence[Path], configuration: Sequence[str]
) -> Check[None]:
    """Every database of the application must be in some backup: the live one, or a file among media and configuration."""
    for alias, database in databases.items():
        if alias == "default" or database.name in ("", ":memory:", live):
            continue
        if database.engine.endswith("sqlite3"):
            kept = any(Path(database.name).is_relative_to(folder) for folder in media)
            if kept or any(fnmatch(database.name, pattern) for pattern in configuration):
                continue
            remedy = f"add it to configuration: {database.name}"
        else:
            remedy = "give it settings of its own (an application each, with a twist-dr.yaml), and a code location in workspace.yaml"
        where = f" on {database.host}" if database.host else ""
        yield warning(
            "django databases",
            f"the application's database {database.name}{where} (DATABASES[{alias!r}]) is in no backup of these settings",
            remedy,
        )
