"""Is the recovered server what was planned? Asked while it waits at its target, before anybody may write to it.

PostgreSQL takes whatever the end of the log looks like for the end: only a comparison with the plan tells.
"""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from twist_dr.errors import ProcessFailed, RecoveryFailed
from twist_dr.postgres.cluster import Cluster, named_errors, query
from twist_dr.postgres.lsn import format_lsn, parse_lsn
from twist_dr.postgres.sessions import COMMANDS
from twist_dr.postgres.tools import Tools
from twist_dr.recovery.untar import Owner
from twist_dr.redaction import one_line
from twist_dr.system.processes import Child, run
from twist_dr.wal.history import Ancestor, parse_history
from twist_dr.wal.names import history_name

if TYPE_CHECKING:
    from twist_dr.recovery.plan import RecoveryPlan

_PROMOTE_SECONDS = 3600


def prove_recovered(cluster: Cluster, plan: RecoveryPlan, system_identifier: str, *, restarted: bool = False) -> None:
    """Compare a server that stands at its target with its plan. Raises ``RecoveryFailed`` with every difference.

    ``restarted``: it replayed in two goes. One that has ended the recovery there by itself is compared just so; on which
    timeline, :func:`promote` asks.
    """
    with cluster.connect() as connection, named_errors("to say what was recovered"):
        # The first may make a restart point at an older checkpoint; then the second notes just how far replay came, and on which timeline.
        connection.execute("CHECKPOINT")
        connection.execute("CHECKPOINT")
        [(recovering, lsn, last, identifier, timeline)] = query(
            connection,
            "SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn()::text, pg_last_xact_replay_timestamp(), "
            "(SELECT system_identifier::text FROM pg_control_system()), "
            "(SELECT min_recovery_end_timeline FROM pg_control_recovery())",
        )
    differences = []
    if identifier != system_identifier:
        differences.append(f"it is the cluster {identifier}, and {system_identifier} was planned.")
    differences += _end_differs(None if lsn is None else parse_lsn(lsn), plan.end_lsn)
    if recovering and timeline != plan.timeline and not _ends_on_ancestor(plan, timeline):
        differences.append(f"it ended on timeline {timeline}, and {plan.timeline} was planned.")
    if last is not None or not restarted:
        differences += _last_transaction_differs(last, plan.noted_at)
    if differences:
        raise RecoveryFailed(
            f"The recovered server is not what was planned: {' '.join(differences)} It was stopped and not promoted",
            remedy="check the archived WAL on every storage target, then recover again",
        )


def _end_differs(lsn: int | None, planned: int) -> list[str]:
    if lsn == planned:
        return []
    if lsn is None or lsn < planned:
        return [
            f"replay ended at {format_lsn(lsn or 0)}: what was written from there to {format_lsn(planned)} is missing."
        ]
    return [
        f"replay ended at {format_lsn(lsn)}, and {format_lsn(planned)} was planned: there is more in it than was asked for."
    ]


def _ends_on_ancestor(plan: RecoveryPlan, timeline: int) -> bool:
    """Whether the stop lies before the planned timeline began, on the ancestor that was replayed last."""
    for ancestor in plan.ancestors:
        if plan.end_lsn <= ancestor.switched_at:
            return timeline == ancestor.timeline
    return False


def _last_transaction_differs(found: datetime | None, planned: datetime | None) -> list[str]:
    if planned is None or found == planned:
        return []
    if found is None:
        return [f"no transaction was replayed, and the last planned one ended at {planned.isoformat()}."]
    return [
        f"the last transaction replayed ended at {found.isoformat()}, and that of the plan at {planned.isoformat()}."
    ]


def promote(cluster: Cluster, plan: RecoveryPlan) -> int:
    """Make a proved server writable; returns its new timeline. Raises ``RecoveryFailed``."""
    with cluster.connect() as connection, named_errors("to end the recovery"):
        # To go on from the target is to be promoted. pg_promote() would do the same, but is heard once a second only.
        query(connection, "SELECT CASE WHEN pg_is_in_recovery() THEN pg_wal_replay_resume() END")
        deadline = time.monotonic() + _PROMOTE_SECONDS
        while query(connection, "SELECT pg_is_in_recovery()") != [(False,)]:
            if time.monotonic() > deadline:
                raise RecoveryFailed(
                    f"The recovered server did not become writable within {_PROMOTE_SECONDS} s",
                    remedy="see the disk and the load of this machine, then recover again",
                )
            time.sleep(0.01)
        [(name,)] = query(connection, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
        timeline = int(name[:8], 16)
        history = f"pg_wal/{history_name(timeline)}"
        # By the server, as its own user: whatever code of the database puts in its folder leads us, who may be root, nowhere.
        [(data,)] = query(connection, "SELECT pg_read_binary_file(%(history)s)", {"history": history})
    last = parse_history(data, timeline, history)[-1]
    # PostgreSQL's own record of where the new timeline left the old one.
    if not _left_as_planned(last, plan):
        raise RecoveryFailed(
            f"The recovered server left timeline {last.timeline} at {format_lsn(last.switched_at)}, and {plan.timeline} at "
            f"{format_lsn(plan.end_lsn)} was planned: it was stopped",
            remedy="recover again",
        )
    return timeline


def _left_as_planned(last: Ancestor, plan: RecoveryPlan) -> bool:
    on_it = last.timeline == plan.timeline or _ends_on_ancestor(plan, last.timeline)
    return on_it and last.switched_at == plan.end_lsn


def pending_transactions(cluster: Cluster) -> list[str]:
    """Transactions that were prepared and neither committed nor rolled back at the point: nobody else sees what they wrote. Sentences."""
    with cluster.connect() as connection, named_errors("to say which transactions are pending"):
        rows = query(
            connection,
            """SELECT gid, quote_literal(gid), owner, database, prepared::timestamptz(0)::text FROM pg_prepared_xacts
                ORDER BY prepared, gid""",
        )
    return [
        one_line(
            f"the prepared transaction {gid} of {owner} in the database {database}, prepared at {prepared}, was pending at that point, so what it "
            f"wrote is not to be seen; end it in that database with COMMIT PREPARED {quoted} or ROLLBACK PREPARED {quoted}"
        )
        for gid, quoted, owner, database, prepared in rows
    ]


def check_pages(cluster: Cluster, tools: Tools, owner: Owner) -> None:
    """Have the server read every page of every file and check its checksum. Raises ``RecoveryFailed``.

    It is a base backup that goes nowhere (PostgreSQL 15 and newer): the only reader of all pages that needs no stopped server.
    The cluster must have data checksums.
    """
    try:
        run(
            [
                tools.program("pg_basebackup"), "--target=blackhole", "--wal-method=none", "--checkpoint=fast",
                "--no-slot", "--no-manifest",
            ],
            environment=cluster.environment(settings=COMMANDS), user=owner.user, group=owner.group, folder=Path("/"),
        )  # fmt: skip
    except ProcessFailed as error:
        if "checksum" not in str(error):
            raise RecoveryFailed(f"The pages of the recovered files could not be checked: {error}.") from error
        raise RecoveryFailed(
            f"The recovered files have damaged pages: {error}", remedy="recover from an older full base backup"
        ) from error


def run_amcheck(cluster: Cluster, tools: Tools, owner: Owner) -> list[str]:
    """Check heaps and B-trees of every database with ``pg_amcheck``; returns its complaints, none when all is well.

    Needs a promoted server: the extension amcheck is installed where it is missing.
    """
    said: list[str] = []
    arguments: list[str | Path] = [tools.program("pg_amcheck"), "--all", "--install-missing", "--no-password"]
    with Child(
        arguments,
        environment=cluster.environment(),
        user=owner.user,
        group=owner.group,
        folder=Path("/"),
        on_line=said.append,
    ) as child:
        said += b"".join(child.output()).decode(errors="replace").splitlines()
        status = child.process.wait()
        if status == 0:
            return []
        complaints = [line.strip() for line in said if line.strip()]
        return complaints or [f"pg_amcheck failed with exit status {status} and gave no reason."]
