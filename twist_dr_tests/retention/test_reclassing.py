"""What is old goes to another storage class of its own store: planned first, whole afterwards, and not touched where it must be thawed before."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from twist_dr.catalog.notes import archived_copies
from twist_dr.errors import BackupNotFound, ObjectArchived
from twist_dr.repository.sources import Sources
from twist_dr.retention.model import Hold, Reclassing
from twist_dr.scrub.found import ScrubOrder
from twist_dr.scrub.scrub import Scrub
from twist_dr.settings.building import build_targets
from twist_dr.system.progress import Lines, Report
from twist_dr_tests.retention.facts import backup, chain, nights, planned, reason
from twist_dr_tests.retention_site import NOW, Killer, RetentionSite, child, made_up, store
from twist_dr_tests.storage.conftest import BUCKET, s3_place
from twist_dr_tests.storage.servers import S3Server, moto_server
from twist_dr_tests.sweep import instants

COLD = Reclassing("GLACIER", timedelta(days=7))
NIGHTS = (1, 3, 9, 12)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with moto_server() as moto:
        moto.client().create_bucket(Bucket=BUCKET)
        yield moto


def test_what_is_old_and_kept_by_a_policy_alone_changes_its_class_and_stays() -> None:
    there = [
        backup("done", 20, storage_class="GLACIER"),
        backup("half", 21, storage_class=None),
        backup("deeper", 22, storage_class="DEEP_ARCHIVE", archived=True),
    ]
    plan = planned([*nights(10), *there, *chain("f", age=30)], holds=[Hold("d9", "ops", "an audit")], moving=COLD)
    assert [each.backup.id for each in plan.reclassed] == ["half", "d8"]
    assert plan.leaving == () and {each.storage_class for each in plan.reclassed} == {"GLACIER"}
    assert reason(plan, "d8").endswith("older than 7 days: it goes to the storage class GLACIER")


def site_of(folder: Path, server: S3Server, storage_class: str = "GLACIER") -> RetentionSite:
    site = RetentionSite(folder, {"office": {"daily": 30}, "archive": None})
    options = {name: value for name, value in s3_place(server).arguments.items() if name not in ("name", "limits")}
    archive = {"after": "7 days", "storage_class": storage_class}
    site.site.document["storage_targets"]["office"] = {
        "type": "s3", **options, "retention": {"daily": 30}, "archive": archive, "checksum": "server",
    }  # fmt: skip
    site.site.save()
    site.targets = build_targets(site.site.settings())
    for days in NIGHTS:
        manifest = made_up(site.keyring, days)
        store(site.repository(), manifest, site.keyring, site.folder)
        site.catalog.record_backup(manifest, manifest.seal(site.keyring.primary), run_id=None)
        site.catalog.record_copy(manifest.backup_id, "office", state="checked", form="zstd+enc", stored_bytes=56)
    return site


def classes(site: RetentionSite, backup_id: str) -> dict[str, str | None]:
    found = site.targets["office"].list(f"erp/backups/{backup_id}")
    return {each.key.rpartition("/")[2].partition(".")[0]: each.storage_class for each in found}


@pytest.mark.promise(1, 5)
def test_old_backups_go_to_an_archive_class_and_are_passed_over_by_whoever_reads(
    tmp_path: Path, server: S3Server
) -> None:
    site = site_of(tmp_path, server)
    ids = site.listed()
    plan = site.retention().plan("office", NOW)
    assert "2 to the storage class GLACIER" in plan.sentence() and "keep, **to GLACIER**" in plan.markdown()
    outcome = site.clean()
    assert (outcome.problems, sorted(outcome.reclassed), site.listed()) == ([], ids[:2], ids)
    for backup_id in ids[:2]:
        assert classes(site, backup_id) == {"database": "GLACIER", "media": "GLACIER", "manifest": "STANDARD"}
        assert site.state(backup_id) == "checked"
    assert set(classes(site, ids[2]).values()) == {"STANDARD"}
    assert archived_copies(site.catalog, "erp", "office") == dict.fromkeys(ids[:2], "GLACIER")
    assert site.clean().reclassed == []
    # Whoever restores is told to thaw it, or takes another target's.
    app = site.app()
    manifest = app.repositories()["office"].manifest(ids[0], site.keyring)
    with pytest.raises(ObjectArchived, match=r"archive storage class GLACIER; restore all of that backup there first"):
        app.repositories()["office"].readable(manifest)
    with pytest.raises(BackupNotFound, match="GLACIER"):
        Sources(ids[0], list(app.repositories().values()), site.keyring, Report())
    store(site.repository("archive"), manifest, site.keyring, site.folder)
    sources = Sources(ids[0], list(app.repositories().values()), site.keyring, Report())
    assert sources.manifest == manifest and list(sources.failed) == ["office"]
    assert sources.corrupt == {}


def test_a_scrub_does_not_read_what_must_be_thawed_whoever_put_it_there(tmp_path: Path, server: S3Server) -> None:
    site = site_of(tmp_path, server)
    ids = site.listed()
    site.clean()
    # A rule of the bucket archives one more, of which nobody told us.
    key = next(each.key for each in site.targets["office"].list(f"erp/backups/{ids[2]}") if "database" in each.key)
    options = site.site.document["storage_targets"]["office"]
    place = {"Bucket": BUCKET, "Key": f"{options['prefix']}/{key}"}
    server.client().copy_object(**place, CopySource=place, StorageClass="DEEP_ARCHIVE")
    said: list[str] = []
    app = site.app(report=Report(Lines(said.append, said.append)))
    result = Scrub(app, app.repositories()).run(ScrubOrder(["office"], None, True))
    assert (result.copies, result.bad, result.unread) == (1, 0, {})
    assert "office: 2 copies in archive storage classes are not read" in said
    assert [line for line in said if ids[2] in line and "is not read" in line]
    assert [site.state(each) for each in ids] == ["checked"] * 4
    assert archived_copies(site.catalog, "erp", "office").keys() == set(ids[:3])


def test_what_a_rule_of_the_bucket_archived_meanwhile_is_in_nobodys_way(tmp_path: Path, server: S3Server) -> None:
    site = site_of(tmp_path, server)
    ids = site.listed()
    prefix = site.site.document["storage_targets"]["office"]["prefix"]
    for each in list(site.targets["office"].list(f"erp/backups/{ids[0]}")):
        if "manifest" not in each.key:
            place = {"Bucket": BUCKET, "Key": f"{prefix}/{each.key}"}
            server.client().copy_object(**place, CopySource=place, StorageClass="DEEP_ARCHIVE")
            break  # the other one goes to the class of the settings
    assert [site.clean().reclassed, site.clean().reclassed] == [ids[:2], []]
    assert sorted(map(str, classes(site, ids[0]).values())) == ["DEEP_ARCHIVE", "GLACIER", "STANDARD"]
    # None of them can move to another target before it is restored there; all else goes on, and they can be deleted.
    site.site.document["storage_targets"]["office"]["archive"] = {"after": "2 days", "to": "archive"}
    site.site.save()
    outcome = site.clean()
    assert (outcome.problems, outcome.moved, site.listed("archive")) == ([], [ids[2]], [ids[2]])
    site.site.document["storage_targets"]["office"]["retention"] = {"max_count": 1}
    site.site.set(cleanup={"max_delete_fraction": 0.9})
    assert sorted(site.clean().deleted) == ids[:2]


@pytest.mark.sweep
@pytest.mark.promise(8)
@pytest.mark.parametrize("at", instants([2, 4], every=range(1, 13)))
def test_killed_in_between_every_backup_is_whole_and_the_next_cleanup_ends_it(
    tmp_path: Path, server: S3Server, at: int
) -> None:
    site = site_of(tmp_path, server, "STANDARD_IA")
    ids = site.listed()
    assert child(partial(_clean_and_die, site, Killer(at))) == signal.SIGKILL
    assert site.listed() == ids
    for backup_id in ids:
        site.require_whole(backup_id)
    assert site.clean().problems == []
    assert [classes(site, each)["media"] for each in ids] == ["STANDARD_IA"] * 2 + ["STANDARD"] * 2
    assert archived_copies(site.catalog, "erp", "office") == {}


def _clean_and_die(site: RetentionSite, killer: Killer) -> None:
    retention = site.retention()
    killer.around(site.targets["office"], "change_class")
    killer.around(retention.app.catalog, "record_copy", "append_audit")
    retention.carry_out(retention.plan("office", NOW))


@pytest.mark.promise(4)
def test_a_damaged_copy_stays_in_its_class_and_is_known_as_bad(tmp_path: Path, server: S3Server) -> None:
    site = site_of(tmp_path, server)
    ids = site.listed()
    key = next(each.key for each in site.targets["office"].list(f"erp/backups/{ids[0]}") if "database" in each.key)
    prefix = site.site.document["storage_targets"]["office"]["prefix"]
    server.client().put_object(Bucket=BUCKET, Key=f"{prefix}/{key}", Body=b"these bytes stand for a lump")
    outcome = site.clean()
    assert outcome.reclassed == [ids[1]] and site.state(ids[0]) == "corrupt"
    assert any("stays in its storage class" in each for each in outcome.problems)
