"""Drives that will fail soon: how full they are, what their provider takes a day, and what they can do is known from a test of a small object."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from twist_dr.catalog import SpaceRow
from twist_dr.errors import TargetUnavailable
from twist_dr.operations import Config
from twist_dr.operations.targets import test_storage_targets as try_targets
from twist_dr.settings import Application
from twist_dr.watch.alerts.facts import gather
from twist_dr.watch.alerts.rules import findings
from twist_dr.watch.alerts.rules_common import Finding
from twist_dr_tests.drives.cloud import Cloud
from twist_dr_tests.orchestrator.jobs.test_backup_drives import TARGETS, authorized, drives
from twist_dr_tests.site import Site

__all__ = ["drives"]
GB = 10**9


def told(app: Application) -> dict[str, Finding]:
    """What is said of the targets, by cause; not that nothing was stored there yet."""
    now = datetime.now(timezone.utc)
    found = findings(gather(app, now), app.settings, now)
    return {each.cause: each for each in found if each.target is not None and each.severity != "info"}


def test_a_drive_is_told_of_before_it_is_full_and_before_its_provider_takes_no_more(
    drives: Site, vendors: Cloud
) -> None:
    for target in TARGETS:
        authorized(drives, vendors, target)
    vendors.google.quota = 100 * GB
    app = drives.app()
    can = {test.target: test.capabilities for test in try_targets(app, Config())}
    assert {name: each.checksum for name, each in can.items() if each} == {"drive": "sha256", "onedrive": "quickxor"}
    assert told(app) == {}
    now = datetime.now(timezone.utc)
    (space,) = app.catalog.space("drive", since=now - timedelta(hours=1))
    assert space.total == 100 * GB and space.free is not None and 99 * GB < space.free <= 100 * GB

    for days, more in ((6, 70), (3, 35)):
        app.catalog.record_space(SpaceRow("drive", now - timedelta(days=days), None, space.free + more * GB, 200 * GB))
    assert "as it fills now, drive is full in 9 days." in told(app)["capacity:drive"].message

    app.count_upload("drive", 700 * GB)
    assert set(told(app)) == {"capacity:drive", "upload_limit:drive"}
    assert "700.0 GB were stored on drive within 24 hours, of 750.0 GB" in told(app)["upload_limit:drive"].message

    vendors.google.daily_limit = 0
    with pytest.raises(TargetUnavailable, match=r"1 of 2 storage targets cannot be used\. drive:"):
        try_targets(app, Config())
    assert "Google Drive takes and gives no more bytes today" in told(app)["upload_limit:drive"].message
    assert not any(cause.endswith(":onedrive") for cause in told(app))
