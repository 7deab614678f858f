"""Retention carried out, from settings and catalog to the last object: what should go goes, and nothing in doubt."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from twist_dr.catalog import Catalog, VerificationRow
from twist_dr.errors import TargetRefused, TargetUnavailable
from twist_dr.operations.cleanup import CleanupConfig, cleanup
from twist_dr.repository.manifest import MANIFEST_NAME
from twist_dr.retention.planned import PlannedCleanup
from twist_dr.retention.replaced import ReplacedOutcome
from twist_dr.retention.telling import TargetOutcome
from twist_dr.storage.base import StorageTarget, StoredObject
from twist_dr.storage.local import LocalTarget
from twist_dr.system.events import Event, Shown
from twist_dr.system.lock import FileLocks
from twist_dr.system.progress import Report
from twist_dr_tests.retention_site import NOW, Killer, RetentionSite, bury, child, made_up, store

WEEK = {"max_age": "7 days"}
#: A week of nights, and what is older.
NIGHTS = (40, 30, 9, 8, 3, 2, 1)


@pytest.fixture
def nights(tmp_path: Path) -> RetentionSite:
    """Seven backups, three of a week; the newest verified one is three days old."""
    site = RetentionSite(tmp_path, {"office": WEEK}, cleanup={"max_delete_fraction": 0.9})
    for days in NIGHTS:
        site.backup(days, verified=True if days >= 3 else None)
    return site


def test_what_the_policy_lets_go_goes_and_is_recorded(nights: RetentionSite) -> None:
    ids = nights.listed()
    outcome = nights.clean()
    assert outcome.problems == [] and sorted(outcome.deleted) == ids[:4] and outcome.freed > 0
    assert nights.listed() == ids[4:]
    assert {key.split("/")[2] for key in nights.objects()} == set(ids[4:])
    assert [nights.state(each) for each in ids] == ["deleted"] * 4 + ["checked"] * 3
    lines = [line for line in nights.catalog.audit("erp") if line.action == "delete copy"]
    assert [line.subject for line in lines] == [f"{each} on office" for each in reversed(ids[:4])]
    assert all(line.who == "tester@host" and "older than 7 days" in line.details["why"] for line in lines)
    assert nights.clean().deleted == []


@pytest.mark.promise(5)
def test_whoever_listens_is_shown_the_plan_before_anything_goes_and_the_outcome_at_once(nights: RetentionSite) -> None:
    shown: list[tuple[type[object], int]] = []

    def listen(event: Event) -> None:
        if isinstance(event, Shown):
            shown.append((type(event.what), len(nights.listed())))

    app = nights.app(report=Report(listen))
    ids = nights.listed()
    done = cleanup(app, CleanupConfig(allow_clock=True, allow_delete_fraction=1))
    assert shown == [(ReplacedOutcome, 7), (PlannedCleanup, 7), (TargetOutcome, len(nights.listed()))]
    assert done.replaced == 0 and sorted(done.targets["office"]) == sorted(set(ids) - set(nights.listed())) != []


@pytest.mark.promise(5)
@pytest.mark.promise(8)
def test_killed_at_any_step_every_listed_backup_is_whole_and_the_next_cleanup_ends_it(tmp_path: Path) -> None:
    template = RetentionSite(tmp_path / "template", {"office": WEEK}, cleanup={"max_delete_fraction": 0.9})
    for days in (9, 8, 1):
        template.backup(days, verified=days == 8)
    verified = template.listed()[1]
    kept, steps = template.listed()[1:], 0
    for at in range(200):
        site = _copy(template, tmp_path / f"killed-{at}")
        ended = child(partial(_clean_and_die, site, Killer(at), tmp_path / "steps"))
        if at == 0:
            steps = int((tmp_path / "steps").read_text())
            continue
        if at > steps:
            break
        assert ended == signal.SIGKILL
        for backup_id in site.listed():
            site.require_whole(backup_id)
        assert verified in site.listed()
        outcome = site.clean()
        assert outcome.problems == []
        assert site.listed() == kept
        assert {key.split("/")[2] for key in site.objects()} == set(kept)
        assert site.state(template.listed()[0]) == "deleted"
        assert list((site.folder / "work").glob("tombstone-*")) == []
    assert steps > 10


def _copy(site: RetentionSite, folder: Path) -> RetentionSite:
    """The same site in another folder, with a verified backup of yesterday that lets the one of last week go."""
    copy = RetentionSite(folder, {"office": WEEK}, cleanup={"max_delete_fraction": 0.9})
    for name in ("targets", "work", "keyring.yaml"):
        if (site.folder / name).is_dir():
            shutil.rmtree(copy.folder / name, ignore_errors=True)
            shutil.copytree(site.folder / name, copy.folder / name)
        else:
            shutil.copyfile(site.folder / name, copy.folder / name)
    copy.keyring = copy.site.keyring
    copy.catalog = copy.site.catalog()
    return copy


def _clean_and_die(site: RetentionSite, killer: Killer, steps: Path) -> None:
    retention = site.retention()
    killer.around(site.targets["office"], "put", "delete")
    killer.around(retention.app.catalog, "record_copy", "append_audit")
    assert retention.carry_out(retention.plan("office", NOW)).problems == []
    steps.write_text(str(killer.count))


@pytest.mark.promise(5)
def test_a_hold_placed_between_plan_and_deletion_is_respected(nights: RetentionSite) -> None:
    ids = nights.listed()
    retention = nights.retention()
    planned = retention.plan("office", NOW)
    nights.catalog.place_hold("erp", ids[0], who="eva", reason="the audit")
    outcome = retention.carry_out(planned)
    assert nights.listed() == [ids[0], *ids[4:]] and outcome.problems == []
    assert any("stays after all: held by eva for ever: the audit" in line for line in nights.said)
    assert nights.state(ids[0]) == "checked"


@pytest.mark.promise(5)
def test_what_is_read_right_now_stays(nights: RetentionSite) -> None:
    ids = nights.listed()
    retention = nights.retention()
    planned = retention.plan("office", NOW)
    with FileLocks(nights.site.settings().lock_dir, "erp").in_use([ids[1]], "a verification reads it"):
        retention.carry_out(planned)
        assert nights.listed() == [ids[1], *ids[4:]]
    assert nights.clean().deleted == [ids[1]]


@pytest.mark.promise(5)
def test_a_verification_that_fails_between_plan_and_deletion_keeps_the_older_good_one(tmp_path: Path) -> None:
    site = RetentionSite(tmp_path, {"office": {"max_count": 1}}, cleanup={"max_delete_fraction": 1})
    old, new = site.backup(2, verified=True), site.backup(1, verified=True)
    retention = site.retention()
    planned = retention.plan("office", NOW)
    assert [each.backup.id for each in planned.plan.deleted] == [old]
    site.catalog.record_verification(VerificationRow(new, "office", state="unverified", started_at=NOW, seconds=1))
    assert retention.carry_out(planned).deleted == []
    assert site.listed() == [old, new]


@pytest.mark.promise(5)
def test_nothing_goes_while_what_should_outlive_it_is_not_whole_on_the_target(nights: RetentionSite) -> None:
    ids = nights.listed()
    (nights.folder / "targets" / "office" / "erp" / "backups" / ids[4] / "media.tar.zst.enc").unlink()
    outcome = nights.clean()
    assert outcome.deleted == [] and nights.listed() == ids
    assert f"{ids[4]} is to outlive what goes, and it is not whole there" in outcome.problems[0]


def test_what_the_catalog_lacks_stays_and_the_plan_says_how_to_have_it_recorded(nights: RetentionSite) -> None:
    stranger = nights.backup(50, recorded=False)
    planned = nights.retention().plan("office", NOW)
    (decision,) = [each for each in planned.plan.decisions if each.backup.id == stranger]
    assert decision.keep and "run: twist-dr catalog rebuild --from office" in decision.reason
    nights.clean()
    assert stranger in nights.listed()


@pytest.mark.promise(5)
def test_copies_that_vanished_do_not_count_as_good_and_are_told(tmp_path: Path) -> None:
    site = RetentionSite(tmp_path, {"office": {"max_count": 1}}, cleanup={"max_delete_fraction": 1})
    old, new = site.backup(2, verified=True), site.backup(1, verified=True)
    shutil.rmtree(site.folder / "targets" / "office" / "erp" / "backups" / new)
    planned = site.retention().plan("office", NOW)
    assert planned.plan.deleted == () and any(new in line for line in planned.facts.warnings)
    assert site.clean().deleted == [] and site.listed() == [old]


def test_a_target_that_was_emptied_is_refused_and_not_taken_for_clean(nights: RetentionSite) -> None:
    shutil.rmtree(nights.folder / "targets" / "office")
    (nights.folder / "targets" / "office").mkdir()
    with pytest.raises(TargetUnavailable, match="held backups before and holds none now"):
        nights.retention().plan("office", NOW)


class Hiding(LocalTarget):
    """A store whose listings do not show some new objects yet."""

    hidden = "?"

    def list(self, prefix: str) -> Iterator[StoredObject]:
        return (each for each in super().list(prefix) if self.hidden not in each.key)


@pytest.mark.promise(5)
@pytest.mark.parametrize("hidden", ["manifest.json", ""])
def test_a_listing_that_hides_what_is_new_makes_nothing_remains_and_deletes_nothing_in_doubt(
    tmp_path: Path, hidden: str
) -> None:
    site = RetentionSite(tmp_path, {"office": {"max_count": 1}}, cleanup={"max_delete_fraction": 1})
    old, new = site.backup(9, verified=True), site.backup(8, verified=True)
    target = Hiding("office", site.folder / "targets" / "office")
    target.hidden = f"{new}/{hidden}"
    outcome = site.clean(targets={"office": target})
    assert outcome.incomplete == 0
    site.require_whole(new)
    if hidden:  # the manifest is there when asked for, and all else is listed
        assert site.listed() == [new] and outcome.problems == []
    else:
        assert site.listed() == [old, new] and "is not whole there" in outcome.problems[0]


class ReadOnly(LocalTarget):
    """A store whose credentials may only read."""

    def put(self, *arguments: Any, **options: Any) -> None:
        raise TargetRefused("cannot store: access was denied.", target=self.name)

    def delete(self, key: str) -> None:
        raise TargetRefused(f"cannot delete {key}: access was denied.", target=self.name)


def test_a_target_that_refuses_is_named_and_loses_nothing(nights: RetentionSite) -> None:
    ids = nights.listed()
    target: StorageTarget = ReadOnly("office", nights.folder / "targets" / "office")
    outcome = nights.clean(targets={"office": target})
    assert outcome.problems == ["office: cannot store: access was denied."] and nights.listed() == ids


class Stubborn(LocalTarget):
    """A store that takes objects and gives none up."""

    def delete(self, key: str) -> None:
        if key.endswith(MANIFEST_NAME):
            raise TargetRefused(f"cannot delete {key}: access was denied.", target=self.name)
        super().delete(key)


def test_a_target_that_gives_nothing_up_is_left_alone_after_some_refusals(nights: RetentionSite) -> None:
    ids = nights.listed()
    outcome = nights.clean(targets={"office": Stubborn("office", nights.folder / "targets" / "office")})
    assert len(outcome.problems) == 4 and "refused 3 deletions in a row" in outcome.problems[-1]
    assert nights.listed() == ids
    for backup_id in ids:
        nights.require_whole(backup_id)
    refused = [line for line in nights.catalog.audit("erp") if line.action == "delete copy"]
    assert len(refused) == 3 and all(line.result.startswith("refused: ") for line in refused)


def test_a_plan_that_would_delete_too_much_stops_and_says_how_to_go_on(tmp_path: Path) -> None:
    site = RetentionSite(tmp_path, {"office": WEEK})
    for days in (40, 30, 20, 1):
        site.backup(days, verified=True)
    before = site.objects()
    outcome = site.clean()
    assert outcome.deleted == [] and site.objects() == before
    assert "max_delete_fraction" in outcome.problems[0] and "allow_delete_fraction: 1" in outcome.problems[0]
    assert len(site.clean(allow_fraction=0.9).deleted) == 3


def test_a_tombstone_beside_a_backup_that_is_to_stay_now_is_taken_away(nights: RetentionSite) -> None:
    ids = nights.listed()
    for backup_id in (ids[0], ids[5]):
        bury(nights.folder / "targets" / "office" / "erp", backup_id, nights.keyring)
    assert nights.listed() == ids
    assert nights.clean().problems == []
    assert nights.listed() == ids[4:]
    assert not any("tombstones" in key for key in nights.objects())


def test_a_tombstone_that_the_store_does_not_give_up_is_no_new_deletion(nights: RetentionSite) -> None:
    ids, target = nights.listed(), Sealing("office", nights.folder / "targets" / "office")
    assert len(nights.clean(targets={"office": target}).deleted) == 4
    assert len([key for key in nights.objects() if "/tombstones/" in key]) == 4
    said = len(nights.said)
    for _ in range(2):
        outcome = nights.clean(targets={"office": target})
        assert (outcome.deleted, outcome.problems) == ([], [])
    assert not any("deleted" in line for line in nights.said[said:])
    assert len([line for line in nights.catalog.audit("erp") if line.action == "delete copy"]) == 4
    nights.clean()
    assert not any("/tombstones/" in key for key in nights.objects()) and nights.listed() == ids[4:]


class Sealing(LocalTarget):
    """A store that locks all that is put there (Object Lock), tombstones too, and lets go what was there before."""

    def delete(self, key: str) -> None:
        if "/tombstones/" in key:
            raise TargetRefused(f"cannot delete {key}: access was denied.", target=self.name)
        super().delete(key)


def test_a_killed_deletion_is_not_finished_where_the_backup_is_being_copied_anew(nights: RetentionSite) -> None:
    manifest = made_up(nights.keyring, 60)
    store(nights.repository(), manifest, nights.keyring, nights.folder, sealed=False)
    bury(nights.folder / "targets" / "office" / "erp", manifest.backup_id, nights.keyring)
    staged = nights.site.settings().staging_dir / manifest.backup_id
    staged.mkdir(parents=True)
    (staged / ".lock").touch()
    (staged / MANIFEST_NAME).write_bytes(manifest.seal(nights.keyring.primary))
    nights.clean()
    assert sum(manifest.backup_id in key for key in nights.objects()) == 2
    assert not any("tombstones" in key for key in nights.objects())


@pytest.mark.promise(5)
def test_links_of_a_chain_stay_with_what_builds_upon_them_and_go_behind_it(tmp_path: Path) -> None:
    site = RetentionSite(tmp_path, {"office": WEEK}, cleanup={"max_delete_fraction": 1})
    full = site.base(20)
    second = site.base(6, full)
    assert site.clean().deleted == [] and site.listed() == [full, second]
    newest = site.base(0.5)
    retention = site.retention()
    planned = retention.plan("office", NOW + timedelta(days=3))
    assert retention.carry_out(planned).deleted == [second, full]
    assert site.listed() == [newest]


@pytest.mark.promise(5)
def test_incrementals_that_a_differential_superseded_go_and_what_it_builds_upon_stays(tmp_path: Path) -> None:
    site = RetentionSite(tmp_path, {"office": {"max_age": "7 days"}}, cleanup={"max_delete_fraction": 1})
    full = site.base(12)
    first = site.base(11, full)
    second = site.base(10, full, first)
    differential = site.base(6, full)
    after = site.base(5, full, differential)
    planned = site.retention().plan("office", NOW)
    assert [each.backup.id for each in planned.plan.deleted] == [second, first], "the plan says so before anything goes"
    assert site.clean().deleted == [second, first]
    assert site.listed() == [full, differential, after]
    for backup_id in site.listed():
        site.require_whole(backup_id)


def test_used_space_is_what_lies_on_the_target(nights: RetentionSite) -> None:
    retention = nights.retention()
    planned = retention.plan("office", NOW)
    assert planned.facts.used_bytes == sum(each.size for each in nights.targets["office"].list("erp"))
    outcome = retention.carry_out(planned)
    left = sum(each.size for each in nights.targets["office"].list("erp"))
    assert planned.facts.used_bytes - outcome.freed == left
    retention.record_space("office")
    (sample,) = nights.catalog.space("office")
    assert sample.used_bytes == left and sample.free and sample.total


@pytest.mark.promise(5)
@pytest.mark.parametrize("seed", range(8))
def test_whatever_the_policy_the_last_verified_backup_survives_any_number_of_cleanups(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    policy = chance.choice([{"max_count": 0}, {"max_age": "1 second"}, {"max_bytes": 0}, {"daily": 1, "max_count": 1}])
    site = RetentionSite(tmp_path, {"office": policy}, cleanup={"max_delete_fraction": 1})
    verdicts = {site.backup(days, verified=(v := chance.choice([True, False, None]))): v for days in range(9, 0, -1)}
    verified = [backup_id for backup_id, verdict in verdicts.items() if verdict]
    for _ in range(3):
        assert site.clean(allow_clock=True).problems == []
        assert site.listed() and (not verified or verified[-1] in site.listed())
    for backup_id in site.listed():
        site.require_whole(backup_id)


def test_the_catalog_going_away_between_manifest_and_record_is_made_good_by_the_next_cleanup(
    nights: RetentionSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    from twist_dr.catalog import CatalogUnavailable

    ids = nights.listed()

    def away(*_: Any, **__: Any) -> None:
        raise CatalogUnavailable("the catalog is away.")

    with monkeypatch.context() as patched:
        patched.setattr(Catalog, "record_copy", away)
        outcome = nights.clean()
        assert "the catalog is away" in outcome.problems[0]
    assert len(nights.listed()) == len(ids) - 1
    assert nights.clean().problems == []
    assert nights.listed() == ids[4:] and [nights.state(each) for each in ids[:4]] == ["deleted"] * 4


def test_times_of_the_future_and_an_old_hold_are_no_reason_to_fail(nights: RetentionSite) -> None:
    ids = nights.listed()
    nights.catalog.place_hold("erp", ids[0], who="eva", reason="over", until=NOW - timedelta(days=1))
    nights.catalog.place_hold("erp", "20200101T000000Z-full-0000", who="eva", reason="of a backup that is gone")
    assert ids[0] in nights.clean(allow_clock=True).deleted
