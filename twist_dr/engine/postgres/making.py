"""A database made to be restored into, as the backup's was: encoding, locale, and what it is set to, before any row comes.

Every restore makes its database here: in a scratch server, on a server of its own for verifications, beside the live one, on a new server.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from twist_dr.engine.manifest import PostgresFacts
from twist_dr.engine.postgres.cluster import first_line, query
from twist_dr.engine.postgres.databases import drop, find_oid
from twist_dr.engine.postgres.own_settings import OwnSetting, OwnSettings
from twist_dr.errors import RestoreFailed
from twist_dr.redaction import one_line

if TYPE_CHECKING:
    from psycopg.sql import Composed

    from twist_dr.engine.postgres.cluster import Connection


@dataclass(frozen=True)
class Made:
    """A database that was made. ``notes``: in what it differs from the backup's."""

    oid: int
    notes: list[str] = field(default_factory=list)


def make_to_serve(
    connection: Connection, name: str, facts: PostgresFacts, own: OwnSettings, *, live: str | None = None
) -> Made:
    """Make an empty database that nobody else may use yet, and that is to serve as the backup's did.

    Owner and tablespace are those of the database ``live``. What it is set to is all tried; what has nothing to do with its rows is given
    at last (:func:`give_last`). Raises ``RestoreFailed``.
    """
    import psycopg

    try:
        _create(connection, _statement(name, facts, _locale(facts)) + _place(connection, live))
    except psycopg.Error as error:
        locale = facts.locale or facts.collate
        raise RestoreFailed(
            f"The database {name} (encoding {facts.encoding}, locale {locale} of {facts.locale_provider}) could not be made: "
            f"{first_line(error)}; grant the role that restores CREATEDB, or install that locale on the server."
        ) from error
    try:
        _close(connection, name)
        return Made(_oid(connection, name), _give_first(connection, name, own))
    except BaseException:
        with suppress(psycopg.Error):
            drop(connection, name)
        raise


def _give_first(connection: Connection, name: str, own: OwnSettings) -> list[str]:
    import psycopg

    notes = []
    with _giving(connection, name, own) as database:
        for setting in own.settings:
            try:
                with connection.transaction(force_rollback=setting.of_sessions):
                    connection.execute(setting.statement(database))
            except psycopg.errors.UndefinedObject:
                notes.append(_unknown(setting))
            except psycopg.Error as error:
                raise _refused(name, setting, error) from error
    return notes


def give_last(connection: Connection, name: str, own: OwnSettings) -> None:
    """The rest of what a database that is to serve is set to, when its rows and migrations are in. Raises ``RestoreFailed``."""
    import psycopg

    with _giving(connection, name, own) as database:
        for setting in own.settings:
            if setting.of_sessions:
                try:
                    connection.execute(setting.statement(database))
                except psycopg.errors.UndefinedObject:
                    continue  # told when the database was made
                except psycopg.Error as error:
                    raise _refused(name, setting, error) from error


def make_to_look(connection: Connection, name: str, facts: PostgresFacts, own: OwnSettings) -> Made:
    """Make an empty database in which a backup is only looked at: with locale C where this server lacks the backup's, without what it is set
    to that has nothing to do with rows, and without what this server does not take; each is noted. Raises psycopg's errors."""
    import psycopg

    notes = []
    try:
        _create(connection, _statement(name, facts, _locale(facts)))
    except psycopg.Error:
        from psycopg import sql

        _create(connection, _statement(name, facts, sql.SQL(" LC_COLLATE 'C' LC_CTYPE 'C'").format()))
        wanted = facts.locale or facts.collate
        notes.append(
            f"the locale {wanted} ({facts.locale_provider}) is not available here, so the database was restored with locale C"
        )
    with _giving(connection, name, own) as database:
        for setting in own.settings:
            if not setting.of_sessions:
                try:
                    with connection.transaction():
                        connection.execute(setting.statement(database))
                except psycopg.Error as error:
                    notes.append(one_line(f"the database's setting {setting} cannot be had here: {first_line(error)}"))
    return Made(_oid(connection, name), notes)


@contextmanager
def _giving(connection: Connection, name: str, own: OwnSettings) -> Iterator[bytes]:
    """The database's name as statements of the block have it."""
    from psycopg import sql

    with own.spoken(connection):
        yield sql.Identifier(name).as_bytes(connection)


def _unknown(setting: OwnSetting) -> str:
    return one_line(f"the database's setting {setting} is not known to this server and was left out")


def _refused(name: str, setting: OwnSetting, error: BaseException) -> RestoreFailed:
    return RestoreFailed(
        one_line(
            f"The setting {setting} of the backup's database could not be given to {name}: {first_line(error)}; rows would be read otherwise "
            "without it: install what it names on the server, or restore as a superuser."
        )
    )


def _oid(connection: Connection, name: str) -> int:
    oid = find_oid(connection, name)
    assert oid is not None
    return oid


def _create(connection: Connection, statement: Composed) -> None:
    connection.execute(statement)


def _statement(name: str, facts: PostgresFacts, locale: Composed) -> Composed:
    from psycopg import sql

    begin = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {}")
    return begin.format(sql.Identifier(name), sql.Literal(facts.encoding)) + locale


def _locale(facts: PostgresFacts) -> Composed:
    from psycopg import sql

    locale = sql.SQL(" LC_COLLATE {} LC_CTYPE {}").format(sql.Literal(facts.collate), sql.Literal(facts.ctype))
    if facts.locale_provider == "icu":
        locale += sql.SQL(" LOCALE_PROVIDER icu ICU_LOCALE {}").format(sql.Literal(facts.locale))
    elif facts.locale_provider == "builtin":
        locale += sql.SQL(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {}").format(sql.Literal(facts.locale))
    return locale


def _place(connection: Connection, live: str | None) -> Composed:
    """Whose it is and where it lies: as ``live``."""
    from psycopg import sql

    if live is None:
        return sql.SQL("").format()
    owner, tablespace = query(
        connection,
        """SELECT pg_get_userbyid(d.datdba), CASE WHEN d.dattablespace <> t.dattablespace THEN s.spcname END
             FROM pg_database d JOIN pg_tablespace s ON s.oid = d.dattablespace, pg_database t
            WHERE d.datname = %(live)s AND t.datname = 'template0'""",
        {"live": live},
    )[0]
    # From the start: the schema public belongs to whoever owns the database, and what is restored into it to that role.
    place = sql.SQL(" OWNER {}").format(sql.Identifier(owner))
    # Where it is named, an ordinary role needs a right to it, also to the one that it would get anyhow.
    return place if tablespace is None else place + sql.SQL(" TABLESPACE {}").format(sql.Identifier(tablespace))


def _close(connection: Connection, name: str) -> None:
    from psycopg import sql

    connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))


# -- as the live one --------------------------------------------------------------------------------------------------


def take_after(connection: Connection, name: str, live: str) -> None:
    """Give a database what belongs to the live one and not to what is in it: owner, grants, limit, comment. Raises ``RestoreFailed``."""
    import psycopg

    try:
        for statement in _properties(connection, name, live):
            connection.execute(statement)
    except psycopg.Error as error:
        raise RestoreFailed(
            f"Owner and grants of {live} could not be given to {name}: {first_line(error)}; restore as a superuser, or as a "
            "role that is a member of the database's owner."
        ) from error


def _properties(connection: Connection, name: str, live: str) -> list[Composed]:
    from psycopg import sql

    database = sql.Identifier(name)
    (owner, limit, comment), *_ = query(
        connection,
        """SELECT pg_get_userbyid(datdba), datconnlimit, shobj_description(oid, 'pg_database')
             FROM pg_database WHERE datname = %(live)s""",
        {"live": live},
    )
    statements: list[Composed] = []
    grants = query(
        connection,
        """SELECT CASE WHEN a.grantee = 0 THEN NULL ELSE pg_get_userbyid(a.grantee) END, a.privilege_type, a.is_grantable
             FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
            WHERE d.datname = %(live)s AND a.grantee <> d.datdba""",
        {"live": live},
    )
    for grantee, privilege, grantable in grants:
        statements.append(
            sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
                sql.SQL(privilege),
                database,
                sql.SQL("PUBLIC") if grantee is None else sql.Identifier(grantee),
                sql.SQL(" WITH GRANT OPTION" if grantable else ""),
            )
        )
    if limit != -1:
        statements.append(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(database, sql.Literal(limit)))
    if comment is not None:
        statements.append(sql.SQL("COMMENT ON DATABASE {} IS {}").format(database, sql.Literal(comment)))
    # Last: whoever gave it away may not do the others any more.
    statements.append(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(database, sql.Identifier(owner)))
    return statements
