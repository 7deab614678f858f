"""Rehearsing a recovery: a base backup restored, WAL replayed to the point whose rows the backup counted, and all of it checked."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

from twist_dr.errors import RecoveryFailed, RestoreFailed, TargetUnavailable, WalMissing
from twist_dr.postgres.checksums import compare_checksums
from twist_dr.postgres.cluster import named_errors
from twist_dr.postgres.comparison import compare_database
from twist_dr.postgres.lock_waits import RECOVERED_SERVER_SECONDS, watched_locks
from twist_dr.postgres.scratch import scratch_base
from twist_dr.postgres.verification_place import VerificationPlan
from twist_dr.recovery.planning import RecoveryRequest, plan_recovery
from twist_dr.recovery.recover import Recovered, recover
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.sources import OneCopy
from twist_dr.system.progress import Report
from twist_dr.system.scratch_folder import ScratchFolder
from twist_dr.verify.verification import VerificationResult
from twist_dr.wal.archived import Known


def rehearse(
    plan: VerificationPlan,
    copy: OneCopy,
    report: Report,
    *,
    patience: float | None = None,
    to: str | None = None,
    known: Sequence[Known] = (),
) -> VerificationResult:
    """Recover one base backup, with its chain and WAL, from one target alone, and compare.

    ``to``: what to recover to, as people write it, in the place of the point whose rows the backup counted. No rows are compared there, and no
    indexes checked: what it takes to get there is what counts. ``known``: how far the target's archive was known to reach.

    What differs, and a server that cannot be recovered to the point, is a result with ``differences``. Bytes that are missing, altered or cannot
    be fetched raise, as in :func:`twist_dr.verify.verification.verify_backup`.
    """
    manifest, result = copy.manifest, VerificationResult.of(copy)
    base = manifest.base
    assert base is not None and manifest.postgres is not None
    # By its position, which is recorded: to find it by its name, all WAL since would be read.
    counted = RecoveryRequest(f"lsn:{base.restore_point_lsn or base.stop_lsn}", manifest.backup_id, base.timeline)
    request = counted if to is None else RecoveryRequest(to, manifest.backup_id)
    scratch = scratch_base(plan.scratch)
    with result.timed("total"), ScratchFolder(scratch, "planning-") as folder:
        planned = plan_recovery(
            request,
            [copy.repository],
            copy.keyring,
            plan.client_tools,
            folder,
            report,
            now=datetime.now(timezone.utc),
            known=known,
        )
        sources = planned.sources(patience)
        recovery = recover(planned, sources, scratch, amcheck=to is None, isolation=plan.isolation)
        try:
            with result.timed("restore"), recovery as recovered:
                _compare(recovered, manifest, plan, report, result, counted=to is None)
        except RestoreFailed as error:
            # Nothing is left of the one target that was asked; why, is what the caller passes it over for.
            corrupt = [each for source in sources for each in source.corrupt.values()]
            raise (corrupt[0] if corrupt else TargetUnavailable(error.what, remedy=error.remedy)) from error
        except RecoveryFailed as error:
            if planned.archives.corrupt or planned.archives.passed_over:
                raise WalMissing(error.what, remedy=error.remedy) from error
            result.differences.append(str(error))
    return result.tell(report)


def _compare(
    recovered: Recovered,
    manifest: Manifest,
    plan: VerificationPlan,
    report: Report,
    result: VerificationResult,
    *,
    counted: bool,
) -> None:
    """``counted``: at the point whose rows the backup counted."""
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
    if not counted:
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
    result.compared(found)
