"""``dagster job execute -j test_storage_targets``."""

from __future__ import annotations

import os
from pathlib import Path

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
