"""Where a backup is restored to be looked at, as settings or a person say: a scratch server of its own, or an existing one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from twist_dr.postgres.cluster import Cluster
from twist_dr.postgres.confinement import Isolation
from twist_dr.postgres.own_settings import OwnSettings
from twist_dr.postgres.restore_place import TrialPlace, existing_server, restoring_major, scratch_server
from twist_dr.postgres.scratch import scratch_base
from twist_dr.postgres.tools import choose_tools, find_tools
from twist_dr.repository.manifest import PostgresFacts
from twist_dr.system.space import need_space

#: How much more space than the sizes say is asked for.
_SPACE_FACTOR = 1.2


@dataclass(frozen=True)
class VerificationPlan:
    """How to verify. ``server`` is an existing server to restore into instead of a scratch one; ``live`` is never that one."""

    scratch: Path
    live: Cluster
    server: Cluster | None = None
    key_tables: Sequence[str] = ()
    jobs: int = 2
    client_tools: Sequence[Path] = ()
    isolation: Isolation = "required"
    content: Literal["full", "counts"] = "full"
    show_rows: bool = False
    """Whether the report may tell what stands in the first row of a table that differs."""


def open_place(plan: VerificationPlan, facts: PostgresFacts, roles: bytes, own: OwnSettings, name: str) -> TrialPlace:
    """Where what these facts describe is restored to be verified, ready and set to ``own``. ``name`` is part of that of a database on an existing server.

    Raises kinds of ``DatabaseError`` when this machine or that server lacks what it needs.
    """
    tools, major = find_tools(plan.client_tools), restoring_major(facts)
    if plan.server is not None:
        client = choose_tools(tools, major, purpose="restore")
        return existing_server(plan.server, plan.live, facts, roles, client, name, own)
    # pg_restore 17 and newer cannot restore into older servers, so the server follows the newer of the two as well.
    server_tools = choose_tools(tools, major, server=True, purpose="verify")
    return scratch_server(server_tools, plan.scratch, facts, roles, own, isolation=plan.isolation)


def verification_base(scratch: Path, *, server_here: bool) -> Path:
    """Where a verification really takes place: a scratch server's user cannot get everywhere that root can."""
    if server_here:
        return scratch_base(scratch)
    scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    return scratch


def verification_space(dump_size: int, database_size: int) -> int:
    """Bytes that a verification takes: the uncompressed dump, and a restored database with its indexes beside it."""
    return int((dump_size + database_size) * _SPACE_FACTOR)


def need_verification_space(base: Path, dump_size: int, database_size: int) -> None:
    """Raise ``StagingFull`` unless ``base`` has that much free."""
    remedy = "free space there or set verification.scratch to a larger disk"
    need_space(base, verification_space(dump_size, database_size), "The verification", remedy)
