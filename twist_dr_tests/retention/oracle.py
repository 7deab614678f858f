"""Retention once more: slow, without order and shortcuts, each sentence of docs/retention.md as a condition. It shares no code with the planning."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo

from twist_dr.retention.model import BackupFacts, Hold
from twist_dr.settings.policy import Policy

HOUR = timedelta(hours=1)
#: What a schedule makes, and what somebody makes before a change.
NIGHTS, CHANGES = ("scheduled", "weekly", "monthly"), ("pre-update", "pre-restore")


class Oracle:
    """Answers for one set of backups at one time."""

    def __init__(
        self,
        backups: Iterable[BackupFacts],
        policies: Sequence[Policy],
        now: datetime,
        time_zone: tzinfo,
        holds: Collection[Hold] = (),
        in_use: Mapping[str, str] | None = None,
    ) -> None:
        self.held = {each.id: each for each in backups if each.state != "deleted"}
        self.policies, self.now, self.time_zone = policies, now, time_zone
        self.holds, self.in_use = holds, in_use or {}
        self._good = {each.id for each in self.held.values() if self._is_good(each)}

    def kept(self) -> set[str]:
        """Ids of all that stays."""
        staying = {each.id for each in self.held.values() if self.wanted(each) or self.protected(each)}
        while True:
            links = {link for each in staying for link in self.held[each].links if link in self.held}
            if links <= staying:
                return staying
            staying |= links

    # -- the policies ---------------------------------------------------------------------------------------------

    def wanted(self, backup: BackupFacts) -> bool:
        answers = [self._says(policy, backup) for policy in self.policies]
        return "keep" in answers or "go" not in answers

    def _says(self, policy: Policy, backup: BackupFacts) -> str:
        if backup not in self._concerned(policy, backup.kind):
            return "nothing"
        capped = any(cap is not None for cap in (policy.max_age, policy.max_count, policy.max_bytes))
        if not capped and not self._rules_speak(policy, backup):
            return "nothing"
        if not self._rules_want(policy, backup) or not self._young(policy, backup):
            return "go"
        ahead = [
            each
            for each in self._concerned(policy, backup.kind)
            if self._rules_want(policy, each) and self._young(policy, each) and self._place(each) <= self._place(backup)
        ]
        if policy.max_count is not None and len({each.links[0] for each in ahead}) > policy.max_count:
            return "go"
        needed = {link for each in ahead for link in each.links if link in self.held}
        if (
            policy.max_bytes is not None
            and sum(self.held[link].stored_bytes or 0 for link in needed) > policy.max_bytes
        ):
            return "go"
        return "keep"

    def _concerned(self, policy: Policy, kind: str) -> list[BackupFacts]:
        return [
            each
            for each in self.held.values()
            if each.kind == kind
            and (policy.kinds is None or each.kind in policy.kinds)
            and (policy.labels is None or each.label in policy.labels)
        ]

    def _place(self, backup: BackupFacts) -> tuple[bool, bool, bool, float, list[int]]:
        """Good before bad, what grace keeps after what is kept for good, whole before partial, new before old."""
        return (
            not self.good(backup),
            self._has_grace(backup),
            backup.partial,
            -backup.taken_at.timestamp(),
            [-ord(letter) for letter in backup.id],
        )

    def _young(self, policy: Policy, backup: BackupFacts) -> bool:
        return policy.max_age is None or self.now - backup.taken_at <= policy.max_age

    def _rules_speak(self, policy: Policy, backup: BackupFacts) -> bool:
        return max(policy.daily, policy.weekly, policy.monthly, policy.yearly) > 0 or backup.label in policy.last

    def _rules_want(self, policy: Policy, backup: BackupFacts) -> bool:
        if not self._rules_speak(policy, backup):
            return True
        return any(self._in_slot(policy, backup, word) for word in ("daily", "weekly", "monthly", "yearly")) or (
            backup.label in policy.last
            and self._newer(backup, self._rivals(policy, backup, label=backup.label)) < policy.last[backup.label]
        )

    def _rivals(self, policy: Policy, backup: BackupFacts, label: str | None = None) -> list[BackupFacts]:
        """Those that count against it: against a good one, only good ones."""
        return [
            each
            for each in self._concerned(policy, backup.kind)
            if (label is None or each.label == label) and (self.good(each) or not self.good(backup))
        ]

    def _newer(self, backup: BackupFacts, others: Iterable[BackupFacts]) -> int:
        return sum((each.taken_at, each.id) > (backup.taken_at, backup.id) for each in others)

    def _in_slot(self, policy: Policy, backup: BackupFacts, word: str) -> bool:
        if backup.label in CHANGES:
            return False
        newest: dict[str, BackupFacts] = {}
        rivals = [each for each in self._rivals(policy, backup) if each.label not in CHANGES]
        for each in sorted(rivals, key=lambda each: (each.label in NIGHTS, each.taken_at, each.id)):
            newest[self._period(each, word)] = each
        return newest[self._period(backup, word)] is backup and self._newer(backup, newest.values()) < getattr(
            policy, word
        )

    def _period(self, backup: BackupFacts, word: str) -> str:
        local = backup.taken_at.astimezone(self.time_zone)
        return local.strftime({"daily": "%Y-%m-%d", "weekly": "%G-%V", "monthly": "%Y-%m", "yearly": "%Y"}[word])

    # -- what stays anyhow ------------------------------------------------------------------------------------------

    def whole(self, backup: BackupFacts) -> bool:
        return all(
            link in self.held and self.held[link].state in ("stored", "checked") for link in (backup.id, *backup.links)
        )

    def good(self, backup: BackupFacts) -> bool:
        return backup.id in self._good

    def _is_good(self, backup: BackupFacts) -> bool:
        if backup.verified is not None:
            return backup.verified and self.whole(backup)
        return self.whole(backup) and not any(self.held[link].verified is False for link in backup.links)

    def protected(self, backup: BackupFacts) -> bool:
        return (
            any(hold.backup_id == backup.id and (not hold.until or hold.until > self.now) for hold in self.holds)
            or backup.id in self.in_use
            or backup.state == "pending"
            or (backup.locked_until is not None and backup.locked_until > self.now)
            or self._is_a_last_one(backup)
            or self._has_grace(backup)
            or (backup.kind == "base" and self._carries_the_window(backup))
        )

    def _has_grace(self, backup: BackupFacts) -> bool:
        if backup.label in NIGHTS:
            return False
        if backup.label in CHANGES and any(backup.label in policy.last for policy in self.policies):
            return False
        return any(
            backup in self._concerned(policy, backup.kind) and self.now - backup.taken_at < policy.grace
            for policy in self.policies
        )

    def _is_a_last_one(self, backup: BackupFacts) -> bool:
        same = [each for each in self.held.values() if each.kind == backup.kind]
        past = [each for each in same if each.taken_at <= self.now + HOUR]
        groups = [
            [each for each in those if test(each)]
            for some in (same, past)
            for those in (some, [each for each in some if each.label not in CHANGES])
            for test in (
                lambda each: each.verified is True and self.good(each),
                lambda each: each.verified is True,
                self.good,
                lambda each: each.state == "checked",
                self.whole,
                lambda each: True,
            )
        ]
        return any(backup in group and self._newer(backup, group) == 0 for group in groups)

    def _carries_the_window(self, backup: BackupFacts) -> bool:
        windows = [policy.wal for policy in self.policies if policy.wal is not None]
        if not windows:
            return False
        begin = self.now - max(windows)
        bases = [each for each in self.held.values() if each.kind == "base" and each.state != "pending"]
        before = [each for each in bases if (each.finished_at or each.taken_at) <= begin]
        carriers = [each for each in before if self.good(each)] or before
        after = [each for each in bases if each not in before and self.good(each)]
        is_first = backup in carriers and self._newer(backup, carriers) == 0
        is_following = backup in after and self._newer(backup, after) == len(after) - 1
        return is_first or is_following
