"""What a database is set to by itself (ALTER DATABASE ... SET, ALTER ROLE ... IN DATABASE ... SET), as its dump tells.

Rows are text that was written under these settings, and is read under them: ``$12,34`` is another amount where lc_monetary is another.
So they come before the rows, as ``pg_restore --create`` has it (PostgreSQL, "pg_restore"). It gives them to the database's old name; here
they are taken out of the dump's table of contents and given to a database of any name. Values may be secrets of the application: they are
in the dump, never in a manifest or a message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from twist_dr.postgres.cluster import Connection, query
from twist_dr.postgres.dump_toc import UnknownDump, read_entries, read_header
from twist_dr.postgres.statements import NAME, statements, unquoted
from twist_dr.repository.table_names import in_quotes

_ENCODING, _PROPERTIES = b"ENCODING", b"DATABASE PROPERTIES"
_CLIENT_ENCODING = re.compile(rb"SET client_encoding = '(\w+)';")
#: As pg_dump writes it (dumputils.c, ``makeAlterConfigCommand``).
_SETTING = re.compile(
    rb"ALTER (?:ROLE (?P<role>"
    + NAME
    + rb") IN )?DATABASE "
    + NAME
    + rb" SET (?P<name>"
    + NAME
    + rb") TO (?P<value>.*);",
    re.DOTALL,
)
_LITERAL = re.compile(rb"'((?:[^']|'')*)'")
#: Settings whose value is a list of quoted names (pg_dump's variable_is_guc_list_quote), and such a name.
_LISTS = {"search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries"}
_LIST_NAME = re.compile(r'"((?:[^"]|"")*)"|([^,\s]+)')
#: Who works, where files lie, which libraries of the user's come along, how long and whether anybody may write: nothing of it changes how rows
#: are read, and all of it could hold up a restore or its migrations. Given last.
OF_SESSIONS = {
    "role", "session_authorization", "local_preload_libraries", "default_tablespace", "temp_tablespaces",
    "default_transaction_read_only", "default_transaction_isolation", "default_transaction_deferrable",
    "statement_timeout", "lock_timeout", "idle_session_timeout", "idle_in_transaction_session_timeout", "transaction_timeout",
}  # fmt: skip


@dataclass(frozen=True)
class OwnSetting:
    """One setting. ``role`` and ``value`` are SQL in the dump's encoding; without a role it is everybody's."""

    name: str
    value: bytes
    role: bytes | None = None

    @property
    def of_sessions(self) -> bool:
        """Whether it has nothing to do with what rows mean, and is given last."""
        return self.name.lower() in OF_SESSIONS

    def statement(self, database: bytes) -> bytes:
        """The statement that gives it to ``database``, an identifier as it stands in SQL."""
        whose = b"" if self.role is None else b"ROLE " + self.role + b" IN "
        return b"ALTER %sDATABASE %s SET %s TO %s" % (whose, database, _quoted(self.name), self.value)

    @property
    def texts(self) -> list[bytes]:
        """The value, or each name of a list."""
        return [text.replace(b"''", b"'") for text in _LITERAL.findall(self.value)]

    def __str__(self) -> str:
        whose = "" if self.role is None else f" of role {unquoted(self.role)}"
        return f"{self.name}{whose}"


@dataclass(frozen=True)
class OwnSettings:
    """All of a database's, in their order. ``encoding``: that of names and values, as PostgreSQL calls it."""

    encoding: str = "UTF8"
    settings: tuple[OwnSetting, ...] = ()

    @contextmanager
    def spoken(self, connection: Connection) -> Iterator[None]:
        """Statements of the block are taken for the dump's encoding."""
        from psycopg import sql

        connection.execute(sql.SQL("SET client_encoding TO {}").format(sql.Literal(self.encoding)))
        try:
            yield
        finally:
            if not connection.closed:
                connection.execute("SET client_encoding TO 'UTF8'")


NO_SETTINGS = OwnSettings()


def read_own_settings(dump: BinaryIO) -> OwnSettings:
    """Those in a dump's table of contents; none where its format is not known to us. ``dump`` needs no more than its head."""
    encoding, found = "UTF8", []
    try:
        for entry in read_entries(dump, read_header(dump), (_ENCODING, _PROPERTIES)):
            if entry.kind == _ENCODING and (match := _CLIENT_ENCODING.search(entry.definition)):
                encoding = match[1].decode()
            elif entry.kind == _PROPERTIES:
                found += _settings(statements(entry.definition))
    except UnknownDump:
        return NO_SETTINGS
    return OwnSettings(encoding, tuple(found))


def value_texts(name: str, value: str) -> list[str]:
    """A parameter's value as the catalog has it, or each name of one that is a list of names."""
    if name.lower() not in _LISTS:
        return [value]
    return [quoted.replace('""', '"') or plain for quoted, plain in _LIST_NAME.findall(value)] or [""]


def differing_settings(connection: Connection, database: str, own: OwnSettings) -> list[str]:
    """What ``database`` is set to otherwise than ``own``, or only one of them is: names, never values. Raises psycopg's errors."""
    found = query(
        connection,
        """SELECT pg_get_userbyid(nullif(s.setrole, 0)), unnest(s.setconfig) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
            WHERE d.datname = %(name)s""",
        {"name": database},
    )
    there: dict[tuple[str | None, str], list[str]] = {}
    for role, setting in found:
        name, _, value = setting.partition("=")
        there[role, name.lower()] = value_texts(name, value)
    here = {
        (None if each.role is None else unquoted(each.role), each.name.lower()): [_text(text) for text in each.texts]
        for each in own.settings
    }
    return sorted(
        name if role is None else f"{name} of role {role}"
        for role, name in here.keys() | there.keys()
        if here.get((role, name)) != there.get((role, name))
    )


def _text(value: bytes) -> str:
    return value.decode(errors="surrogateescape")


def own_settings_of(dump: Path) -> OwnSettings:
    """Those of a dump on our disk."""
    with dump.open("rb") as file:
        return read_own_settings(file)


def _settings(properties: Iterable[bytes]) -> list[OwnSetting]:
    matches = [match for statement in properties if (match := _SETTING.fullmatch(statement))]
    return [OwnSetting(unquoted(match["name"]), match["value"], match["role"]) for match in matches]


def _quoted(name: str) -> bytes:
    return in_quotes(name).encode(errors="surrogateescape")
