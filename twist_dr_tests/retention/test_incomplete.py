"""Incomplete backups: only what nobody can finish, by both clocks, and never what may be a backup after all."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from twist_dr.repository.manifest import MANIFEST_NAME
from twist_dr_tests.retention_site import NOW, RetentionSite, made_up, store

KEEP_ALL = {"max_age": "9999 days"}


@pytest.fixture
def site(tmp_path: Path) -> RetentionSite:
    made = RetentionSite(tmp_path, {"office": KEEP_ALL})
    made.backup(1, verified=True)
    return made


def _incomplete(site: RetentionSite, days: float, *, touched: float | None = None) -> str:
    """What a copy of some days ago left, its files as old as that or as ``touched``."""
    manifest = made_up(site.keyring, days)
    store(site.repository(), manifest, site.keyring, site.folder, sealed=False)
    when = (NOW - timedelta(days=days if touched is None else touched)).timestamp()
    for path in _folder(site, manifest.backup_id).iterdir():
        os.utime(path, (when, when))
    return manifest.backup_id


def _folder(site: RetentionSite, backup_id: str) -> Path:
    return site.folder / "targets" / "office" / "erp" / "backups" / backup_id


@pytest.mark.promise(8)
def test_what_a_killed_copy_left_goes_after_a_day(site: RetentionSite) -> None:
    old = _incomplete(site, 2)
    outcome = site.clean()
    assert outcome.incomplete == 1 and outcome.freed > 0 and outcome.problems == []
    assert not _folder(site, old).exists() and len(site.listed()) == 1
    assert any(line.action == "delete incomplete backup" and old in line.subject for line in site.catalog.audit("erp"))


@pytest.mark.parametrize(("days", "touched"), [(0.5, None), (5, 0.1), (0.2, 5), (-3, 5), (5, -2)])
def test_what_is_young_by_its_id_or_by_its_objects_stays(site: RetentionSite, days: float, touched: float) -> None:
    backup_id = _incomplete(site, days, touched=touched)
    assert site.clean().incomplete == 0 and _folder(site, backup_id).exists()


def test_what_lies_in_staging_is_being_copied_and_stays(site: RetentionSite) -> None:
    backup_id = _incomplete(site, 5)
    staged = site.site.settings().staging_dir / backup_id
    staged.mkdir(parents=True)
    (staged / ".lock").touch()
    (staged / MANIFEST_NAME).write_bytes(made_up(site.keyring, 5).seal(site.keyring.primary))
    assert site.clean().incomplete == 0 and _folder(site, backup_id).exists()


def test_a_copy_that_was_whole_and_lost_its_manifest_is_for_a_scrub_to_repair(site: RetentionSite) -> None:
    backup_id = site.backup(5)
    (_folder(site, backup_id) / MANIFEST_NAME).unlink()
    for path in _folder(site, backup_id).iterdir():
        os.utime(path, (0, 0))
    planned = site.retention().plan("office", NOW)
    assert [each.reason for each in planned.facts.incomplete] == [
        "it was whole, and its manifest is missing: a scrub can repair it"
    ]
    assert site.clean().incomplete == 0 and _folder(site, backup_id).exists()


def test_what_only_looks_like_a_backup_is_not_touched(site: RetentionSite) -> None:
    strange = _folder(site, "20200101T000000Z-full-0001").parent / "my-notes"
    strange.mkdir()
    (strange / "notes.txt").write_text("do not delete")
    impossible = _folder(site, "20209999T000000Z-full-0001")
    impossible.mkdir()
    (impossible / "database.dump").write_text("no such day")
    for path in (strange / "notes.txt", impossible / "database.dump"):
        os.utime(path, (0, 0))
    assert site.clean().incomplete == 0
    assert (strange / "notes.txt").exists() and impossible.exists()


def test_unfinished_uploads_of_earlier_days_go_and_those_of_today_stay(site: RetentionSite) -> None:
    incoming = site.folder / "targets" / "office" / ".incoming"
    old = incoming / f"{int((NOW - timedelta(days=3)).timestamp())}-{'0' * 32}"
    new = incoming / f"{int(NOW.timestamp())}-{'1' * 32}"
    for path in (old, new):
        path.write_bytes(b"half of something")
    # Nothing came to it since.
    os.utime(old, (time := (NOW - timedelta(days=3)).timestamp(), time))
    site.clean()
    assert not old.exists() and new.exists()
