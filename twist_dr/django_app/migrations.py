"""The migrations that are applied in a backup against those that the application's code has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from twist_dr.repository.django_facts import DjangoFacts
from twist_dr.system.words import few

#: An app and the name of one of its migrations.
Migration = tuple[str, str]


@dataclass(frozen=True)
class DjangoCode:
    """The migrations that the application's code has, and where its settings lead."""

    #: Each as ``(app, name)``; by app, sorted.
    migrations: dict[str, list[str]]
    #: What each squashed one stands for; those need not be there as files.
    replaces: dict[Migration, list[Migration]]
    #: What a full forward plan applies to an empty database.
    order: list[Migration]
    #: What the code is besides.
    facts: DjangoFacts

    @property
    def database(self) -> str:
        """The name in the settings' default connection."""
        return self.facts.databases["default"].name

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
    return few(".".join(migration) for migration in migrations)
