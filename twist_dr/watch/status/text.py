"""A status for a terminal. The first line says it all."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from twist_dr.redaction import one_line
from twist_dr.system.progress import human_age, human_bytes, human_seconds
from twist_dr.system.tables import table
from twist_dr.system.words import counted
from twist_dr.watch.status.model import Status, TargetStatus

_NEXT_RUNS = 8


def headline(status: Status) -> str:
    """``SAFE``, ``DEGRADED`` or ``UNSAFE``, and why, in a line."""
    if status.reasons:
        others = len(status.reasons) - 1
        more = f" (and {counted(others, 'more reason')})" if others else ""
        return f"{status.state.upper()}  {status.application}: {one_line(status.reasons[0].text)}{more}"
    point = status.recovery_point
    assert point is not None, "safe without a recovery point"
    return f"SAFE  {status.application}: a verified recovery point is {human_age(point.age)} old, on {', '.join(point.targets)}"


def render_status(status: Status) -> str:
    """The whole status."""
    lines = [headline(status)]
    lines += [f"  {reason.state}: {one_line(reason.text)}" for reason in status.reasons[1:]]
    lines += [
        "",
        f"health {status.score} of 100: "
        + ", ".join(f"{part.name} {part.points:g}/{part.most:g}" for part in status.score_parts),
    ]
    lines += ["", *_last(status), "", _targets(status)]
    if status.spool_bytes is not None:
        oldest = f", the oldest since {human_age(status.spool_oldest)}" if status.spool_oldest else ""
        lines += ["", f"spool of write-ahead log: {human_bytes(status.spool_bytes)}{oldest}"]
    lines += _history(status)
    lines += ["", *_alerts(status)]
    lines += [f"running: {run.job} since {_time(run.since)} UTC, by {one_line(run.who)}" for run in status.running]
    if status.next_runs:
        lines += ["", "next:", *(f"  {_time(run.at)} UTC  {run.name}" for run in status.next_runs[:_NEXT_RUNS])]
        lines += [f"  {one_line(why)}" for why in status.next_not]
    else:
        lines += ["", f"next: {one_line('; '.join(status.next_not))}"]
    return "\n".join(lines)


def _last(status: Status) -> Iterator[str]:
    point = status.recovery_point
    yield "recovery point    " + (
        f"{_time(point.at)} UTC, {human_age(point.age)} ago (objective {human_age(status.recovery_point_objective)}), "
        + (f"by write-ahead log over {point.backup_id}" if point.through == "wal" else point.backup_id)
        if point
        else "none that is verified"
    )
    if status.media_objective is not None:
        media = status.media_point
        yield "media             " + (
            f"{_time(media.at)} UTC, {human_age(media.age)} ago (objective {human_age(status.media_objective)}), {media.backup_id}"
            if media
            else "none that is verified"
        )
    for backup in status.backups:
        verified = {True: "verified", False: "FAILED its verification", None: "not verified"}[backup.verified]
        complete = "" if backup.complete else ", INCOMPLETE"
        yield f"{f'last {backup.kind}':<17} {_time(backup.started_at)} UTC, {human_age(backup.age)} ago, {human_bytes(backup.plain_bytes)} in {human_seconds(backup.seconds)}, {verified}{complete}"
    if not status.backups:
        yield "last backup       never"
    proof = status.last_verified
    yield "last verified     " + (
        f"{proof.backup_id}, {_time(proof.verified_at)} UTC from {proof.target}, by {proof.proved}"
        + (
            f", database restored in {human_seconds(proof.restore_seconds)}"
            if proof.restore_seconds is not None
            else ""
        )
        if proof
        else "never"
    )
    restore = status.last_restore
    yield "last restore      " + (
        f"{restore.restore_id} ({restore.mode}), {_time(restore.started_at)} UTC by {restore.who}: {restore.state}"
        if restore
        else "never"
    )
    drill = status.last_drill
    yield "last drill        " + (f"{_time(drill.at)} UTC" if drill else "never")
    rate = status.success_rate
    yield "runs of 90 days   " + ("none" if rate is None else f"{rate:.1%} succeeded")


def _history(status: Status) -> Iterator[str]:
    if status.history is None:
        yield "Dagster's history: its size is not known before the first cleanup"
    else:
        grows = status.history.bytes_per_day
        grown = "" if grows is None else f", {human_bytes(grows)} more a day before that"
        yield f"Dagster's history: {human_bytes(status.history.bytes)} after the cleanup of {_time(status.history.at)} UTC{grown}"


def _targets(status: Status) -> str:
    head = [
        "TARGET",
        "STATE",
        "NEWEST COPY",
        "OBJECTIVE",
        "COPIES",
        "CORRUPT",
        "USED",
        "FREE",
        "GROWS",
        "FULL IN",
        "LAST READ",
    ]
    wal = status.wal_objective is not None
    return table(head + (["WAL ENDS"] if wal else []), [_target_line(target, wal) for target in status.targets])


def _target_line(target: TargetStatus, wal: bool) -> list[str]:
    line = [
        target.name,
        target.state if target.enabled else "disabled",
        "never" if target.age is None else f"{human_age(target.age)} ago",
        "-" if target.objective is None else human_age(target.objective),
        str(target.copies),
        str(target.corrupt),
        human_bytes(target.used_bytes),
        "-" if target.free is None else human_bytes(target.free),
        "-" if target.bytes_per_day is None else f"{human_bytes(target.bytes_per_day)}/day",
        "-" if target.days_until_full is None else f"{target.days_until_full:.0f} days",
        "-" if target.oldest_checked_at is None else _time(target.oldest_checked_at),
    ]
    if wal:
        age = target.wal.age if target.wal else None
        every = target.wal.bundle_seconds if target.wal else 0
        line.append(
            ("never" if age is None else f"{human_age(age)} ago")
            + (f", goes every {human_age(every)}" if every else "")
        )
    return line


def _alerts(status: Status) -> Iterator[str]:
    if not status.alerts:
        yield "alerts: none"
        return
    yield "alerts:"
    for alert in status.alerts:
        number = f" [{alert.id}]" if alert.id is not None else ""
        known = f" (acknowledged by {one_line(alert.acknowledged_by)})" if alert.acknowledged_by else ""
        yield f"  {alert.severity}{number}: {one_line(alert.message)}{known}"
        if alert.advice:
            yield f"      {one_line(alert.advice)}"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"
