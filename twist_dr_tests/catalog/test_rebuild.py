"""The catalog rebuilt from a target: what it cannot know any more must not cost a backup."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from twist_dr.__main__ import main
from twist_dr.catalog import VerificationRow
from twist_dr.catalog.notes import Rebuilt
from twist_dr_tests.retention_site import FORM, NOW, RetentionSite


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RetentionSite:
    """Three backups, of which the oldest alone was found good, in a catalog that is rebuilt."""
    made = RetentionSite(tmp_path, {"office": {"max_count": 1}}, cleanup={"max_delete_fraction": 1})
    for days in (3, 2, 1):
        made.backup(days, verified=True if days == 3 else None)
    for name, value in made.site.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    for path in (made.folder / "work").glob("catalog.*"):
        path.unlink()
    made.catalog = made.site.catalog()
    assert main(["catalog", "rebuild", "--from", "office"]) == 0
    return made


def _verify(site: RetentionSite, backup_id: str, state: str = "verified") -> None:
    moment = datetime.now(timezone.utc) + timedelta(seconds=1)
    site.catalog.record_verification(VerificationRow(backup_id, "office", state=state, started_at=moment, seconds=1))  # type: ignore[arg-type]


@pytest.mark.promise(5)
def test_after_a_rebuild_nothing_goes_before_a_full_backup_is_found_good(
    site: RetentionSite, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["catalog", "rebuild", "--from", "office"]) == 0
    told = capsys.readouterr().out
    assert "3 backups read from office" in told and "only from a configuration backup" in told
    ids = site.listed()
    outcome = site.clean(allow_clock=True, allow_fraction=1.0)
    assert outcome.deleted == [] and site.listed() == ids
    assert (
        "run verify_backup, then cleanup again" in outcome.problems[0] and "allow_rebuilt: true" in outcome.problems[0]
    )
    _verify(site, ids[1], "unverified")
    assert site.clean().deleted == []
    _verify(site, ids[1])
    outcome = site.clean()
    assert (outcome.problems, site.listed()) == ([], ids[1:])


def test_a_person_may_allow_it_all_the_same(site: RetentionSite) -> None:
    ids = site.listed()
    assert "Not carried out" in site.retention().plan("office", NOW).markdown()
    assert site.clean(allow_rebuilt=True).problems == [] and site.listed() == ids[2:]


def test_where_nothing_would_go_nothing_is_doubted(site: RetentionSite) -> None:
    site.site.document["storage_targets"]["office"]["retention"] = {"max_count": 3}
    site.site.save()
    assert site.clean().problems == []


@pytest.mark.promise(5)
def test_a_rebuild_of_a_catalog_that_was_not_lost_asks_for_a_new_verification_and_any_full_backup_will_do(
    site: RetentionSite,
) -> None:
    ids = site.listed()
    for backup_id in ids:
        _verify(site, backup_id)
    now = datetime.now(timezone.utc)
    site.catalog.leave_note("erp", Rebuilt(at=now + timedelta(minutes=10)))
    assert site.clean().deleted == []
    moment = now + timedelta(minutes=20)
    site.catalog.record_verification(VerificationRow(ids[0], "office", state="verified", started_at=moment, seconds=1))
    assert site.clean().problems == [] and site.listed() == [ids[2]]


@pytest.mark.promise(5)
def test_a_copy_that_is_known_to_be_corrupt_stays_so_until_somebody_reads_it(
    site: RetentionSite, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = site.listed()
    site.catalog.record_copy(ids[1], "office", state="corrupt", form=FORM.name, error="other bytes than were recorded")
    capsys.readouterr()
    assert main(["catalog", "rebuild", "--from", "office"]) == 0
    assert f"{ids[1]} on office counts as corrupt until its bytes are read again; run scrub" in capsys.readouterr().err
    assert [site.state(each) for each in ids] == ["stored", "corrupt", "stored"]


def _rebuilt(
    folder: Path, policy: Any, monkeypatch: pytest.MonkeyPatch, *makes: Any
) -> tuple[RetentionSite, list[str]]:
    """A site with what ``makes`` put there, whose catalog was lost and rebuilt."""
    site = RetentionSite(folder, {"office": policy}, cleanup={"max_delete_fraction": 1})
    ids = [make(site) for make in makes]
    for name, value in site.site.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    for path in (folder / "work").glob("catalog.*"):
        path.unlink()
    site.catalog = site.site.catalog()
    assert main(["catalog", "rebuild", "--from", "office"]) == 0
    return site, ids


def _full(days: float) -> Any:
    return lambda site: site.backup(days)


def _made_base(days: float, segment: int) -> Any:
    return lambda site: site.base(days, segment=segment)


@pytest.mark.promise(5)
def test_after_a_rebuild_a_full_backup_that_is_found_good_says_nothing_of_bases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    makes = (_full(2), _full(1), _made_base(6, 1), _made_base(4, 3))
    site, ids = _rebuilt(tmp_path, {"max_count": 1}, monkeypatch, *makes)
    told = site.clean().problems[0]
    assert "no full backup and no base backup was verified since" in told
    assert "run verify_backup and verify_backup with backup: latest-base, then cleanup again" in told
    _verify(site, ids[1])
    told = site.clean().problems[0]
    assert "and no base backup was verified since" in told and "full" not in told
    assert sorted(site.listed()) == sorted(ids)
    _verify(site, ids[3])
    assert site.clean().problems == [] and sorted(site.listed()) == sorted([ids[1], ids[3]])


@pytest.mark.promise(5)
def test_after_a_rebuild_a_site_of_bases_alone_goes_on_when_one_is_found_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, ids = _rebuilt(tmp_path, {"max_count": 1}, monkeypatch, _made_base(6, 1), _made_base(4, 3))
    assert site.clean().deleted == []
    _verify(site, ids[1])
    assert site.clean().problems == [] and site.listed() == ids[1:]


def test_after_a_rebuild_configurations_follow_what_is_found_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    makes = [lambda site, days=days: site.backup(days, kind="configuration") for days in (2, 1)]
    site, ids = _rebuilt(tmp_path, {"max_count": 1}, monkeypatch, _full(2.5), *makes)
    assert "latest-configuration" in site.clean().problems[0] and sorted(site.listed()) == sorted(ids)
    _verify(site, ids[0])
    assert site.clean().deleted == [ids[1]]
