"""Which backup is taken where nobody names one: never by itself what a restore was about to replace, the damage included."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import get_args

import pytest
import yaml

from twist_dr.cli.recover.found import choose_backup as choose_without_catalog
from twist_dr.errors import BackupNotFound, RestoreRefused
from twist_dr.repository.labels import split_label
from twist_dr.repository.manifest import Label
from twist_dr.restore.from_settings import Chosen, choose_backup
from twist_dr.system.progress import Lines, Report
from twist_dr.verify.choosing import choose_newest
from twist_dr_tests.retention_site import RetentionSite

POLICY = {"office": {"daily": 7}}


@pytest.fixture
def after_a_restore(tmp_path: Path) -> tuple[RetentionSite, str, str]:
    """A night, then the damage, then a restore that backed the damage up first; somebody verified both."""
    site = RetentionSite(tmp_path, POLICY)
    night = site.backup(2, verified=True, label="scheduled", parts=["database", "media"])
    damaged = site.backup(1, verified=True, label="pre-restore", parts=["database", "media"])
    return site, night, damaged


def _chosen(site: RetentionSite, wanted: str) -> Chosen:
    return choose_backup(site.app(), wanted, None, allow_unverified=False)


def test_a_restore_takes_what_was_about_to_be_replaced_only_when_it_is_named(
    after_a_restore: tuple[RetentionSite, str, str],
) -> None:
    site, night, damaged = after_a_restore
    for wanted in ("latest-verified", "latest"):
        chosen = _chosen(site, wanted)
        assert (chosen.backup_id, chosen.doubts) == (night, []), "that a newer one holds the damage needs no words"
    for wanted in (damaged, "latest:pre-restore", "latest-verified:pre-restore"):
        chosen = _chosen(site, wanted)
        assert chosen.backup_id == damaged
        assert "damage included" in chosen.doubts[0]
    with pytest.raises(BackupNotFound, match=r"latest:nightly.* names no label; write one of manual, scheduled"):
        _chosen(site, "latest:nightly")


def test_where_nothing_else_is_verified_it_is_named_and_not_taken(tmp_path: Path) -> None:
    site = RetentionSite(tmp_path, POLICY)
    damaged = site.backup(1, verified=True, label="pre-restore", parts=["database"])
    with pytest.raises(RestoreRefused, match=f"{damaged}.*about to replace.*latest-verified:pre-restore names it"):
        _chosen(site, "latest-verified")
    with pytest.raises(RestoreRefused, match="knows no full backup"):
        _chosen(site, "latest")
    with pytest.raises(BackupNotFound, match=f"beside {damaged}, which a restore was about to replace"):
        choose_newest(site.app(), "full", [site.repository()])
    with pytest.raises(BackupNotFound, match="latest:pre-restore is the newest of these"):
        choose_without_catalog(site.repository(), site.keyring, "latest", Report(Lines(print, print)))


def test_proofs_drills_and_recoveries_pass_it_over_and_a_person_may_name_it(
    after_a_restore: tuple[RetentionSite, str, str],
) -> None:
    site, night, damaged = after_a_restore
    said: list[str] = []
    report = Report(Lines(said.append, said.append))
    repositories = [site.repository()]
    assert choose_newest(site.app(report=report), "full", repositories).backup_id == night
    assert any(damaged in line and "about to replace" in line for line in said)
    named = choose_newest(site.app(report=report), "full", repositories, "pre-restore")
    assert (named.backup_id, named.missing) == (damaged, ())
    for wanted, expected in (("latest", night), ("latest:pre-restore", damaged), (damaged, damaged)):
        assert choose_without_catalog(site.repository(), site.keyring, wanted, report).backup_id == expected
        assert site.catalog.meant("erp", wanted).backup_id == expected


def test_one_that_vanished_is_told_all_the_same(after_a_restore: tuple[RetentionSite, str, str]) -> None:
    site, night, damaged = after_a_restore
    site.targets["office"].delete(site.repository().key(damaged, "manifest.json"))
    choice = choose_newest(site.app(), "full", [site.repository()])
    assert choice.backup_id == night and damaged in choice.missing[0]


def test_every_label_can_be_named_behind_a_colon() -> None:
    assert [split_label(f"latest:{label}")[1] for label in get_args(Label)] == list(get_args(Label))
    assert split_label("20261121T020000Z-full-3f9a") == ("20261121T020000Z-full-3f9a", None)


@pytest.mark.promise(5)
def test_the_retention_of_a_new_installation_keeps_the_good_and_not_the_replaced(tmp_path: Path) -> None:
    """A first afternoon: two good backups by hand, and three restores, each with its backup of what it replaced, verified too."""
    template = yaml.safe_load((files("twist_dr") / "templates" / "twist-dr.yaml").read_text())
    site = RetentionSite(tmp_path, {"office": template["storage_targets"]["disk"]["retention"]})
    made = [site.backup(days, verified=True, label="manual") for days in (0.05, 0.04)]
    replaced = [site.backup(days, verified=True, label="pre-restore") for days in (0.035, 0.03, 0.02, 0.01)]
    outcome = site.clean()
    assert (outcome.deleted, outcome.problems) == ([replaced[0]], [])
    assert set(made) < set(site.listed()) and _chosen(site, "latest-verified").backup_id == made[-1]
