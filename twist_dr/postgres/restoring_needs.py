"""What a dump holds that the role which restores it may not make, told from the dump's table of contents.

Without a superuser's rights pg_restore fails at the first such statement, with hours of work behind it. Which statements these are, the
documentation of each says: "must be superuser", "must own", "must be able to SET ROLE".
"""

from __future__ import annotations

import codecs
import re
from collections import defaultdict
from collections.abc import Collection
from typing import BinaryIO

from twist_dr.errors import Obstacle
from twist_dr.postgres.dump_toc import TocEntry, read_entries, read_header
from twist_dr.postgres.restoring_role import SUPERUSER, RestoringRole
from twist_dr.postgres.statements import unquoted, without_texts
from twist_dr.system.words import few

#: Kinds that only a superuser may make, and what they are called.
_SUPERUSERS = {
    b"ACCESS METHOD": "the access methods",
    b"EVENT TRIGGER": "the event triggers",
    b"FOREIGN DATA WRAPPER": "the foreign data wrappers",
    b"OPERATOR CLASS": "the operator classes",
    b"OPERATOR FAMILY": "the operator families",
    b"PROCEDURAL LANGUAGE": "the languages",
    b"PUBLICATION TABLES IN SCHEMA": "publications of the whole schemas",
    b"SHELL TYPE": "the base types",
    b"TEXT SEARCH PARSER": "the text search parsers",
    b"TEXT SEARCH TEMPLATE": "the text search templates",
}
_ROUTINES = (b"FUNCTION", b"PROCEDURE")
_DEFINED = (*_ROUTINES, b"ACL", b"AGGREGATE", b"CAST", b"ENCODING", b"PUBLICATION", b"SECURITY LABEL")
#: Kinds that lie in a schema and are given to their owner, who must be allowed to have something there ("ALTER TABLE", OWNER).
_IN_SCHEMA = {
    b"AGGREGATE", b"COLLATION", b"CONVERSION", b"DOMAIN", b"FOREIGN TABLE", b"FUNCTION", b"MATERIALIZED VIEW", b"OPERATOR", b"PROCEDURE",
    b"SEQUENCE", b"STATISTICS", b"TABLE", b"TEXT SEARCH CONFIGURATION", b"TEXT SEARCH DICTIONARY", b"TYPE", b"VIEW",
}  # fmt: skip
#: Others that have an owner, or are said of one.
_OWNED = _IN_SCHEMA | {b"BLOB", b"BLOB METADATA", b"DEFAULT ACL", b"PUBLICATION", b"SCHEMA", b"SERVER"}
#: What may have a cast or a transform of its own.
_TYPES = {b"DOMAIN", b"FOREIGN TABLE", b"MATERIALIZED VIEW", b"SHELL TYPE", b"TABLE", b"TYPE", b"VIEW"}
#: Entries about another object, whose kind begins their name.
_ABOUT = (b"ACL", b"COMMENT", b"SECURITY LABEL")
_QUOTED = rb'"(?:[^"]|"")*"'
#: As pg_dump writes a routine (``dumpFunc``): the language and its attributes on a line, then a line for each setting.
_LANGUAGE = re.compile(rb"\n    LANGUAGE (\w+|" + _QUOTED + rb")([^\n;]*)")
_SETTING = re.compile(rb"\n    SET (\w+|" + _QUOTED + rb") TO ")
_AUTHORIZATION = re.compile(rb"^SET SESSION AUTHORIZATION ", re.MULTILINE)
_PROVIDER = re.compile(rb"SECURITY LABEL FOR (\w+|" + _QUOTED + rb") ON ")
_ENCODING = re.compile(rb"client_encoding = '(\w+)'")
#: What every new database has from the start, so that it is not the role's own that restores.
_BUILT_IN = b"plpgsql"


def missing_for_dump(dump: BinaryIO, role: RestoringRole, labels: Collection[str] = ()) -> list[Obstacle]:
    """What keeps ``role`` from restoring a dump, of which the head is enough.

    ``labels``: providers of security labels that the server is known to have loaded. Nothing keeps a superuser. Raises ``UnknownDump``,
    and psycopg's errors.
    """
    if role.superuser:
        return []
    return _Reading(role, labels, list(read_entries(dump, read_header(dump), _DEFINED))).obstacles()


class _Reading:
    """One table of contents. ``_found``: names, by what is said before and after them, and the remedy."""

    def __init__(self, role: RestoringRole, labels: Collection[str], entries: list[TocEntry]) -> None:
        self._role = role
        self._labels = labels
        self._entries = entries
        self._encoding = next((_python_encoding(entry) for entry in entries if entry.kind == b"ENCODING"), "utf-8")
        self._types = {entry.number for entry in entries if entry.kind in _TYPES}
        self._tables = {(entry.schema, entry.name) for entry in entries if entry.kind == b"TABLE"}
        self._schemas = {self._text(each.name): self._text(each.owner) for each in entries if each.kind == b"SCHEMA"}
        self._found = defaultdict[tuple[str, str, str], list[str]](list)

    def obstacles(self) -> list[Obstacle]:
        settings: list[tuple[TocEntry, str]] = []
        for entry in self._entries:
            definition = without_texts(entry.definition)
            if (what := self._superusers(entry, definition)) is not None:
                self._note(entry, f"only a superuser may make {what}", SUPERUSER, ", which the backup has")
            if entry.kind in _OWNED and entry.owner:
                self._look_at_owner(entry, self._text(entry.owner))
            if entry.kind in _ROUTINES:
                settings += [(entry, unquoted(name)) for name in _SETTING.findall(definition)]
        self._look_at_settings(settings)
        return [
            Obstacle(f"{before} {few(names)}{after}", remedy) for (before, after, remedy), names in self._found.items()
        ]

    def _superusers(self, entry: TocEntry, definition: bytes) -> str | None:
        """What kind of thing the entry is, when only a superuser may make it."""
        kind = entry.kind
        if kind in _SUPERUSERS:
            return _SUPERUSERS[kind]
        if kind == b"EXTENSION" and entry.name != _BUILT_IN and self._text(entry.name) not in self._role.installs:
            return "the untrusted extensions"
        if kind == b"COMMENT" and entry.name == b"EXTENSION " + _BUILT_IN:
            return "the comment on"
        if kind == b"TABLE DATA" and (entry.schema, entry.name) not in self._tables:
            return "the rows of extensions' own tables"
        if kind == b"ACL" and _AUTHORIZATION.search(definition) and entry.schema != b"pg_catalog":
            return "grants in the name of who was granted them first, on"
        if kind == b"PUBLICATION" and b" FOR ALL TABLES" in definition:
            return "the publications of all tables"
        if kind == b"CAST" and (b" WITHOUT FUNCTION" in definition or not self._types.intersection(entry.needs)):
            return "casts of others' types, or without a function:"
        if kind == b"TRANSFORM" and not self._types.intersection(entry.needs):
            return "transforms of others' types:"
        if kind == b"AGGREGATE" and b"STYPE = internal" in definition:
            return "the aggregates of internal states"
        if kind == b"SECURITY LABEL" and (found := _PROVIDER.search(definition)):
            return (
                None
                if unquoted(found[1]) in self._labels
                else "security labels of providers that the server may lack, on"
            )
        return _superusers_routine(definition) if kind in _ROUTINES else None

    def _look_at_owner(self, entry: TocEntry, owner: str) -> None:
        role = self._role
        if not role.exists(owner):
            # Whoever makes a role is no member that may give it something (CREATE ROLE, "Notes").
            self._note(
                entry,
                f"the server lacks the role {owner}, which owns",
                f"as a superuser: CREATE ROLE {role.in_sql(owner)} NOLOGIN; {role.joining(owner)}",
            )
        elif not role.acts_for(owner):
            self._note(
                entry,
                f"role {role.name} is no member of {owner} with all its rights, which owns",
                f"as a superuser: {role.joining(owner)} (or {SUPERUSER})",
            )
        elif (home := self._home(entry)) is not None and not role.creates_in(owner, home):
            self._note(
                entry,
                f"{owner} may make nothing yet, as its grants come back last, where it owns",
                SUPERUSER,
                ", so only a superuser may give it that",
            )

    def _home(self, entry: TocEntry) -> str | None:
        """The owner of what an entry lies in; None where everybody may make something in it."""
        if entry.kind == b"PUBLICATION":
            return self._role.database_owner
        if entry.kind not in _IN_SCHEMA:
            return None
        schema = self._text(entry.schema)
        return self._schemas.get(schema) or (self._role.owner_of_public if schema == "public" else None)

    def _look_at_settings(self, settings: list[tuple[TocEntry, str]]) -> None:
        allowed = self._role.may_set({parameter for _, parameter in settings}) if settings else set()
        for entry, parameter in settings:
            if parameter not in allowed:
                self._note(
                    entry,
                    f"role {self._role.name} may not set {parameter}, which is set for",
                    self._role.granting(parameter),
                )

    def _note(self, entry: TocEntry, before: str, remedy: str, after: str = "") -> None:
        name, kind = self._text(entry.name), ""
        if entry.kind in _ABOUT:
            kind, _, name = name.partition(" ")
        schema = f"{self._text(entry.schema)}." if entry.schema else ""
        self._found[before, after, remedy].append(f"{kind} {schema}{name}".lstrip())

    def _text(self, name: bytes) -> str:
        return name.decode(self._encoding, errors="replace")


def _superusers_routine(definition: bytes) -> str | None:
    if (found := _LANGUAGE.search(definition)) is None:
        return None
    if found[1] in (b"c", b"internal"):
        return "functions in C:"
    if b" LEAKPROOF" in found[2]:
        return "LEAKPROOF functions:"
    return "functions with SUPPORT:" if b" SUPPORT " in found[2] else None


def _python_encoding(entry: TocEntry) -> str:
    """That of the dump, which all its names are in."""
    found = _ENCODING.search(entry.definition)
    name = found[1].decode().replace("WIN", "cp").replace("KOI8", "koi8_") if found else "utf-8"
    try:
        return codecs.lookup(name).name
    except LookupError:
        return "utf-8"
