"""Where a backup is restored to be verified: a scratch server, or a database of its own on an existing server."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from twist_dr.errors import DatabaseError, DatabaseRefused, Obstacle
from twist_dr.postgres.cluster import Cluster, Connection, named_errors, query, read_system_identifier
from twist_dr.postgres.confinement import Isolation
from twist_dr.postgres.everybodys_settings import give_everybodys_settings
from twist_dr.postgres.making import Made, make_to_look
from twist_dr.postgres.own_settings import NO_SETTINGS, OwnSettings
from twist_dr.postgres.roles import apply_roles, client_major, missing_roles, scratch_roles
from twist_dr.postgres.scratch import ScratchServer, clear_scratch_leftovers
from twist_dr.postgres.surroundings import libraries_to_preload
from twist_dr.postgres.tools import Tools, oldest_served
from twist_dr.repository.manifest import PostgresFacts
from twist_dr.system.words import few

_RESTORED = "restored"
#: What is ours on an existing server.
_DATABASE_PREFIX = "twist_dr_verify_"
_ROLE_MARK = "made by twist-dr for a verification"


@dataclass
class TrialPlace:
    """An empty database to restore into. A context manager: leaving it removes what was made for it."""

    cluster: Cluster
    database: str
    tools: Tools
    version: str
    keep_owners: bool
    made: Made
    notes: list[str] = field(default_factory=list)
    _remove: Callable[[], Any] = lambda: None
    _second: Callable[[], AbstractContextManager[str]] | None = None

    @property
    def major(self) -> int:
        """The server's major version."""
        return int(re.match(r"\d+", self.version)[0])  # type: ignore[index]

    def second_database(self) -> AbstractContextManager[str]:
        """The name of another empty database like this one, for as long as the context lasts."""
        assert self._second is not None
        return self._second()

    def connect(self) -> Connection:
        return self.cluster.connect(self.database)

    def __enter__(self) -> TrialPlace:
        return self

    def __exit__(self, *error: object) -> None:
        self._remove()


def versions_differ(facts: PostgresFacts, server: int) -> bool:
    """Whether the dump's server, its tools and the server it goes into are of several major versions: then its schema is tried first."""
    return not facts.major == client_major(facts) == server


def restoring_major(facts: PostgresFacts) -> int:
    """The oldest major version that restores the dump: an older pg_restore cannot read what a newer pg_dump wrote."""
    return max(facts.major, client_major(facts))


def scratch_server(
    tools: Tools,
    base: Path,
    facts: PostgresFacts,
    roles: bytes,
    own: OwnSettings = NO_SETTINGS,
    *,
    isolation: Isolation = "required",
) -> TrialPlace:
    """A new server with the backup's roles and an empty database of the same encoding and locale, set to ``own``.

    Raises ``DatabaseError`` when it lacks an extension of the backup, ``ProcessFailed`` when the roles cannot be made.
    """
    clear_scratch_leftovers(base)
    with ExitStack() as stack:
        # The bootstrap role bears its old name: grants say who granted, and only that role may have granted anything.
        preload, never = libraries_to_preload(facts)
        server = stack.enter_context(
            ScratchServer(tools, base, facts.bootstrap_role, preload=preload, isolation=isolation)
        )
        notes = [*server.notes]
        if never:
            notes.append(
                f"{few(never)} was preloaded where it was backed up, from outside of PostgreSQL's own folder, and is not here"
            )
        cluster = server.cluster()
        with cluster.connect() as connection, named_errors("to make the scratch database"):
            _need_extensions(connection, facts)
            apply_roles(cluster, scratch_roles(roles, facts, tools.major))
            notes += give_everybodys_settings(connection, roles)
            made = _make(connection, cluster, _RESTORED, facts, own)
            version = query(connection, "SELECT current_setting('server_version')")[0][0]
        notes += made.notes
        second = partial(_second_database, cluster, f"{_RESTORED}_again", facts, own)
        return TrialPlace(
            server.cluster(_RESTORED), _RESTORED, tools, version, True, made, notes, stack.pop_all().close, second
        )


def existing_server(
    server: Cluster,
    live: Cluster,
    facts: PostgresFacts,
    roles: bytes,
    tools: Tools,
    backup_id: str,
    own: OwnSettings = NO_SETTINGS,
) -> TrialPlace:
    """A database of its own, set to ``own``, on a server that is not the live one. Roles that policies name are made without login.

    Raises ``DatabaseError`` when that server may be the live one: it is another one only where its system identifier is
    known, and so is at least one of the live server's (the manifest's or the one it tells now), and none is the same. Also
    when it is too old for the dump, or lacks one of its extensions.
    """
    # Another verification of the same backup may be going on there.
    name = f"{_DATABASE_PREFIX}{backup_id.lower().replace('-', '_')}_{secrets.token_hex(2)}"
    with server.connect() as connection, named_errors("to prepare the verification server"):
        identifier = read_system_identifier(connection)
        known = {facts.system_identifier, _identifier_of(live)} - {None}
        if identifier is None or not known or identifier in known:
            raise DatabaseError(
                "verification.server is the production server itself, or it cannot be seen that it is another one (both servers' roles need EXECUTE on "
                "pg_control_system)",
                remedy="name a server of its own there, or install server programs and leave it out",
            )
        version = query(connection, "SELECT current_setting('server_version')")[0][0]
        _need_version(connection, version, facts, tools)
        _need_extensions(connection, facts)
        _one_at_a_time(connection)
        _clear_existing(connection)
        created = False
        try:
            _make_roles(connection, missing_roles(connection, roles))
            made = _make(connection, server, name, facts, own)
            created = True
            # A session in the database while it is used tells it from what a killed run left.
            guard = server.connect(name)
        except BaseException:
            # What cannot be removed now is cleared by the next verification.
            with suppress(Exception):
                _drop_databases(connection, [name] if created else [])
                _drop_unused_roles(connection)
            raise

    def close() -> None:
        guard.close()
        with server.connect() as again, named_errors("to remove the verification database"):
            _one_at_a_time(again)
            _drop_databases(again, [name])
            _drop_unused_roles(again)

    second = partial(_second_database, server, f"{name}_again", facts, own)
    return TrialPlace(server, name, tools, version, False, made, made.notes, close, second)


@contextmanager
def _second_database(server: Cluster, name: str, facts: PostgresFacts, own: OwnSettings) -> Iterator[str]:
    with server.connect() as connection, named_errors("to make another scratch database"):
        _one_at_a_time(connection)
        _make(connection, server, name, facts, own)
        guard = server.connect(name)
    try:
        yield name
    finally:
        guard.close()
        with server.connect() as connection, named_errors("to remove another scratch database"):
            _drop_databases(connection, [name])


def _need_version(connection: Connection, version: str, facts: PostgresFacts, tools: Tools) -> None:
    needed = max(restoring_major(facts), oldest_served(tools))
    if connection.info.server_version // 10000 < needed:
        raise DatabaseError(
            f"verification.server runs PostgreSQL {version}, and this backup (PostgreSQL {facts.version}, dumped by pg_dump {facts.client_version}) is "
            f"restored by pg_restore {tools.version}, which needs a server of version {needed} or newer",
            remedy="name such a server there, or install server programs and leave it out",
        )


def available_extensions(connection: Connection) -> frozenset[str]:
    return frozenset(row[0] for row in query(connection, "SELECT name FROM pg_available_extensions"))


def missing_extensions(connection: Connection, facts: PostgresFacts) -> list[str]:
    """Those of a backup that the server lacks: a restore without them fails."""
    available = available_extensions(connection)
    return [extension.name for extension in facts.extensions if extension.name not in available]


def server_obstacles(connection: Connection, facts: PostgresFacts) -> list[Obstacle]:
    """Why a server cannot take a backup's database, whoever restores."""
    major, found = connection.info.server_version // 10000, []
    if major < facts.major:
        found.append(
            Obstacle(
                f"the server runs PostgreSQL {major}, and the backup comes from {facts.version}: dumps of a newer server do not go into an older one",
                f"upgrade the server, or name a server of version {facts.major} or newer",
            )
        )
    if missing := missing_extensions(connection, facts):
        found.append(
            Obstacle(
                f"the server lacks the extensions {few(missing, 20)} that the backup uses",
                f"install their packages for PostgreSQL {major} there",
            )
        )
    return found


def _need_extensions(connection: Connection, facts: PostgresFacts) -> None:
    """A restore without them would fail, and that would say nothing about the backup."""
    if missing := missing_extensions(connection, facts):
        major = connection.info.server_version // 10000
        raise DatabaseError(
            f"The backup uses {few(missing, 20)}, which the server that verifies (PostgreSQL {major}) lacks, so nothing can be said about the backup",
            remedy=(
                f"install the packages of {'these extensions' if len(missing) > 1 else 'this extension'} for PostgreSQL {major} there (twist-dr "
                "doctor names them), then verify again"
            ),
        )


def _make(connection: Connection, server: Cluster, name: str, facts: PostgresFacts, own: OwnSettings) -> Made:
    from psycopg import sql

    made = make_to_look(connection, name, facts, own)
    # Libraries that sessions of the database load, and that are not here, would let nobody in.
    try:
        server.connect(name).close()
    except DatabaseRefused as error:
        reset = sql.SQL("ALTER DATABASE {} RESET session_preload_libraries")
        connection.execute(reset.format(sql.Identifier(name)))
        made.notes.append(f"session_preload_libraries of the backup's database cannot be had here: {error}")
    return made


def _one_at_a_time(connection: Connection) -> None:
    """Until the connection ends, no other verification prepares or clears there: a database without a session yet, or a
    role that is about to be used, would look left over to it."""
    query(connection, "SELECT pg_advisory_lock(hashtext(%(mark)s))::text", {"mark": _ROLE_MARK})


def _clear_existing(connection: Connection) -> None:
    """Remove the databases and roles of verifications that were killed."""
    databases = query(
        connection,
        """SELECT datname FROM pg_database
            WHERE starts_with(datname, %(prefix)s) AND datname NOT IN (SELECT datname FROM pg_stat_activity WHERE datname IS NOT NULL)""",
        {"prefix": _DATABASE_PREFIX},
    )
    _drop_databases(connection, [name for (name,) in databases])
    _drop_unused_roles(connection)


def _drop_databases(connection: Connection, databases: list[str]) -> None:
    from psycopg import sql

    for database in databases:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))


def _drop_unused_roles(connection: Connection) -> None:
    """Drop the roles that verifications made, unless one is going on: who made a role is not always its last user."""
    from psycopg import sql

    in_use = "SELECT 1 FROM pg_stat_activity WHERE starts_with(datname, %(prefix)s)"
    if query(connection, in_use, {"prefix": _DATABASE_PREFIX}):
        return
    marked = "SELECT rolname FROM pg_roles WHERE shobj_description(oid, 'pg_authid') = %(mark)s"
    for (role,) in query(connection, marked, {"mark": _ROLE_MARK}):
        connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))


def _identifier_of(live: Cluster) -> str | None:
    # The live server may be gone when a backup is verified; then the manifest's identifier has to do.
    try:
        with live.connect() as connection:
            return read_system_identifier(connection)
    except DatabaseError:
        return None


def _make_roles(connection: Connection, roles: list[str]) -> None:
    from psycopg import sql

    for role in roles:
        connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))
        connection.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(sql.Identifier(role), sql.Literal(_ROLE_MARK)))
