"""What was the newest backup and is gone, or claims to be the newest and is none of ours, is said, and the newest that is there is proven."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from twist_dr.cli.recover.found import choose_backup
from twist_dr.doctor.keys import check_newest_backup
from twist_dr.errors import ManifestInvalid
from twist_dr.repository.manifest import Kind
from twist_dr.system.progress import Lines, Report
from twist_dr.verify.choosing import choose_newest
from twist_dr_tests.retention_site import NOW, RetentionSite
from twist_dr_tests.site import Site


@pytest.fixture
def retained(tmp_path: Path) -> RetentionSite:
    return RetentionSite(tmp_path, {"office": {"max_age": "90 days"}, "archive": {"max_age": "90 days"}})


def _folder(site: Site, target: str, backup_id: str) -> Path:
    return site.folder / "targets" / target / "erp" / "backups" / backup_id


def _proven(site: Site, backup_id: str) -> list[str]:
    return [each.target for each in site.catalog().verifications(backup_id) if each.verified]


def _forge(site: Site, backup_id: str, manifest: bytes = b"{}", target: str = "office") -> None:
    folder = _folder(site, target, backup_id)
    folder.mkdir()
    (folder / "manifest.json").write_bytes(manifest)


@pytest.mark.promise(10)
def test_a_newest_backup_that_is_gone_from_all_targets_fails_the_verification_of_an_older_one(backed_up: Site) -> None:
    site = backed_up
    older = max(site.held("office"))
    site.backup().expect(0)
    newest = site.latest().backup_id
    for target in ("office", "archive"):
        shutil.rmtree(_folder(site, target, newest))
    text = site.verify().expect(1).text
    assert f"{older} is verified from office, but {newest}" in text
    assert "was stored on archive, office, which do not hold it any more" in text
    assert _proven(site, older) == ["office"]
    status = site.cli("status").expect(2).text
    assert f"office holds 1 corrupt copy, or lost it: {newest}. No other target has a good copy of {newest}" in status
    # Nobody takes an older one without a word.
    refused = site.restore(backup="latest", allow_unverified=True).expect(1).text
    assert f"No storage target has a good copy of {newest}" in refused
    assert f"{newest} is newer, and is not taken: its copies are bad or lost" in site.restore().expect(0).text


def test_a_copy_that_is_gone_from_one_target_fails_the_verification_whichever_it_is(backed_up: Site) -> None:
    site = backed_up
    newest = max(site.held("archive"))
    site.cli("catalog", "rebuild", "--from", "archive").expect(0)
    shutil.rmtree(_folder(site, "archive", newest))
    text = site.verify().expect(1).text
    assert f"{newest} is verified from office, but its copy on archive is bad" in text
    assert "archive holds 1 corrupt copy, or lost it" in site.cli("status").text


@pytest.mark.promise(4)
def test_folders_with_the_name_of_a_newer_backup_and_no_manifest_of_ours_are_passed_over_and_told(
    backed_up: Site,
) -> None:
    site = backed_up
    genuine = max(site.held("office"))
    sealed = (_folder(site, "office", genuine) / "manifest.json").read_bytes()
    document = json.loads(sealed)
    forged = [
        b"{}",
        sealed,
        json.dumps({**document, "key": {"id": "k9", "check_value": "0" * 16}}).encode(),
        json.dumps({**document, "format_version": "9.0"}).encode(),
    ]
    for number, manifest in enumerate(forged):
        _forge(site, f"99991231T235959Z-full-fff{number}", manifest)
    text = site.verify().expect(1).text
    assert f"{genuine} is verified from office, but 99991231T235959Z-full-fff3 on office is no backup of ours" in text
    assert "And 1 more." in text
    assert _proven(site, genuine) == ["office"]


@pytest.mark.parametrize("kind", ["full", "base", "configuration"])
def test_of_every_kind_the_newest_that_is_known_must_be_there_and_what_is_forged_is_passed_over(
    retained: RetentionSite, kind: Kind
) -> None:
    site = retained
    made = [site.base(days) if kind == "base" else site.backup(days, kind=kind) for days in (2, 1, 0.5)]
    older, newest, deleted = made
    repositories = [site.repository(name) for name in site.targets]
    for name in site.targets:
        for gone in (newest, deleted):
            shutil.rmtree(site.site.folder / "targets" / name / "erp" / "backups" / gone)
        site.catalog.record_copy(deleted, name, state="deleted", form="zstd+enc")
    forged = f"99991231T235959Z-{kind}-ffff"
    _forge(site.site, forged)
    choice = choose_newest(site.app(), kind, repositories)
    assert choice.backup_id == older
    assert [forged in choice.missing[0], newest in choice.missing[1]] == [True, True]
    # What was deleted from here is not missed.
    assert deleted not in " ".join(choice.missing)
    assert {copy.state for copy in site.catalog.copies(newest)} == {"corrupt"}


@pytest.mark.promise(5)
@pytest.mark.parametrize("kind", ["full", "base"])
def test_what_only_claims_to_be_a_backup_pushes_no_good_one_out(tmp_path: Path, kind: Kind) -> None:
    site = RetentionSite(tmp_path, {"office": {"max_count": 2}}, cleanup={"max_delete_fraction": 1})
    older, newer, newest = (
        site.base(days) if kind == "base" else site.backup(days, kind=kind, verified=True) for days in (3, 2, 1)
    )
    forged = [f"99991231T235959Z-{kind}-fff{number}" for number in range(3)]
    sealed = (_folder(site.site, "office", newest) / "manifest.json").read_bytes()
    for backup_id, manifest in zip(forged, (b"{}", sealed, b"[]"), strict=True):
        _forge(site.site, backup_id, manifest)
    if kind == "base":
        # A known one whose manifest was overwritten is none to rely on, either.
        (_folder(site.site, "office", newest) / "manifest.json").write_bytes(b"{}")
        site.clean()
        assert {older, newer, newest, *forged} <= set(site.listed())
        return
    site.clean()
    assert set(site.listed()) == {newer, newest, *forged}


def test_doctor_names_what_is_forged_and_looks_at_the_newest_genuine_one(retained: RetentionSite) -> None:
    genuine = retained.backup(1)
    _forge(retained.site, "99991231T235959Z-full-ffff")
    found = list(check_newest_backup([retained.repository()], retained.keyring))
    assert found[0].status != "ok" and found[1].status == "ok" and genuine in found[1].found


@pytest.mark.promise(9)
def test_recover_passes_over_what_is_dated_in_the_future_and_never_takes_an_older_one_by_itself(
    retained: RetentionSite,
) -> None:
    genuine, repository, said = retained.backup(1), retained.repository(), list[str]()
    report = Report(Lines(said.append, said.append))
    _forge(retained.site, "99991231T235959Z-full-ffff")
    assert choose_backup(repository, retained.keyring, "latest", report).backup_id == genuine
    assert "passed over 99991231T235959Z-full-ffff, which is dated in the future" in said[0]
    _forge(retained.site, f"{NOW:%Y%m%dT%H%M%SZ}-full-eeee")
    with pytest.raises(ManifestInvalid, match=f"the newest one here that is authentic is {genuine}: name it"):
        choose_backup(repository, retained.keyring, "latest", report)
    assert choose_backup(repository, retained.keyring, genuine, report).backup_id == genuine
