"""A grant that ended is told as that, with the command that renews it; one that will end is told before."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import pytest

from twist_dr.catalog import TargetTestRow
from twist_dr.settings import Settings
from twist_dr.storage.local import LocalOptions
from twist_dr.storage.machine import Grant
from twist_dr.storage.oauth import GOOGLE, GOOGLE_OWN_FILES, OAuthClient, microsoft
from twist_dr.watch.alerts.facts import Facts, KeptGrant
from twist_dr.watch.alerts.rules_common import Finding
from twist_dr_tests.watch.alerts.scenes import DAY, HOUR, NOW, found, healthy, nights, position, settings, with_copy

CLIENT = OAuthClient(GOOGLE, "client", "secret", (GOOGLE_OWN_FILES,))
ENDED = "cloud: Google has ended the grant of ada@example.org, given on 2026-01-01 (invalid_grant); renew it with: twist-dr targets authorize cloud"


@pytest.fixture
def of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Settings whose target ``cloud`` is used by that client."""

    def use(client: OAuthClient) -> Settings:
        whose = property(lambda target: client if target.path.name == "cloud" else None)
        monkeypatch.setattr(LocalOptions, "oauth", whose)
        return settings()

    return use


def granted(at: datetime = NOW - 100 * DAY, **changes: Any) -> Facts:
    return replace(
        healthy(), grants={"cloud": KeptGrant(Grant("refresh", at, refreshed=changes.pop("refreshed", NOW - HOUR), **changes))}
    )  # fmt: skip


def only(facts: Facts, of: Settings, now: datetime = NOW) -> Finding | None:
    findings = [
        each for each in found(facts, of, now).values() if each.kind in ("reauthorize", "grant_ends", "client_secret")
    ]
    assert len(findings) <= 1
    return findings[0] if findings else None


def test_a_revoked_grant_is_said_to_be_that_until_the_owner_renews_it(of: Any) -> None:
    here = of(CLIENT)
    facts = granted()
    assert only(facts, here) is None
    failed = [with_copy(row, "cloud", "failed", ENDED, "target_reauthorize") for row in nights(1)] + nights(3)[1:]
    facts = replace(facts, backups={**facts.backups, "full": failed})
    finding = only(facts, here)
    assert finding is not None
    assert finding.message.startswith("Google Drive backup failed: reauthorize cloud (")
    assert finding.advice.startswith("Run: twist-dr targets authorize cloud")
    assert (finding.severity, finding.state, finding.target) == ("error", "degraded", "cloud")
    assert not [each for each in found(facts, here, NOW).values() if each.kind in ("credentials", "target_unreachable")]
    renewed = replace(facts, grants=granted(NOW - HOUR).grants)
    assert only(renewed, here) is None


def test_a_test_and_write_ahead_log_that_were_refused_are_told_so_too(of: Any) -> None:
    here = of(CLIENT)
    test = TargetTestRow(1, "cloud", NOW - HOUR, False, "drive", None, ENDED, 1.0, "target_reauthorize")
    finding = only(replace(granted(), target_tests=[test]), here)
    assert finding is not None and finding.message.startswith("Google Drive test failed: reauthorize cloud")
    refused = position("cloud", error=ENDED, error_code="target_reauthorize")
    finding = only(replace(granted(), positions={"cloud": refused}), here)
    assert finding is not None and finding.message.startswith("Google Drive write-ahead log failed: reauthorize cloud")


def test_what_is_not_kept_or_cannot_be_read_is_told_before_a_backup_fails(of: Any) -> None:
    here = of(CLIENT)
    finding = only(replace(healthy(), grants={"cloud": KeptGrant(None)}), here)
    assert finding is not None and "nobody has authorized cloud yet" in finding.message
    damaged = KeptGrant(None, "/etc/erp/secrets.yaml is no secrets file: truncated or overwritten; bring it back")
    finding = only(replace(healthy(), grants={"cloud": damaged}), here)
    assert finding is not None and "no secrets file" in finding.message


@pytest.mark.parametrize(
    ("client", "changes", "severity", "words"),
    [
        (CLIENT, {"ends": NOW + 6 * DAY}, "warning", "ends in 6 days, as Google said when it was given"),
        (CLIENT, {"ends": NOW + 2 * DAY}, "error", "ends in 2 days"),
        (CLIENT, {"ends": NOW - HOUR}, "error", "ended at 2026-11-21 04:00 UTC"),
        (CLIENT, {"refreshed": NOW - 149 * DAY}, None, ""),
        (CLIENT, {"refreshed": NOW - 151 * DAY}, "warning", "has not been used for 151 days, and Google ends one after 180 days"),
        (replace(CLIENT, provider=microsoft()), {"refreshed": NOW - 61 * DAY}, "warning", "Microsoft ends one after 90 days"),
        (replace(CLIENT, provider=microsoft()), {"refreshed": NOW - 88 * DAY}, "error", "ends in 2 days"),
        (replace(CLIENT, secret_expires=date(2026, 12, 20)), {}, "warning", "ends in 29 days (client_secret_expires: 2026-12-20)"),
        (replace(CLIENT, secret_expires=date(2026, 11, 20)), {}, "error", "has ended (client_secret_expires: 2026-11-20)"),
        (replace(CLIENT, secret_expires=date(2027, 11, 20)), {}, None, ""),
    ],
)  # fmt: skip
def test_the_end_of_a_grant_and_of_a_client_secret_is_told_before(
    of: Any, client: OAuthClient, changes: dict[str, Any], severity: str | None, words: str
) -> None:
    finding = only(granted(**changes), of(client))
    assert (finding and finding.severity) == severity
    assert finding is None or words in finding.message, finding


def test_a_disabled_targets_grant_ages_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalOptions, "oauth", property(lambda target: CLIENT if target.path.name == "cloud" else None))
    targets = {
        name: {"type": "local", "path": f"/b/{name}", "enabled": name != "cloud"} for name in ("office", "cloud")
    }
    finding = only(granted(refreshed=NOW - timedelta(days=160)), settings(storage_targets=targets))
    assert finding is not None and "enable the target" in finding.advice
