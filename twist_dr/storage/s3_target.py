"""S3 and its look-alikes (R2, B2, MinIO, Ceph, Google Cloud Storage in interoperability mode) as a storage target.

An object is visible from the moment the store accepted all of it, which is before it was checked; what fails the check
is deleted again. The ETag is never used as a checksum: what it is depends on store, encryption and part size.
"""

from __future__ import annotations

import builtins
import io
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, BinaryIO

from twist_dr.errors import ObjectCorrupt, StorageError, TargetRefused, TargetUnavailable
from twist_dr.storage.base import (
    Capabilities,
    Digest,
    OnBytes,
    Space,
    StorageTarget,
    StoredObject,
    no_progress,
    other_bytes,
    valid_key,
)
from twist_dr.storage.resuming import Answer, ResumingReader
from twist_dr.storage.s3 import S3Options
from twist_dr.storage.s3_classes import S3Classes, is_archived
from twist_dr.storage.s3_connection import S3Connection, S3Limits
from twist_dr.storage.s3_errors import answer_code, status_of
from twist_dr.storage.s3_resume import forget_notes
from twist_dr.storage.s3_transfer import Measured, Stopped, Watch
from twist_dr.storage.s3_upload import OtherWasFirst, S3Uploader
from twist_dr.system.sizes import CHUNK

#: The end of a legal hold.
NO_END = datetime.max.replace(tzinfo=timezone.utc)


class S3Target(StorageTarget):
    """The bucket, or the part of one, that ``options`` say. ``notes``: a folder of this machine where it is noted how far uploads are."""

    def __init__(
        self,
        name: str,
        options: S3Options,
        limits: S3Limits = S3Limits(),  # noqa: B008
        *,
        notes: Path | None = None,
    ) -> None:
        super().__init__(name)
        prefix = options.prefix.strip("/")
        self.bucket = options.bucket
        self.prefix = valid_key(prefix) + "/" if prefix else ""
        own = "server" if options.endpoint_url is None else "read-back"
        self.checksum = own if options.checksum == "auto" else options.checksum
        self.part_size, self.max_attempts = options.part_size_mib << 20, limits.max_attempts
        self._connection = S3Connection(name, options, self.prefix, limits)
        self._uploader = S3Uploader(self._connection, sha256=self.checksum == "server", notes=notes)
        self._classes = S3Classes(self, self._connection, self._uploader.attributes)
        self._notes = notes
        self._lock = threading.Lock()
        self._server_checks: bool | None = None

    @property
    def location(self) -> str:
        return self._connection.url

    def prepare(self) -> None:
        self._connection.reach()

    def put(self, source: Path, key: str, digest: Digest, progress: OnBytes = no_progress) -> None:
        with self._connection.errors(f"store {key}"):
            there = self._head(key)
            self._uploader.require_lockable()
            if there is None:
                measured = self._measured(source, digest)
                version = self._send(source, key, measured, progress)
                self._check_stored(key, measured, version, progress)
            else:
                self._require_same(source, key, digest, there, progress)
            self._uploader.lock(key)

    def open(self, key: str) -> BinaryIO:
        from botocore.exceptions import BotoCoreError
        from urllib3.exceptions import HTTPError

        place = self._connection.place(key)

        def fetch(position: int) -> Answer:
            since = {"Range": f"bytes={position}-"} if position else {}
            with self._connection.errors(f"read {key}"):
                answer = self._connection.client.get_object(**place, **since)
            return Answer(answer["Body"], int(answer["ContentLength"]), answer.get("ContentRange"))

        broken = (BotoCoreError, HTTPError, OSError)
        reader = ResumingReader(key, self.name, fetch, self.max_attempts, broken)
        return io.BufferedReader(self.bandwidth.paced(reader), CHUNK)

    def stat(self, key: str) -> StoredObject | None:
        with self._connection.errors(f"look up {key}"):
            head = self._head(key)
        return _stored(key, head, int(head["ContentLength"])) if head is not None else None

    def list(self, prefix: str) -> Iterator[StoredObject]:
        with self._connection.errors(f"list {prefix or 'the target'}"):
            pages = self._connection.client.get_paginator("list_objects_v2").paginate(**self._connection.below(prefix))
            for page in pages:
                for entry in page.get("Contents", ()):
                    key = entry["Key"][len(self.prefix) :]
                    if _is_key(key):  # Others are not ours: the "folders" that some web consoles make, for example.
                        yield _stored(key, entry, int(entry["Size"]))

    def children(self, prefix: str) -> builtins.list[str]:
        below = self._connection.below(prefix)
        start = len(below["Prefix"])
        names: set[str] = set()
        with self._connection.errors(f"list {prefix or 'the target'}"):
            pages = self._connection.client.get_paginator("list_objects_v2").paginate(**below, Delimiter="/")
            for page in pages:
                names.update(entry["Key"][start:] for entry in page.get("Contents", ()))
                names.update(entry["Prefix"][start:-1] for entry in page.get("CommonPrefixes", ()))
        return sorted(name for name in names if _is_key(name))

    def delete(self, key: str) -> None:
        with self._connection.errors(f"delete {key}"):
            head = self._head(key)
            if head is None:
                return
            # Deleting without naming a version succeeds on a locked object, and only hides it.
            until = _locked_until(head)
            if until == NO_END:
                raise TargetRefused(
                    f"{key} is under a legal hold", remedy="lift it in the store, then run again", target=self.name
                )
            if until is not None:
                raise TargetRefused(
                    f"{key} is locked (Object Lock) until {until:%Y-%m-%d %H:%M} UTC",
                    remedy="delete it then",
                    target=self.name,
                )
            self._connection.client.delete_object(**self._connection.place(key))

    def locked_until(self, key: str) -> datetime | None:
        with self._connection.errors(f"look up {key}"):
            head = self._head(key)
        return None if head is None else _locked_until(head)

    def change_class(self, key: str, digest: Digest, storage_class: str, progress: OnBytes = no_progress) -> None:
        with self._connection.errors(f"move {key} to the storage class {storage_class}"):
            self._classes.change(key, digest, storage_class, progress)

    def sweep(self, older_than: timedelta) -> int:
        limit, removed = datetime.now(timezone.utc) - older_than, 0
        with self._connection.errors("remove unfinished uploads"):
            for upload in self._unfinished():
                if _utc(upload["Initiated"]) <= limit and not self._goes_on(upload, limit):
                    self._connection.client.abort_multipart_upload(
                        Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
                    removed += 1
            left = self._connection.client.list_objects_v2(Bucket=self.bucket, Prefix=f"{self.prefix}.probe-")
            for entry in left.get("Contents", ()):
                if _utc(entry["LastModified"]) <= limit:
                    self._connection.client.delete_object(Bucket=self.bucket, Key=entry["Key"])
        if self._notes is not None:
            forget_notes(self._notes, older_than)
        return removed

    def space(self) -> Space:
        return Space(None, None)

    def probe(self) -> Capabilities:
        from twist_dr.storage.s3_probe import probe

        self._connection.reach()
        with self._connection.errors("test the store"):
            return probe(self._connection.client, self.bucket, f"{self.prefix}.probe-", self.name, self.checksum)

    def _head(self, key: str) -> dict[str, Any] | None:
        return self._connection.head(key, checksum=self.checksum == "server")

    def _goes_on(self, upload: dict[str, Any], limit: datetime) -> bool:
        """Whether a part of it came after ``limit``: over a slow line an upload may take days. Where that is not told, it goes by its beginning."""
        parts = self._connection.parts({"Bucket": self.bucket, "Key": upload["Key"]}, upload["UploadId"])
        return any(_utc(part["LastModified"]) > limit for part in parts)

    def _unfinished(self) -> builtins.list[dict[str, Any]]:
        from botocore.exceptions import ClientError

        pages = self._connection.client.get_paginator("list_multipart_uploads")
        try:
            return [
                upload for page in pages.paginate(**self._connection.below("")) for upload in page.get("Uploads", ())
            ]
        except ClientError as error:
            if answer_code(error) == "NoSuchUpload":  # How rclone says that there never was one.
                return []
            raise

    # -- the steps of put ----------------------------------------------------------------------------------------------

    def _measured(self, source: Path, digest: Digest) -> Measured:
        measured = self._uploader.measure(source, self.part_size)
        if measured.digest != digest:
            raise ObjectCorrupt(
                f"nothing was stored: {source} has {measured.digest.size} bytes with SHA-256 "
                f"{measured.digest.sha256[:12]}…, not {digest.size} with {digest.sha256[:12]}… as announced",
                remedy="make it anew",
                target=self.name,
            )
        return measured

    def _require_same(self, source: Path, key: str, digest: Digest, there: dict[str, Any], progress: OnBytes) -> None:
        """Return if the object that is there has these bytes, as the store holds them; else ``ObjectExists``."""
        recorded = _recorded_sha256(there) or digest.sha256
        try:
            if (int(there["ContentLength"]), recorded) != (digest.size, digest.sha256):
                raise ObjectCorrupt("other size, or stored as something else")
            checksum = there.get("ChecksumSHA256")
            if checksum and self._trusts_server() and source.is_file():
                measured = self._uploader.measure(source, self.part_size)
                if measured.digest == digest and measured.fits(checksum):
                    return
            self.check(key, digest, progress)
        except ObjectCorrupt:
            raise other_bytes(key, self.name) from None

    def _send(self, source: Path, key: str, measured: Measured, progress: OnBytes) -> str | None:
        """Upload; return the version that this made, if the bucket keeps versions."""
        from botocore.exceptions import ClientError

        watch = Watch(progress, self.bandwidth)
        try:
            return self._uploader.send(source, key, measured, watch)
        except Stopped:
            raise watch.error or TargetUnavailable(f"{key}: the upload was stopped.", target=self.name) from None
        except (ClientError, OtherWasFirst) as error:
            there = self._head(key) if isinstance(error, OtherWasFirst) or status_of(error) in (404, 409, 412) else None
            if there is None:
                raise
            # Another writer was first; or we were, and the answer that said so got lost on the way.
            self._require_same(source, key, measured.digest, there, progress)
            return None

    def _check_stored(self, key: str, measured: Measured, version: str | None, progress: OnBytes) -> None:
        try:
            if self._trusts_server() and measured.fits((self._head(key) or {}).get("ChecksumSHA256")):
                return
            self.check(key, measured.digest, progress)
        except TargetUnavailable:
            raise  # It stays: the next put finds it, checks it, and need not send it again.
        except BaseException:
            self._discard(key, measured.digest, version)
            raise

    def _trusts_server(self) -> bool:
        """Whether the store's own SHA-256 counts: asked for, and seen once to refuse a wrong one."""
        from twist_dr.storage.s3_probe import S3Probe

        if self.checksum != "server":
            return False
        with self._lock:
            if self._server_checks is None:
                tries = S3Probe(self._connection.client, self.bucket, f"{self.prefix}.probe-")
                with tries.cleaning_up():
                    self._server_checks = tries.computes_sha256()
            return self._server_checks

    def _discard(self, key: str, digest: Digest, version: str | None) -> None:
        """Remove what we stored but could not check, unless another writer's object has taken its place."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            head = self._head(key)
            if head is None or _recorded_sha256(head) not in (None, digest.sha256):
                return
            which = {"VersionId": version} if version else {}
            self._connection.client.delete_object(**self._connection.place(key), **which)
        except (BotoCoreError, ClientError, StorageError):
            return  # The reason why it is not wanted matters more; a later put checks what is there.


def _stored(key: str, told: Mapping[str, Any], size: int) -> StoredObject:
    """By what a list or a HEAD tells."""
    return StoredObject(key, size, _utc(told["LastModified"]), told.get("StorageClass"), is_archived(told))


def _recorded_sha256(head: dict[str, Any]) -> str | None:
    """What ``put`` noted with the object. Names may come back in other letters: in HTTP their case means nothing."""
    for name, value in head.get("Metadata", {}).items():
        if name.lower() == "sha256":
            return str(value)
    return None


def _locked_until(head: dict[str, Any]) -> datetime | None:
    """Until when an object cannot be deleted, by what HeadObject says of it; None when it can be now."""
    if head.get("ObjectLockLegalHoldStatus") == "ON":
        return NO_END
    until = head.get("ObjectLockRetainUntilDate")
    return _utc(until) if until is not None and _utc(until) > datetime.now(timezone.utc) else None


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(timezone.utc)


def _is_key(text: str) -> bool:
    try:
        return bool(valid_key(text))
    except ValueError:
        return False
