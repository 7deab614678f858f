"""Facts as they are when all is well, to break one thing at a time."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from twist_dr.catalog import AttemptRow, BackupRow, CopyRow, RestoreRow, SpaceRow, VerificationRow, WalPositionRow
from twist_dr.settings import Settings
from twist_dr.watch.alerts.facts import DiskSpace, Facts, KnownBase
from twist_dr.watch.alerts.rules import findings
from twist_dr.watch.alerts.rules_common import Finding
from twist_dr_tests.settings.test_settings import good, parsed

#: Saturday, an hour after everything of the night was done.
NOW = datetime(2026, 11, 21, 5, 0, tzinfo=timezone.utc)
HOUR, DAY, MINUTE = timedelta(hours=1), timedelta(days=1), timedelta(minutes=1)
MB = 1_000_000
TARGETS = ("office", "cloud")
SCHEDULES = {"drill": None, "scrub": None, "configuration": None, "test_targets": None}


def settings(**changes: Any) -> Settings:
    targets = {name: {"type": "local", "path": f"/backups/{name}"} for name in TARGETS}
    return parsed(good(**{"storage_targets": targets, "schedules": SCHEDULES, **changes}))


def copy(
    backup_id: str,
    target: str,
    at: datetime,
    state: Any = "checked",
    error: str | None = None,
    code: str | None = None,
) -> CopyRow:
    checked_at = at if state in ("checked", "corrupt") else None
    return CopyRow(backup_id, target, state, "zstd+enc", 300 * MB, 20.0, at, checked_at, error, None, code)


def proof(row: BackupRow, *, verified: bool = True, seconds: float = 240, **changes: Any) -> VerificationRow:
    state: Any = "verified" if verified else "unverified"
    differences = () if verified else ("public.invoice: 7 rows restored where 9 were recorded",)
    values = VerificationRow(
        row.backup_id, "office", state, row.finished_at + 5 * MINUTE, seconds, seconds / 2, 40, 1000, 20, "18.1",
        differences, (), f"verify of {row.backup_id}",
    )  # fmt: skip
    return replace(values, **changes)


def backup(at: datetime, kind: Any = "full", **changes: Any) -> BackupRow:
    """A good backup, proven if it is a full one."""
    backup_id = f"{at:%Y%m%dT%H%M%SZ}-{kind}-0001"
    parts: Any = ("database", "media") if kind == "full" else ("cluster",)
    row = BackupRow(
        backup_id, "erp", kind, "scheduled", "", "dagster", at, at + 10 * MINUTE, parts, 900 * MB, 300 * MB, "1", "s1", "k1",
        f"run of {backup_id}", 0, tuple(copy(backup_id, name, at + 12 * MINUTE) for name in TARGETS), None,
    )  # fmt: skip
    row = replace(row, last_verification=proof(row) if kind == "full" else None)
    return replace(row, **changes)


def with_copy(row: BackupRow, target: str, state: Any, error: str | None = None, code: str | None = None) -> BackupRow:
    return replace(
        row,
        copies=tuple(
            copy(row.backup_id, each.target, each.updated_at, state, error, code) if each.target == target else each
            for each in row.copies
        ),
    )


def nights(count: int, kind: Any = "full", last: datetime = NOW - 3 * HOUR, **changes: Any) -> list[BackupRow]:
    """Backups of so many nights, newest first."""
    return [backup(last - night * DAY, kind, **changes) for night in range(count)]


def attempt(
    job: str = "backup_full", at: datetime = NOW - 3 * HOUR, state: Any = "succeeded", **changes: Any
) -> AttemptRow:
    values: dict[str, Any] = {
        "run_id": f"{job} at {at:%d %H:%M}", "application": "erp", "job": job, "label": "scheduled", "scheduled_for": at,
        "who": "dagster", "started_at": at, "state": state, "finished_at": None if state == "running" else at + 15 * MINUTE,
    }  # fmt: skip
    if state == "failed":
        values |= {
            "step": "full_backup",
            "error": "The server does not answer; start it.",
            "error_code": "database_unreachable",
        }
    return AttemptRow(**{**values, **changes})


def position(target: str, **changes: Any) -> WalPositionRow:
    values = WalPositionRow(
        "erp",
        target,
        "7001",
        1,
        "0/9000000",
        NOW - MINUTE,
        NOW - MINUTE,
        waiting=0,
        oldest_seconds=0.0,
        spool_bytes=16 * MB,
    )
    return replace(values, **changes)


def base(start_lsn: int = 0x2000000, sort: str = "full") -> KnownBase:
    return KnownBase(sort, "7001", start_lsn)


def restore(at: datetime = NOW - HOUR, **changes: Any) -> RestoreRow:
    values = RestoreRow(
        f"{at:%Y%m%dT%H%M%SZ}-restore", "erp", "restore", "replace", "ops", "", "b1", None, ("office",), (), True, ("database",),
        40, 1000, 20, "done", at, at + 5 * MINUTE, {}, 0.1, "erp", (), "done", None, f"restore run at {at:%H:%M}",
    )  # fmt: skip
    return replace(values, **changes)


def samples(
    *frees: float, target: str = "office", every: timedelta = DAY, last: datetime = NOW - HOUR
) -> list[SpaceRow]:
    """Space on a target of 1 TB, oldest first; ``frees`` in GB."""
    count = len(frees)
    return [
        SpaceRow(target, last - every * (count - 1 - index), 0, int(free * 1e9), 10**12)
        for index, free in enumerate(frees)
    ]


def healthy(**changes: Any) -> Facts:
    """Twelve good nights, everything in order."""
    fulls = nights(12)
    values: dict[str, Any] = {
        "since": NOW - 60 * DAY,
        "schedules_since": dict.fromkeys(("full", "base", "base_incremental", "configuration", "scrub", "drill"), NOW - 60 * DAY),
        "targets_since": dict.fromkeys(TARGETS, NOW - 60 * DAY),
        "backups": {"full": fulls, "base": [], "configuration": []},
        "tables": {row.backup_id: {"public.invoice": 9000, "public.session": 500} for row in fulls[:4]},
        "checked": dict.fromkeys(TARGETS, fulls[0]),
        "attempts": {
            "backup_full": [attempt(at=row.started_at, run_id=row.run_id) for row in fulls],
            "verify_backup": [attempt("verify_backup", row.started_at + 20 * MINUTE) for row in fulls],
            "cleanup": [attempt("cleanup", row.started_at + 40 * MINUTE) for row in fulls],
        },
        "space": {name: samples(600, 599, 598, target=name) for name in TARGETS},
        "staging": DiskSpace(60 * 10**9, 10**11),
    }  # fmt: skip
    return Facts(**{**values, **changes})


def with_fulls(*newest: BackupRow, **changes: Any) -> Facts:
    """The healthy facts with other backups in the place of the newest full ones."""
    facts = healthy()
    rows = [*newest, *facts.backups["full"][len(newest) :]]
    return replace(facts, **{"backups": {**facts.backups, "full": rows}, **changes})


def with_attempts(job: str, *rows: AttemptRow, keep: bool = True, **changes: Any) -> Facts:
    """The healthy facts with these runs, newest first, before those that there were."""
    facts = healthy(**changes)
    before = (
        [row for row in facts.attempts.get(job, ()) if row.started_at < rows[-1].started_at] if keep and rows else []
    )
    return replace(facts, attempts={**facts.attempts, job: [*rows, *before]})


def found(facts: Facts, given: Settings | None = None, now: datetime = NOW) -> dict[str, Finding]:
    """By cause."""
    return {each.cause: each for each in findings(facts, given or settings(), now)}
