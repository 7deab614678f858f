"""From what somebody wrote in ``to:`` and what the storage targets hold to a plan: the cluster, its archive, and the tools for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from twist_dr.backup.base.summary import BaseSummary
from twist_dr.errors import BaseBackupMissing, ClientToolsMissing, WalVanished
from twist_dr.postgres.tools import Tools, choose_tools, find_tools
from twist_dr.postgres.unprivileged import reachable_tools
from twist_dr.recovery.archives import Archives
from twist_dr.recovery.bases import by_cluster, find_bases, manifest_of
from twist_dr.recovery.ground import ClusterArchive
from twist_dr.recovery.plan import RecoveryPlan, make_plan
from twist_dr.recovery.target import RecoveryTarget, parse_target
from twist_dr.recovery.vanished import parse_accepted
from twist_dr.repository.keys import Keyring
from twist_dr.repository.repository import Repository
from twist_dr.repository.sources import Sources
from twist_dr.system.progress import Report
from twist_dr.system.scratch_folder import ScratchFolder
from twist_dr.wal.archived import Known
from twist_dr.wal.objects import WalArchive

#: How often targets are listed before write-ahead log is said to have vanished.
_LOOKS = 2


@dataclass(frozen=True)
class RecoveryRequest:
    """What somebody asked for. ``base`` (an id) and ``timeline`` only where the choice is not to be left to us.

    ``accept_loss``: how far what is there must at least reach (``lsn:0/3000000`` or a time), where archived WAL has vanished.
    """

    to: str = "latest"
    base: str | None = None
    timeline: int | None = None
    accept_loss: str = ""


@dataclass(frozen=True)
class PlannedRecovery:
    """A plan, and what carries it out. ``tools`` are of the cluster's own major version and can run a server."""

    plan: RecoveryPlan
    archives: Archives
    tools: Tools
    keyring: Keyring
    report: Report
    repositories: Sequence[Repository] = ()

    def sources(self, patience: float | None = None) -> list[Sources]:
        """One for each link of the chain, in its order. Raises what ``Sources`` raises; ``patience`` as there."""
        return [
            Sources(link.backup_id, self.repositories, self.keyring, self.report, patience=patience)
            for link in self.plan.chain
        ]

    def reachable_for(self, user: int | None, base: Path) -> PlannedRecovery:
        """The same, its programs where that user can run them: in ``base``, if they must be copied."""
        return replace(self, tools=reachable_tools(self.tools, base, user))


def plan_recovery(
    request: RecoveryRequest,
    repositories: Sequence[Repository],
    keyring: Keyring,
    client_tools: Sequence[Path],
    work: Path,
    report: Report,
    *,
    now: datetime,
    known: Sequence[Known] = (),
) -> PlannedRecovery:
    """Look at every target and plan. ``work``: a folder of ours for the WAL that is looked at. ``known``: how far archives were known to reach.

    Raises ``RecoveryPointInvalid`` (``BaseBackupMissing`` among it), ``WalMissing``, ``WalConflict``, ``ClientToolsMissing``, and storage errors when no target answers.
    """
    target = parse_target(request.to, now=now)
    accepted = parse_accepted(request.accept_loss, now=now)
    bases = find_bases(repositories, keyring, report)
    if not bases:
        raise BaseBackupMissing(
            "No storage target that answers holds a base backup, so no point in time can be recovered",
            remedy="launch the job backup_base",
        )
    chosen = _base_of_cluster(target, request.base, bases)
    facts, base = chosen.postgres, chosen.base
    assert facts is not None and base is not None
    tools = server_tools(client_tools, facts.major)
    looks = _LOOKS
    while True:
        looks -= 1
        archives = Archives(
            [WalArchive(each.target, each.application) for each in repositories],
            keyring,
            report,
            str(facts.system_identifier),
            base.wal_segment_size,
        )
        try:
            with ScratchFolder(work, "plan-") as folder:
                ground = ClusterArchive(
                    bases, archives, tools, folder, report, request.timeline, request.base, known, accepted
                )
                plan = make_plan(target, ground, lambda link: manifest_of(link, repositories, keyring))
            return PlannedRecovery(plan, archives, tools, keyring, report, repositories)
        except WalVanished:
            # A partial segment may be replaced by a longer one while a target is listed: whether WAL is gone is looked at twice.
            if not looks:
                raise


def server_tools(folders: Sequence[Path], major: int) -> Tools:
    """Programs of just this major version: no other reads its WAL or its files. Raises ``ClientToolsMissing``."""
    tools = choose_tools(find_tools(folders), major, server=True, purpose="recover the files of")
    if tools.major != major:
        raise ClientToolsMissing(
            f"To recover the files of a PostgreSQL {major} cluster, the programs of just that version are needed, and the nearest here is "
            f"{tools.version} in {tools.folder}",
            remedy=f"install postgresql-{major}, or name their folder in database.client_tools",
        )
    return tools


def _base_of_cluster(target: RecoveryTarget, wanted: str | None, bases: Sequence[BaseSummary]) -> BaseSummary:
    """A base of the cluster that the target speaks of: an upgrade makes another one, and its log begins anew."""
    if wanted is not None:
        chosen = next((manifest for manifest in bases if manifest.backup_id == wanted), None)
        if chosen is None:
            raise BaseBackupMissing(
                f"No storage target that answers holds {wanted} with its whole chain",
                remedy="leave base empty, or see what there is: twist-dr wal status",
            )
        return chosen
    groups = list(by_cluster(bases).values())
    if target.time is not None:
        for group in groups:
            if any(manifest.base and manifest.base.stopped_at <= target.time for manifest in group):
                return group[-1]
    return groups[0][-1]
