"""A database made to be restored into, as the backup's was: encoding, locale, and what it is set to, before any row comes.

Every restore makes its database here: in a scratch server, on a server of its own for verifications, beside the live one, on a new server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twist_dr.errors import RestoreFailed
from twist_dr.postgres.cluster import Connection, first_line, query
from twist_dr.postgres.databases import drop
from twist_dr.postgres.own_settings import OwnSetting, OwnSettings
from twist_dr.postgres.surroundings import money_is_kept, outside
from twist_dr.redaction import one_line
from twist_dr.repository.manifest import PostgresFacts

if TYPE_CHECKING:
    from psycopg.sql import Composed


@dataclass(frozen=True)
class Made:
    """A database that was made. ``notes``: in what it differs from the backup's. ``lacking``: parameters that it could not be given, in
    small letters."""

    oid: int
    notes: list[str]
    lacking: frozenset[str]

    def misreads(self, restored: Connection) -> str | None:
        """Why amounts in the restored database are not those that were written, if they may not be."""
        if "lc_monetary" not in self.lacking or not money_is_kept(restored):
            return None
        return (
            "columns hold amounts of the type money, which were written as lc_monetary of the backup's database has them, and that locale is not "
            "available here: they may come back as other amounts"
        )


def make_to_serve(
    connection: Connection,
    name: str,
    facts: PostgresFacts,
    own: OwnSettings,
    *,
    live: str | None = None,
    owner: str | None = None,
) -> Made:
    """Make an empty database that nobody else may use yet, and that is to serve as the backup's did.

    Owner and tablespace are those of the database ``live``; where there is none, ``owner`` says whose it is. It is set as the backup's own and, until :func:`leave_outside`, as what was
    outside it; what has nothing to do with rows is only tried, and given at last (:func:`give_last`). Raises ``RestoreFailed``.
    """
    import psycopg

    try:
        connection.execute(_statement(name, facts, _locale(facts)) + _place(connection, live, owner))
    except psycopg.Error as error:
        locale = facts.locale or facts.collate
        raise RestoreFailed(
            f"The database {name} (encoding {facts.encoding}, locale {locale} of {facts.locale_provider}) could not be made: {first_line(error)}",
            remedy="grant the role that restores CREATEDB, or install that locale on the server",
        ) from error
    try:
        _close(connection, name)
        notes, lacking = [], set()
        with _giving(connection, name, own) as database:
            for setting in own.settings:
                try:
                    with connection.transaction(force_rollback=setting.of_sessions):
                        connection.execute(setting.statement(database))
                except psycopg.errors.UndefinedObject as error:
                    lacking.add(setting.name.lower())
                    notes.append(_left_out(setting, error))
                except psycopg.Error as error:
                    raise _refused(name, setting, error) from error
        return _made(connection, name, facts, notes, lacking)
    except BaseException:
        with suppress(psycopg.Error):
            drop(connection, name)
        raise


def leave_outside(connection: Connection, name: str, facts: PostgresFacts, own: OwnSettings) -> None:
    """The rows are in: what was set outside the backup's database is this server's to say again. Raises ``RestoreFailed``."""
    import psycopg
    from psycopg import sql

    names = outside(facts)
    try:
        for parameter in names:
            connection.execute(
                sql.SQL("ALTER DATABASE {} RESET {}").format(sql.Identifier(name), sql.Identifier(parameter))
            )
    except psycopg.Error as error:
        raise RestoreFailed(f"Settings of {name} could not be taken back: {first_line(error)}.") from error
    covered = {parameter.lower() for parameter in names}
    _give(connection, name, own, [each for each in own.settings if each.name.lower() in covered])


def give_last(connection: Connection, name: str, own: OwnSettings) -> None:
    """The rest of what a database that is to serve is set to, when its rows and migrations are in. Raises ``RestoreFailed``."""
    _give(connection, name, own, [each for each in own.settings if each.of_sessions])


def _give(connection: Connection, name: str, own: OwnSettings, settings: Sequence[OwnSetting]) -> None:
    import psycopg

    with _giving(connection, name, own) as database:
        for setting in settings:
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
    from psycopg import sql

    notes, lacking = [], set()
    try:
        connection.execute(_statement(name, facts, _locale(facts)))
    except psycopg.Error:
        connection.execute(_statement(name, facts, sql.SQL(" LC_COLLATE 'C' LC_CTYPE 'C'").format()))
        wanted = facts.locale or facts.collate
        notes.append(
            f"the locale {wanted} ({facts.locale_provider}) is not available here, so the database was restored with locale C"
        )
    with _giving(connection, name, own) as database:
        for setting in own.settings:
            if not setting.of_sessions:
                try:
                    connection.execute(setting.statement(database))
                except psycopg.Error as error:
                    lacking.add(setting.name.lower())
                    notes.append(_left_out(setting, error))
    return _made(connection, name, facts, notes, lacking)


def _made(connection: Connection, name: str, facts: PostgresFacts, notes: list[str], lacking: set[str]) -> Made:
    """What was made, and set besides as the session was that dumped it: that stands above what the database itself is set to."""
    import psycopg
    from psycopg import sql

    for parameter, value in outside(facts).items():
        statement = sql.SQL("ALTER DATABASE {} SET {} TO {}")
        try:
            connection.execute(statement.format(sql.Identifier(name), sql.Identifier(parameter), sql.Literal(value)))
        except psycopg.Error as error:
            lacking.add(parameter.lower())
            notes.append(_left_out(parameter, error))
    oid, version = query(
        connection,
        "SELECT oid::bigint, to_jsonb(d) ->> 'datcollversion' FROM pg_database d WHERE datname = %(name)s",
        {"name": name},
    )[0]
    if facts.collation_version and version and version != facts.collation_version:
        notes.append(
            one_line(
                f"text is sorted by version {version} of the locale {facts.locale or facts.collate} here, and by {facts.collation_version} where it "
                "was backed up: the order of text may differ"
            )
        )
    return Made(int(oid), notes, frozenset(lacking))


def _left_out(setting: OwnSetting | str, error: BaseException) -> str:
    return one_line(f"the setting {setting} of the backup's database cannot be had here: {first_line(error)}")


@contextmanager
def _giving(connection: Connection, name: str, own: OwnSettings) -> Iterator[bytes]:
    """The database's name as statements of the block have it."""
    from psycopg import sql

    with own.spoken(connection):
        yield sql.Identifier(name).as_bytes(connection)


def _refused(name: str, setting: OwnSetting, error: BaseException) -> RestoreFailed:
    return RestoreFailed(
        one_line(
            f"The setting {setting} of the backup's database could not be given to {name}: {first_line(error)}; rows would be read otherwise without it"
        ),
        remedy="install what it names on the server, or restore as a superuser",
    )


def _statement(name: str, facts: PostgresFacts, locale: Composed) -> Composed:
    from psycopg import sql

    begin = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {}")
    return begin.format(sql.Identifier(name), sql.Literal(facts.encoding)) + locale


def _locale(facts: PostgresFacts) -> Composed:
    from psycopg import sql

    locale = sql.SQL(" LC_COLLATE {} LC_CTYPE {}").format(sql.Literal(facts.collate), sql.Literal(facts.ctype))
    if facts.locale_provider == "icu":
        locale += sql.SQL(" LOCALE_PROVIDER icu ICU_LOCALE {}").format(sql.Literal(facts.locale))
        if facts.icu_rules:
            locale += sql.SQL(" ICU_RULES {}").format(sql.Literal(facts.icu_rules))
    elif facts.locale_provider == "builtin":
        locale += sql.SQL(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {}").format(sql.Literal(facts.locale))
    return locale


def _place(connection: Connection, live: str | None, owner: str | None) -> Composed:
    """Whose it is and where it lies: as ``live``."""
    from psycopg import sql

    if live is None:
        return sql.SQL("").format() if owner is None else sql.SQL(" OWNER {}").format(sql.Identifier(owner))
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


def take_after(connection: Connection, name: str, live: str) -> list[str]:
    """Give a database what belongs to the live one and not to what is in it: owner, grants, limit, comment; returns what it does not get.

    Raises ``RestoreFailed``.
    """
    import psycopg

    try:
        for statement in _properties(connection, name, live):
            connection.execute(statement)
    except psycopg.Error as error:
        raise RestoreFailed(
            f"Owner and grants of {live} could not be given to {name}: {first_line(error)}",
            remedy="restore as a superuser, or as a role that is a member of the database's owner",
        ) from error
    # As a template it could be neither switched back nor dropped.
    if query(connection, "SELECT 1 FROM pg_database WHERE datname = %(live)s AND datistemplate", {"live": live}):
        return [
            f"the live database {live} is a template, and what is restored is not; ALTER DATABASE ... IS_TEMPLATE true makes it one again"
        ]
    return []


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
