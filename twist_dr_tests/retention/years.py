"""Three years of nights of one storage target: everything that can go wrong does, and each night a plan is made and carried out."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timedelta, timezone

from twist_dr.repository.manifest import Kind, Label
from twist_dr.retention.model import BackupFacts, ClusterWal, Doubt, Hold, TargetPlan, WalPlan
from twist_dr.retention.plan import good_ids, plan_target
from twist_dr.retention.wal_plan import bases_of_window, plan_wal
from twist_dr.settings.policy import Policy, longest_window
from twist_dr_tests.retention.facts import DAY
from twist_dr_tests.retention.wal_story import SIZE, Story

POLICIES = [
    [Policy(daily=7, weekly=4, monthly=3, yearly=2, last={"pre-update": 3}, wal=7 * DAY)],
    [Policy(max_age=30 * DAY, wal=30 * DAY)],
    [Policy(kinds=frozenset({"full"}), max_count=10), Policy(kinds=frozenset({"base"}), daily=3, wal=20 * DAY)],
    [Policy(daily=3, max_bytes=4000), Policy(labels=frozenset({"pre-update"}), max_age=100 * DAY)],
    [Policy(max_count=0)],
    [Policy(weekly=2, wal=3 * DAY), Policy(daily=1, max_age=timedelta(0))],
]


class Years:
    """One target. ``offset`` is how wrong the clock is; ``clock`` is what the machine believes."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.true = datetime(2026, 1, 1, 2, tzinfo=timezone.utc)
        self.offset = timedelta(0)
        self._right_again: datetime | None = None
        self.policies = POLICIES[0]
        self.backups: dict[str, BackupFacts] = {}
        self.holds: list[Hold] = []
        self.story = Story(self.true)
        self._tip: tuple[str, ...] = ()
        self._count = 0

    @property
    def clock(self) -> datetime:
        return self.true + self.offset

    def chance(self, percent: float) -> bool:
        return self.random.random() * 100 < percent

    # -- a night ------------------------------------------------------------------------------------------------------

    def night(self) -> None:
        """A day passes, and backups are made."""
        self.true += DAY * (self.random.randint(2, 5) if self.chance(1) else 1)
        self._set_clock()
        for each in [each for each in self.backups.values() if each.state == "pending"]:
            self.backups[each.id] = replace(each, state="checked")
        self._damage()
        self._back_up("full", "scheduled")
        self._back_up("configuration", "scheduled")
        if self.chance(6):
            self._back_up("full", self.random.choice(("pre-update", "pre-restore", "manual")))
        self._base()
        if self.chance(2):
            hold = Hold(self._any(), "anna", "audit", self.clock + 20 * DAY if self.chance(70) else None)
            self.holds.append(hold)
        if self.holds and self.chance(4):
            self.holds.pop(0)
        if self.chance(2):
            self.policies = self.random.choice(POLICIES)

    def _set_clock(self) -> None:
        if self._right_again is not None and self.true >= self._right_again:
            self.offset, self._right_again = timedelta(0), None
            for each in [each for each in self.backups.values() if each.taken_at > self.clock]:
                self._remove(each.id)  # as the doubt says
        elif self.chance(1) and self.offset == timedelta(0):
            self.offset = self.random.choice((-900, -40, 60, 1500)) * DAY
            self._right_again = self.true + self.random.randint(1, 2) * DAY
        self.story.now = self.clock

    def _remove(self, backup_id: str) -> None:
        gone = {each.id for each in self.backups.values() if backup_id in each.links}
        for each in gone:
            del self.backups[each]
        self.story.bases = [base for base in self.story.bases if base.id not in gone]

    def _damage(self) -> None:
        if self.backups and self.chance(2):
            rotten = self._any()
            self.backups[rotten] = replace(self.backups[rotten], state="corrupt")
        for each in [each for each in self.backups.values() if each.state == "corrupt"]:
            if self.chance(20):  # scrub repairs it
                self.backups[each.id] = replace(each, state="checked")

    def _any(self) -> str:
        return self.random.choice(sorted(self.backups))

    def _back_up(self, kind: Kind, label: Label, chain: tuple[str, ...] = ()) -> str:
        self._count += 1
        name = f"{kind}{self._count:05}"
        state = self.random.choices(("checked", "stored", "failed", "corrupt", "pending"), (90, 3, 3, 2, 2))[0]
        verdict = self.random.choices((True, None, False), (70, 25, 5))[0]
        self.backups[name] = BackupFacts(
            name,
            kind,
            label,
            self.clock,
            state,  # type: ignore[arg-type]
            None if kind == "configuration" or state not in ("checked", "stored") else verdict,
            self.random.randint(50, 150),
            (*chain, name) if kind == "base" else (),
        )
        return name

    def _base(self) -> None:
        if self.chance(0.5):  # somebody restored to an earlier point
            self.story.back_to(self.random.randint(max(0, len(self.story.moments) - 5), len(self.story.moments) - 1))
            self._tip = ()
        builds_upon = (
            self._tip if self._tip and set(self._tip) <= good_ids(self.backups) and not self.chance(15) else ()
        )
        if self.chance(15):  # a differential one
            builds_upon = builds_upon[:1]
        name = self._back_up("base", "scheduled", builds_upon)
        self._tip = self.backups[name].chain
        base = self.story.base(name, SIZE // 2, hours=0)
        self.backups[name] = replace(self.backups[name], finished_at=base.finished_at)
        self.story.write(SIZE + self.random.randint(0, SIZE), hours=20)
        self.story.partial()

    # -- the plan -----------------------------------------------------------------------------------------------------

    def cluster(self) -> ClusterWal:
        good = good_ids(self.backups)
        self.story.bases = [base for base in self.story.bases if base.id in self.backups]
        cluster = self.story.cluster()
        return replace(cluster, bases=tuple(replace(base, good=base.id in good) for base in cluster.bases))

    def plan(self, in_use: dict[str, str]) -> tuple[TargetPlan, WalPlan, dict[str, str]]:
        window, cluster, now = longest_window(self.policies), self.cluster(), self.now_of_the_plan
        needed = bases_of_window([cluster], window, now)
        plan = plan_target(
            "office",
            self.backups.values(),
            self.policies,
            now=now,
            holds=self.holds,
            in_use=in_use,
            window_bases=needed,
        )
        left = cluster.keeping({each.backup.id for each in plan.kept})
        return plan, plan_wal([left], window, now, plan.doubts), needed

    @property
    def now_of_the_plan(self) -> datetime:
        return self.clock + timedelta(hours=21)

    def carry_out(self, plan: TargetPlan, wal: WalPlan) -> None:
        for decision in plan.deleted:
            del self.backups[decision.backup.id]
        gone = set(wal.deleted)
        for found in (self.story.segments, self.story.partials):
            for each in [each for each, stored in found.items() if stored in gone]:
                del found[each]  # type: ignore[arg-type]

    @staticmethod
    def allowed_by_a_person(doubts: tuple[Doubt, ...]) -> bool:
        """Somebody looks at the plan; what is told of the clock, nobody allows."""
        return all(doubt.about == "fraction" for doubt in doubts)
