"""What an S3 store can do, found by trying: vendors and versions differ in what they ignore without a word."""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from twist_dr.errors import ObjectCorrupt
from twist_dr.storage.base import Capabilities
from twist_dr.storage.s3_transfer import encoded
from twist_dr.system.words import counted

#: Seconds of clock difference worth a note. At 900 the store refuses every request.
_SKEW_WORTH_A_NOTE = 60


class S3Probe:
    """Tries things on objects of its own, whose keys start with ``prefix``, and removes them again."""

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self._client, self._bucket = client, bucket
        self._prefix = f"{prefix}{uuid.uuid4().hex}"
        self._made: list[tuple[str, str | None]] = []

    @contextlib.contextmanager
    def cleaning_up(self) -> Iterator[None]:
        """Remove whatever the block made; in versioned buckets the versions too, as far as that is allowed."""
        from botocore.exceptions import ClientError

        try:
            yield
        finally:
            for key, version in self._made:
                args = {"VersionId": version} if version else {}
                try:
                    self._client.delete_object(Bucket=self._bucket, Key=key, **args)
                except ClientError:  # A default retention locks the version; then at least hide it.
                    self._client.delete_object(Bucket=self._bucket, Key=key)

    def reads_back(self, name: str) -> float | None:
        """Write, read and compare; return the store's clock minus ours in seconds, where it tells the time."""
        before = datetime.now(timezone.utc)
        answer = self._put("a", b"first")
        after = datetime.now(timezone.utc)
        got = self._client.get_object(Bucket=self._bucket, Key=f"{self._prefix}a")["Body"].read()
        if got != b"first":
            raise ObjectCorrupt(
                f"the store gave back other bytes than were stored ({len(got)} instead of 5)",
                remedy="do not use it, and ask its operator",
                target=name,
            )
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        if date is None:
            return None
        # The header has whole seconds, so it is half a second behind on average.
        ours = before + (after - before) / 2
        return round(parsedate_to_datetime(date).timestamp() + 0.5 - ours.timestamp(), 1)

    def refuses_to_overwrite(self) -> bool:
        """Whether ``If-None-Match: *`` is obeyed both by PutObject and by CompleteMultipartUpload."""
        from botocore.exceptions import ClientError

        self._put("b", b"first")
        key = {"Bucket": self._bucket, "Key": f"{self._prefix}b"}
        try:
            self._put("b", b"second", IfNoneMatch="*")
            return False
        except ClientError as error:
            if not _refused_for_the_condition(error):
                return False
        upload = self._client.create_multipart_upload(**key)["UploadId"]
        try:
            part = self._client.upload_part(**key, UploadId=upload, PartNumber=1, Body=b"third")
            parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
            done = self._client.complete_multipart_upload(
                **key, UploadId=upload, MultipartUpload=parts, IfNoneMatch="*"
            )
            self._made.append((key["Key"], done.get("VersionId")))
            return False
        except ClientError as error:
            with contextlib.suppress(ClientError):
                self._client.abort_multipart_upload(**key, UploadId=upload)
            return _refused_for_the_condition(error)

    def computes_sha256(self) -> bool:
        """Whether the store keeps a right SHA-256 and refuses a wrong one: some record whatever they are told."""
        from botocore.exceptions import ClientError

        right = encoded(hashlib.sha256(b"content").digest())
        wrong = encoded(hashlib.sha256(b"other").digest())
        try:
            self._put("c", b"content", ChecksumAlgorithm="SHA256", ChecksumSHA256=right)
            head = self._client.head_object(Bucket=self._bucket, Key=f"{self._prefix}c", ChecksumMode="ENABLED")
            if head.get("ChecksumSHA256") != right:
                return False
        except ClientError:
            return False
        try:
            self._put("d", b"content", ChecksumAlgorithm="SHA256", ChecksumSHA256=wrong)
        except ClientError as error:
            return int(error.response["ResponseMetadata"]["HTTPStatusCode"]) == 400
        return False

    def bucket_notes(self) -> list[str]:
        """What the bucket's versioning and Object Lock mean for deletion, as sentences."""
        from botocore.exceptions import ClientError

        notes = []
        try:
            if self._client.get_bucket_versioning(Bucket=self._bucket).get("Status") == "Enabled":
                notes.append(
                    "The bucket keeps versions: deleting only hides an object, which goes on to cost; add a lifecycle "
                    "rule that expires noncurrent versions."
                )
        except ClientError:
            notes.append("The store does not say whether the bucket keeps versions.")
        with contextlib.suppress(ClientError):  # None set, unknown to the store, or no right to ask.
            lock = self._client.get_object_lock_configuration(Bucket=self._bucket)
            lock = lock.get("ObjectLockConfiguration", {})
            rule = lock.get("Rule", {}).get("DefaultRetention")
            if lock.get("ObjectLockEnabled") == "Enabled":
                default = f"by default {_period(rule)}" if rule else "no default retention"
                notes.append(f"Object Lock is on, {default}: nothing is deleted before its lock ends.")
        return notes

    def _put(self, name: str, content: bytes, **args: str) -> dict[str, Any]:
        key = f"{self._prefix}{name}"
        md5 = encoded(hashlib.md5(content, usedforsecurity=False).digest())
        if "ChecksumSHA256" not in args:  # One of the two is needed where a default retention is set.
            args["ContentMD5"] = md5
        answer: dict[str, Any] = self._client.put_object(Bucket=self._bucket, Key=key, Body=content, **args)
        self._made.append((key, answer.get("VersionId")))
        return answer


def probe(client: Any, bucket: str, prefix: str, name: str, checksum: str) -> Capabilities:
    """All of it. ``checksum`` is the target's setting; the result says what ``put`` will do."""
    tries = S3Probe(client, bucket, prefix)
    with tries.cleaning_up():
        skew = tries.reads_back(name)
        write_once = tries.refuses_to_overwrite()
        real = tries.computes_sha256()
        notes = tries.bucket_notes()
    if not write_once:
        notes.append("The store does not refuse to overwrite (If-None-Match): let one process at a time write.")
    if checksum == "server" and not real:
        notes.append("The store does not check SHA-256 itself, so every object is read back after it was stored.")
    if checksum == "read-back" and real:
        notes.append("The store checks SHA-256 itself: with checksum: server, objects need not be read back.")
    if skew is not None and abs(skew) > _SKEW_WORTH_A_NOTE:
        notes.append(f"The store's clock and ours differ by {skew:.0f} seconds; at 900 it refuses every request.")
    return Capabilities(write_once, "server" if checksum == "server" and real else "read-back", skew, tuple(notes))


def _refused_for_the_condition(error: Any) -> bool:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"]) in (409, 412)


def _period(rule: dict[str, Any]) -> str:
    length = counted(rule["Days"], "day") if "Days" in rule else counted(rule.get("Years", 0), "year")
    return f"{length} in {rule.get('Mode', 'an unknown')} mode"
