"""Short ways to write down backups, for tests of retention."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from twist_dr.retention.model import BackupFacts, TargetPlan
from twist_dr.retention.plan import plan_target

NOW = datetime(2026, 11, 21, 6, tzinfo=timezone.utc)
DAY = timedelta(days=1)


def backup(name: str, age: float, **facts: Any) -> BackupFacts:
    """A checked full backup, verified, of so many days before NOW."""
    values: dict[str, Any] = {
        "kind": "full",
        "label": "scheduled",
        "state": "checked",
        "verified": True,
        "stored_bytes": 100,
        **facts,
    }
    return BackupFacts(name, taken_at=NOW - age * DAY, **values)


def nights(count: int, **facts: Any) -> list[BackupFacts]:
    """``d0`` of tonight, ``d1`` of the night before, and so on."""
    return [backup(f"d{age}", age, **facts) for age in range(count)]


def chain(*names: str, age: float, **facts: Any) -> list[BackupFacts]:
    """A full base and what builds upon it, a day apart; ``age`` of the last one."""
    return [
        backup(name, age + len(names) - 1 - place, kind="base", chain=names[: place + 1], **facts)
        for place, name in enumerate(names)
    ]


def planned(backups: list[BackupFacts], *policies: Any, **options: Any) -> TargetPlan:
    return plan_target("office", backups, policies, now=options.pop("now", NOW), **options)


def kept(plan: TargetPlan) -> set[str]:
    return {each.backup.id for each in plan.kept}


def gone(plan: TargetPlan) -> set[str]:
    return {each.backup.id for each in plan.deleted}


def reason(plan: TargetPlan, backup_id: str) -> str:
    return next(each.reason for each in plan.decisions if each.backup.id == backup_id)
