"""Rehearsing a recovery: a base backup restored, WAL replayed to the point whose rows the backup counted, and all of it checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from twist_dr.errors import RecoveryFailed, RestoreFailed, TargetUnavailable, WalMissing
from twist_dr.postgres.checksums import compare_checksums
from twist_dr.postgres.cluster import named_errors
from twist_dr.postgres.comparison import compare_database
from twist_dr.postgres.confinement import Isolation
from twist_dr.postgres.lock_waits import RECOVERED_SERVER_SECONDS, watched_locks
from twist_dr.recovery.planning import RecoveryWish, plan_recovery
from twist_dr.recovery.recover import Recovered, recover
from twist_dr.repository.keys import Keyring
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.repository import Repository
from twist_dr.system.progress import Report, human_seconds
from twist_dr.system.scratch_folder import ScratchFolder
from twist_dr.verify.verification import VerificationResult
from twist_dr.wal.frontier import Known


@dataclass(frozen=True)
class RehearsalPlan:
    """``scratch``: a folder for the server and its files, which the server's user can enter. ``key_tables`` as in verifications.

    ``to``: what to recover to, as people write it, in the place of the point whose rows the backup counted. No rows are compared there, and no
    indexes checked: what it takes to get there is what counts. ``known``: how far the target's archive was known to reach.
    """

    scratch: Path
    client_tools: Sequence[Path] = ()
    key_tables: Sequence[str] = ()
    patience: float | None = None
    to: str | None = None
    isolation: Isolation = "required"
    known: Sequence[Known] = ()


def rehearse(
    plan: RehearsalPlan, manifest: Manifest, repository: Repository, keyring: Keyring, report: Report
) -> VerificationResult:
    """Recover one base backup, with its chain and WAL, from one target alone, and compare.

    What differs, and a server that cannot be recovered to the point, is a result with ``differences``. Bytes that are missing, altered or cannot
    be fetched raise, as in :func:`twist_dr.verify.verification.verify_backup`.
    """
    result = VerificationResult(manifest.backup_id, repository.target.name)
    base = manifest.base
    assert base is not None and manifest.postgres is not None
    # By its position, which is recorded: to find it by its name, all WAL since would be read.
    to = plan.to or f"lsn:{base.restore_point_lsn or base.stop_lsn}"
    timeline = base.timeline if plan.to is None else None
    with result.timed("total"), ScratchFolder(plan.scratch, "planning-") as folder:
        planned = plan_recovery(
            RecoveryWish(to, base=manifest.backup_id, timeline=timeline), [repository], keyring, plan.client_tools, folder, report,
            now=datetime.now(timezone.utc), known=plan.known,
        )  # fmt: skip
        sources = planned.sources(plan.patience)
        try:
            with (
                result.timed("restore"),
                recover(planned, sources, plan.scratch, amcheck=plan.to is None, isolation=plan.isolation) as recovered,
            ):
                _compare(recovered, manifest, plan, report, result)
        except RestoreFailed as error:
            # Nothing is left of the one target that was asked; why, is what the caller passes it over for.
            corrupt = [each for source in sources for each in source.corrupt.values()]
            raise (corrupt[0] if corrupt else TargetUnavailable(error.what, remedy=error.remedy)) from error
        except RecoveryFailed as error:
            if planned.archives.corrupt or planned.archives.passed_over:
                raise WalMissing(error.what, remedy=error.remedy) from error
            result.differences.append(str(error))
    bad = f"NOT verified, {len(result.differences)} differences" if result.differences else result.unproven
    outcome = "verified" if result.verified else bad
    report.info(
        f"{manifest.backup_id} from {repository.target.name}: {outcome} in {human_seconds(result.seconds['total'])}"
    )
    return result


def _compare(
    recovered: Recovered, manifest: Manifest, plan: RehearsalPlan, report: Report, result: VerificationResult
) -> None:
    facts, base = manifest.postgres, manifest.base
    assert facts is not None and base is not None
    result.server_version = recovered.server.tools.version
    result.seconds |= {phase: round(spent, 3) for phase, spent in recovered.seconds.items()}
    result.differences += [f"pg_amcheck: {line}" for line in recovered.complaints]
    result.notes += recovered.warnings
    if base.restore_point is None:
        result.unproven = (
            "it was recovered, and no rows could be compared, for the backup counted none (its warnings say why: a role that may make no restore point or "
            "read no rows, a standby, or no quiet moment)"
        )
        return
    if plan.to is not None:
        result.notes.append(
            "nobody counted rows at that point, so none are compared; the server proved how far it replayed"
        )
        return
    cluster = recovered.cluster(facts.database)
    watched = watched_locks(cluster, report, timeout=RECOVERED_SERVER_SECONDS)
    with result.timed("compare"), watched, cluster.connect() as connection:
        found = compare_database(connection, manifest, report, key_tables=plan.key_tables)
        if base.checksums:
            with named_errors("to read the tables of the recovered database"):
                found.differences += compare_checksums(connection, base.checksums)
            result.proved = "content"
    result.differences += found.differences
    result.notes += found.notes
    result.tables, result.rows = found.tables, found.rows
