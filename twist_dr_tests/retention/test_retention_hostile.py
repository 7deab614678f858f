"""Retention on a target to which somebody else can write: nothing of his makes anything disappear, and what he did is told."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from twist_dr.cli.recover.place import choose_application
from twist_dr.errors import BackupNotFound, TargetRefused, TargetUnavailable
from twist_dr.operations.rebuild import rebuild_catalog
from twist_dr.repository.sealing import seal
from twist_dr.retention.holds import HoldNote
from twist_dr.retention.model import Hold
from twist_dr.settings.building import build_targets
from twist_dr.system.progress import Lines, Report
from twist_dr_tests.retention_site import NOW, RetentionSite, bury, made_up, store

WEEK = {"max_age": "7 days"}
OLD = "20200101T000000Z-full-0000"
ANCIENT = 1_577_836_800


@pytest.fixture
def site(tmp_path: Path) -> RetentionSite:
    made = RetentionSite(tmp_path / "site", {"office": WEEK}, cleanup={"max_delete_fraction": 1})
    for days in (9, 1):
        made.backup(days, verified=True)
    return made


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    folder = tmp_path / "victim"
    folder.mkdir()
    for name in ("database.dump.zst.enc", "media.tar", "holiday.jpg"):
        (folder / name).write_text("somebody else's")
        os.utime(folder / name, (ANCIENT, ANCIENT))
    return folder


def _erp(site: RetentionSite) -> Path:
    return site.folder / "targets" / "office" / "erp"


def _forge(site: RetentionSite, backup_id: str, content: str = "{}") -> Path:
    path = _erp(site) / "tombstones" / f"{backup_id}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    return path


@pytest.mark.promise(5)
@pytest.mark.parametrize("buried", [True, False])
def test_a_folder_of_somebody_elses_behind_a_link_is_not_emptied_and_the_link_is_told(
    site: RetentionSite, victim: Path, buried: bool
) -> None:
    old, new = site.listed()
    link = _erp(site) / "backups" / OLD
    link.symlink_to(victim)
    if buried:
        _forge(site, OLD)
    outcome = site.clean()
    assert len(list(victim.iterdir())) == 3 and link.is_symlink()
    assert outcome.deleted == [old] and site.listed() == [new]
    assert any(f"'erp/backups/{OLD}' is a symbolic link" in line for line in outcome.problems)
    assert not any(OLD in line.subject for line in site.catalog.audit("erp") if line.result == "done")


#: As an earlier version wrote it.
UNSIGNED = {"backup_id": "ID", "who": "ops@host", "why": "old", "at": NOW.isoformat(), "run": None, "format_version": 1}


@pytest.mark.promise(5)
@pytest.mark.parametrize(
    "content", ["{}", json.dumps(UNSIGNED), "null", "not JSON", pytest.param("[" * 100_000, id="deep")]
)
def test_a_tombstone_that_is_not_authentic_deletes_nothing_and_is_told(site: RetentionSite, content: str) -> None:
    """The copy beside it is being made on another machine: young, without a manifest, in no catalog."""
    coming = made_up(site.keyring, 0)
    store(site.repository(), coming, site.keyring, site.folder, sealed=False)
    path = _forge(site, coming.backup_id, content.replace("ID", coming.backup_id))
    planned = site.retention().plan("office", NOW)
    (told,) = [line for line in planned.facts.warnings if "tombstone" in line]
    assert coming.backup_id in told and "nothing is deleted because of that" in told
    assert site.clean().problems == []
    assert sum(coming.backup_id in key for key in site.objects()) == 2
    assert not path.exists()


@pytest.mark.promise(5)
def test_an_old_tombstone_that_is_put_back_is_decided_again_and_takes_nothing_that_is_wanted(
    site: RetentionSite,
) -> None:
    old, new = site.listed()
    bury(_erp(site), new, site.keyring)
    (_erp(site) / "backups" / new / "manifest.json").unlink()
    before = [key for key in site.objects() if new in key and "/backups/" in key]
    outcome = site.clean()
    assert outcome.deleted == []
    assert [key for key in site.objects() if new in key] == before and site.listed() == [old]
    assert site.state(new) == "checked", "the catalog has it still, so a scrub brings its manifest back"
    assert any(f"{new} stays after all" in line for line in site.said)


@pytest.mark.promise(8)
def test_a_tombstone_of_ours_beside_what_is_to_go_all_the_same_is_carried_out(site: RetentionSite) -> None:
    old, new = site.listed()
    bury(_erp(site), old, site.keyring)
    (_erp(site) / "backups" / old / "manifest.json").unlink()
    assert site.clean().deleted == [old]
    assert {key.split("/")[2] for key in site.objects()} == {new} and site.state(old) == "deleted"


@pytest.mark.promise(5)
def test_of_an_old_incomplete_backup_only_our_own_files_go(site: RetentionSite, victim: Path) -> None:
    folder = _erp(site) / "backups" / OLD
    shutil.copytree(victim, folder)
    (folder / "deeper").mkdir()
    (folder / "deeper" / "media.tar").write_text("somebody else's")
    (folder / "roles.sql.enc").symlink_to(victim / "holiday.jpg")
    os.utime(folder / "deeper" / "media.tar", (ANCIENT, ANCIENT))
    planned = site.retention().plan("office", NOW)
    assert any(f"erp/backups/{OLD}/holiday.jpg" in line and "left alone" in line for line in planned.facts.warnings)
    assert site.clean().incomplete == 1
    assert {path.name for path in folder.rglob("*")} == {"holiday.jpg", "deeper", "media.tar", "roles.sql.enc"}
    assert (folder / "deeper" / "media.tar").exists() and len(list(victim.iterdir())) == 3


@pytest.mark.promise(5)
def test_a_backup_goes_without_what_others_put_beside_it(site: RetentionSite) -> None:
    old, new = site.listed()
    foreign = _erp(site) / "backups" / old / "holiday.jpg"
    foreign.write_text("somebody else's")
    outcome = site.clean()
    assert outcome.deleted == [old] and outcome.problems == [] and site.listed() == [new]
    assert [path.name for path in foreign.parent.iterdir()] == ["holiday.jpg"]


# -- holds -------------------------------------------------------------------------------------------------------------


def _hold(site: RetentionSite, backup_id: str, **changes: Any) -> Path:
    """A hold that ran out, as an earlier version wrote it."""
    until = (NOW - timedelta(days=1)).isoformat()
    values = {
        "format_version": 1, "backup_id": backup_id, "who": "eva", "reason": "the audit", "placed_at": NOW.isoformat(), "until": until,
    }  # fmt: skip
    path = _erp(site) / "holds" / backup_id / "20261101T000000Z-00000000.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**values, **changes}))
    return path


@pytest.mark.promise(5)
@pytest.mark.parametrize("how", ["unsigned", "altered", "another application's", "another kind's"])
def test_a_hold_that_is_not_authentic_holds_for_ever_and_is_told(site: RetentionSite, how: str) -> None:
    old, new = site.listed()
    path = _hold(site, old)
    key, note = site.keyring.primary, HoldNote(Hold(old, "eva", "the audit", NOW - timedelta(days=1)), NOW)
    if how == "altered":
        later = replace(note, hold=replace(note.hold, until=NOW + timedelta(days=9)))
        sealed = later.document("erp", key).decode()
        path.write_text(sealed.replace(f"{NOW + timedelta(days=9):%Y-%m-%d}", f"{NOW - timedelta(days=9):%Y-%m-%d}"))
    elif how == "another application's":
        path.write_bytes(note.document("shop", key))
    elif how == "another kind's":
        values = json.loads(note.document("erp", key))
        unsigned = {name: value for name, value in values.items() if name not in ("mac", "key")}
        path.write_bytes(seal(unsigned, key, "tombstone"))
    planned = site.retention().plan("office", NOW)
    (decision,) = [each for each in planned.plan.decisions if each.backup.id == old]
    assert decision.keep and "for ever: the audit" in decision.reason and "is not authentic" in decision.reason
    assert any(old in line and f"twist-dr release {old}" in line for line in planned.facts.warnings)
    site.clean()
    assert site.listed() == [old, new]
    path.write_bytes(note.document("erp", key))
    assert site.clean().deleted == [old], "of our making, it ran out yesterday"


@pytest.mark.promise(5)
def test_a_hold_that_an_earlier_version_wrote_is_as_the_catalog_has_it(site: RetentionSite) -> None:
    old, new = site.listed()
    _hold(site, old)
    site.catalog.place_hold("erp", old, who="eva", reason="the audit", until=NOW - timedelta(days=1))
    assert not any("hold" in line for line in site.retention().plan("office", NOW).facts.warnings)
    assert site.clean().deleted == [old] and site.listed() == [new]


def test_a_hold_that_is_not_authentic_comes_back_with_the_catalog_as_one_without_end(site: RetentionSite) -> None:
    old = site.listed()[0]
    _hold(site, old)
    said: list[str] = []
    rebuild_catalog(site.app(report=Report(Lines(said.append, said.append))), site.targets["office"])
    (row,) = site.catalog.holds("erp")
    assert (row.backup_id, row.until) == (old, None) and "is not authentic" in row.reason
    assert any("held for ever" in line and old in line for line in said)
    rebuild_catalog(site.app(report=Report(Lines(said.append, said.append))), site.targets["office"])
    assert len(site.catalog.holds("erp")) == 1


# -- what never ends -----------------------------------------------------------------------------------------------------


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "place", ["backups/{new}/manifest.json", "holds/{old}/1.json", "tombstones/{old}.json", "wal/1"]
)
def test_a_named_pipe_in_any_place_is_told_and_stops_nothing(site: RetentionSite, place: str) -> None:
    old, new = site.listed()
    pipe = _erp(site) / place.format(old=old, new=new)
    pipe.parent.mkdir(parents=True, exist_ok=True)
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    outcome = site.clean()
    assert any("is a named pipe" in line for line in outcome.problems) and pipe.is_fifo()
    # Without its manifest the newest is none, and the last good one stays.
    # What should be a hold holds, and without its tombstone nothing goes.
    assert outcome.deleted == ([old] if "wal" in place else [])


@pytest.mark.promise(5)
@pytest.mark.parametrize("where", ["holds/{old}/1.json", "holds/{old}", "holds"])
def test_a_link_in_the_place_of_a_hold_does_not_end_it(site: RetentionSite, victim: Path, where: str) -> None:
    old, new = site.listed()
    link = _erp(site) / where.format(old=old)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(victim)
    if where == "holds":
        with pytest.raises(
            TargetRefused, match="'erp/holds' is a symbolic link, so nobody can tell what is held there"
        ):
            site.retention().plan("office", NOW)
    else:
        assert site.clean().deleted == []
        assert any(
            old in line and "cannot be read" in line for line in site.retention().plan("office", NOW).facts.warnings
        )
    assert site.listed() == [old, new]


@pytest.mark.promise(5)
def test_two_targets_that_are_one_folder_lose_nothing(tmp_path: Path) -> None:
    site = RetentionSite(tmp_path / "site", {"office": WEEK}, cleanup={"max_delete_fraction": 1})
    ids = [site.backup(days, verified=True) for days in (9, 1)]
    (site.folder / "targets" / "again").symlink_to(site.folder / "targets" / "office")
    site.site.document["storage_targets"]["again"] = {"type": "local", "path": "targets/again"}
    site.site.save()
    outcome = site.clean(targets=build_targets(site.site.settings()))
    assert outcome.deleted == [] and "is the same folder as" in outcome.problems[0] and site.listed() == ids


@pytest.mark.parametrize("where", ["", "/backups"])
def test_a_target_whose_backups_are_led_away_is_told_as_that_and_not_as_empty(site: RetentionSite, where: str) -> None:
    """An administrator may have done it: the folder that is meant is the target's own path."""
    place = site.folder / "targets" / "office" / f"erp{where}"
    place.rename(site.folder / "moved")
    place.symlink_to(site.folder / "moved")
    with pytest.raises(TargetUnavailable, match=f"holds none now. 'erp{where}' is a symbolic link, and nothing below"):
        site.retention().plan("office", NOW)
    if not where:
        with pytest.raises(BackupNotFound, match="'erp' is a symbolic link, and no link or mount is followed there"):
            choose_application(site.targets["office"], None)
