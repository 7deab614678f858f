"""Objects of an S3 store to another storage class: copied onto themselves, which leaves their bytes as they are ("CopyObject", Amazon S3 API reference).

What is copied is what was read and hashed just before: the copy is conditional on its ETag. What came out is checked by the SHA-256 that the store computes
of its copy, or where the class lets one read, read again. A bucket that keeps versions keeps the old one until a rule for noncurrent versions ends it.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from twist_dr.errors import ObjectCorrupt, TargetRefused
from twist_dr.storage.base import Digest, OnBytes, StorageTarget
from twist_dr.storage.s3_connection import S3Connection
from twist_dr.storage.s3_transfer import encoded
from twist_dr.system.sizes import CHUNK

#: What is in these has to be restored in the store before it can be read ("Understanding and managing Amazon S3 storage classes").
ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
#: CopyObject takes no larger object, in bytes; UploadPartCopy copies parts of up to this.
_MOST_AT_ONCE = 5 << 30
#: So that 5 TiB, the largest object, is less than 10,000 parts.
_PART = 1 << 30
_CONTENT = b"twist-dr"


def is_archived(described: Mapping[str, Any]) -> bool:
    """Whether an object that a list or a HEAD describes cannot be read now. A list does not tell what was restored for a while."""
    asleep = described.get("StorageClass") in ARCHIVES or bool(described.get("ArchiveStatus"))
    return asleep and 'ongoing-request="false"' not in described.get("Restore", "")


@dataclass(frozen=True)
class _Means:
    """What the store was seen to do with a class: ``keeps`` it, and ``computes`` SHA-256 of a copy."""

    keeps: bool
    computes: bool


class S3Classes:
    """``attributes``: of new objects, encryption among them; a copy does not inherit that. Sizes in bytes."""

    def __init__(
        self,
        target: StorageTarget,
        connection: S3Connection,
        attributes: Mapping[str, str],
        *,
        most_at_once: int = _MOST_AT_ONCE,
        part: int = _PART,
    ) -> None:
        self._target, self._connection = target, connection
        self._attributes = {name: value for name, value in attributes.items() if name != "StorageClass"}
        self._most_at_once, self._part = most_at_once, part
        self._seen: dict[str, _Means] = {}

    def change(self, key: str, digest: Digest, storage_class: str, progress: OnBytes) -> None:
        """Raises botocore's errors, ``ObjectCorrupt`` and ``TargetRefused``."""
        head = self._connection.head(key)
        # What sleeps in another archive class could not be read, and has arrived, too.
        if head is None or head.get("StorageClass", "STANDARD") == storage_class or is_archived(head):
            if head is None or int(head["ContentLength"]) != digest.size:
                self._target.check(key, digest, progress)  # which says what is wrong
            return
        means = self._means(storage_class)
        parts = self._read(key, digest, self._part if digest.size > self._most_at_once else None, progress)
        extra = {**self._attributes, "StorageClass": storage_class}
        copied = self._copy_parts if len(parts) > 1 else self._copy_whole
        sums = copied(key, head, parts, extra)
        after = self._connection.head(key) or {}
        if (after.get("ContentLength"), after.get("StorageClass", "STANDARD")) != (digest.size, storage_class):
            raise self._wrong(key, f"holds {after.get('ContentLength')} bytes in class {after.get('StorageClass')} now")
        told = [each for each in sums if each is not None] if means.computes else []
        if len(told) == len(parts):
            if told != [encoded(each) for _, each in parts]:
                raise self._wrong(key, "has another SHA-256 after it was copied onto itself")
        elif storage_class in ARCHIVES:
            raise self._wrong(key, "was copied onto itself, and the store does not say of each part what it holds")
        else:
            self._target.check(key, digest, progress)

    def _read(self, key: str, digest: Digest, part: int | None, progress: OnBytes) -> list[tuple[int, bytes]]:
        """Size and SHA-256 of each part of the object, or of the whole, once all of it is what it should be."""
        whole, found = hashlib.sha256(), list[tuple[int, bytes]]()
        own, size = hashlib.sha256(), 0
        with self._target.open(key) as stream:
            while chunk := stream.read(CHUNK if part is None else min(CHUNK, part - size)):
                whole.update(chunk)
                own.update(chunk)
                size += len(chunk)
                progress(len(chunk))
                if size == part:
                    found.append((size, own.digest()))
                    own, size = hashlib.sha256(), 0
        if size or not found:
            found.append((size, own.digest()))
        if (sum(each for each, _ in found), whole.hexdigest()) != (digest.size, digest.sha256):
            raise self._wrong(key, "holds other bytes than were recorded, and was left in its storage class")
        return found

    def _copy_whole(
        self, key: str, head: Mapping[str, Any], parts: list[tuple[int, bytes]], extra: Mapping[str, str]
    ) -> list[str | None]:
        place = self._connection.place(key)
        self._connection.client.copy_object(
            **place, CopySource=place, CopySourceIfMatch=head["ETag"], ChecksumAlgorithm="SHA256", **extra
        )
        after = self._connection.head(key, checksum=True) or {}
        return [after.get("ChecksumSHA256")]

    def _copy_parts(
        self, key: str, head: Mapping[str, Any], parts: list[tuple[int, bytes]], extra: Mapping[str, str]
    ) -> list[str | None]:
        client, place = self._connection.client, self._connection.place(key)
        upload = client.create_multipart_upload(
            **place, Metadata=head.get("Metadata", {}), ChecksumAlgorithm="SHA256", **extra
        )["UploadId"]
        done, sums, offset = list[dict[str, Any]](), list[str | None](), 0
        try:
            for number, (size, _) in enumerate(parts, 1):
                result = client.upload_part_copy(
                    **place, UploadId=upload, PartNumber=number, CopySource=place, CopySourceIfMatch=head["ETag"],
                    CopySourceRange=f"bytes={offset}-{offset + size - 1}",
                )["CopyPartResult"]  # fmt: skip
                told = result.get("ChecksumSHA256")
                done.append(
                    {"PartNumber": number, "ETag": result["ETag"], **({"ChecksumSHA256": told} if told else {})}
                )
                sums.append(told)
                offset += size
            client.complete_multipart_upload(**place, UploadId=upload, MultipartUpload={"Parts": done})
        except BaseException:
            with suppress(Exception):  # sweep removes it
                client.abort_multipart_upload(**place, UploadId=upload)
            raise
        return sums

    def _means(self, storage_class: str) -> _Means:
        """Raises ``TargetRefused`` where the store does not keep the class, or nobody could check what is in it."""
        if storage_class not in self._seen:
            self._seen[storage_class] = self._tried(storage_class)
        means = self._seen[storage_class]
        if not means.keeps:
            raise TargetRefused(
                f"the store does not keep the storage class {storage_class}",
                remedy=f"correct storage_targets.{self._target.name}.archive, or let copies move to another target",
                target=self._target.name,
            )
        if not means.computes and storage_class in ARCHIVES:
            raise TargetRefused(
                f"the store computes no SHA-256 of a copy, so what is in the storage class {storage_class} could not be checked",
                remedy=f"let copies move to another target with storage_targets.{self._target.name}.archive.to",
                target=self._target.name,
            )
        return means

    def _tried(self, storage_class: str) -> _Means:
        """On a small object of our own: stores differ in what they ignore without a word."""
        client, key = self._connection.client, f".probe-{uuid.uuid4().hex}"
        place = self._connection.place(key)
        try:
            client.put_object(**place, Body=_CONTENT, **self._attributes)
            client.copy_object(
                **place, CopySource=place, ChecksumAlgorithm="SHA256", **self._attributes, StorageClass=storage_class
            )
            head = self._connection.head(key, checksum=True) or {}
        finally:
            with suppress(Exception):  # sweep removes it
                client.delete_object(**place)
        right = encoded(hashlib.sha256(_CONTENT).digest())
        return _Means(head.get("StorageClass", "STANDARD") == storage_class, head.get("ChecksumSHA256") == right)

    def _wrong(self, key: str, what: str) -> ObjectCorrupt:
        return ObjectCorrupt(
            f"{key} {what}",
            remedy="take the backup from another target and store this copy anew",
            target=self._target.name,
        )
