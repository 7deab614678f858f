"""``dagster job execute -j test_storage_targets``."""

from __future__ import annotations

import os
import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from twist_dr.backup.copies import copy_backup
from twist_dr.errors import TargetUnavailable
from twist_dr.operations import Config
from twist_dr.operations.targets import in_a_line
from twist_dr.operations.targets import test_storage_targets as try_targets
from twist_dr.storage.base import Capabilities
from twist_dr.storage.local import LocalOptions
from twist_dr.storage.trial import TargetTest
from twist_dr.watch.alerts.facts import gather
from twist_dr.watch.alerts.rules import findings
from twist_dr_tests.site import Site
from twist_dr_tests.storage.servers import rclone_server


def test_every_target_is_tried_and_what_it_can_do_is_recorded(site: Site, tmp_path: Path) -> None:
    (tmp_path / "s3" / "bucket").mkdir(parents=True)
    with rclone_server(tmp_path / "s3") as s3:
        site.variables["S3_SECRET"] = s3.secret_key
        cloud = {"type": "s3", "bucket": "bucket", "endpoint_url": s3.endpoint, "access_key_id": s3.access_key}
        site.document["storage_targets"]["cloud"] = {**cloud, "secret_access_key": "${S3_SECRET}"}
        site.save()
        text = site.job("test_storage_targets").expect(0).text
    assert text.count("written, read back, compared and deleted in") >= 3
    tests = {test.target: test for test in site.catalog().target_tests()}
    assert all(tests[name].ok for name in ("office", "archive", "cloud"))
    assert tests["office"].capabilities is not None and tests["office"].capabilities["write_once"] is True
    assert [path for path in (tmp_path / "s3" / "bucket").rglob("*") if path.is_file()] == [], "nothing is left behind"


def test_a_broken_target_is_said_in_words_and_the_others_are_tried_all_the_same(site: Site, tmp_path: Path) -> None:
    site.document["storage_targets"]["gone"] = {"type": "local", "path": str(tmp_path / "no" / "such" / "disk")}
    site.save()
    text = site.job("test_storage_targets").expect(1).text
    assert "1 of 3 storage targets cannot be used. gone:" in text
    tests = {test.target: test for test in site.catalog().target_tests()}
    assert {name: test.ok for name, test in tests.items()} == {"office": True, "archive": True, "gone": False}
    assert tests["gone"].error is not None and os.fspath(tmp_path / "no") in tests["gone"].error


def test_a_target_whose_test_failed_is_an_alert_before_a_backup_needs_it(site: Site, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    site.document["storage_targets"]["disk"] = {"type": "local", "path": str(tmp_path / "disk" / "backups")}
    site.save()
    app = site.app()
    try_targets(app, Config())
    now = datetime.now(timezone.utc)
    assert app.catalog.space("disk", since=now - timedelta(hours=1))[0].free, (
        "how fast it fills is known without a backup"
    )
    assert not [
        each
        for each in findings(gather(app, now), app.settings, now)
        if each.target == "disk" and each.severity != "info"
    ]
    shutil.rmtree(tmp_path / "disk")
    with pytest.raises(TargetUnavailable, match=r"1 of 3 storage targets cannot be used\. disk:"):
        try_targets(site.app(), Config())
    (found,) = (
        each
        for each in findings(gather(app, now), app.settings, now)
        if each.target == "disk" and each.severity != "info"
    )
    assert (found.cause, found.severity) == ("unreachable:disk", "error")


def test_a_disk_that_is_not_mounted_is_no_new_target_that_is_well(backed_up: Site, tmp_path: Path) -> None:
    folder = tmp_path / "targets" / "office"
    folder.rename(tmp_path / "away")
    for _ in range(2):  # the first try must not make what the next one finds
        with pytest.raises(TargetUnavailable, match=r"1 of 2 storage targets cannot be used\. office: it held backups"):
            try_targets(backed_up.app(), Config())
    assert not folder.exists()
    now = datetime.now(timezone.utc)
    told = {each.cause for each in findings(gather(backed_up.app(), now), backed_up.settings(), now)}
    assert "unreachable:office" in told and "unreachable:archive" not in told
    (tmp_path / "away").rename(folder)
    assert all(test.ok for test in try_targets(backed_up.app(), Config()))


def test_what_was_stored_where_a_provider_limits_it_is_known_to_the_alerts(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = site.app()
    app.count_upload("office", 5)
    monkeypatch.setattr(LocalOptions, "daily_upload_limit", 1000)
    assert app.settings.storage_targets["office"].daily_upload_limit == 1000
    app.count_upload("office", 40)
    app.count_upload("office", 900)
    now = datetime.now(timezone.utc)
    facts = gather(app, now)
    assert facts.uploaded == {"office": 940, "archive": 0}
    assert "upload_limit:office" in {each.cause for each in findings(facts, app.settings, now)}


def test_a_copy_that_was_stored_counts_toward_what_its_provider_takes_a_day(
    backed_up: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalOptions, "daily_upload_limit", 1)
    app = backed_up.app()
    (row,) = app.catalog.backups(application="erp")
    for _ in copy_backup(app, row.backup_id, ["office"], own=False):
        pass
    now = datetime.now(timezone.utc)
    (copy,) = (each for each in app.catalog.copies(row.backup_id) if each.target == "office")
    assert app.catalog.uploaded("office", since=now - timedelta(hours=1)) == copy.stored_bytes
    assert app.catalog.uploaded("archive", since=now - timedelta(hours=1)) == 0
    (told,) = (each for each in findings(gather(app, now), app.settings, now) if each.cause == "upload_limit:office")
    assert "its provider takes 1 B of one user within 24 hours" in told.message


@pytest.mark.parametrize(
    ("checksum", "told"),
    [
        ("server", "checks what it receives"),
        ("read-back", "is read back"),
        ("quickxor", "computes quickxor of what it holds"),
    ],
)
def test_how_each_target_is_checked_is_said_as_it_is(checksum: str, told: str) -> None:
    can = Capabilities(False, checksum, 0.0)
    assert told in in_a_line(TargetTest("drive", "OneDrive: business/backups", 1.0, can, None))


def test_notes_are_sentences_of_their_own_and_nothing_is_said_twice() -> None:
    can = Capabilities(False, "read-back", None, ("Nothing there refuses to overwrite: one machine.", "One more."))
    assert in_a_line(TargetTest("ssh", "sftp://a", 1.0, can, None)).endswith(
        "deleted in 1.0 s; is read back after each write. Nothing there refuses to overwrite: one machine. One more."
    )
