"""What one policy says of the backups of one kind: rules say what is wanted, caps say what of that goes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone, tzinfo
from functools import cache
from itertools import groupby
from typing import Literal

from twist_dr.repository.labels import BEFORE_A_CHANGE, OF_NIGHTS
from twist_dr.retention.model import BackupFacts
from twist_dr.settings.policy import Policy
from twist_dr.system.words import counted


@dataclass(frozen=True)
class Verdict:
    """``by`` is what decided; ``reasons`` are half sentences. Where many backups share one, they share the object too: plans are large."""

    by: Literal["rule", "caps", "no rule", "age", "count", "bytes"]
    reasons: tuple[str, ...]

    @property
    def keep(self) -> bool:
        return self.by in ("rule", "caps")


_WITHIN = Verdict("caps", ("within the policy's caps",))
_UNWANTED = Verdict("no rule", ("no rule keeps it",))


@dataclass(frozen=True)
class _Rule:
    """A rule by the calendar: what tells one period from another, and its name for people."""

    period: Callable[[date], object]
    name: Callable[[date], str]


_GENERATIONS = {
    "daily": _Rule(lambda day: day, lambda day: f"{day:%Y-%m-%d}"),
    "weekly": _Rule(lambda day: day.isocalendar()[:2], lambda day: "week {1} of {0}".format(*day.isocalendar())),
    "monthly": _Rule(lambda day: (day.year, day.month), lambda day: f"{day:%Y-%m}"),
    "yearly": _Rule(lambda day: day.year, lambda day: f"{day.year}"),
}


def verdicts(
    policy: Policy,
    newest_first: Sequence[BackupFacts],
    good: Collection[str],
    graced: Collection[str],
    known: Mapping[str, BackupFacts],
    now: datetime,
    days: Mapping[str, date],
) -> dict[str, Verdict]:
    """By id, of the backups of one kind that the policy has anything to say about.

    ``good`` are the ids that may take a slot from others, ``graced`` those that stay for a while whatever is said, ``known`` everything on the target: a base costs its chain. ``days`` are
    those on which they were taken by the calendar of the settings; without rules by the calendar none are asked for.
    """
    concerned = [backup for backup in newest_first if policy.selects(backup.kind, backup.label)]
    found = _by_rules(policy, concerned, good, days)
    if policy.max_age is None and policy.max_count is None and policy.max_bytes is None:
        return found
    for backup in concerned:
        found.setdefault(backup.id, _WITHIN)
    # No bad one may push a good one out, nor one without media a whole one, nor what goes when its grace is over one that was to stay.
    wanted = [backup for backup in concerned if found[backup.id].keep]
    wanted.sort(key=lambda backup: (backup.id not in good, backup.id in graced, backup.partial))
    return {**found, **_by_caps(policy, wanted, known, now)}


def _by_rules(
    policy: Policy, concerned: Sequence[BackupFacts], good: Collection[str], days: Mapping[str, date]
) -> dict[str, Verdict]:
    """What the rules say; nothing of a backup that no rule speaks of. ``last`` speaks of its labels only."""
    reasons: dict[str, list[str]] = {}
    generations = [(word, count) for word in _GENERATIONS if (count := getattr(policy, word)) > 0]
    for word, count in generations:
        rule = _GENERATIONS[word]
        for backup in _slots(concerned, good, count, rule, days):
            reasons.setdefault(backup.id, []).append(
                f"{word}: the newest of {rule.name(days[backup.id])}"
                if backup.id in good
                else f"{word}: would be kept if it were good"
            )
    for label, count in policy.last.items():
        of_label = [backup for backup in concerned if backup.label == label]
        sound = [backup for backup in of_label if backup.id in good]
        others = [backup for backup in of_label[: max(count, 0)] if backup.id not in good]
        for backup in [*sound[: max(count, 0)], *others]:
            reasons.setdefault(backup.id, []).append(f"among the last {count} labelled {label}")
    spoken_of = concerned if generations else [backup for backup in concerned if backup.label in policy.last]
    return {
        backup.id: Verdict("rule", tuple(reasons[backup.id])) if backup.id in reasons else _UNWANTED
        for backup in spoken_of
    }


def _slots(
    concerned: Sequence[BackupFacts], good: Collection[str], count: int, rule: _Rule, days: Mapping[str, date]
) -> Iterator[BackupFacts]:
    """The newest good one of each of the last ``count`` periods that have one, and the others that would have had a slot as good ones.

    Of a period it is the newest of the nights; where no night left one, the newest that was made by hand; one without some parts last.
    """
    countable = [backup for backup in concerned if backup.label not in BEFORE_A_CHANGE]
    period_of = cache(rule.period)
    of_good = 0
    for of_any, (_, period) in enumerate(groupby(countable, key=lambda backup: period_of(days[backup.id]))):
        # Whole ones first, of these the nights; each part stays in its order, newest first.
        best_first = sorted(period, key=lambda backup: (backup.partial, backup.label not in OF_NIGHTS))
        if of_any < count and best_first[0].id not in good:
            yield best_first[0]
        best = next((backup for backup in best_first if backup.id in good), None)
        if best is not None:
            yield best
            of_good += 1
            if of_good == count:
                return


def _by_caps(
    policy: Policy, wanted: Sequence[BackupFacts], known: Mapping[str, BackupFacts], now: datetime
) -> dict[str, Verdict]:
    """Those of ``wanted`` that a cap takes away. From the first one on that is beyond count or bytes, all are: the newest stay."""
    gone: dict[str, Verdict] = {}
    beyond: Verdict | None = None
    too_old = Verdict("age", (f"older than {span(policy.max_age)}" if policy.max_age is not None else "",))
    size, chains, counted = 0, set[str](), set[str]()
    for backup in wanted:
        if policy.max_age is not None and now - backup.taken_at > policy.max_age:
            gone[backup.id] = too_old
            continue
        if beyond is None:
            chains.add(backup.links[0])
            size += sum(known[link].stored_bytes or 0 for link in backup.links if link in known and link not in counted)
            counted.update(backup.links)
            beyond = _beyond(policy, len(chains), size)
        if beyond is not None:
            gone[backup.id] = beyond
    return gone


def _beyond(policy: Policy, count: int, size: int) -> Verdict | None:
    if policy.max_count is not None and count > policy.max_count:
        return Verdict("count", (f"beyond the newest {policy.max_count}",))
    if policy.max_bytes is not None and size > policy.max_bytes:
        return Verdict("bytes", (f"beyond {policy.max_bytes:,} bytes",))
    return None


def local_day(moment: datetime, time_zone: tzinfo) -> date:
    """The day of ``moment`` by the calendar of ``time_zone``; at the ends of the calendar, where there is no such day, that of UTC."""
    try:
        return moment.astimezone(time_zone).date()
    except OverflowError:
        return moment.astimezone(timezone.utc).date()


def local_days(backups: Iterable[BackupFacts], time_zone: tzinfo) -> dict[str, date]:
    """:func:`local_day` of each, by id; the same object for those of one day that stand in a row."""
    found: dict[str, date] = {}
    before = date.min
    for backup in backups:
        day = local_day(backup.taken_at, time_zone)
        found[backup.id] = before = before if day == before else day
    return found


def span(length: timedelta) -> str:
    """``30 days``, ``36 hours``, ``90 seconds``: in the largest unit that fits."""
    seconds = int(length.total_seconds())
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds and seconds % size == 0:
            return counted(seconds // size, unit)
    return counted(seconds, "second")
