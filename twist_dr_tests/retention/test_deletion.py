"""Deleting a copy: whenever it is killed, refused or told otherwise, what is listed is whole, and what was begun is finished."""

from __future__ import annotations

import hashlib
import json
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from twist_dr.errors import TargetRefused
from twist_dr.repository.keys import Keyring, new_key
from twist_dr.repository.manifest import MANIFEST_NAME
from twist_dr.repository.repository import Repository
from twist_dr.retention.deletion import Deletion
from twist_dr.retention.ground import survey
from twist_dr.retention.holds import HoldNote, HoldNotes
from twist_dr.retention.model import Hold
from twist_dr.retention.tombstones import Tombstone, tombstone_key
from twist_dr.storage.base import Digest, StorageTarget, StoredObject
from twist_dr.storage.local import LocalTarget
from twist_dr.storage.patience import patient
from twist_dr.system.lock import FileLocks
from twist_dr_tests.helpers import KEYRING, next_line, python, wait_until
from twist_dr_tests.retention_site import NOW, Killer, child, made_up, store
from twist_dr_tests.storage.conftest import (  # noqa: F401  # noqa: F401
    Place,
    machine_folder,
    moto,
    other_file_system,
    place,
    rclone,
    rclone_folder,
    s3_place,
    sftp_server,
    share,
    target,
    webdav_server,
)
from twist_dr_tests.storage.servers import S3Server


def _deletion(repository: Repository, scratch: Path) -> Deletion:
    scratch.mkdir(exist_ok=True)
    return Deletion(repository, KEYRING, scratch)


def _tombstone(backup_id: str) -> Tombstone:
    return Tombstone(backup_id, "ops@host", "older than 30 days", NOW, "run-1")


def _nothing(_: Any) -> None:
    return None


def _keys(repository: Repository) -> list[str]:
    return [each.key for each in repository.target.list("erp")]


@pytest.fixture
def local(tmp_path: Path) -> Repository:
    office = LocalTarget("office", tmp_path / "office")
    office.prepare()
    return Repository(office, "erp")


def test_a_deleted_copy_leaves_nothing_and_the_others_everything(target: StorageTarget, tmp_path: Path) -> None:  # noqa: F811
    repository = Repository(patient(target, 60), "erp")
    old, new = made_up(KEYRING, 40), made_up(KEYRING, 1)
    for manifest in (old, new):
        store(repository, manifest, KEYRING, tmp_path)
    freed: list[int] = []
    done = _deletion(repository, tmp_path / "work").delete(_tombstone(old.backup_id), _nothing, freed.append)
    assert done.fate == "deleted" and done.freed == freed[0] > 0
    assert {key.split("/")[2] for key in _keys(repository)} == {new.backup_id}
    assert len(repository.held(repository.manifest(new.backup_id, KEYRING))) == 2
    ground = survey(repository, KEYRING)
    assert ground.sealed == [new.backup_id] and ground.tombstones == set()


def _put(repository: Repository, key: str, content: bytes, folder: Path) -> None:
    path = folder / uuid.uuid4().hex
    path.write_bytes(content)
    repository.target.put(path, key, Digest(len(content), hashlib.sha256(content).hexdigest()))


def test_what_others_wrote_is_told_from_what_is_ours_wherever_it_lies(target: StorageTarget, tmp_path: Path) -> None:  # noqa: F811
    repository, stranger = Repository(patient(target, 60), "erp"), new_key("k2")
    ours, theirs, none = (made_up(KEYRING, days).backup_id for days in (40, 30, 20))
    _put(repository, tombstone_key("erp", ours), _tombstone(ours).document("erp", KEYRING.primary), tmp_path)
    _put(repository, tombstone_key("erp", theirs), _tombstone(theirs).document("erp", stranger), tmp_path)
    _put(repository, tombstone_key("erp", none), b"", tmp_path)
    ground = survey(repository, KEYRING)
    assert (ground.tombstones, ground.forged) == ({ours}, {theirs, none})
    notes, others = HoldNotes(repository, KEYRING), Keyring("k2", {"k2": stranger}, "another keyring")
    yesterday = NOW - timedelta(days=1)
    notes.place(HoldNote(Hold(ours, "eva", "the audit", yesterday), NOW), tmp_path)
    HoldNotes(repository, others).place(HoldNote(Hold(theirs, "eve", "the audit", yesterday), NOW), tmp_path)
    mine, forged = sorted(notes.all(), key=lambda note: bool(note.doubt))
    assert mine.binding == Hold(ours, "eva", "the audit", yesterday)
    assert forged.binding.until is None and "is not authentic" in forged.binding.reason
    assert notes.remove(theirs) == 1, "a person may release it"


def _delete_and_die(repository: Repository, backup_id: str, folder: Path, noted: Path, killer: Killer) -> None:
    killer.around(repository.target, "put", "delete")
    _deletion(repository, folder / "work").delete(_tombstone(backup_id), _nothing, lambda _: noted.touch())
    (folder / "steps").write_text(str(killer.count))


@pytest.mark.promise(8)
def test_killed_at_any_step_what_is_listed_is_whole_and_the_next_time_finishes_it(tmp_path: Path) -> None:
    manifest = made_up(KEYRING, 40)
    steps, listed = 0, set()
    for at in range(100):
        office = LocalTarget("office", tmp_path / f"office-{at}")
        office.prepare()
        repository = Repository(office, "erp")
        store(repository, manifest, KEYRING, tmp_path)
        noted = tmp_path / f"noted-{at}"
        ended = child(partial(_delete_and_die, repository, manifest.backup_id, tmp_path, noted, Killer(at)))
        if at == 0:
            steps = int((tmp_path / "steps").read_text())
            assert ended == 0 and _keys(repository) == []
            continue
        assert ended == signal.SIGKILL
        office = LocalTarget("office", office.path)
        repository = Repository(office, "erp")
        ground = survey(repository, KEYRING)
        if ground.sealed:
            assert not noted.exists()
            assert len(repository.held(repository.manifest(manifest.backup_id, KEYRING))) == 2
        listed.add(bool(ground.sealed))
        deletion = _deletion(repository, tmp_path / "work")
        if ground.sealed:
            assert deletion.delete(_tombstone(manifest.backup_id), _nothing, _nothing).fate == "deleted"
        elif ground.folders:
            # All that is left of a backup is known for what it is.
            assert ground.tombstones == {manifest.backup_id}
            assert deletion.finish(manifest.backup_id, _nothing).fate == "deleted"
        elif ground.tombstones:
            deletion.finish(manifest.backup_id, _nothing)
        assert _keys(repository) == []
        if at == steps:
            break
    assert listed == {True, False} and steps >= 8


def test_what_speaks_against_it_at_the_last_moment_keeps_the_copy_and_takes_the_tombstone(
    local: Repository, tmp_path: Path
) -> None:
    manifest = made_up(KEYRING, 40)
    store(local, manifest, KEYRING, tmp_path)
    before = _keys(local)
    done = _deletion(local, tmp_path / "work").delete(_tombstone(manifest.backup_id), lambda _: "held by eva", _nothing)
    assert (done.fate, done.reason) == ("kept", "held by eva")
    assert _keys(local) == before


def test_a_tombstone_tells_who_why_when_and_in_which_run(local: Repository, tmp_path: Path) -> None:
    manifest = made_up(KEYRING, 40)
    store(local, manifest, KEYRING, tmp_path)
    seen: list[dict[str, Any]] = []

    def look(_: Any) -> None:
        with local.target.open(f"erp/tombstones/{manifest.backup_id}.json") as stream:
            seen.append(json.load(stream))

    _deletion(local, tmp_path / "work").delete(_tombstone(manifest.backup_id), look, _nothing)
    assert seen[0]["who"] == "ops@host" and seen[0]["why"] == "older than 30 days" and seen[0]["run"] == "run-1"
    assert seen[0]["at"] == NOW.isoformat()


@pytest.mark.parametrize("damage", ["altered", "another key", "another backup's"])
def test_a_manifest_that_cannot_be_trusted_is_no_reason_to_delete(
    local: Repository, tmp_path: Path, damage: str
) -> None:
    manifest = made_up(KEYRING, 40)
    store(local, manifest, KEYRING, tmp_path)
    assert isinstance(local.target, LocalTarget)
    path = local.target.path / local.key(manifest.backup_id, MANIFEST_NAME)
    keyring = KEYRING
    if damage == "altered":
        path.write_bytes(path.read_bytes().replace(b"ops@host", b"eve@host"))
    elif damage == "another key":
        keyring = Keyring("k2", {"k2": new_key("k2")}, "another keyring")
    else:
        path.write_bytes(made_up(KEYRING, 3).seal(KEYRING.primary))
    (tmp_path / "work").mkdir()
    done = Deletion(local, keyring, tmp_path / "work").delete(_tombstone(manifest.backup_id), _nothing, _nothing)
    assert done.fate == "untrusted" and "cannot be trusted" in done.reason
    assert path.exists() and len(_keys(local)) == 3


def test_a_listing_that_hides_objects_does_not_keep_them_from_being_deleted(tmp_path: Path) -> None:
    class Forgetful(LocalTarget):
        """Its listings are late: they show nothing."""

        def list(self, prefix: str) -> Iterator[StoredObject]:
            return iter(())

    office = LocalTarget("office", tmp_path / "office")
    office.prepare()
    manifest = made_up(KEYRING, 40)
    store(Repository(office, "erp"), manifest, KEYRING, tmp_path)
    late = Repository(Forgetful("office", office.path), "erp")
    assert survey(late, KEYRING, [manifest.backup_id]).sealed == [manifest.backup_id]
    assert (
        _deletion(late, tmp_path / "work").delete(_tombstone(manifest.backup_id), _nothing, _nothing).fate == "deleted"
    )
    assert list(office.list("erp")) == []


def test_incomplete_backups_into_which_somebody_copies_anew_stay_from_the_moment_that_he_begins(
    local: Repository, tmp_path: Path
) -> None:
    manifest = made_up(KEYRING, 40)
    store(local, manifest, KEYRING, tmp_path, sealed=False)
    answers = iter([None, None, "it lies in staging"])
    done = _deletion(local, tmp_path / "work").remove_incomplete(manifest.backup_id, lambda: next(answers))
    assert (done.fate, done.reason) == ("kept", "it lies in staging") and done.freed > 0
    assert len(_keys(local)) == 1
    assert _deletion(local, tmp_path / "work").remove_incomplete(manifest.backup_id, lambda: None).fate == "deleted"


class Refusing(LocalTarget):
    """A store whose credentials may not delete objects of some name."""

    refused = ""

    def delete(self, key: str) -> None:
        if key.endswith(self.refused):
            raise TargetRefused(f"cannot delete {key}: access was denied.", target=self.name)
        super().delete(key)


@contextmanager
def _refusing(tmp_path: Path, name: str) -> Iterator[tuple[Repository, str]]:
    office = Refusing("office", tmp_path / "office")
    office.prepare()
    office.refused = name
    manifest = made_up(KEYRING, 40)
    store(Repository(office, "erp"), manifest, KEYRING, tmp_path)
    yield Repository(office, "erp"), manifest.backup_id


def test_a_refused_deletion_leaves_the_backup_whole(tmp_path: Path) -> None:
    with _refusing(tmp_path, MANIFEST_NAME) as (repository, backup_id):
        done = _deletion(repository, tmp_path / "work").delete(_tombstone(backup_id), _nothing, pytest.fail)
        assert done.fate == "refused" and "access was denied" in done.reason
        assert len(repository.held(repository.manifest(backup_id, KEYRING))) == 2
        assert survey(repository, KEYRING).tombstones == set()


def test_what_is_refused_after_the_manifest_is_gone_is_finished_another_time(tmp_path: Path) -> None:
    with _refusing(tmp_path, "media.tar.zst.enc") as (repository, backup_id):
        deletion = _deletion(repository, tmp_path / "work")
        done = deletion.delete(_tombstone(backup_id), _nothing, _nothing)
        assert done.fate == "incomplete" and "media.tar" in done.reason
        ground = survey(repository, KEYRING)
        assert ground.sealed == [] and ground.tombstones == {backup_id}
        assert isinstance(repository.target, Refusing)
        repository.target.refused = "nothing"
        assert deletion.finish(backup_id, _nothing).fate == "deleted"
        assert _keys(repository) == []


def test_a_locked_copy_stays_and_nothing_of_it_is_hidden(moto: S3Server, tmp_path: Path) -> None:  # noqa: F811
    bucket = f"locked-{uuid.uuid4().hex}"
    moto.client().create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    locked = s3_place(moto, bucket=bucket, object_lock_days=30).target()
    repository = Repository(locked, "erp")
    manifest = made_up(KEYRING, 40)
    store(repository, manifest, KEYRING, tmp_path)
    until = locked.locked_until(repository.key(manifest.backup_id, MANIFEST_NAME))
    assert until is not None and timedelta(days=29) < until - NOW < timedelta(days=31)
    assert locked.locked_until("erp/backups/none") is None
    done = _deletion(repository, tmp_path / "work").delete(_tombstone(manifest.backup_id), _nothing, pytest.fail)
    assert done.fate == "kept" and f"until {until:%Y-%m-%d}" in done.reason
    assert len(repository.held(repository.manifest(manifest.backup_id, KEYRING))) == 2
    # Nothing was deleted behind a marker, either.
    versions = moto.client().list_object_versions(Bucket=bucket)
    assert [each for each in versions.get("DeleteMarkers", ()) if "/backups/" in each["Key"]] == []


def test_a_copy_of_which_one_part_is_locked_longer_stays_whole(moto: S3Server, tmp_path: Path) -> None:  # noqa: F811
    bucket = f"locked-{uuid.uuid4().hex}"
    moto.client().create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    place = s3_place(moto, bucket=bucket)  # noqa: F811
    repository = Repository(place.target(), "erp")
    manifest = made_up(KEYRING, 40)
    store(repository, manifest, KEYRING, tmp_path)
    key = repository.key(manifest.backup_id, "media.tar.zst.enc")
    hold = {"Bucket": bucket, "Key": f"{place.arguments['prefix']}/{key}"}
    moto.client().put_object_legal_hold(**hold, LegalHold={"Status": "ON"})
    deletion = _deletion(repository, tmp_path / "work")
    assert deletion.delete(_tombstone(manifest.backup_id), _nothing, pytest.fail).fate == "kept"
    assert len(repository.held(repository.manifest(manifest.backup_id, KEYRING))) == 2
    moto.client().put_object_legal_hold(**hold, LegalHold={"Status": "OFF"})
    assert deletion.delete(_tombstone(manifest.backup_id), _nothing, _nothing).fate == "deleted"


READER = """
import sys, time
from pathlib import Path
from twist_dr.system.lock import FileLocks
with FileLocks(Path(sys.argv[1]), "erp").in_use(["some-id"], "a verification reads it"):
    print("reads", flush=True)
    time.sleep(60)
"""


def test_what_somebody_reads_is_known_until_he_ends_however_he_ends(tmp_path: Path) -> None:
    with python(READER, tmp_path) as reader:
        assert next_line(reader) == "reads"
        with FileLocks(tmp_path, "erp").in_use(["other-id"], "a download"):
            assert FileLocks(tmp_path, "erp").used_now() == {
                "some-id": "a verification reads it",
                "other-id": "a download",
            }
        assert FileLocks(tmp_path, "erp").used_now() == {"some-id": "a verification reads it"}
        reader.kill()
        wait_until(lambda: FileLocks(tmp_path, "erp").used_now() == {}, "the dead reader to be forgotten")
    assert list((tmp_path / "erp.uses").iterdir()) == []
