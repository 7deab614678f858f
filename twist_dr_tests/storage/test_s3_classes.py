"""Objects that change their storage class keep key and bytes, are checked, and say that they must be thawed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import cast

import pytest

from twist_dr.errors import ObjectArchived, ObjectCorrupt, ObjectMissing, TargetRefused
from twist_dr.storage.base import Digest
from twist_dr.storage.local import LocalTarget
from twist_dr.storage.s3_classes import S3Classes
from twist_dr.storage.s3_target import S3Target
from twist_dr_tests.storage.conftest import PART, s3_place
from twist_dr_tests.storage.servers import S3Server

KEY = "erp/backups/x/database.dump.zst.enc"


def stored(folder: Path, server: S3Server, content: bytes, **options: object) -> tuple[S3Target, Digest]:
    target = cast(S3Target, s3_place(server, **options).target())
    path = folder / "object"
    path.write_bytes(content)
    digest = Digest(len(content), hashlib.sha256(content).hexdigest())
    target.put(path, KEY, digest)
    return target, digest


@pytest.mark.promise(1, 2)
@pytest.mark.parametrize("checksum", ["server", "read-back"])
def test_an_object_of_another_class_has_its_key_and_bytes_and_can_be_read_where_the_class_lets_one(
    tmp_path: Path, moto: S3Server, checksum: str
) -> None:
    target, digest = stored(tmp_path, moto, b"dump" * 1000, checksum=checksum)
    before = target._connection.head(KEY) or {}
    target.change_class(KEY, digest, "STANDARD_IA")
    after = target._connection.head(KEY) or {}
    assert (after["StorageClass"], after["Metadata"]) == ("STANDARD_IA", before["Metadata"])
    target.check(KEY, digest)
    found = target.stat(KEY)
    assert found is not None and (found.storage_class, found.archived) == ("STANDARD_IA", False)
    assert [each.key for each in target.list("erp")] == [KEY]
    target.put(tmp_path / "object", KEY, digest)  # still the same object to everybody
    assert list(target.list(".probe")) == [] and not [each for each in target.children("") if "probe" in each]


def test_what_is_in_an_archive_class_says_so_and_cannot_be_read_before_it_is_restored_there(
    tmp_path: Path, moto: S3Server
) -> None:
    target, digest = stored(tmp_path, moto, b"dump" * 1000)
    target.change_class(KEY, digest, "GLACIER")
    target.change_class(KEY, digest, "GLACIER")  # done already
    listed, found = next(iter(target.list("erp"))), target.stat(KEY)
    assert found is not None and found.archived and listed.archived and found.size == digest.size
    with pytest.raises(ObjectArchived, match=r"archive storage class.*restore it there first"):
        target.open(KEY).read()
    moto.client().restore_object(
        Bucket=target.bucket, Key=f"{target.prefix}{KEY}", RestoreRequest={"Days": 1, "GlacierJobParameters": {"Tier": "Standard"}}
    )  # fmt: skip
    thawed = target.stat(KEY)
    assert thawed is not None and not thawed.archived
    target.check(KEY, digest)
    target.delete(KEY)
    assert target.stat(KEY) is None


def test_what_is_larger_than_one_copy_may_be_goes_in_parts_each_compared(tmp_path: Path, moto: S3Server) -> None:
    target, digest = stored(tmp_path, moto, bytes(range(256)) * (2 * PART // 256) + b"end")
    classes = S3Classes(target, target._connection, {}, most_at_once=PART, part=PART)
    read: list[int] = []
    classes.change(KEY, digest, "STANDARD_IA", read.append)
    assert sum(read) >= digest.size
    head = target._connection.head(KEY) or {}
    assert (head["StorageClass"], head["Metadata"]["sha256"]) == ("STANDARD_IA", digest.sha256)
    target.check(KEY, digest)
    assert target._unfinished() == []


@pytest.mark.promise(4)
def test_other_bytes_than_were_recorded_stay_in_their_class(tmp_path: Path, moto: S3Server) -> None:
    target, digest = stored(tmp_path, moto, b"dump")
    with pytest.raises(ObjectCorrupt, match="left in its storage class"):
        target.change_class(KEY, Digest(4, "0" * 64), "GLACIER")
    assert "StorageClass" not in (target._connection.head(KEY) or {})
    with pytest.raises(ObjectMissing):
        target.change_class("erp/nothing", digest, "GLACIER")


def test_a_store_that_cannot_be_believed_about_an_archive_refuses_before_it_touches_anything(
    tmp_path: Path, rclone: S3Server
) -> None:
    target, digest = stored(tmp_path, rclone, b"dump")
    with pytest.raises(TargetRefused, match="computes no SHA-256 of a copy"):
        target.change_class(KEY, digest, "GLACIER")
    target.check(KEY, digest)
    with pytest.raises(TargetRefused, match="has no storage class GLACIER"):
        LocalTarget("disk", tmp_path).change_class(KEY, digest, "GLACIER")
