"""What was to go and is there still counts as kept: what it builds upon, and the WAL that it needs, stay with it."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from twist_dr.errors import TargetRefused
from twist_dr.repository.keys import Keyring, new_key, save_keyring
from twist_dr.repository.manifest import MANIFEST_NAME, Manifest
from twist_dr.retention.cleanup import Retention
from twist_dr.retention.telling import TargetOutcome
from twist_dr.storage.local import LocalTarget
from twist_dr.wal.objects import WalArchive
from twist_dr_tests.retention_site import FORM, NOW, RetentionSite, made_up, store

IDENTIFIER = "7300000000000000001"


class Keeping(LocalTarget):
    """A store that does not give up the manifest of one backup."""

    kept = "?"

    def delete(self, key: str) -> None:
        if key.endswith(f"{self.kept}/{MANIFEST_NAME}"):
            raise TargetRefused(f"cannot delete {key}: access was denied.", target=self.name)
        super().delete(key)


def _keeping(site: RetentionSite, backup_id: str) -> dict[str, Any]:
    target = Keeping("office", site.folder / "targets" / "office")
    target.kept = backup_id
    return {"office": target}


@pytest.fixture
def chains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RetentionSite, str, str, str]:
    """An old chain of two that is to go, and a new base; full, incremental, new."""
    # As on a target with 100,000 backups, where the plan is not made anew for each.
    monkeypatch.setattr("twist_dr.retention.recheck._FRESH_TIMES", 1e9)
    site = RetentionSite(tmp_path, {"office": {"max_age": "7 days"}}, cleanup={"max_delete_fraction": 1})
    full = site.base(10)
    return site, full, site.base(9, full), site.base(4)


@pytest.mark.promise(5)
def test_a_base_stays_when_the_target_does_not_give_up_what_builds_upon_it(
    chains: tuple[RetentionSite, str, str, str],
) -> None:
    site, full, incremental, new = chains
    outcome = site.clean(targets=_keeping(site, incremental))
    assert outcome.deleted == [] and "access was denied" in outcome.problems[0]
    assert site.listed() == [full, incremental, new]
    for backup_id in site.listed():
        site.require_whole(backup_id)
    assert any(f"{incremental} builds upon it" in line for line in site.said)
    assert site.clean().deleted == [incremental, full]


@pytest.mark.promise(5)
def test_a_base_stays_when_what_builds_upon_it_stays_at_the_last_look(
    chains: tuple[RetentionSite, str, str, str],
) -> None:
    site, full, incremental, new = chains
    retention = site.retention()
    planned = retention.plan("office", NOW)
    assert [each.backup.id for each in planned.plan.deleted] == [incremental, full]
    path = site.folder / "targets" / "office" / site.repository().key(incremental, MANIFEST_NAME)
    path.write_bytes(path.read_bytes().replace(b"ops@host", b"eve@host"))
    outcome = retention.carry_out(planned)
    assert outcome.deleted == [] and site.listed() == [full, incremental, new]
    assert "cannot be trusted" in outcome.problems[0] and incremental in outcome.problems[0]
    site.require_whole(full)


@pytest.mark.promise(5)
def test_a_base_stays_with_what_stays_because_manifest_and_catalog_differ(
    chains: tuple[RetentionSite, str, str, str],
) -> None:
    site, full, incremental, new = chains
    retention = site.retention()
    planned = retention.plan("office", NOW)
    manifest = site.repository().manifest(incremental, site.keyring).model_copy(update={"label": "manual"})
    path = site.folder / "targets" / "office" / site.repository().key(incremental, MANIFEST_NAME)
    path.write_bytes(manifest.seal(site.keyring.primary))
    outcome = retention.carry_out(planned)
    assert (outcome.deleted, outcome.problems) == ([], [])
    assert site.listed() == [full, incremental, new]


def _segments(site: RetentionSite, first: int, last: int) -> None:
    archive = WalArchive(site.targets["office"], "erp")
    for number in range(first, last + 1):
        path = site.folder / "targets" / "office" / archive.key(IDENTIFIER, 1, f"00000001{number:016X}", FORM)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"packed")
        old = (NOW - timedelta(days=3)).timestamp()
        os.utime(path, (old, old))


def _numbers(site: RetentionSite) -> list[int]:
    return [int(key.rpartition("/")[2][8:24], 16) for key in site.objects() if "/wal/" in key]


@pytest.mark.promise(5)
def test_a_base_that_the_target_does_not_give_up_keeps_the_wal_that_it_needs(tmp_path: Path) -> None:
    site = RetentionSite(tmp_path, {"office": {"max_count": 1, "wal": "1 day"}}, cleanup={"max_delete_fraction": 1})
    old, new = site.base(6, segment=3), site.base(5, segment=8)
    _segments(site, 2, 10)
    outcome = site.clean(targets=_keeping(site, old))
    assert "access was denied" in outcome.problems[0] and site.listed() == [old, new]
    assert _numbers(site) == [3, 8, 9, 10]
    assert site.clean().deleted == [old]
    assert _numbers(site) == [8, 9, 10]


@pytest.mark.promise(5)
@pytest.mark.parametrize("kind", ["full", "base"])
def test_a_backup_whose_key_is_gone_from_the_keyring_stays_and_fails_the_run_by_name(tmp_path: Path, kind: str) -> None:
    site = RetentionSite(tmp_path, {"office": {"max_age": "7 days"}}, cleanup={"max_delete_fraction": 1})
    make = site.backup if kind == "full" else lambda days, **_: site.base(days)
    old = make(9, verified=True)
    save_keyring(Keyring("k2", {"k2": new_key("k2")}, "another"), site.site.keyring_path)
    site.keyring = site.site.keyring
    new = make(1, verified=True)
    outcome = site.clean()
    assert site.listed() == [old, new] and outcome.deleted == []
    assert len(outcome.problems) == 1
    assert old in outcome.problems[0] and "k1" in outcome.problems[0] and outcome.problems[0].startswith("office: ")


class Awaited(LocalTarget):
    """A store on which something happens when the first object of a folder is about to go."""

    at, then = "?", staticmethod(lambda: None)

    def delete(self, key: str) -> None:
        super().delete(key)
        if f"/{self.at}/" in key:
            self.then()


def _stage(site: RetentionSite, manifest: Manifest) -> None:
    staged = site.site.settings().staging_dir / manifest.backup_id
    staged.mkdir(parents=True, exist_ok=True)
    (staged / ".lock").touch()
    (staged / MANIFEST_NAME).write_bytes(manifest.seal(site.keyring.primary))


def _with_incomplete(tmp_path: Path) -> tuple[RetentionSite, Manifest]:
    site = RetentionSite(tmp_path, {"office": {"max_age": "7 days"}}, cleanup={"max_delete_fraction": 1})
    site.backup(1, verified=True)
    failed = made_up(site.keyring, 40)
    store(site.repository(), failed, site.keyring, site.folder, sealed=False)
    old = (NOW - timedelta(days=40)).timestamp()
    for path in (site.folder / "targets" / "office" / "erp" / "backups" / failed.backup_id).iterdir():
        os.utime(path, (old, old))
    return site, failed


def _left(site: RetentionSite, manifest: Manifest) -> int:
    return sum(manifest.backup_id in key for key in site.objects())


@pytest.mark.promise(5)
def test_incomplete_backups_into_which_a_backup_is_copied_anew_lose_nothing_from_then_on(tmp_path: Path) -> None:
    site, failed = _with_incomplete(tmp_path)
    retention = site.retention()
    planned = retention.plan("office", NOW)
    assert [each.keep for each in planned.facts.incomplete] == [False]
    _stage(site, failed)
    assert _carried_out(retention, planned).incomplete == 0 and _left(site, failed) == 2
    (site.site.settings().staging_dir / failed.backup_id / MANIFEST_NAME).unlink()
    target = Awaited("office", site.folder / "targets" / "office")
    target.at, target.then = failed.backup_id, lambda: _stage(site, failed)
    assert site.clean(targets={"office": target}).incomplete == 0 and _left(site, failed) == 1


def _carried_out(retention: Retention, planned: Any) -> TargetOutcome:
    outcome = retention.carry_out(planned)
    assert outcome.problems == []
    return outcome
