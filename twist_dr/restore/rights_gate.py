"""The gate's look at the role that restores: may it make all that the backup holds, and give it to whom it belongs?

pg_restore meets what a role may not do in the middle of its work, and after hours. Here it is told from the dump's table of contents, before
anything else is fetched. Where that is not authentic yet (a copy that is not encrypted), it decides nothing but what is said.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection
from contextlib import closing, suppress
from dataclasses import dataclass, replace

from twist_dr.errors import BackupError, DatabaseError, Obstacle, RestoreFailed
from twist_dr.postgres import databases
from twist_dr.postgres.cluster import Cluster, named_errors, query
from twist_dr.postgres.dump_toc import UnknownDump
from twist_dr.postgres.dumped_properties import read_owner
from twist_dr.postgres.own_settings import OwnSettings, read_own_settings
from twist_dr.postgres.restoring_needs import missing_for_dump
from twist_dr.postgres.restoring_role import SUPERUSER, RestoringRole
from twist_dr.postgres.roles import missing_roles
from twist_dr.postgres.statements import unquoted
from twist_dr.repository.sources import Sources
from twist_dr.restore.dump_head import Head
from twist_dr.restore.gate import Gate
from twist_dr.restore.plan import RestorePlace, RestoreRequest
from twist_dr.system.words import few


@dataclass(frozen=True)
class MissingRights:
    """``doubts``: of a role whose provider's own rules may allow what PostgreSQL does not."""

    refusals: list[Obstacle]
    doubts: list[Obstacle]


def look_at_rights(gate: Gate, request: RestoreRequest, place: RestorePlace, sources: Sources, head: Head) -> None:
    """Add to the gate what it finds. Costs a superuser nothing."""
    if "database" not in request.parts or request.tables or sources.manifest.postgres is None:
        return

    def roles() -> bytes:
        return sources.read_small("roles.sql")

    try:
        found = missing_rights(place.around.cluster, gate.live, head, roles)
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


def missing_rights(
    cluster: Cluster, live: str, head: Callable[[], bytes], roles: Callable[[], bytes] = lambda: b""
) -> MissingRights:
    """What keeps the role of ``cluster`` from restoring a dump beside ``live``. ``head`` and ``roles`` (the SQL of the backup's) are asked for
    only when that role is no superuser. Raises what connecting raises, what these two raise, and ``UnknownDump``."""
    with (
        closing(databases.connect_for_maintenance(cluster)) as connection,
        named_errors("to look at the role that restores"),
    ):
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
