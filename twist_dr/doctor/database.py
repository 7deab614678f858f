"""The database: does it answer, is it one that we know, may we read all of it, and what time is it there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

from twist_dr.doctor.findings import Check, DoctorFinding, guarded, ok, problem, said, warning
from twist_dr.errors import DatabaseError, DatabaseGone
from twist_dr.postgres.cluster import (
    NEW_SERVER,
    Cluster,
    Connection,
    query,
    read_extensions,
    read_migrations,
    read_system_identifier,
    read_tables,
)
from twist_dr.postgres.left_out import left_out
from twist_dr.postgres.login_triggers import login_triggers
from twist_dr.postgres.tools import NEWEST_MAJOR, OLDEST_MAJOR
from twist_dr.system.progress import human_bytes, human_seconds
from twist_dr.system.words import counted, few

_PATIENCE_SECONDS = 15
_CLOCK_WARNING_SECONDS = 5.0
_CLOCK_PROBLEM_SECONDS = 60.0

#: What a refused connection says, and what to do about it. The first that fits counts.
_CONNECTING = (
    (
        "password authentication failed",
        "put the right password into {setting} (as a rule an environment variable; write @ : / % in it as %40 %3A %2F %25)"
        + NEW_SERVER,
    ),
    ("no password supplied", "put the password into {setting}: postgresql://user:password@host:5432/database"),
    ('database "', "correct the name after the last / of {setting}; list what there is with: psql -l"),
    ('role "', "correct the user in {setting}, or create it: CREATE ROLE name LOGIN PASSWORD '...'"),
    ("no pg_hba.conf entry", "allow this user, database and address in pg_hba.conf of the server, then reload it"),
    ("does not support SSL", "take sslmode=require out of {setting}, or switch ssl on in the server"),
    ("certificate", "name the server's authority in {setting}: ...?sslmode=verify-full&sslrootcert=/path/ca.pem"),
    ("translate host name", "correct the host in {setting}, or the name service of this machine"),
    ("resolve host", "correct the host in {setting}, or the name service of this machine"),
    ("refused", "start the server (systemctl start postgresql), or correct host and port in {setting}"),
    ("No such file", "start the server (systemctl start postgresql), or name its host in {setting}"),
    ("timeout", "open the server's port in the firewall between here and there, or correct the host in {setting}"),
)

_SEQUENCES = """
    SELECT format('%I.%I', n.nspname, c.relname)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
       AND NOT (has_sequence_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE'))
     ORDER BY 1
"""
#: pg_dump locks partitioned tables too, though their rows lie in the partitions.
_PARENTS = """
    SELECT format('%I.%I', n.nspname, c.relname)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'p' AND NOT (has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE'))
     ORDER BY 1
"""
#: has_largeobject_privilege came with version 18; before, the right is read from owner and access list.
_CLOSED_OBJECTS_18 = "SELECT count(*) FROM pg_largeobject_metadata WHERE NOT has_largeobject_privilege(oid, 'SELECT')"
_CLOSED_OBJECTS = """
    SELECT count(*) FROM pg_largeobject_metadata
     WHERE NOT pg_has_role(lomowner, 'USAGE')
       AND NOT EXISTS (SELECT FROM aclexplode(lomacl) a
                        WHERE a.privilege_type = 'SELECT' AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE')))
"""


@dataclass(frozen=True)
class DatabaseSeen:
    """What later checks need of the database. ``size`` in bytes; ``migrations`` as ``app.name``."""

    major: int
    size: int
    extensions: tuple[str, ...]
    migrations: frozenset[str]
    system_identifier: str | None


def check_database(cluster: Cluster) -> Check[DatabaseSeen | None]:
    """Everything about the database itself. Returns ``None`` when it cannot be asked."""
    try:
        connection = cluster.connect()
    except DatabaseError as error:
        yield explain_connection("database", error, "database.url")
        return None
    with connection:
        # A migration that holds locks, say, must not hold us up.
        connection.execute(f"SET lock_timeout = '{_PATIENCE_SECONDS}s'; SET statement_timeout = '{_PATIENCE_SECONDS}s'")
        major = connection.info.server_version // 10000
        version, size = query(
            connection, "SELECT current_setting('server_version'), pg_database_size(current_database())"
        )[0]
        yield ok("database", f"PostgreSQL {version}, {cluster.place}, {human_bytes(size)}")
        yield from _version(major)
        for name, check in (
            ("standby", _standby),
            ("rights", _rights),
            ("login triggers", check_login_triggers),
            ("sequences", _sequences),
            ("large objects", _large_objects),
            ("role passwords", _role_passwords),
            ("left out", _left_out),
            ("server clock", _clock),
        ):
            yield from guarded(name, check(connection))
        migrations = yield from guarded("migrations", _migrations(connection))
        return DatabaseSeen(
            major=major,
            size=size,
            extensions=tuple(extension.name for extension in read_extensions(connection)),
            migrations=migrations or frozenset(),
            system_identifier=read_system_identifier(connection),
        )


def explain_connection(check: str, error: DatabaseError, setting: str) -> DoctorFinding:
    """Why there is no connection, and what to do about this very reason. ``setting`` is the URL's place in the settings."""
    # Of a database that is gone from the application's own server, the error says more than the server's words tell.
    known = () if isinstance(error, DatabaseGone) and setting == "database.url" else _CONNECTING
    remedy = next((remedy.format(setting=setting) for reason, remedy in known if reason in error.what), error.remedy)
    return DoctorFinding(check, "problem", said(error), remedy)


def _version(major: int) -> Check[None]:
    if major < OLDEST_MAJOR:
        yield problem(
            "version", f"PostgreSQL {major} is older than {OLDEST_MAJOR}, the oldest supported", "upgrade the server"
        )
    elif major > NEWEST_MAJOR:
        yield warning(
            "version",
            f"PostgreSQL {major} is newer than {NEWEST_MAJOR}, the newest that this twist-dr was tested with",
            "upgrade twist-dr, and verify a backup before you rely on it",
        )


def _standby(connection: Connection) -> Check[None]:
    in_recovery, may_ask, patient = query(
        connection,
        """SELECT pg_is_in_recovery(), has_function_privilege('pg_control_checkpoint()', 'EXECUTE'),
                  current_setting('hot_standby_feedback')::bool OR current_setting('max_standby_streaming_delay') = '-1'""",
    )[0]
    if not in_recovery:
        return
    if not may_ask:
        yield problem(
            "standby",
            "this is a standby, and the role may not ask for its timeline",
            f"GRANT EXECUTE ON FUNCTION pg_control_checkpoint() TO {_role(connection)};  -- on the primary, as a superuser",
        )
    elif not patient:
        yield warning(
            "standby",
            "this is a standby, which cancels a long dump when it is in the way of replay",
            "ALTER SYSTEM SET hot_standby_feedback = on; SELECT pg_reload_conf();  -- on the standby",
        )
    else:
        yield ok("standby", "this is a standby that lets long dumps finish")


def _rights(connection: Connection) -> Check[None]:
    tables, role = read_tables(connection), _role(connection)
    filtered = [table.label for table in tables if table.filtered]
    closed = [table.label for table in tables if not table.readable]
    closed += [row[0] for row in query(connection, _PARENTS)]
    if filtered:
        yield problem(
            "rights",
            f"row-level security hides rows of {few(filtered)} from role {role}",
            f"ALTER ROLE {role} BYPASSRLS;  -- as a superuser",
        )
    if closed:
        yield problem("rights", f"role {role} may not read {few(closed)}", _grant_all(connection, role))
    if not tables:
        yield warning(
            "rights",
            "this database has no tables",
            "correct the database's name in database.url, unless the application is new",
        )
    elif not filtered and not closed:
        yield ok("rights", f"role {role} may read every row of {counted(len(tables), 'table')}")


def check_login_triggers(connection: Connection) -> Check[None]:
    """Code of the database that runs in our sessions there, as the connection's role."""
    for trigger in login_triggers(connection):
        tell = warning if trigger.trusted else problem
        yield tell("login triggers", str(trigger), trigger.remedy)


def _grant_all(connection: Connection, role: str) -> str:
    if connection.info.server_version >= 140000:
        return f"GRANT pg_read_all_data TO {role};  -- as a superuser"
    return f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}; GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {role};  -- and so for every schema"


def _sequences(connection: Connection) -> Check[None]:
    closed, role = [row[0] for row in query(connection, _SEQUENCES)], _role(connection)
    if closed:
        yield problem("sequences", f"role {role} may not read {few(closed)}", _grant_all(connection, role))


def _large_objects(connection: Connection) -> Check[None]:
    statement = _CLOSED_OBJECTS_18 if connection.info.server_version >= 180000 else _CLOSED_OBJECTS
    closed, compatible = query(
        connection, f"SELECT ({statement}), current_setting('lo_compat_privileges')::bool OR rolsuper "
        "FROM pg_roles WHERE rolname = current_user",
    )[0]  # fmt: skip
    if closed and not compatible:
        role = _role(connection)
        yield problem(
            "large objects",
            f"role {role} may not read {counted(closed, 'large object')}",
            "DO $$ DECLARE o oid; BEGIN FOR o IN SELECT oid FROM pg_largeobject_metadata LOOP "
            f"EXECUTE format('GRANT SELECT ON LARGE OBJECT %s TO {role}', o); END LOOP; END $$;  "
            "-- as their owner; again for new ones, so better back up as that owner",
        )


def _role_passwords(connection: Connection) -> Check[None]:
    if not query(connection, "SELECT has_table_privilege('pg_authid', 'SELECT')")[0][0]:
        role = _role(connection)
        yield warning(
            "role passwords",
            f"role {role} may not read the passwords of roles, so backups hold roles without them",
            f"GRANT SELECT ON pg_authid TO {role};  -- as a superuser, connected to this database; or set the passwords anew after a disaster",
        )


def _left_out(connection: Connection) -> Check[None]:
    """What no full backup of this database holds."""
    for found in left_out(connection):
        yield warning("left out", found.what, found.remedy)


def _clock(connection: Connection) -> Check[None]:
    before = datetime.now(timezone.utc)
    there: datetime = query(connection, "SELECT clock_timestamp()")[0][0]
    after = datetime.now(timezone.utc)
    difference = (there - before - (after - before) / 2).total_seconds()
    found = f"the database server's clock is {human_seconds(abs(difference))} {'ahead of' if difference > 0 else 'behind'} ours"
    remedy = "timedatectl set-ntp true  # on the machine whose clock is wrong"
    if abs(difference) > _CLOCK_PROBLEM_SECONDS:
        yield problem("server clock", found, remedy)
    elif abs(difference) > _CLOCK_WARNING_SECONDS:
        yield warning("server clock", found, remedy)
    else:
        yield ok("server clock", "agrees with ours")


def _migrations(connection: Connection) -> Check[frozenset[str]]:
    applied = frozenset(f"{app}.{name}" for app, names in read_migrations(connection).items() for name in names)
    if applied:
        yield ok("migrations", f"{counted(len(applied), 'migration')} applied")
    else:
        yield warning(
            "migrations",
            "there is no table django_migrations with rows, so backups do not know the schema's version",
            "correct the database's name in database.url, or run: python manage.py migrate",
        )
    return applied


def _role(connection: Connection) -> str:
    return str(query(connection, "SELECT quote_ident(current_user)")[0][0])
