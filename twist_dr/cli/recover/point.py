"""``--to``: a recovery point planned, and the whole cluster recovered to it, proved, and left ready to be started."""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from twist_dr.cli.output import say
from twist_dr.cli.recover.files import look_at_folder
from twist_dr.cli.recover.scratch import scratch_base, scratch_folder
from twist_dr.postgres.tools import Tools
from twist_dr.postgres.unprivileged import reachable_base, reachable_tools, unprivileged
from twist_dr.recovery.finish import finish_cluster
from twist_dr.recovery.plan import RecoveryPlan
from twist_dr.recovery.planning import PlannedRecovery, RecoveryRequest, plan_recovery
from twist_dr.recovery.recover import Recovered
from twist_dr.redaction import one_line
from twist_dr.repository.first_good import CORRUPT
from twist_dr.repository.keys import Keyring
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.repository import Repository
from twist_dr.repository.streams import write_new
from twist_dr.system.progress import Report, human_seconds

#: What the base backup knows of the old server's settings and of files that lay outside its data folder.
_SERVER = "server.json"


def plan_point(request: RecoveryRequest, repository: Repository, keyring: Keyring, report: Report) -> PlannedRecovery:
    """Settle how the point is reached, and print that. Nothing is changed.

    Raises ``RecoveryPointInvalid``, saying what can be recovered instead, and what :func:`plan_recovery` raises.
    """
    say(f"{repository.application} on {repository.target.location}")
    with scratch_folder() as folder:
        planned = plan_recovery(request, [repository], keyring, (), folder, report, now=datetime.now(timezone.utc))
    say(f"\n{plan_words(planned.plan)}\n")
    for line in planned.plan.warnings:
        report.warning(line)
    return planned


def plan_words(plan: RecoveryPlan) -> str:
    """The plan for a terminal."""
    rows = plan.rows()
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {one_line(text)}" for name, text in rows)


def recover_cluster(
    request: RecoveryRequest, folder: Path, repository: Repository, keyring: Keyring, report: Report
) -> None:
    """Make ``<folder>/data`` ready to be started, and say how. After an error nothing of it is there."""
    folder = look_at_folder(folder, "--cluster-to", 0)
    planned = plan_point(request, repository, keyring, report)
    plan, made = planned.plan, not folder.exists()
    sources = planned.sources()
    server = _server_facts(plan.base, repository, keyring, report)
    try:
        with _programs(planned.tools) as (scratch, tools):
            done = finish_cluster(planned, sources, folder, scratch, isolation="where-possible")
    except BaseException:
        if made:
            with suppress(OSError):
                folder.rmdir()
        raise
    kept = None
    if server is not None:
        kept = folder / _SERVER
        write_new(kept, [server])
    for line in (*done.warnings, *done.complaints):
        report.warning(line)
    say("\n".join(_told(plan, done, tools, folder, kept)))


@contextmanager
def _programs(tools: Tools) -> Iterator[tuple[Path, Tools]]:
    """A folder for a copy of PostgreSQL's programs, and the programs as the server's user can run them. A copy stays: the server
    is started with it."""
    user, _ = unprivileged()
    base = reachable_base(scratch_base() / f"twist-dr-programs-{os.geteuid()}", user)
    try:
        yield base, reachable_tools(tools, base, user)
    finally:
        with suppress(OSError):  # it holds a copy
            base.rmdir()


def _server_facts(base: Manifest, repository: Repository, keyring: Keyring, report: Report) -> bytes | None:
    """What is said of the old server beside its files. The cluster comes back without it."""
    try:
        return repository.read_small(base, _SERVER, keyring) if base.artifact(_SERVER) is not None else None
    except CORRUPT as error:
        report.warning(f"the settings of the old server are left out: {error}")
        return None


def _told(plan: RecoveryPlan, done: Recovered, tools: Tools, folder: Path, kept: Path | None) -> list[str]:
    seconds = human_seconds(sum(done.seconds.values()))
    start = [
        str(tools.program("pg_ctl")), "start", f"--pgdata={done.data}", f"--log={folder / 'server.log'}", "--wait",
    ]  # fmt: skip
    if (user := unprivileged()[0]) is not None:
        start = ["runuser", "-u", pwd.getpwuid(user).pw_name, "--", *start]
    steps = list(done.notes)
    if kept is not None:
        steps.append(
            f"{kept} has the old server's settings, and its configuration files that lay outside the data folder"
        )
    steps += [
        f"start it: {shlex.join(start)}",
        "media and configuration are in no base backup: bring them back with --backup ID, --media-to and --configuration-to",
        "point the application to it, start it, and look at it: what came after the point is not there",
        "twist-dr init NAME (or bring back twist-dr.yaml), keep the old keyring, twist-dr doctor; then launch the job backup_base: "
        "no recovery to a later point can begin before that",
    ]
    return [
        "",
        f"cluster: {done.data}, PostgreSQL {tools.version}, proved to be what was planned, on timeline {done.timeline}, stopped, in {seconds}",
        "",
        f"Recovered to {plan.sentence()}",
        "Next:",
        *(f"  {number}. {step}" for number, step in enumerate(steps, 1)),
    ]
