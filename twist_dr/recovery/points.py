"""From a recovery target to one record: where replay stops, on which line of WAL, and what comes after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from twist_dr.backup.base.summary import PlannedBase
from twist_dr.errors import RecoveryPointInvalid, WalError, WalVanished
from twist_dr.postgres.lsn import format_lsn
from twist_dr.recovery.coverage import Stretch, lineage_of
from twist_dr.recovery.ground import ClusterArchive
from twist_dr.recovery.lineage import Lineage, Run, facts, stop_of
from twist_dr.recovery.search import (
    clock_warning,
    ending_of,
    endings_from,
    first_later,
    last_ending,
    points_named,
    unknown_name,
)
from twist_dr.recovery.stops import Looked, Resolved, looked_into
from twist_dr.recovery.target import RecoveryTarget, moment
from twist_dr.recovery.vanished import Vanished, furthest_beyond
from twist_dr.system.words import counted
from twist_dr.wal.archived import Known


def resolve(target: RecoveryTarget, ground: ClusterArchive) -> Resolved:
    """Raises ``RecoveryPointInvalid``, saying what can be recovered instead, when there is no such point."""
    if target.kind in ("xid", "name"):
        return _recorded(target, ground)
    lineage = ground.lineage(ground.timelines[0])
    found = ground.stretches(lineage)
    if target.kind == "lsn":
        return _at_lsn(target, ground, lineage, found)
    return _at_time(target, ground, lineage, found) if target.kind == "time" else _latest(ground, lineage, found)


# -- latest ---------------------------------------------------------------------------------------------------------------


def _latest(ground: ClusterArchive, lineage: Lineage, found: Sequence[Stretch]) -> Resolved:
    newer = ground.newer_without_base
    _all_answered(ground, "Which state is the latest")
    if newer and ground.base is None:
        raise ground.refusal(
            f"The latest state is that of a newer cluster. To recover {ground.archives.system_identifier} as it was last all the same, "
            f"name the base {ground.bases[-1].backup_id}."
        )
    stretch = found[-1]
    if ground.gap(lineage, stretch.run):
        raise ground.refusal(ground.gap_words(lineage, stretch))
    with looked_into(ground, lineage, stretch) as looked:
        _nothing_vanished(looked)
        return _behind_last(looked, stretch.bases[-1])


def _nothing_vanished(looked: Looked) -> None:
    """Raises ``RecoveryPointInvalid`` when more was known to be archived than is there now, unless somebody has accepted that."""
    ground, end = looked.ground, looked.end
    archives = ground.archives
    newer = [each for each in ground.known_reach if int(each.system_identifier) > int(archives.system_identifier)]
    if newer and ground.base is None:
        refusal = ground.refusal(
            f"Archived write-ahead log of a newer cluster, {newer[-1].system_identifier}, has vanished: {newer[-1].by} reached {format_lsn(newer[-1].lsn)} "
            f"there. Find out who removed it. To recover {archives.system_identifier} as it was last all the same, name the base "
            f"{ground.bases[-1].backup_id}."
        )
        raise WalVanished(refusal.what)
    known_reach = list(ground.known_reach)
    if not ground.recorded:
        # No record says how far the archives reached: what is not authentic may have been damaged, and not put there.
        known_reach += [
            Known(f"by its name {key}, which is not authentic,", archives.system_identifier, timeline, lsn)
            for key, (timeline, lsn) in archives.disowned.items()
        ]
    known = furthest_beyond(known_reach, archives.system_identifier, looked.lineage, end)
    if known is None or (ground.pinned is not None and known.timeline > ground.pinned):
        return
    ground.vanished = Vanished(known, end, looked.known_until())
    if not ground.vanished.is_accepted(ground.accepted):
        raise WalVanished(ground.refusal(f"{ground.vanished.sentence()} {ground.vanished.remedy}.").what)
    ground.warnings.append(ground.vanished.sentence())


def _all_answered(ground: ClusterArchive, what: str) -> None:
    """Raises ``RecoveryPointInvalid`` when the newest may lie on a target that did not answer: an outage gives no less than is archived."""
    if ground.archives.unreachable:
        raise ground.refusal(
            f"{what} is not known while a storage target does not answer: fix that, or name in source the one to recover from."
        )


def _behind_last(looked: Looked, base: PlannedBase) -> Resolved:
    """Everything that is archived."""
    record = looked.reader.last_record()
    if record is None or record.end(looked.ground.size) < stop_of(base):
        raise looked.ground.refusal(f"The archived WAL ends before {base.backup_id} is consistent.")
    broken = looked.reader.broken_tail(record)
    return looked.inclusive(base, record, (broken,) if broken else ())


# -- a time -----------------------------------------------------------------------------------------------------------------


def _at_time(target: RecoveryTarget, ground: ClusterArchive, lineage: Lineage, found: Sequence[Stretch]) -> Resolved:
    time = target.time
    assert time is not None
    choices = [(stretch, base) for stretch in found for base in stretch.bases if facts(base).stopped_at <= time]
    if not choices:
        raise _too_early(target, ground, lineage, found)
    stretch, base = choices[-1]
    marks = [facts(each).stopped_at for each in stretch.bases]
    with looked_into(ground, lineage, stretch) as looked:
        later = first_later(looked.reader, stop_of(base), time, marks)
        warnings = list(later.warnings)
        if later.unseen:
            warnings.append(
                f"Found by bisection: {counted(later.unseen, 'segment')} between the base backup and the stop were taken to be in order of time, as those looked at are."
            )
        if later.ending is None:
            _reaches(target, looked)
            _living(looked, time, looked.end)
            return _behind_last(looked, base)
        _living(looked, time, later.ending.lsn)
        # While the segments around the stop are at hand: what comes after it may be a long way.
        resolved = looked.exclusive(base, later.ending.lsn, tuple(warnings))
        following, _ = endings_from(looked.reader, later.ending.lsn)
        clock = clock_warning(following, time)
        return resolved if clock is None else replace(resolved, warnings=(*resolved.warnings, clock))


def _too_early(
    target: RecoveryTarget, ground: ClusterArchive, lineage: Lineage, found: Sequence[Stretch]
) -> RecoveryPointInvalid:
    oldest = min(facts(base).stopped_at for stretch in found for base in stretch.bases)
    first = ground.base or f"the oldest base backup of timeline {lineage.timeline}"
    return ground.refusal(
        f"{target.words} is before the end of {first} ({moment(oldest)}), and no recovery leads back."
    )


def _reaches(target: RecoveryTarget, looked: Looked) -> None:
    """Nothing later is archived: it must be known that nothing is missing up to the time, either."""
    assert target.time is not None
    ground, lineage, stretch = looked.ground, looked.lineage, looked.stretch
    if stretch.claim is not None and stretch.claim >= target.time:
        return
    if ground.gap(lineage, stretch.run):
        raise ground.refusal(f"{target.words} lies in or behind a gap. {ground.gap_words(lineage, stretch)}")
    known = looked.known_until()
    until = f"until {moment(known)}" if known else f"up to {format_lsn(looked.end)}"
    raise ground.refusal(
        f"The archive is known to hold everything {until}, and {target.words} is later; choose latest, or an earlier moment."
    )


def _living(looked: Looked, time: datetime, stop: int) -> None:
    """Raises ``RecoveryPointInvalid`` when another timeline, which left this one just before the stop, had transactions until ``time``."""
    ground, lineage = looked.ground, looked.lineage
    last = last_ending(looked.reader, stop)
    since = last.lsn if last else looked.stretch.run.start
    for timeline in ground.known if ground.pinned is None else []:
        fork = _fork(ground, lineage, timeline)
        if fork is None or not since < fork <= stop:
            continue
        run = _dead_run(ground, timeline, fork)
        if run is None:
            continue
        other = lineage_of(timeline, ground.archives)
        with ground.reader(other, run) as dead:
            events, _ = endings_from(dead, fork)
            first = events[0] if events else None
        if first is not None and first.at <= time:
            raise ground.refusal(
                f"At {moment(time)} the server was on timeline {timeline}, which was given up: timeline {lineage.timeline} knows nothing of it behind "
                f"{format_lsn(fork)}. For that state add timeline: {timeline}; else choose a moment before {moment(first.at)}, or after that."
            )


def _fork(ground: ClusterArchive, lineage: Lineage, timeline: int) -> int | None:
    """Where a timeline goes its own way, away from the lineage; None when it does not, or nothing tells."""
    if timeline == lineage.timeline:
        return None
    for each, _, left in lineage.stretches:
        if each == timeline:
            return left
    try:
        other = lineage_of(timeline, ground.archives)
    except WalError:
        return None
    ours = {each: left for each, _, left in lineage.stretches}
    for each, begin, left in reversed(other.stretches):
        if each not in ours:
            return begin
        if ours[each] != left:
            return min(lsn for lsn in (left, ours[each]) if lsn is not None)
    return None


def _dead_run(ground: ClusterArchive, timeline: int, fork: int) -> Run | None:
    """What a timeline has behind the point where it left the lineage."""
    run = lineage_of(timeline, ground.archives).run(fork)
    return run if run.parts and run.end > fork else None


# -- an LSN -----------------------------------------------------------------------------------------------------------------


def _at_lsn(target: RecoveryTarget, ground: ClusterArchive, lineage: Lineage, found: Sequence[Stretch]) -> Resolved:
    lsn = target.lsn
    assert lsn is not None
    choices = [(stretch, base) for stretch in found for base in stretch.bases if stop_of(base) <= lsn]
    if not choices:
        raise _too_early(target, ground, lineage, found)
    stretch, base = choices[-1]
    warnings = _also_on(ground, lineage, lsn)
    with looked_into(ground, lineage, stretch) as looked:
        if lsn < looked.end and looked.reader.record_from(lsn) is not None:
            return looked.exclusive(base, lsn, warnings)
        last = looked.reader.last_record()
        if last is not None and lsn <= last.end(ground.size):
            return looked.inclusive(base, last, warnings)
    if ground.gap(lineage, stretch.run):
        raise ground.refusal(f"{format_lsn(lsn)} lies in or behind a gap. {ground.gap_words(lineage, stretch)}")
    dead = _holders(ground, lineage, lsn)
    if dead:
        raise ground.refusal(
            f"{format_lsn(lsn)} is on timeline {dead[-1]}, which was given up: timeline {lineage.timeline} has not come so far. For that state add timeline: {dead[-1]}."
        )
    end = last.end(ground.size) if last else stretch.run.end
    raise ground.refusal(f"{format_lsn(lsn)} is beyond the archive, which ends at {format_lsn(end)}.")


def _holders(ground: ClusterArchive, lineage: Lineage, lsn: int) -> list[int]:
    """Other timelines that hold WAL at an LSN behind the point where they left the lineage."""
    found = []
    for timeline in ground.known:
        fork = _fork(ground, lineage, timeline)
        if (
            fork is not None
            and fork <= lsn
            and (run := _dead_run(ground, timeline, fork)) is not None
            and lsn < run.end
        ):
            found.append(timeline)
    return found


def _also_on(ground: ClusterArchive, lineage: Lineage, lsn: int) -> tuple[str, ...]:
    return tuple(
        f"{format_lsn(lsn)} is on timeline {timeline} too, which was given up; this is the one on timeline {lineage.timeline}."
        for timeline in (_holders(ground, lineage, lsn) if ground.pinned is None else [])
    )


# -- a transaction or a name ------------------------------------------------------------------------------------------------


def _recorded(target: RecoveryTarget, ground: ClusterArchive) -> Resolved:
    """A record that has to be looked for: on the newest timeline that has it, in its newest stretch that has it."""
    names: set[str] = set()
    for timeline in ground.timelines:
        try:
            lineage = ground.lineage(timeline)
            found = ground.stretches(lineage)
        except RecoveryPointInvalid:
            if timeline == ground.timelines[0]:
                raise
            continue
        for stretch in reversed(found):
            with looked_into(ground, lineage, stretch) as looked:
                lsn, warnings = _look_for(target, looked, names)
                if lsn is None:
                    continue
                if target.name is not None:
                    _all_answered(ground, f"Which restore point {target.name!r} is the latest")
                    if timeline == ground.timelines[0] and stretch is found[-1]:
                        _nothing_vanished(looked)
                base = [base for base in stretch.bases if stop_of(base) <= lsn][-1]
                record = looked.reader.record_from(lsn)
                assert record is not None and record.lsn == lsn
                if timeline != ground.timelines[0]:
                    warnings += (
                        f"{target.words} is on timeline {timeline} only, which was given up: timeline {ground.timelines[0]} went on without it.",
                    )
                return looked.inclusive(base, record, warnings)
    if target.name is not None:
        raise unknown_name(target.name, names, f"{ground.elsewhere()} {ground.instead()}".strip())
    raise ground.refusal(
        f"No COMMIT or ABORT of transaction {target.xid} is archived: it is unknown, was part of another transaction, or had not ended yet."
    )


def _look_for(target: RecoveryTarget, looked: Looked, names: set[str]) -> tuple[int | None, tuple[str, ...]]:
    start, reader = stop_of(looked.stretch.oldest), looked.reader
    if target.xid is not None:
        ending, warnings = ending_of(reader, start, target.xid)
        if ending is not None and not ending.committed:
            warnings += (f"Transaction {target.xid} was rolled back; the stop is behind that.",)
        return ending.lsn if ending else None, warnings
    assert target.name is not None
    tell = looked.ground.progress(f"looking for the restore point {target.name!r}", len(looked.stretch.run.parts))
    points, all_names = points_named(reader, start, target.name, tell)
    names |= all_names
    if not points:
        return None, ()
    newest = points[-1]
    if len(points) == 1:
        return newest.lsn, ()
    older = ", ".join(f"{format_lsn(point.lsn)} of {moment(point.at)}" for point in points[:-1])
    return newest.lsn, (
        f"There are {len(points)} restore points {newest.name!r}; this is the latest, {format_lsn(newest.lsn)} of {moment(newest.at)}. "
        f"For another aim at its LSN: {older}.",
    )
