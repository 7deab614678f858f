"""What a Django application's own settings say that ours must say again: its database, its media, and from which variables it takes them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict

from twist_dr.django_app.manage import MARKER, DjangoApplication, ask
from twist_dr.errors import ProcessFailed, SettingsError
from twist_dr.system.processes import child_environment

#: Variables are found by their names in the code that is loaded: that of the working folder and of the settings' own package. Some packages
#: make the names as they go, always with their own before them (PRETIX_DATABASE_NAME).
_READ_SETTINGS = f"""
import json, os, re, sys
from django.conf import settings
from django.core.files.storage import FileSystemStorage, default_storage
from django.db import connections
root = settings.SETTINGS_MODULE.partition(".")[0]
words = {{"DJANGO_SETTINGS_MODULE", "PYTHONPATH"}}
for name, module in list(sys.modules.items()):
    path = str(getattr(module, "__file__", None) or "")
    own = path.startswith(os.getcwd() + os.sep) and "site-packages" not in path
    if path.endswith(".py") and (own or name == root or name.startswith(root + ".")):
        with open(path, encoding="utf-8", errors="replace") as file:
            words.update(re.findall("[A-Z][A-Z0-9_]+", file.read()))
folder = isinstance(default_storage, FileSystemStorage)
like = re.compile(".*(DATABASE|POSTGRES|(^|_)DB(_|$))")
print()
print({MARKER!r} + json.dumps({{
    "databases": {{
        alias: {{key.lower(): str(connections[alias].settings_dict.get(key) or "") for key in ("ENGINE", "NAME", "USER", "HOST", "PORT")}}
        for alias in connections
    }},
    "storage": "" if folder else default_storage.__class__.__module__,
    "media": str(default_storage.location) if folder and (settings.MEDIA_ROOT or default_storage.location != os.getcwd()) else "",
    "variables": sorted(name for name in os.environ if name in words or name.startswith(root.upper() + "_")),
    "like": sorted(name for name in {{*filter(like.match, words), root.upper() + "_DATABASE_NAME"}} if not hasattr(settings, name)),
}}), flush=True)
"""
_SECONDS = 120.0
#: Backends that are no PostgreSQL, by what their module is called; Django's own for no database is the last.
_OTHERS = ("sqlite3", "spatialite", "mysql", "oracle", "mssql", "dummy")
#: So many variables that are not set are tried: each takes as long as Django's start.
_MOST_TRIED = 6
#: A name that no database has: where the settings take it up, the variable that held it leads them.
_PROBE = "twist_dr_probe"


class DatabaseAddress(BaseModel):
    """Where an alias of DATABASES leads. ``host`` may be empty, or a socket's folder."""

    model_config = ConfigDict(frozen=True)

    engine: str
    name: str
    user: str
    host: str
    port: str


@dataclass(frozen=True)
class FoundApplication:
    """``environment``: the variables that manage.py needs beside those that every child gets, with their values, which may be secret.
    ``database_variable``: the one of them that leads it to another database; None where none does. ``media``: a folder, or None.
    ``notes``: what a person should know.
    """

    manage: Sequence[str]
    folder: Path
    database: DatabaseAddress
    environment: Mapping[str, str] = field(repr=False)
    database_variable: str | None
    media: Path | None
    notes: list[str]


def find_application(manage: Sequence[str], folder: Path) -> FoundApplication:
    """Ask manage.py, run as this shell would, and again with no more than what it was seen to need. No database is asked.

    Raises ``ProcessFailed`` and ``SettingsError``, also where the database is no PostgreSQL.
    """
    everything = DjangoApplication(manage, folder, dict(os.environ), None)
    answer = _ask(everything)
    database = DatabaseAddress.model_validate(answer["databases"]["default"])
    if database.engine.endswith(_OTHERS):
        raise SettingsError(
            f"The application's default database is no PostgreSQL ({database.engine})",
            remedy="set the variables with which manage.py uses the real one in this shell, then run again",
        )
    given = child_environment(None)
    # manage.py sets some by itself.
    needed = {name: os.environ[name] for name in answer["variables"] if name in os.environ and name not in given}
    application = replace(everything, environment=needed)
    notes = _notes(answer, database)
    try:
        alike = _settled(_ask(application)) == _settled(answer)
    except ProcessFailed:
        alike = False
    if not alike:
        notes.append(
            "with the variables that were found alone, manage.py does not say what it says in this shell; name what else it needs under django.environment"
        )
    leading = _leading_variable(application, database, [name for name in answer["like"] if name not in os.environ])
    if leading is None:
        notes.append(
            "no variable was found that leads the application to another database, so older backups cannot be migrated before they are live; let its settings "
            f"take the name from one, as in os.environ.get('DATABASE_NAME', {database.name!r}), and name it in django.database_variable"
        )
    else:
        if leading[0] not in needed and "://" in leading[1]:
            notes.append(f"{leading[0]} in the file environment has no password yet: write the application's own there")
        needed = {**needed, leading[0]: leading[1]}
    return FoundApplication(
        manage,
        folder,
        database,
        needed,
        leading and leading[0],
        Path(answer["media"]) if answer["media"] else None,
        notes,
    )


def _ask(application: DjangoApplication, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    return ask(application, _READ_SETTINGS, environment or {}, seconds=_SECONDS)


def _settled(answer: Mapping[str, Any]) -> tuple[object, ...]:
    return answer["databases"], answer["media"], answer["storage"]


def _leading_variable(
    application: DjangoApplication, live: DatabaseAddress, unset: Sequence[str]
) -> tuple[str, str] | None:
    """The variable with which the settings are led to another database, found by trying, and its value; also where a file of the application's, which
    a variable would go before, names the database."""
    url = f"postgresql://{quote(live.user, safe='')}@{quote(live.host, safe='')}:{live.port or 5432}/{quote(live.name, safe='')}"
    known = list(application.environment.items())
    guessed = [(name, value) for name in unset[:_MOST_TRIED] for value in (live.name, url)]
    for name, value in (*known, *guessed):
        candidate = replace(application, database_variable=name, environment={**application.environment, name: value})
        try:
            answer = _ask(candidate, candidate.leading_to(_PROBE, live.name))
        except (SettingsError, ProcessFailed):
            continue  # it names no database, or the settings do not take it for one
        if answer["databases"]["default"]["name"] == _PROBE:
            return name, value
    return None


def _notes(answer: Mapping[str, Any], live: DatabaseAddress) -> list[str]:
    others = [
        f"{alias} ({each['name']})"
        for alias, each in answer["databases"].items()
        if each["name"] not in ("", live.name)
    ]
    notes = []
    if not live.name:
        notes.append(
            "the settings name no database, as where a service file of PostgreSQL's does; correct the URLs in the file environment"
        )
    if not live.user:
        notes.append(
            "the settings name no role for the database; write the one that owns its tables into the last line of roles.sql"
        )
    if others:
        notes.append(f"the application has other databases, which need settings of their own: {', '.join(others)}")
    if answer["storage"]:
        notes.append(
            f"the files of models are kept by {answer['storage']}, not in a folder of this machine: no backup here holds them"
        )
    elif not answer["media"]:
        notes.append("MEDIA_ROOT is not set; name folders with uploaded files under media, if there are any")
    return notes
