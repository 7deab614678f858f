"""What is old moves to another target: planned first, stored and checked there before it goes here, and never lost in between."""

from __future__ import annotations

import signal
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from twist_dr.backup.from_settings import chosen_targets
from twist_dr.errors import LaunchRefused, TargetFull
from twist_dr.operations.cleanup import CleanupConfig, cleanup
from twist_dr.repository.streams import Form
from twist_dr.retention import carrying
from twist_dr.retention import cleanup as retention_cleanup
from twist_dr.retention.model import Hold, Moving
from twist_dr.retention.planned import PlannedCleanup
from twist_dr.settings.policy import Policy
from twist_dr.storage.base import Digest, OnBytes, no_progress
from twist_dr.storage.local import LocalTarget
from twist_dr.system.events import Event, Shown
from twist_dr.system.progress import Report
from twist_dr_tests.retention.facts import backup, chain, gone, kept, nights, planned, reason
from twist_dr_tests.retention_site import NOW, Killer, RetentionSite, child, made_up, store
from twist_dr_tests.storage.conftest import BUCKET, s3_place
from twist_dr_tests.storage.servers import moto_server
from twist_dr_tests.sweep import instants

WEEK = Moving("cold", timedelta(days=7))
#: Of the site: the two last are older than a week.
NIGHTS = (1, 3, 9, 12)
#: Moments of the move of one backup at which it is killed: before and after three objects are put, twice recorded, a tombstone, four deletions.
STEPS = 22


def moved(plan: Any) -> set[str]:
    return {each.backup.id for each in plan.moved}


# -- the plan ----------------------------------------------------------------------------------------------------------


def test_what_is_kept_and_old_moves_and_what_is_not_kept_is_deleted_as_before() -> None:
    plan = planned(nights(12), Policy(max_count=10), moving=WEEK)
    assert (gone(plan), moved(plan)) == ({"d10", "d11"}, {"d8", "d9"})
    assert [each.to for each in plan.moved] == ["cold", "cold"]
    assert reason(plan, "d9") == "older than 7 days: it moves to cold"
    assert {each.backup.id for each in plan.leaving} == {"d8", "d9", "d10", "d11"}
    assert [each.backup.id for each in plan.moved] == ["d9", "d8"], "the oldest first"


def test_without_any_policy_nothing_is_deleted_and_what_is_old_moves() -> None:
    plan = planned(nights(12), moving=WEEK)
    assert (gone(plan), moved(plan)) == (set(), {"d8", "d9", "d10", "d11"})


@pytest.mark.promise(5)
def test_what_stays_whatever_the_policy_says_does_not_move_either() -> None:
    held = Hold("d9", "ops", "an audit")
    backups = [
        *(backup(f"d{age}", age, verified=True if age == 10 else None) for age in (1, 8, 9, 10, 11, 12)),
        backup("copied", 20, state="pending"), backup("bad", 21, state="corrupt"),
        backup("locked", 22, locked_until=backup("x", -1).taken_at),
    ]  # fmt: skip
    plan = planned(backups, holds=[held], in_use={"d11": "restore r1 reads it"}, moving=WEEK)
    assert moved(plan) == {"d8", "d12"}
    assert "held by ops" in reason(plan, "d9") and "last verified" in reason(plan, "d10")
    assert kept(plan) >= {"d1", "d9", "d10", "d11", "copied", "bad", "locked"}


def test_a_base_backup_stays_with_its_write_ahead_log_and_a_configuration_moves() -> None:
    bases = [*chain("f", "i", age=30), *chain("g", age=1)]
    others = [backup(f"c{age}", age, kind="configuration", verified=None) for age in (1, 9)]
    assert moved(planned([*bases, *others], moving=WEEK)) == {"c9"}


def test_what_cannot_go_there_stays_and_says_why() -> None:
    moving = Moving("cold", timedelta(days=7), {"d8": "the retention there would not keep it"})
    plan = planned(nights(10), moving=moving)
    assert moved(plan) == {"d9"}
    assert reason(plan, "d8").endswith(
        "older than 7 days, and does not move to cold: the retention there would not keep it"
    )


def test_many_that_move_at_once_are_no_doubt_and_a_clock_that_leapt_is() -> None:
    assert planned(nights(40), Policy(max_count=100), moving=WEEK).doubts == ()
    later = planned(nights(40), moving=WEEK, now=backup("x", -400).taken_at)
    assert [each.about for each in later.doubts] == ["clock"]


# -- carried out -------------------------------------------------------------------------------------------------------


def site_of(folder: Path, *, there: dict[str, Any] | None = None, empty: bool = False, **archive: Any) -> RetentionSite:
    site = RetentionSite(folder, {"office": {"daily": 30}, "archive": there}, cleanup={"max_delete_fraction": 0.1})
    site.site.document["storage_targets"]["office"]["archive"] = {"after": "7 days", "to": "archive", **archive}
    site.site.save()
    for days in NIGHTS if not empty else ():
        site.backup(days, verified=days == 3)
    return site


def test_old_backups_move_whole_and_are_found_at_the_new_target(tmp_path: Path) -> None:
    site = site_of(tmp_path)
    ids = site.listed()
    shown: list[PlannedCleanup] = []
    held: list[int] = []

    def listen(event: Event) -> None:
        if isinstance(event, Shown) and isinstance(event.what, PlannedCleanup):
            shown.append(event.what)
            held.append(len(site.listed()))

    app = site.app(report=Report(listen))
    cleanup(app, CleanupConfig(dry_run=True))
    assert (site.listed(), site.listed("archive")) == (ids, [])
    assert "0 of 4 backups go, 2 move to archive" in shown[0].sentence()
    assert shown[0].markdown().count("**move to archive**") == 2
    done = cleanup(app, CleanupConfig())
    assert held == [4, 4], "it moved before the plan was shown"
    assert (done.targets["office"], sorted(done.moved["office"])) == ([], ids[:2])
    assert (site.listed(), site.listed("archive")) == (ids[2:], ids[:2])
    assert {key.split("/")[2] for key in site.objects()} == set(ids[2:])
    for backup_id in ids[:2]:
        site.require_whole(backup_id, "archive")
        states = {copy.target: copy.state for copy in site.catalog.copies(backup_id)}
        assert states == {"office": "deleted", "archive": "checked"}
        row = site.catalog.backup("erp", backup_id)
        assert row is not None and row.complete
        assert [name for name, each in app.repositories().items() if each.has_manifest(backup_id)] == ["archive"]
    actions = [(line.action, line.subject) for line in site.catalog.audit("erp")]
    assert ("store moved copy", f"{ids[0]} on archive") in actions and ("delete copy", f"{ids[0]} on office") in actions
    again = cleanup(app, CleanupConfig())
    assert not any(again.targets.values()) and not any(again.moved.values())
    assert list((site.folder / "work").glob("move-*")) == []


@pytest.mark.sweep
@pytest.mark.promise(1, 5, 8)
@pytest.mark.parametrize("at", instants([2, 5, 8, 11, 14, 18], every=range(1, STEPS + 1)))
def test_killed_at_any_step_of_a_move_every_backup_is_whole_somewhere_and_the_next_cleanup_ends_it(
    tmp_path: Path, at: int
) -> None:
    site = site_of(tmp_path)
    ids = site.listed()
    assert child(partial(_clean_and_die, site, Killer(at))) == signal.SIGKILL
    for name in ("office", "archive"):
        for backup_id in site.listed(name):
            site.require_whole(backup_id, name)
    assert {*site.listed(), *site.listed("archive")} == set(ids)
    assert site.clean().problems == [] and site.clean("archive").problems == []
    assert (site.listed(), site.listed("archive")) == (ids[2:], ids[:2])
    assert {key.split("/")[2] for key in site.objects()} == set(ids[2:])
    assert [site.state(each) for each in ids[:2]] == ["deleted"] * 2
    assert [site.state(each, "archive") for each in ids[:2]] == ["checked"] * 2
    assert list((site.folder / "work").glob("move-*")) == []


def _clean_and_die(site: RetentionSite, killer: Killer) -> None:
    retention = site.retention()
    for name in ("office", "archive"):
        killer.around(site.targets[name], "put", "delete")
    killer.around(retention.app.catalog, "record_copy", "append_audit")
    retention.carry_out(retention.plan("office", NOW))


def test_what_the_other_targets_retention_would_end_at_once_stays_here(tmp_path: Path) -> None:
    site = site_of(tmp_path, there={"max_age": "10 days"})
    ids = site.listed()
    site.clean()
    assert site.listed("archive") == [ids[1]] and site.listed() == [ids[0], *ids[2:]]
    decisions = site.retention().plan("office", NOW).plan.decisions
    assert "the retention there would not keep it" in decisions[-1].reason


def test_a_night_does_not_wait_for_all_that_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = site_of(tmp_path)
    ids = site.listed()
    now = count(0, 4 * 3600)
    for module in (carrying, retention_cleanup):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(now)))
    site.clean()
    assert (site.listed("archive"), site.listed()) == (ids[:1], ids[1:])
    assert any("office: 1 backup more will move with the next cleanup" in line for line in site.said)
    site.clean()
    assert (site.listed("archive"), site.listed()) == (ids[:2], ids[2:])


class Full(LocalTarget):
    def put(self, source: Path, key: str, digest: Digest, progress: OnBytes = no_progress) -> None:
        raise TargetFull("it is full", target=self.name)


def test_while_the_other_target_takes_nothing_all_stays_and_the_rest_of_the_cleanup_is_done(tmp_path: Path) -> None:
    site = site_of(tmp_path)
    site.site.document["storage_targets"]["office"]["retention"] = {"max_count": 3}
    site.site.set(cleanup={"max_delete_fraction": 0.9})
    ids = site.listed()
    full = {**site.targets, "archive": Full("archive", site.folder / "targets/archive")}
    outcome = site.clean(targets=full)
    assert (outcome.deleted, outcome.moved, site.listed()) == ([ids[0]], [], ids[1:])
    assert [each for each in outcome.problems if "nothing more is moved to archive" in each and "is full" in each]
    gone = {**site.targets, "archive": LocalTarget("archive", site.folder / "nowhere" / "at" / "all")}
    (site.folder / "nowhere").write_text("no folder")
    assert site.clean(targets=gone).moved == [] and site.listed() == ids[1:]
    assert "nobody can tell what archive holds" in site.retention(gone).plan("office", NOW).plan.decisions[-1].reason
    assert site.clean().moved == [ids[1]]


class Losing(LocalTarget):
    """Says that it has what it was given, and has it no more."""

    def put(self, source: Path, key: str, digest: Digest, progress: OnBytes = no_progress) -> None:
        super().put(source, key, digest, progress)
        if key.endswith("/manifest.json"):
            self.delete(next(each.key for each in self.list(key.rpartition("/")[0]) if each.key != key))


@pytest.mark.promise(5)
def test_what_the_other_target_lost_right_after_it_was_stored_stays_here(tmp_path: Path) -> None:
    site = site_of(tmp_path)
    ids = site.listed()
    outcome = site.clean(targets={**site.targets, "archive": Losing("archive", site.folder / "targets/archive")})
    assert (outcome.moved, outcome.deleted, site.listed()) == ([], [], ids)
    for backup_id in ids:
        site.require_whole(backup_id, "office")
    assert any("archive does not hold all of it" in line for line in site.said)


@pytest.mark.promise(4)
def test_a_damaged_copy_does_not_move_is_known_as_bad_and_keeps_no_other_from_moving(tmp_path: Path) -> None:
    site = site_of(tmp_path)
    ids = site.listed()
    damaged = next((site.folder / "targets/office").rglob(f"{ids[0]}/database.dump*"))
    damaged.write_bytes(bytes(reversed(damaged.read_bytes())))
    outcome = site.clean()
    assert outcome.moved == [ids[1]] and site.listed("archive") == [ids[1]]
    assert ids[0] in site.listed() and site.state(ids[0]) == "corrupt"
    assert any(ids[0] in each and "could not be moved" in each for each in outcome.problems)


def test_what_was_stored_unencrypted_does_not_go_to_a_target_that_encrypts(tmp_path: Path) -> None:
    site = site_of(tmp_path)
    manifest = made_up(site.keyring, 20, form=Form("zstd", False))
    store(site.repository(), manifest, site.keyring, site.folder)
    site.record(manifest)
    outcome = site.clean()
    assert manifest.backup_id in site.listed() and manifest.backup_id not in site.listed("archive")
    assert any("stored unencrypted" in each for each in outcome.problems)
    assert len(outcome.moved) == 2


def test_backups_move_to_a_bucket(tmp_path: Path) -> None:
    site = site_of(tmp_path)
    ids = site.listed()
    with moto_server() as moto:
        moto.client().create_bucket(Bucket=BUCKET)
        site.targets = {**site.targets, "archive": s3_place(moto, name="archive").target()}
        assert sorted(site.clean().moved) == ids[:2]
        assert (site.listed(), site.listed("archive")) == (ids[2:], ids[:2])
        for backup_id in ids[:2]:
            site.require_whole(backup_id, "archive")


def test_an_archive_gets_no_new_backups_and_is_cleaned_and_read_as_any_other(tmp_path: Path) -> None:
    settings = site_of(tmp_path, empty=True).site.settings()
    assert list(chosen_targets(settings, "all")) == ["office"] == list(settings.wal_targets)
    assert list(settings.enabled_targets) == ["office", "archive"]
    with pytest.raises(LaunchRefused, match="archive is an archive that backups are moved to"):
        chosen_targets(settings, "office,archive")
