"""From a plan to a running PostgreSQL server that was proved to be what was planned."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from twist_dr.errors import RecoveryFailed
from twist_dr.postgres.cluster import Cluster
from twist_dr.postgres.confinement import Confinement, Isolation, is_kept_away, what_is_missing
from twist_dr.postgres.dead_servers import end_server_of
from twist_dr.postgres.lsn import format_lsn
from twist_dr.postgres.scratch import scratch_base
from twist_dr.postgres.tools import Tools
from twist_dr.recovery.fetcher import Fetcher
from twist_dr.recovery.files import base_facts, space_needed, unpack_chain
from twist_dr.recovery.outside import surround
from twist_dr.recovery.proof import check_pages, pending_transactions, promote, prove_recovered, run_amcheck
from twist_dr.recovery.server import RecoveringServer
from twist_dr.recovery.server_settings import MOST_WAL_KEPT
from twist_dr.recovery.untar import Owner
from twist_dr.repository.sources import Sources
from twist_dr.system.scratch_folder import ScratchFolder, clear_left_over
from twist_dr.system.space import need_space

if TYPE_CHECKING:
    from twist_dr.recovery.plan import RecoveryPlan
    from twist_dr.recovery.planning import PlannedRecovery

_PREFIX = "recovery-"
#: What a rehearsal's plan looks at lies beside.
_PLANNING = "planning-"
#: What a server needs beside its files, bytes.
_SPARE_SPACE = 256 << 20


@dataclass
class Recovered:
    """A promoted server. ``seconds`` by phase; ``timeline`` is its new one; ``complaints`` are pg_amcheck's; ``notes``: what to know before it is started again."""

    server: RecoveringServer
    data: Path
    timeline: int
    seconds: dict[str, float]
    warnings: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def cluster(self, database: str = "postgres") -> Cluster:
        """How to connect as the superuser."""
        return self.server.cluster(database)

    def stop(self) -> None:
        """Shut the server down cleanly; safe to call twice."""
        self.server.stop()


@contextmanager
def recover(
    planned: PlannedRecovery,
    sources: Sequence[Sources],
    base: Path,
    *,
    durable: bool = False,
    amcheck: bool = False,
    isolation: Isolation = "required",
) -> Iterator[Recovered]:
    """A server as planned, running while the block runs, in a new folder below ``base`` that is removed afterwards.

    ``sources``: one per backup of ``plan.chain``, in its order. ``durable``: for a cluster that shall last.
    Raises ``RecoveryFailed``, ``StagingFull``, ``Cancelled``, and what reading backups raises; nothing is left then.
    """
    base = scratch_base(base)
    clear_recovery_leftovers(base)
    with Confinement(base, isolation) as confinement, ScratchFolder(base, _PREFIX) as work:
        planned = planned.reachable_for(confinement.user, base)
        with recovered_in(work, planned, sources, confinement, durable=durable, amcheck=amcheck) as recovered:
            yield recovered


@contextmanager
def recovered_in(
    work: Path,
    planned: PlannedRecovery,
    sources: Sequence[Sources],
    confinement: Confinement,
    *,
    durable: bool,
    amcheck: bool = False,
) -> Iterator[Recovered]:
    """The same in an existing folder, which stays. It remains ours: what the server's user can write to lies below, where it can put no link in its place."""
    plan, tools, report = planned.plan, planned.tools, planned.report
    owner = Owner(confinement.user, confinement.user)
    if confinement.user is not None:
        work.chmod(0o711)
    if not is_kept_away():
        report.warning(f"{what_is_missing()}; install bubblewrap (apt install bubblewrap)")
    facts, postgres = base_facts(plan.base), plan.base.postgres
    need_space_of_plan(work, plan)
    clock = _Clock()
    data = unpack_chain(sources, work, tools, owner, report)
    clock.lap("unpack")
    with Fetcher(plan, planned.archives, work, data, owner, durable=durable) as fetcher:
        superuser = postgres.bootstrap_role if postgres is not None else "postgres"
        server = RecoveringServer(tools, work, data, confinement, fetcher, report, durable=durable, superuser=superuser)
        with server:
            report.info(f"replaying up to {format_lsn(plan.end_lsn)} on timeline {plan.timeline}")
            server.recover(facts, recovery_target(plan), plan.end_lsn)
            clock.lap("replay")
            with server.named_end():
                prove_recovered(server.cluster(), plan, _system_identifier(plan), restarted=server.restarted)
                clock.lap("prove")
                timeline = promote(server.cluster(), plan)
            clock.lap("promote")
            recovered = Recovered(server, data, timeline, clock.seconds, fetcher.served.warnings)
            if postgres is not None:
                recovered.warnings += surround(recovered.cluster, postgres)
            recovered.warnings += pending_transactions(server.cluster())
            if len(plan.chain) > 1:
                _check_combined(recovered, tools, owner, checksums=facts.data_checksums)
                clock.lap("check pages")
            if amcheck:
                recovered.complaints = run_amcheck(server.cluster(), tools, owner)
                clock.lap("amcheck")
            yield recovered


def recovery_target(plan: RecoveryPlan) -> dict[str, str]:
    """PostgreSQL's settings for a plan's stop."""
    return {
        "recovery_target_lsn": format_lsn(plan.stop.lsn),
        "recovery_target_inclusive": "on" if plan.stop.inclusive else "off",
        "recovery_target_timeline": str(plan.timeline),
        "recovery_target_action": "pause",
    }


def need_space_of_plan(folder: Path, plan: RecoveryPlan) -> None:
    """Raise ``StagingFull`` unless a plan's files have space in ``folder``."""
    wal = sum(segment.size for segment in plan.segments)
    wanted = space_needed(plan.chain, wal, MOST_WAL_KEPT) + _SPARE_SPACE
    need_space(folder, wanted, "The recovery", "free space there or recover to a larger disk")


def clear_recovery_leftovers(base: Path) -> int:
    """Remove folders of recoveries that were killed; returns how many. Raises ``RestoreError``."""
    return sum(clear_left_over(base, prefix, end_server_of) for prefix in (_PREFIX, _PLANNING))


def _check_combined(recovered: Recovered, tools: Tools, owner: Owner, *, checksums: bool) -> None:
    """pg_combinebackup may put a damaged page into files that pass every other check."""
    if checksums:
        check_pages(recovered.cluster(), tools, owner)
    else:
        recovered.warnings.append(
            "The cluster has no data checksums, so the pages of the combined base backups could not be checked; run pg_amcheck."
        )


def _system_identifier(plan: RecoveryPlan) -> str:
    postgres = plan.base.postgres
    if postgres is None or postgres.system_identifier is None:
        raise RecoveryFailed(
            f"{plan.base.backup_id} does not say which cluster it is of", remedy="take another base backup"
        )
    return postgres.system_identifier


class _Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begun = time.monotonic()

    def lap(self, phase: str) -> None:
        now = time.monotonic()
        self.seconds[phase], self._begun = now - self._begun, now
