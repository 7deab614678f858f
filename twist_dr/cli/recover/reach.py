"""Where base backups and archived WAL lead, as the target itself tells: from which second to which, and what is in the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from twist_dr.backup.base.summary import PlannedBase
from twist_dr.cli.recover.found import Found, with_problems
from twist_dr.errors import WalError
from twist_dr.postgres.lsn import format_lsn
from twist_dr.recovery.archives import Archives
from twist_dr.recovery.bases import by_cluster
from twist_dr.recovery.coverage import Range, gap_words, gaps, lineage_of, recoverable, timelines
from twist_dr.recovery.lineage import facts, start_of, stop_of
from twist_dr.repository.keys import Keyring
from twist_dr.repository.repository import Repository
from twist_dr.system.progress import Report, human_bytes
from twist_dr.system.tables import table
from twist_dr.wal.objects import WalArchive


@dataclass(frozen=True)
class Recoverable:
    """What of one cluster can be recovered to a point. ``gaps``: a sentence for each stretch of WAL that is missing."""

    system_identifier: str
    ranges: tuple[Range, ...] = ()
    gaps: tuple[str, ...] = ()


def archive_of(repository: Repository, keyring: Keyring, base: PlannedBase) -> Archives:
    """The WAL of a base backup's cluster. Raises storage errors when it cannot be listed."""
    archive = WalArchive(repository.target, repository.application)
    archives = Archives([archive], keyring, Report(), identifier_of(base), facts(base).wal_segment_size)
    for error in archives.unreachable.values():
        raise error
    return archives


def identifier_of(base: PlannedBase) -> str:
    """The cluster that a base backup is of."""
    return str(base.postgres.system_identifier) if base.postgres is not None else ""


def find_reach(
    repository: Repository, keyring: Keyring, found: Sequence[Found]
) -> tuple[list[Found], list[Recoverable]]:
    """The same backups, of which base backups are whole only with their chain and their own WAL; and where they lead.

    The cluster that was backed up last comes first. WAL of a cluster without any base backup leads nowhere: it is among them,
    without ranges. Raises storage errors.
    """
    whole = {each.backup_id for each in found if each.manifest and not each.problem}
    bases = [each.manifest for each in found if each.manifest and each.manifest.base]
    reaches, problems = [], dict[str, str]()
    for identifier, group in by_cluster(bases).items():
        archives = archive_of(repository, keyring, group[-1])
        told = {base.backup_id: _problem(base, whole, archives, group) for base in group}
        problems |= {backup_id: problem for backup_id, problem in told.items() if problem}
        usable = [base for base in group if base.backup_id in whole]
        reaches.append(Recoverable(identifier, tuple(recoverable(usable, archives)), tuple(_gaps(usable, archives))))
    archived = WalArchive(repository.target, repository.application).clusters()
    known = {reach.system_identifier for reach in reaches}
    reaches += [Recoverable(identifier) for identifier in archived if identifier not in known]
    judged = [replace(each, problem=each.problem or problems.get(each.backup_id)) for each in found]
    return judged, reaches


def _problem(base: PlannedBase, whole: set[str], archives: Archives, bases: Sequence[PlannedBase]) -> str | None:
    """Why a base backup cannot be recovered from; None when it can."""
    if lacking := [link for link in facts(base).chain if link != base.backup_id and link not in whole]:
        return f"{', '.join(lacking)}, on which it builds, is not whole here, so nothing can be recovered from it"
    why = ""
    for timeline in reversed(timelines(bases, archives)):
        try:
            lineage = lineage_of(timeline, archives)
        except WalError as error:
            why = why or str(error)
            continue
        if lineage.holds(facts(base)):
            run = lineage.run(start_of(base))
            if run.parts and stop_of(base) <= run.end:
                return None
            why = f"the WAL segment {run.missing.name}, without which it does not become consistent, is not here"
    return why or "no archived WAL leads on from it"


def _gaps(bases: Sequence[PlannedBase], archives: Archives) -> list[str]:
    try:
        return [gap_words(*gap) for gap in gaps(bases, archives)]
    except WalError as error:
        return [str(error)]


# -- for people --------------------------------------------------------------------------------------------------------


def base_table(found: Sequence[Found]) -> str:
    """One line per base backup, and below them a sentence for each that is not whole."""
    head = ("BASE BACKUP", "BUILDS ON", "LABEL", "COMPLETE (UTC)", "POSTGRESQL", "SIZE", "STATE")
    return with_problems(table(head, [_base_line(each) for each in found]), found)


def _base_line(found: Found) -> tuple[str, ...]:
    manifest = found.manifest
    if manifest is None or manifest.base is None:
        return (found.backup_id, "-", "-", "-", "-", "-", found.state)
    return (
        found.backup_id,
        f"{manifest.base.parent or '-'} ({manifest.base.sort})",
        manifest.label,
        _second(_ceiling(manifest.base.stopped_at)),
        manifest.postgres.version if manifest.postgres else "-",
        human_bytes(manifest.plain_bytes),
        found.state,
    )


def reach_table(reaches: Sequence[Recoverable]) -> str:
    """What can be recovered, per cluster; below it the gaps, and what leads nowhere."""
    head = ("CLUSTER", "TIMELINE", "FROM (UTC)", "UNTIL (UTC)", "LAST LSN", "BEGINS WITH")
    lines = [
        (
            reach.system_identifier,
            str(each.timeline),
            _second(_ceiling(each.from_at)),
            _second(each.until_at) if each.until_at else "not known",
            format_lsn(each.until_lsn),
            each.base,
        )
        for reach in reaches
        for each in reach.ranges
    ]
    told = [table(head, lines)] if lines else []
    for reach in reaches:
        told += [f"cluster {reach.system_identifier}: {gap}" for gap in reach.gaps]
        if not reach.ranges:
            told.append(
                f"cluster {reach.system_identifier}: nothing can be recovered to a point: there is no base backup here that is whole"
            )
    return "\n".join(told)


def reach_document(reach: Recoverable) -> dict[str, Any]:
    """For ``--json``: times in ISO 8601, LSNs as PostgreSQL writes them."""
    return {
        "system_identifier": reach.system_identifier,
        "ranges": [each.document() for each in reach.ranges],
        "gaps": list(reach.gaps),
    }


def _ceiling(when: datetime) -> datetime:
    """Whoever types what the list says shall not aim before the base backup's end."""
    return when if not when.microsecond else when.replace(microsecond=0) + timedelta(seconds=1)


def _second(when: datetime) -> str:
    return f"{when.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S}"
