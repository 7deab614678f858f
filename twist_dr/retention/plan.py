"""Which backups of a storage target stay and which go. Nothing here looks at a clock, a catalog or a target.

First what the policies want, then what stays whatever they want (promise 5), then the links that kept backups build upon, then what of
the rest that stays moves to another target or storage class, and at last the doubts about all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta, timezone, tzinfo
from operator import attrgetter

from twist_dr.repository.kinds import BASE
from twist_dr.repository.labels import BEFORE_A_CHANGE, OF_NIGHTS
from twist_dr.retention.doubts import TOLERANCE, set_back, set_forward, too_much
from twist_dr.retention.model import INTACT, BackupFacts, Decision, Doubt, Hold, Moving, Reclassing, TargetPlan
from twist_dr.retention.policy import local_days, span, verdicts
from twist_dr.settings.policy import Policy, longest_window
from twist_dr.system.collector import paused_collector

#: Half sentences by id of a backup. Most are shared by thousands.
Reasons = dict[str, tuple[str, ...]]


def plan_target(
    target: str,
    backups: Iterable[BackupFacts],
    policies: Sequence[Policy],
    *,
    now: datetime,
    time_zone: tzinfo = timezone.utc,
    holds: Iterable[Hold] = (),
    in_use: Mapping[str, str] | None = None,
    window_bases: Mapping[str, str] | None = None,
    moving: Moving | Reclassing | None = None,
    max_delete_fraction: float = 0.5,
) -> TargetPlan:
    """A decision for every backup that ``target`` holds. Deletes nothing.

    ``in_use`` are ids with what uses them (``restore r1 reads it``); ``window_bases`` are ids of bases that the WAL window needs, with why,
    from :func:`wal_plan.bases_of_window`; ``moving``: when what is kept moves to another target or storage class. ``time_zone`` is that of calendar days. Copies in the state ``deleted`` are passed over.
    """
    with paused_collector():
        return _plan(
            target,
            backups,
            policies,
            now,
            time_zone,
            list(holds),
            in_use or {},
            window_bases or {},
            moving,
            max_delete_fraction,
        )


def _plan(
    target: str,
    backups: Iterable[BackupFacts],
    policies: Sequence[Policy],
    now: datetime,
    time_zone: tzinfo,
    holds: Sequence[Hold],
    in_use: Mapping[str, str],
    window_bases: Mapping[str, str],
    moving: Moving | Reclassing | None,
    most: float,
) -> TargetPlan:
    known = {backup.id: backup for backup in backups if backup.state != "deleted"}
    newest_first = sorted(known.values(), key=attrgetter("taken_at", "id"), reverse=True)
    good = good_ids(known)
    graced = dict(_in_grace(newest_first, policies, now))
    wanted = _Wanted(policies, newest_first, good, graced, known, now, time_zone)
    keep, bound = wanted.keep, set[str]()
    for protected in (
        _last_ones(newest_first, good, known, now),
        graced.items(),
        _window(newest_first, good, longest_window(policies), now),
        window_bases.items(),
        _held(holds, now),
        in_use.items(),
        _untouchable(newest_first, now),
    ):
        for backup_id, reason in protected:
            if backup_id in known:
                _tell(keep, backup_id, (reason,))
                bound.add(backup_id)
    _keep_links(newest_first, known, keep)
    go = wanted.go
    decisions = tuple(
        Decision(backup, True, keep[backup.id]) if backup.id in keep else Decision(backup, False, go[backup.id])
        for backup in newest_first
    )
    if moving is not None:
        decisions = tuple(
            _moved(each, moving)
            if each.keep and each.backup.id not in bound and _is_due(each.backup, moving, now)
            else each
            for each in decisions
        )
    doubts = _doubts(target, decisions, wanted, policies, holds, now, time_zone, most)
    return TargetPlan(target, now, decisions, doubts)


def good_ids(known: Mapping[str, BackupFacts]) -> frozenset[str]:
    """Ids of those that can be restored from this target, as far as is known: every link intact, and no verification that failed.

    A verification of the backup itself outweighs those of the links that it builds upon.
    """

    return frozenset(
        backup.id
        for backup in known.values()
        if backup.state in INTACT
        and backup.verified is not False
        and (
            len(backup.chain) < 2
            or (
                _restorable(backup, known)
                and (backup.verified is True or not any(known[link].verified is False for link in backup.chain))
            )
        )
    )


def _restorable(backup: BackupFacts, known: Mapping[str, BackupFacts]) -> bool:
    return backup.state in INTACT and all(link in known and known[link].state in INTACT for link in backup.links)


class _Wanted:
    """What the policies say together. ``keep`` and ``go``: reasons by id; what is in ``keep`` stays, whatever ``go`` says."""

    def __init__(
        self,
        policies: Sequence[Policy],
        newest_first: Sequence[BackupFacts],
        good: frozenset[str],
        graced: Collection[str],
        known: Mapping[str, BackupFacts],
        now: datetime,
        time_zone: tzinfo,
    ) -> None:
        self.keep: Reasons = {}
        self.go: Reasons = {}
        self.by_age: set[str] = set()
        days: dict[str, date] = {}
        if any(policy.daily > 0 or policy.weekly > 0 or policy.monthly > 0 or policy.yearly > 0 for policy in policies):
            days = local_days(newest_first, time_zone)
        for kind in dict.fromkeys(backup.kind for backup in newest_first):
            of_kind = [backup for backup in newest_first if backup.kind == kind]
            for policy in policies:
                for backup_id, verdict in verdicts(policy, of_kind, good, graced, known, now, days).items():
                    _tell(self.keep if verdict.keep else self.go, backup_id, verdict.reasons)
                    if verdict.by == "age":
                        self.by_age.add(backup_id)
        no_say = ("no policy applies to it",)
        for backup in newest_first:
            if backup.id not in self.keep and backup.id not in self.go:
                self.keep[backup.id] = no_say


def _tell(told: Reasons, backup_id: str, reasons: tuple[str, ...]) -> None:
    """Add reasons to those that are told of a backup, each once."""
    before = told.get(backup_id)
    told[backup_id] = reasons if before is None else tuple(dict.fromkeys(before + reasons))


def _last_ones(
    newest_first: Sequence[BackupFacts], good: frozenset[str], known: Mapping[str, BackupFacts], now: datetime
) -> Iterable[tuple[str, str]]:
    """The last of each kind that must not go: verified, good, checked, intact, any.

    What a wrong clock put into the future counts for itself, and so do what was made before an update or a restore, and what has no media, say: one
    of these is not what somebody would want back in the place of a night.
    """
    tests: dict[str, Callable[[BackupFacts], bool]] = {
        "the last verified {} backup": lambda backup: backup.verified is True and backup.id in good,
        "the last {} backup that was verified, though the copy here is not good": lambda backup: (
            backup.verified is True
        ),
        "the newest good {} backup": lambda backup: backup.id in good,
        "the newest checked copy of a {} backup": lambda backup: backup.state == "checked",
        "the newest whole copy of a {} backup": lambda backup: _restorable(backup, known),
        "the newest {} backup": lambda backup: True,
    }
    found: dict[str, str] = {}
    for backups in _ways_to_see(newest_first, now):
        for kind in dict.fromkeys(backup.kind for backup in backups):
            for reason, test in tests.items():
                backup = next((backup for backup in backups if backup.kind == kind and test(backup)), None)
                if backup is not None:
                    found.setdefault(backup.id, reason.format(kind))
    return found.items()


def _ways_to_see(newest_first: Sequence[BackupFacts], now: datetime) -> list[Sequence[BackupFacts]]:
    """All, and without those that are dated in the future, and without those that were made before a change, and without those that lack parts; each once."""
    ways = [newest_first]
    for leave_out in (
        _is_ahead(now), lambda backup: backup.label in BEFORE_A_CHANGE, lambda backup: backup.partial,
    ):  # fmt: skip
        for backups in tuple(ways):
            left = [backup for backup in backups if not leave_out(backup)]
            ways += [left] if len(left) < len(backups) else []
    return ways


def _is_ahead(now: datetime) -> Callable[[BackupFacts], bool]:
    return lambda backup: backup.taken_at - now > TOLERANCE


def _in_grace(
    newest_first: Sequence[BackupFacts], policies: Sequence[Policy], now: datetime
) -> Iterable[tuple[str, str]]:
    """What no schedule made and is younger than the grace of a policy that applies to it.

    Of what was made before a change ``last`` may say how many: then it alone does.
    """
    named = {label for policy in policies for label in policy.last} & BEFORE_A_CHANGE
    longest = max((policy.grace for policy in policies), default=timedelta(0))
    for backup in newest_first:
        if now - backup.taken_at > longest:
            return
        if backup.label not in OF_NIGHTS and backup.label not in named:
            grace = max(
                (policy.grace for policy in policies if policy.selects(backup.kind, backup.label)), default=timedelta(0)
            )
            if now - backup.taken_at < grace:
                yield backup.id, f"{backup.label}, and younger than the grace of {span(grace)}"


def _window(
    newest_first: Sequence[BackupFacts], good: frozenset[str], window: timedelta | None, now: datetime
) -> Iterable[tuple[str, str]]:
    """The base from which the window's first second is reached, and the one that will take its place."""
    if window is None:
        return {}
    bases = [backup for backup in newest_first if backup.kind == BASE.kind and backup.state != "pending"]
    before = [backup for backup in bases if now - backup.usable_from >= window]
    after = [backup for backup in bases if now - backup.usable_from < window]
    first = next((backup for backup in before if backup.id in good), next(iter(before), None))
    following = next((backup for backup in reversed(after) if backup.id in good), None)
    found = {}
    if following is not None:
        found[following.id] = f"the first base within the WAL window of {span(window)}"
    if first is not None:
        found[first.id] = f"needed to recover the beginning of the WAL window of {span(window)}"
    return found.items()


def _held(holds: Iterable[Hold], now: datetime) -> Iterable[tuple[str, str]]:
    for hold in holds:
        if hold.until is None or hold.until > now:
            until = "for ever" if hold.until is None else f"until {_utc(hold.until)}"
            yield hold.backup_id, f"held by {hold.who} {until}: {hold.reason}"


def _untouchable(backups: Iterable[BackupFacts], now: datetime) -> Iterable[tuple[str, str]]:
    for backup in backups:
        if backup.state == "pending":
            yield backup.id, "not stored yet: it is being copied, or its copy was cut short"
        if backup.locked_until is not None and backup.locked_until > now:
            yield backup.id, f"locked by the store (Object Lock) until {_utc(backup.locked_until)}"


def _keep_links(newest_first: Sequence[BackupFacts], known: Mapping[str, BackupFacts], keep: Reasons) -> None:
    """Whatever a kept backup builds upon stays. The newest first, so that a link is told by the newest that needs it."""
    told: set[str] = set()
    waiting = [backup for backup in reversed(newest_first) if backup.id in keep]
    while waiting:
        backup = waiting.pop()
        for link in backup.links:
            if link == backup.id or link in told or link not in known:
                continue
            told.add(link)
            if link not in keep:
                waiting.append(known[link])
            _tell(keep, link, (f"{backup.id} builds upon it",))


def _is_due(backup: BackupFacts, moving: Moving | Reclassing, now: datetime) -> bool:
    """Whether its age says that it moves. A base backup is worth something only where its WAL is, so it stays with it as long as it is kept; what is in an archive class already cannot be read."""
    return (
        backup.kind != BASE.kind
        and backup.state in INTACT
        and not backup.archived
        and now - backup.taken_at > moving.after
    )


def _moved(decision: Decision, moving: Moving | Reclassing) -> Decision:
    old = f"older than {span(moving.after)}"
    if isinstance(moving, Reclassing):
        if decision.backup.storage_class == moving.storage_class:
            return decision
        reasons = (*decision.reasons, f"{old}: it goes to the storage class {moving.storage_class}")
        return decision._replace(reasons=reasons, storage_class=moving.storage_class)
    if (why := moving.staying.get(decision.backup.id)) is not None:
        return decision._replace(reasons=(*decision.reasons, f"{old}, and does not move to {moving.to}: {why}"))
    return Decision(decision.backup, False, (f"{old}: it moves to {moving.to}",), moving.to)


def _doubts(
    target: str,
    decisions: Sequence[Decision],
    wanted: _Wanted,
    policies: Sequence[Policy],
    holds: Sequence[Hold],
    now: datetime,
    time_zone: tzinfo,
    most: float,
) -> tuple[Doubt, ...]:
    if not decisions:
        return ()
    newest = decisions[0].backup
    found = set_back(newest.taken_at, now, f"the newest backup on {target}, {newest.id},")
    going = [each.backup for each in decisions if not each.keep and each.to is None]
    moves = any(each.to is not None or each.storage_class is not None for each in decisions)
    # WAL goes by age too. A hold that has run out has aged like the rest.
    over = {hold.backup_id for hold in holds if hold.until is not None and hold.until <= now}
    if (
        moves
        or longest_window(policies) is not None
        or any(each.id in wanted.by_age or each.id in over for each in going)
    ):
        found += set_forward((each.backup.taken_at for each in decisions), now, time_zone)
    there = [each.backup for each in decisions if each.backup.state not in ("pending", "failed")]
    gone = [each.stored_bytes for each in going if each.state not in ("pending", "failed")]
    return (*found, *too_much(gone, [each.stored_bytes for each in there], most, target))


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"
