"""What is verified less often than it is backed up: which backups get their turn, and what that means for who asks whether he is safe."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from twist_dr.catalog import BackupRow
from twist_dr.doctor.unattended import check_proof_time
from twist_dr.settings import Settings
from twist_dr.watch.proving import allowed_age, proof_is_due
from twist_dr.watch.schedules import entries
from twist_dr_tests.doctor.test_doctor import drain
from twist_dr_tests.watch.alerts.scenes import DAY, HOUR, NOW, backup, found, proof, settings, with_copy, with_fulls

GIB = 1 << 30


def policy(when: str, **changes: Any) -> Settings:
    return settings(verification={"when": when, **changes}, schedules={"time_zone": "Europe/Berlin"})


def unproven(at: datetime, **changes: Any) -> BackupRow:
    return replace(backup(at), last_verification=None, **changes)


@pytest.mark.parametrize(
    ("when", "made", "proven", "due"),
    [
        ("each", "2026-11-20T13:00", "2026-11-20T02:00", True),
        ("daily", "2026-11-20T13:00", "2026-11-20T02:00", False),
        # Half past midnight in Berlin is another day than midnight was in UTC.
        ("daily", "2026-11-20T23:30", "2026-11-20T02:00", True),
        ("weekly", "2026-11-22T22:30", "2026-11-16T02:00", False),
        ("weekly", "2026-11-22T23:30", "2026-11-16T02:00", True),
        ("weekly", "2026-11-20T02:00", None, True),
    ],
)
def test_the_first_backup_of_a_day_or_week_is_verified(when: str, made: str, proven: str | None, due: bool) -> None:
    at, before = (
        None if text is None else datetime.fromisoformat(text).replace(tzinfo=timezone.utc) for text in (made, proven)
    )
    assert at is not None
    assert proof_is_due(policy(when), unproven(at), None if before is None else backup(before)) == due


def test_small_backups_are_verified_each_time() -> None:
    weekly, proven = policy("weekly", each_below_gib=10), backup(NOW - DAY)
    assert proof_is_due(weekly, unproven(NOW, plain_bytes=9 * GIB), proven)
    assert not proof_is_due(weekly, unproven(NOW - HOUR, plain_bytes=11 * GIB), backup(NOW - 2 * HOUR))


def test_what_waits_for_its_turn_lets_the_proven_one_be_older_and_nothing_else_does() -> None:
    fresh, old = unproven(NOW - 3 * HOUR), backup(NOW - 4 * DAY)
    objective = settings().objectives.recovery_point
    allowed = {
        "its turn has not come": allowed_age(policy("weekly"), [fresh, old], NOW),
        "each is verified": allowed_age(policy("each"), [fresh, old], NOW),
        "small": allowed_age(policy("weekly", each_below_gib=100), [fresh, old], NOW),
        "found bad": allowed_age(
            policy("weekly"), [replace(fresh, last_verification=proof(fresh, verified=False)), old], NOW
        ),
        "itself too old": allowed_age(policy("weekly"), [unproven(NOW - 3 * DAY), old], NOW),
        "no checked copy": allowed_age(policy("weekly"), [replace(fresh, copies=()), old], NOW),
        "what a restore replaced": allowed_age(policy("weekly"), [replace(fresh, label="pre-restore"), old], NOW),
        "nothing": allowed_age(policy("weekly"), [], NOW),
    }
    assert allowed.pop("its turn has not come") == objective + timedelta(days=7)
    assert set(allowed.values()) == {objective}


def test_the_alert_goes_by_the_policy() -> None:
    rows = [
        unproven(NOW - 3 * HOUR),
        *(unproven(NOW - 3 * HOUR - night * DAY) for night in range(1, 4)),
        backup(NOW - 4 * DAY),
    ]
    facts = with_fulls(*rows)
    facts = replace(
        facts, backups={"full": rows, **{kind: () for kind in facts.backups if kind != "full"}}, verified_base=None
    )
    assert "no_recovery_point" not in found(facts, policy("weekly"))
    told = found(facts, policy("daily"))["no_recovery_point"]
    assert told.severity == "critical" and "2 days" in told.message
    bad = with_copy(with_copy(rows[0], "office", "failed"), "cloud", "failed")
    facts = replace(facts, backups={**facts.backups, "full": [bad, *rows[1:]]})
    assert found(facts, policy("weekly"))["no_recovery_point"].severity == "critical"


def test_the_doctor_reckons_from_the_last_verification_whether_there_is_time_for_it() -> None:
    row = backup(NOW - DAY)
    nightly = next(entry for entry in entries(policy("each")) if entry.kind == "full")
    for seconds, when, severity in (
        (3600.0, "each", "ok"),
        (15 * 3600.0, "each", "warning"),
        (15 * 3600.0, "weekly", "ok"),
    ):
        slow = replace(row, last_verification=proof(row, seconds=seconds))
        findings, _ = drain(check_proof_time(nightly, slow, NOW, when=when))
        assert [each.status for each in findings] == [severity]
        assert "full backups are 24 h" in findings[0].found
