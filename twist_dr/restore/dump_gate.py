"""The gate's looks into the dump, of which nothing but its head is fetched for them.

May the role that restores make all that the backup holds, and give it to whom it belongs? pg_restore meets what it may not do in the middle
of its work, and after hours. How is the database set otherwise than the live one? What is restored gets the backup's own settings, under which
its rows were written; the server's stay as they are. Does PostgreSQL of the live server's version take every statement of the schema? A scratch
server of that version is asked, and what it says is a warning: the live one may have files and locales that this machine lacks. There, the schema
is tried before any row is loaded.

Where the head is not authentic yet (a copy that is not encrypted), it decides nothing but what is said.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from twist_dr.errors import (
    BackupError,
    Cancelled,
    ClientToolsMissing,
    DatabaseError,
    Obstacle,
    RestoreFailed,
    TwistDRError,
)
from twist_dr.postgres import databases
from twist_dr.postgres.cluster import Cluster, Connection, named_errors, query
from twist_dr.postgres.dump_toc import UnknownDump
from twist_dr.postgres.dumped_properties import read_owner
from twist_dr.postgres.extension_restore import KeptFiles, fetch_kept
from twist_dr.postgres.own_settings import OwnSettings, differing_settings, read_own_settings
from twist_dr.postgres.restore_place import scratch_server, versions_differ
from twist_dr.postgres.restoring_needs import missing_for_dump
from twist_dr.postgres.restoring_role import SUPERUSER, RestoringRole
from twist_dr.postgres.roles import missing_roles
from twist_dr.postgres.schema_trial import try_schema
from twist_dr.postgres.scratch import scratch_base
from twist_dr.postgres.statements import unquoted
from twist_dr.postgres.surroundings import differing
from twist_dr.postgres.tools import Tools, choose_tools, find_tools
from twist_dr.redaction import one_line
from twist_dr.repository.manifest import PostgresFacts
from twist_dr.repository.sources import Sources
from twist_dr.restore.dump_head import Head, authentic_head, head_of
from twist_dr.restore.gate import Gate
from twist_dr.restore.plan import RestorePlace, RestoreRequest
from twist_dr.system.words import few

#: Names of settings in one sentence.
_MOST = 12


@dataclass(frozen=True)
class MissingRights:
    """``doubts``: of a role whose provider's own rules may allow what PostgreSQL does not."""

    refusals: list[Obstacle]
    doubts: list[Obstacle]


def look_into_dump(gate: Gate, request: RestoreRequest, place: RestorePlace, sources: Sources) -> None:
    """Add to the gate what is found. Raises what connecting raises."""
    facts = sources.manifest.postgres
    if "database" not in request.parts or request.tables or facts is None:
        return
    head = head_of(sources)
    _look_at_rights(gate, place.around.cluster, sources, head)
    if gate.live:
        _look_at_surroundings(gate, place.around.cluster, facts, head)
    if gate.tools is not None and versions_differ(facts, gate.server_major):
        _look_at_schema(gate, gate.tools, place, sources, facts)


def _look_at_rights(gate: Gate, cluster: Cluster, sources: Sources, head: Head) -> None:
    """Costs a superuser nothing."""
    try:
        found = restoring_obstacles(cluster, gate.live, head, lambda: sources.read_small("roles.sql"))
    except UnknownDump:
        gate.warnings.append(
            "what the role that restores lacks cannot be told: the dump is none as pg_dump 12 to 18 write them"
        )
    except (BackupError, RestoreFailed) as error:
        gate.refuse(
            f"what the backup needs of the role that restores cannot be read: {error.what.rstrip('.')}", error.remedy
        )
    else:
        gate.refusals += found.refusals
        gate.warnings += found.doubts
        if not found.refusals and not found.doubts:
            gate.passed.append("the role that restores may make all that the backup holds")


def restoring_obstacles(
    cluster: Cluster, live: str, head: Callable[[], bytes], roles: Callable[[], bytes] = lambda: b""
) -> MissingRights:
    """What keeps the role of ``cluster`` from restoring a dump beside ``live``. ``head`` and ``roles`` (the SQL of the backup's) are asked for
    only when that role is no superuser. Raises what connecting raises, what these two raise, and ``UnknownDump``."""
    with databases.maintenance(cluster, "to look at the role that restores") as connection:
        owner = databases.find_owner(connection, live)
        role = RestoringRole.of(connection, owner or "")
        if role.superuser:
            return MissingRights([], [])
        dump = head()
        lines: list[Obstacle] = []
        if owner is None:
            role = replace(role, database_owner=read_owner(io.BytesIO(dump)) or role.name)
            if not role.acts_for(role.database_owner):
                lines.append(
                    Obstacle(
                        f"role {role.name} may make no database for {role.database_owner}",
                        f"as a superuser: {role.joining(role.database_owner)}",
                    )
                )
        lines += missing_for_dump(io.BytesIO(dump), role, _label_providers(cluster))
        lines += _missing_for_roles(role, missing_roles(connection, roles()))
        lines += _missing_for_settings(role, read_own_settings(io.BytesIO(dump)))
    return MissingRights([], lines) if role.provided else MissingRights(lines, [])


def _missing_for_roles(role: RestoringRole, missing: Collection[str]) -> list[Obstacle]:
    if not missing or role.makes_roles:
        return []
    statements = "; ".join(f"CREATE ROLE {role.in_sql(name)} NOLOGIN" for name in missing)
    return [
        Obstacle(
            f"the server lacks the roles {few(missing)} of the backup's, and role {role.name} may make none",
            f"as a superuser: {statements}",
        )
    ]


def _missing_for_settings(role: RestoringRole, own: OwnSettings) -> list[Obstacle]:
    """What the backup's database is set to, by ALTER DATABASE and ALTER ROLE IN DATABASE."""
    allowed = role.may_set({setting.name for setting in own.settings}) if own.settings else set()
    told = []
    for setting in own.settings:
        if setting.role is not None and not role.may_alter(unquoted(setting.role)):
            told.append(Obstacle(f"role {role.name} may not set {setting}, as the backup's database has it", SUPERUSER))
        elif setting.name not in allowed:
            told.append(
                Obstacle(
                    f"role {role.name} may not set {setting}, as the backup's database has it",
                    f"{role.granting(setting.name)}",
                )
            )
    return told


def _label_providers(cluster: Cluster) -> set[str]:
    """Those of which the live database has labels: the server has them loaded."""
    with suppress(DatabaseError), cluster.connect() as connection, named_errors("to list the security labels"):
        return {
            str(name)
            for (name,) in query(
                connection, "SELECT provider FROM pg_seclabel UNION SELECT provider FROM pg_shseclabel"
            )
        }
    return set()


def _look_at_surroundings(gate: Gate, cluster: Cluster, facts: PostgresFacts, head: Head) -> None:
    with databases.maintenance(cluster) as connection:
        beside = connection.info.dbname
        if databases.find_oid(connection, gate.live) is not None:
            _look_at_own(gate, head, connection)
    if lines := differing(facts, cluster, beside):
        gate.warnings.append(told_differing(lines))


def _look_at_own(gate: Gate, head: Head, connection: Connection) -> None:
    try:
        own = read_own_settings(io.BytesIO(head()))
    except (BackupError, RestoreFailed) as error:
        gate.warnings.append(
            f"what the backup's database is set to cannot be read before all of it is: {error}".rstrip(".")
        )
    else:
        if names := differing_settings(connection, gate.live, own):
            gate.warnings.append(
                f"the live database is set otherwise than the backup's ({few(names, _MOST)}): what is restored has the backup's settings; "
                "write down those of the live one (psql: \\drds), if they are to stay"
            )


def told_differing(lines: list[str]) -> str:
    """A sentence about how a server is set otherwise than the backup's."""
    return one_line(
        f"the server is set otherwise than the backup's: {'; '.join(lines)}. Rows are read as they were written; what the application relies "
        "on must be set here: ALTER DATABASE ... SET"
    )


def _look_at_schema(gate: Gate, tools: Tools, place: RestorePlace, sources: Sources, facts: PostgresFacts) -> None:
    def kept_in(folder: Path) -> KeptFiles | None:
        return fetch_kept(sources.manifest, folder, sources.fetch, rows=False)

    try:
        server = choose_tools(
            find_tools(place.client_tools), gate.server_major, server=True, purpose="try the schema on"
        )
        if server.major != gate.server_major:
            raise ClientToolsMissing(f"this machine has no server programs of PostgreSQL {gate.server_major}")
        head = sources.attempt(lambda copy: authentic_head(copy, most=0))
        opened = partial(scratch_server, server, place.scratch, facts, sources.read_small("roles.sql"))
        found = try_schema(head, scratch_base(place.scratch), opened, kept_in, tools)
    except Cancelled:
        raise
    except TwistDRError as error:
        gate.warnings.append(
            f"whether PostgreSQL {gate.server_major} takes the schema of {facts.version} could not be tried: {error}".rstrip(
                "."
            )
        )
        return
    if found.complaint is None:
        gate.passed.append(f"PostgreSQL {found.version} takes the backup's schema, tried in a scratch server")
    else:
        gate.warnings.append(
            f"PostgreSQL {found.version}, the live server's version, does not take the backup's schema: {found.complaint}; the restore will "
            "fail there too, before it loads a row, unless what is missing is there: change it in the application that made the backup, "
            f"or restore into PostgreSQL {facts.major}"
        )
