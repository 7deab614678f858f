"""From facts to a state and a health score. The rules and the formula are written down in docs/status.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

from twist_dr.repository.kinds import DATA_KINDS
from twist_dr.repository.labels import SET_ASIDE
from twist_dr.system.progress import human_seconds
from twist_dr.system.severity import at_least
from twist_dr.system.words import few
from twist_dr.watch.status.model import STATES, ActiveAlert, Collected, Reason, ScorePart, State, Status, TargetStatus

#: What the parts of the score count, 100 together.
MOST = {"recovery point": 40, "storage targets": 20, "last backup": 10, "runs of 90 days": 15, "alerts": 15}
#: What an alert costs.
_COST = {"info": 0, "warning": 3, "error": 7, "critical": 15}
#: Causes of alerts that say that a target cannot be used, and states of copies that are as they should be.
_TROUBLE = frozenset({"unreachable", "credentials", "capacity"})
_FINE = frozenset({"stored", "checked", "deleted"})
#: No number may say otherwise than the state does.
_HIGHEST: dict[State, int] = {"safe": 100, "degraded": 89, "unsafe": 49}


def judged(facts: Collected) -> Status:
    """The status that follows from the facts."""
    reasons = sorted(_reasons(facts), key=lambda reason: -STATES.index(reason.state))
    state: State = reasons[0].state if reasons else "safe"
    parts = tuple(_parts(facts))
    # Rounded down: 100 means that nothing is missing.
    score = min(int(sum(part.points for part in parts)), _HIGHEST[state])
    values = {field.name: getattr(facts, field.name) for field in fields(Collected)}
    return Status(**values, state=state, reasons=tuple(reasons), score=score, score_parts=parts)


def span(seconds: float) -> str:
    """``3 h 20 min``, ``12 days``: an age for people."""
    return human_seconds(seconds) if seconds < 172800 else f"{seconds / 86400:.0f} days"


# -- the state --------------------------------------------------------------------------------------------------------


def _reasons(facts: Collected) -> list[Reason]:
    """One for each cause: what the facts say for themselves and what the alert rules find are often the same, and the worse one counts."""
    found: dict[str, Reason] = {}
    for cause, reason in (*_of_facts(facts), *_of_alerts(facts.alerts)):
        known = found.get(cause)
        if known is None or STATES.index(reason.state) >= STATES.index(known.state):
            found[cause] = reason
    return list(found.values())


def _of_alerts(alerts: Sequence[ActiveAlert]) -> Iterator[tuple[str, Reason]]:
    for alert in alerts:
        kind, _, what = alert.cause.partition(":")
        cause = f"trouble:{what}" if kind in _TROUBLE else alert.cause
        if alert.severity == "critical":
            yield cause, Reason("unsafe", _clause(alert.message))
        elif at_least(alert.severity, "warning"):
            yield cause, Reason("degraded", _clause(alert.message))


def _of_facts(facts: Collected) -> Iterator[tuple[str, Reason]]:
    yield from _about_recovery_point(facts)
    if not any(target.newest_at for target in facts.targets if target.enabled):
        yield "no_copy", Reason("unsafe", "no enabled storage target holds a checked copy of a full or base backup")
    for target in facts.targets:
        if target.enabled:
            yield from _about_target(facts, target)
    going_on = {run.run_id for run in facts.running}
    for backup in facts.backups:
        if not backup.complete and backup.run_id not in going_on:
            bad = [f"{name} ({state})" for name, state in sorted(backup.copies.items()) if state not in _FINE]
            told = f"not good on {', '.join(bad)}" if bad else "on no storage target"
            yield (
                f"backup_partial:{backup.kind}",
                Reason("degraded", f"the newest {backup.kind} backup, {backup.backup_id}, is {told}"),
            )
        if backup.verified is False:
            yield (
                f"verification_failed:{backup.kind}",
                Reason("degraded", f"the newest {backup.kind} backup, {backup.backup_id}, failed its verification"),
            )
    if facts.ahead:
        told = f"backups begin in the future ({', '.join(facts.ahead)}): this machine's clock is wrong, or was; they do not count"
        yield "clock", Reason("degraded", told)


def _about_recovery_point(facts: Collected) -> Iterator[tuple[str, Reason]]:
    point, objective = facts.recovery_point, facts.recovery_point_objective
    cause = "no_recovery_point"
    if point is None:
        why = "verified backups are on no enabled storage target" if facts.last_verified else "no backup was verified"
        if facts.set_aside and not facts.last_verified:
            why += f" but {few(facts.set_aside)}, labelled {SET_ASIDE}: what a restore was about to replace"
        made = why if facts.backups else "no backup was ever made"
        yield cause, Reason("unsafe", f"there is no verified recovery point: {made}")
    elif point.age > objective:
        told = f"the newest verified recovery point is {span(point.age)} old, and may be {span(objective)}"
        yield cause, Reason("unsafe", told)


def _about_target(facts: Collected, target: TargetStatus) -> Iterator[tuple[str, Reason]]:
    name = target.name
    if target.state == "failing":
        why = _clause(target.because or "no reason is known")
        yield f"trouble:{name}", Reason("degraded", f"{name} fails: {why}")
    if target.age is None:
        yield f"objective:{name}", Reason("degraded", f"{name} holds no checked copy of a full or base backup")
    elif target.late:
        told = f"the newest checked copy on {name} is {span(target.age)} old, and may be {span(target.objective)}"
        yield f"objective:{name}", Reason("degraded", told)
    if target.corrupt:
        copies = "copy" if target.corrupt == 1 else "copies"
        yield f"integrity:{name}", Reason("degraded", f"{name} holds {target.corrupt} corrupt {copies}")
    wal, objective = target.wal, facts.wal_objective
    if wal is None or objective is None:
        return
    if wal.age is None:
        yield f"wal_frontier:{name}", Reason("degraded", f"{name} has no write-ahead log whose time is known")
    elif wal.age > objective:
        told = f"the write-ahead log on {name} ends {span(wal.age)} ago, and may {span(objective)}"
        yield f"wal_frontier:{name}", Reason("degraded", told)


def _clause(text: str) -> str:
    return text.strip().rstrip(".")


# -- the score --------------------------------------------------------------------------------------------------------


def _parts(facts: Collected) -> Iterator[ScorePart]:
    yield _recovery_point_part(facts)
    enabled = [target for target in facts.targets if target.enabled]
    good = [target for target in enabled if not target.late and target.state != "failing" and not target.corrupt]
    yield _part(
        "storage targets",
        len(good) / len(enabled) if enabled else 0.0,
        f"{len(good)} of {len(enabled)} are good and have a copy in time",
    )
    whole = [backup for backup in facts.backups if backup.kind in DATA_KINDS]
    newest = max(whole, key=lambda backup: backup.started_at, default=None)
    if newest is None:
        yield _part("last backup", 0.0, "there is none")
    else:
        sound = newest.complete and newest.verified is not False
        yield _part(
            "last backup", float(sound), f"{newest.backup_id} is {'complete' if sound else 'incomplete or not good'}"
        )
    rate = facts.success_rate
    yield _part("runs of 90 days", rate or 0.0, "none ended" if rate is None else f"{rate:.1%} succeeded")
    most = MOST["alerts"]
    cost = min(most, sum(_COST[alert.severity] for alert in facts.alerts))
    yield _part("alerts", 1 - cost / most, f"{len(facts.alerts)} active" if facts.alerts else "none")


def _recovery_point_part(facts: Collected) -> ScorePart:
    point, objective = facts.recovery_point, facts.recovery_point_objective
    if point is None:
        return _part("recovery point", 0.0, "there is none")
    # All of it within the objective, nothing from twice the objective on.
    over = point.age / objective - 1 if objective else float(point.age > 0)
    return _part("recovery point", min(1.0, max(0.0, 1 - over)), f"{span(point.age)} old, may be {span(objective)}")


def _part(name: str, fraction: float, because: str) -> ScorePart:
    return ScorePart(name, round(MOST[name] * fraction, 1), MOST[name], because)
