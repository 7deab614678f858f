"""What a server is set to for all roles in all databases (``ALTER ROLE ALL SET``), which no program of PostgreSQL's dumps.

It is appended to the roles' SQL. Values may be secrets of the application: they are in that artifact, never in a manifest or a message.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from twist_dr.postgres.cluster import Connection, query
from twist_dr.postgres.own_settings import OF_SESSIONS, value_texts
from twist_dr.postgres.roles import spoken
from twist_dr.postgres.statements import NAME, statements, unquoted
from twist_dr.redaction import one_line

if TYPE_CHECKING:
    from psycopg.sql import Composable

_SETTING = re.compile(rb"ALTER ROLE ALL SET (" + NAME + rb") TO .*;", re.DOTALL)
#: Why libraries are not set for all roles by us.
_LOCKS_OUT = "where one of these libraries is missing, nobody could connect any more; give it by hand, from roles.sql"


def read_everybodys_settings(connection: Connection) -> bytes:
    """As SQL in the encoding of the connection's database, which is that of what pg_dumpall writes there. Raises psycopg's errors."""
    from psycopg import sql

    rows = query(connection, "SELECT unnest(setconfig) FROM pg_db_role_setting WHERE setrole = 0 AND setdatabase = 0")
    script = "".join(
        sql.SQL("ALTER ROLE ALL SET {} TO {};\n").format(sql.Identifier(name), _value(name, value)).as_string(None)
        for name, _, value in (setting.partition("=") for (setting,) in rows)
    )
    [(raw,)] = query(connection, "SELECT convert_to(%(script)s, getdatabaseencoding())", {"script": script})
    return bytes(raw)


def everybodys_settings(roles: bytes) -> dict[str, bytes]:
    """The statements in the roles' SQL, by the parameter's name."""
    return {
        unquoted(match[1]): statement
        for statement in statements(roles)
        if (match := _SETTING.fullmatch(statement)) is not None
    }


def give_everybodys_settings(connection: Connection, roles: bytes) -> list[str]:
    """Set a scratch server so, but for what could hold up a restore there; returns a note for what it does not take."""
    wanted = {
        name: statement
        for name, statement in everybodys_settings(roles).items()
        if name.lower() not in OF_SESSIONS and not _is_of_libraries(name)
    }
    return [
        one_line(f"the setting {name} for all roles cannot be had here: {reason}")
        for name, reason in _give(connection, roles, wanted).items()
    ]


def add_everybodys_settings(connection: Connection, roles: bytes) -> tuple[list[str], list[str]]:
    """Give a server that is to serve what it has not set for all roles; returns the names of what was given, and sentences about the rest.

    What it has set otherwise stays: it may serve other applications, too.
    """
    wanted, there = everybodys_settings(roles), everybodys_settings(read_everybodys_settings(connection))
    absent = {name: statement for name, statement in wanted.items() if name not in there}
    locking_out = {name: _LOCKS_OUT for name in absent if _is_of_libraries(name)}
    refused = locking_out | _give(
        connection, roles, {name: absent[name] for name in absent.keys() - locking_out.keys()}
    )
    told = [f"the setting {name} for all roles could not be given: {reason}" for name, reason in refused.items()]
    told += [
        f"the setting {name} for all roles (ALTER ROLE ALL SET) is another one here than in roles.sql, and stays"
        for name in sorted(wanted.keys() & there.keys())
        if wanted[name] != there[name]
    ]
    return sorted(wanted.keys() - there.keys() - refused.keys()), list(map(one_line, told))


def missing_everybodys_settings(connection: Connection, roles: bytes) -> list[str]:
    """A sentence where a live server is set otherwise for all roles; nothing is changed there."""
    wanted, there = everybodys_settings(roles), everybodys_settings(read_everybodys_settings(connection))
    return [
        one_line(
            f"the backup's server had {name} set for all roles (ALTER ROLE ALL SET), and this one has it {'otherwise' if name in there else 'not'}; "
            "roles.sql has the statement, if it is wanted"
        )
        for name, statement in sorted(wanted.items())
        if there.get(name) != statement
    ]


def _is_of_libraries(name: str) -> bool:
    return name.lower().endswith("_preload_libraries")


def _give(connection: Connection, roles: bytes, wanted: dict[str, bytes]) -> dict[str, str]:
    """By name, why what was not taken was not."""
    import psycopg

    refused = {}
    for name, statement in wanted.items():
        try:
            with spoken(connection, roles), connection.transaction():
                connection.execute(statement)
        except psycopg.Error as error:
            # Not all of its text, which may quote the value.
            refused[name] = error.diag.sqlstate or type(error).__name__
    return refused


def _value(name: str, value: str) -> Composable:
    from psycopg import sql

    return sql.SQL(", ").join(map(sql.Literal, value_texts(name, value)))
