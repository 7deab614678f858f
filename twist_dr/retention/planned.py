"""A plan for one target, and how people see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timezone, tzinfo
from zoneinfo import ZoneInfo

from twist_dr.retention.facts import TargetFacts
from twist_dr.retention.model import BackupFacts, Decision, Doubt, TargetPlan, WalPlan, WalStretch
from twist_dr.settings import Settings
from twist_dr.system.progress import human_bytes
from twist_dr.system.words import counted, unmarked
from twist_dr.wal.holdings import Stored

#: Lines of a table that a page shows; a log line of 100,000 lines is read by nobody.
_MOST_LINES = 200


def calendar_zone(settings: Settings) -> tzinfo:
    """The time zone of calendar days."""
    return ZoneInfo(settings.schedules.time_zone) if settings.schedules else timezone.utc


@dataclass(frozen=True)
class PlannedCleanup:
    """What is to become of a target. ``forbidden``: doubts that nobody allowed; with any, nothing is deleted there."""

    facts: TargetFacts
    plan: TargetPlan
    wal: WalPlan
    forbidden: tuple[Doubt, ...]

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def going_bytes(self) -> int:
        """Bytes that would be free afterwards."""
        backups = sum(each.backup.stored_bytes or 0 for each in self.plan.leaving)
        incomplete = sum(each.folder.size for each in self.facts.incomplete if not each.keep)
        return backups + incomplete + sum(stored.size for stored in self.wal_deleted)

    @property
    def wal_deleted(self) -> Sequence[Stored]:
        """The objects of WAL that go."""
        return () if self.facts.wal_doubt else self.wal.deleted

    def sentence(self) -> str:
        """The plan in one line."""
        plan, wal = self.plan, len(self.wal_deleted)
        incomplete = sum(not each.keep for each in self.facts.incomplete)
        told = f"{self.name}: {len(plan.deleted)} of {len(plan.decisions)} backups go"
        told += f", {len(plan.moved)} move to {plan.moved[0].to}" if plan.moved else ""
        if plan.reclassed:
            told += f", {len(plan.reclassed)} to the storage class {plan.reclassed[0].storage_class}"
        told += f", {counted(wal, 'object')} of WAL" if wal else ""
        told += f", {counted(incomplete, 'incomplete backup')}" if incomplete else ""
        return f"{told}; {human_bytes(self.going_bytes)} altogether"

    def markdown(self) -> str:
        """The whole plan as tables: what goes first, then what stays, the newest first."""
        lines = [f"**{self.sentence()}.**"]
        lines += [f"**Not carried out:** {unmarked(str(doubt))}" for doubt in self.forbidden]
        decisions = sorted(self.plan.decisions, key=lambda each: each.keep)
        rows = [_backup_row(each.backup, _fate(each), each.reason) for each in decisions]
        rows += [
            f"| {each.folder.backup_id} | incomplete backup | {_decision(each.keep)} | {human_bytes(each.folder.size)} | {unmarked(each.reason)} |"
            for each in self.facts.incomplete
        ]
        lines.append(_table("| backup | | | stored | why |", rows) if rows else "no backups")
        if self.facts.wal_doubt:
            lines.append(f"All WAL stays: {unmarked(self.facts.wal_doubt)}")
        elif self.wal.stretches:
            lines.append(
                _table(
                    "| WAL of cluster | timeline | segments | | stored | why |",
                    [_wal_row(each) for each in self.wal.stretches],
                )
            )
        return "\n\n".join(lines)


def _table(head: str, rows: Sequence[str]) -> str:
    rule = "|" + " --- |" * (head.count("|") - 1)
    more = f"\n\n… and {len(rows) - _MOST_LINES:,} more" if len(rows) > _MOST_LINES else ""
    return "\n".join([head, rule, *rows[:_MOST_LINES]]) + more


def _backup_row(backup: BackupFacts, fate: str, reason: str) -> str:
    size = human_bytes(backup.stored_bytes) if backup.stored_bytes is not None else "-"
    state = backup.state if backup.verified is None else "verified" if backup.verified else "NOT verified"
    return f"| {backup.id} | {backup.label}, {state} | {fate} | {size} | {unmarked(reason)} |"


def _wal_row(stretch: WalStretch) -> str:
    segments = stretch.first if stretch.first == stretch.last else f"{stretch.first} to {stretch.last}"
    return (
        f"| {stretch.system_identifier} | {stretch.timeline} | {segments} | {_decision(stretch.keep)} | {human_bytes(stretch.stored_bytes)} | "
        f"{unmarked(stretch.reason)} |"
    )


def _fate(decision: Decision) -> str:
    if decision.storage_class:
        return f"keep, **to {decision.storage_class}**"
    return f"**move to {decision.to}**" if decision.to else _decision(decision.keep)


def _decision(keep: bool) -> str:
    return "keep" if keep else "**delete**"
